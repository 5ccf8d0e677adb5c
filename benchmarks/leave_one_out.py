"""Whether leave-one-out accuracy on a few labelled pictures says how many of fresh ones are told rightly.

Draws of classes from the test classes, with a few labelled pictures each, as somebody brings them: the
estimate from the labelled pictures alone, and its interval, beside the accuracy on the other pictures of the
same classes. How often that lies within the interval, and what `reject` keeps of its promise.
"""

import argparse
from dataclasses import replace
from io import BytesIO

import numpy as np
import torch
from PIL import Image

from benchmarks.rows import Row, write
from quickstudy.core.episode import Support
from quickstudy.data.datasets.cifar import cifar_fs
from quickstudy.data.datasets.omniglot import omniglot
from quickstudy.data.formats.images import ImageFormat
from quickstudy.data.formats.items import floats
from quickstudy.data.pool import ClassPool
from quickstudy.recipes.weights import load_learner
from quickstudy.training.leave_one_out import (
    expected_accuracy,
    is_right,
    leave_one_out,
    margins,
    reject_below,
)

MODEL = "prototypical-omniglot-1shot"
WAYS, SHOTS, FRESH = 12, 5, 15


def as_the_model_takes_them(pool: ClassPool, size: int = 28) -> ClassPool:
    """Colour pictures as `predict` would give them to a model of grey ink: grey, resized, inverted."""
    form, made = ImageFormat(size, 1, invert=True), []
    for item in pool.items[pool.indices]:
        blob = BytesIO()
        Image.fromarray(item.transpose(1, 2, 0)).save(blob, "PNG")
        made.append(form.decode(blob.getvalue))
    starts = np.cumsum(pool.counts) - pool.counts
    return replace(pool, items=np.stack(made), starts=starts, splits={})


def main() -> None:
    """Measure, and write the rows."""
    parser = argparse.ArgumentParser(description="Leave-one-out accuracy beside that on fresh pictures.")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--error", type=float, default=0.05)
    given = parser.parse_args()
    learner, _ = load_learner(MODEL)
    test = cifar_fs().split("test")
    few = [np.arange(start, start + SHOTS + FRESH) for start in test.starts]  # all 600 need not be decoded
    test = ClassPool.from_grouped(
        np.concatenate([test.items[i] for i in few]), test.classes, [len(i) for i in few], name=test.name
    )
    rows: list[Row] = []
    for pool in (omniglot().split("test"), as_the_model_takes_them(test)):
        inside, off, width, answered, wrong = [], [], [], 0, 0
        for draw in range(given.draws):
            rng = np.random.default_rng(draw)
            classes = rng.choice(len(pool), WAYS, replace=False)
            items = [
                rng.permutation(int(pool.counts[c]))[: SHOTS + FRESH] + int(pool.starts[c]) for c in classes
            ]
            x = floats(torch.from_numpy(np.stack([pool.items[i] for i in items])))
            y = torch.arange(WAYS)[:, None].expand(WAYS, SHOTS + FRESH)
            support = Support(x[:, :SHOTS].flatten(0, 1)[None], y[:, :SHOTS].flatten()[None], WAYS)
            which, left_out = leave_one_out(learner, support)
            expected = expected_accuracy(which, left_out, support)
            with torch.no_grad():
                scores = learner.predict(support, x[:, SHOTS:].flatten(0, 1)[None])[0]
            right = is_right(scores, y[:, SHOTS:].flatten())
            fresh = right.double().mean().item()
            inside.append(expected.low <= fresh <= expected.high)
            off.append(100 * (expected.accuracy - fresh))
            width.append(100 * (expected.high - expected.low))
            sure = margins(scores) >= reject_below(left_out, support.y[0, which], given.error).margin
            answered += int(sure.sum())
            wrong += int((sure & ~right).sum())
            print(pool.name, draw, f"{expected}; fresh {100 * fresh:.1f} %", flush=True)
        total = given.draws * WAYS * FRESH
        for metric, value in (
            ("fresh accuracy within the interval %", 100 * float(np.mean(inside))),
            ("estimate minus fresh accuracy, points", float(np.mean(off))),
            ("spread of that, points", float(np.std(off, ddof=1))),
            ("width of the interval, points", float(np.mean(width))),
            (f"answered at reject {given.error:g} %", 100 * answered / total),
            (f"wrong of these at reject {given.error:g} %", 100 * wrong / max(1, answered)),
        ):
            row = Row(
                benchmark="leave_one_out",
                method=MODEL,
                dataset=pool.name.split(".")[0],
                split="test",
                setting=f"{WAYS}w{SHOTS}s",
                metric=metric,
                value=value,
                n=given.draws,
                seed=0,
            )
            rows.append(row)
            print(row.dataset, metric, f"{value:.2f}")
    write("leave_one_out", rows)


if __name__ == "__main__":
    main()

"""How well `photos`, a network pretrained on ImageNet, tells classes it wasn't trained for: CIFAR-FS.

Every test picture is encoded once, and kept in `--kept`; tasks are drawn from the features. Beside it, on the
very same tasks, stand raw pixels and a model of letters that ships, on as many pictures. ImageNet's classes
overlap with those of CIFAR-FS, so these rows have the mode "pretrained on ImageNet" and a table of their own:
they never stand beside rows trained from scratch.

Then, for draws of 12 classes with 5 labelled pictures each, what leave-one-out promises, beside the accuracy
on 200 fresh pictures of each class, and how sure the answers are of themselves.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.leave_one_out import as_the_model_takes_them
from benchmarks.rows import Row, write
from quickstudy.core.episode import Support
from quickstudy.core.files import write_whole
from quickstudy.core.learner import Learner, with_embedding
from quickstudy.data.datasets.cifar import cifar_fs
from quickstudy.data.formats.items import floats
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting
from quickstudy.encoders.photos import PhotoEncoder
from quickstudy.metric.heads import nearest_prototype
from quickstudy.metric.pretrained_features import PretrainedFeatures
from quickstudy.metric.prototypical import Prototypical
from quickstudy.recipes.pretrained import TRAINED_ON
from quickstudy.recipes.weights import load_learner
from quickstudy.training.leave_one_out import expected_accuracy, is_right, leave_one_out

LETTERS = "prototypical-omniglot-1shot"
SETTINGS = (Setting(5, 1, 15), Setting(5, 5, 15), Setting(12, 5, 15))
MODE = TRAINED_ON
WAYS, SHOTS, FRESH = 12, 5, 200
BATCH = 50


def encoded(pool: ClassPool, size: int, kept: Path, most: int) -> Tensor:
    """Features [K, I, D] of the first pictures of each class; those that are kept aren't made again."""
    encoder, made = PhotoEncoder(size), []
    for i, name in enumerate(pool.classes):
        path = kept / f"{name}-{size}-{most}-{encoder.dimensions}.npy"
        if not path.exists():
            started, items = time.monotonic(), pool.of_class(name)[:most]
            with torch.inference_mode():
                parts = [
                    encoder(floats(torch.from_numpy(np.array(x)))) for x in np.split(items, most // BATCH)
                ]
            write_whole(path, _bytes(torch.cat(parts).numpy()))
            print(
                f"{i + 1}/{len(pool)} {name}: {most / (time.monotonic() - started):.1f} a second", flush=True
            )
        made.append(torch.from_numpy(np.load(path, allow_pickle=False)))
    return torch.stack(made)


def _bytes(values: np.ndarray) -> bytes:
    from io import BytesIO

    out = BytesIO()
    np.save(out, values)
    return out.getvalue()


def tasks_of(
    x: Tensor, setting: Setting, count: int, seed: int
) -> Callable[[int], tuple[Support, Tensor, Tensor]]:
    """The tasks of a setting, the same whatever features the pictures have."""
    size = setting.most

    def task(i: int) -> tuple[Support, Tensor, Tensor]:
        rng = np.random.default_rng([seed, i])
        classes = rng.choice(len(x), size.ways, replace=False)
        each = size.shots + size.queries
        chosen = torch.stack([x[c, rng.permutation(x.shape[1])[:each]] for c in classes])
        y = torch.arange(size.ways)[:, None].expand(-1, each)
        support = Support(
            chosen[:, : size.shots].flatten(0, 1)[None],
            y[:, : size.shots].flatten()[None],
            size.ways,
        )
        return support, chosen[:, size.shots :].flatten(0, 1)[None], y[:, size.shots :].flatten()

    return task


@torch.no_grad()
def accuracies(learner: Learner, x: Tensor, setting: Setting, count: int, seed: int) -> list[float]:
    """Accuracy of each task in %."""
    task, found = tasks_of(x, setting, count, seed), []
    for i in range(count):
        support, queries, y = task(i)
        found.append(100 * is_right(learner.predict(support, queries)[0], y).double().mean().item())
    return found


def row(**parts: object) -> Row:
    """A row of this benchmark."""
    fixed = {"benchmark": "photos", "dataset": "cifar-fs", "split": "test", "seed": 0}
    return Row(**(fixed | parts))  # pyright: ignore[reportArgumentType]


@torch.no_grad()
def honesty(learner: Learner, x: Tensor, draws: int) -> list[Row]:
    """What leave-one-out promises beside fresh accuracy, and the stated probabilities beside the answers."""
    inside, off, width = [], [], []
    stated: dict[str, list[tuple[float, float]]] = {"": [], ", uncalibrated": []}
    plain = PretrainedFeatures(nn.Identity(), nearest_prototype).eval()
    for draw in range(draws):
        support, queries, y = tasks_of(x, Setting(WAYS, SHOTS, FRESH), draws, 1)(draw)
        which, left_out = leave_one_out(learner, support)
        expected = expected_accuracy(which, left_out, support)
        scores = learner.predict(support, queries)[0]
        fresh = is_right(scores, y).double().mean().item()
        inside.append(expected.low <= fresh <= expected.high)
        off.append(100 * (expected.accuracy - fresh))
        width.append(100 * (expected.high - expected.low))
        for name, given in (("", scores), (", uncalibrated", plain.predict(support, queries)[0])):
            sure, right = given.softmax(-1).amax(-1).mean().item(), is_right(given, y).double().mean().item()
            stated[name].append((100 * (sure - right), F.cross_entropy(given, y).item()))
        print(draw, f"{expected}; fresh {100 * fresh:.1f} %", flush=True)
    figures = [
        ("fresh accuracy within the interval %", 100 * float(np.mean(inside))),
        ("estimate minus fresh accuracy, points", float(np.mean(off))),
        ("width of the interval, points", float(np.mean(width))),
    ]
    for name, pairs in stated.items():
        gaps, losses = zip(*pairs, strict=True)
        figures += [
            (f"stated probability minus accuracy, points{name}", float(np.mean(gaps))),
            (f"cross-entropy, nats{name}", float(np.mean(losses))),
        ]
    how = f"{WAYS}w{SHOTS}s"
    return [row(method="photos", setting=how, mode=MODE, metric=m, value=v, n=draws) for m, v in figures]


def main() -> None:
    """Measure, and write the rows."""
    parser = argparse.ArgumentParser(description="Photographs with a network pretrained on ImageNet.")
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--pictures", type=int, default=600, help="of each class, a multiple of 50")
    parser.add_argument("--kept", type=Path, default=Path("runs/photos"), help="folder of the features")
    given = parser.parse_args()
    if given.pictures % BATCH or given.pictures < SHOTS + FRESH:
        parser.error(f"--pictures is a multiple of {BATCH} and at least {SHOTS + FRESH}")
    given.kept.mkdir(parents=True, exist_ok=True)
    pool = cifar_fs().split("test")
    features = encoded(pool, given.size, given.kept, given.pictures)
    first = np.concatenate([pool.of_class(name)[: given.pictures] for name in pool.classes])
    pixels = torch.from_numpy(first).unflatten(0, (len(pool), given.pictures))
    letters, _ = load_learner(LETTERS)
    letters.item_format = None  # it is given embeddings below
    of = np.repeat(np.arange(len(pool)), given.pictures)
    same = ClassPool.from_arrays(first, of, names=pool.classes, name=pool.name)
    ink = floats(torch.from_numpy(as_the_model_takes_them(same).items))
    with torch.inference_mode():
        drawn = torch.cat([letters.encoder(part) for part in ink.split(200)])  # pyright: ignore[reportCallIssue]
    photos = PretrainedFeatures(nn.Identity()).eval()
    sides: list[tuple[str, str | None, Learner, Tensor]] = [
        ("photos", MODE, photos, features),
        ("raw pixels", None, Prototypical(nn.Identity()).eval(), floats(pixels).flatten(2)),
        (
            LETTERS,
            None,
            with_embedding(letters, lambda _: nn.Identity()).eval(),
            drawn.unflatten(0, features.shape[:2]),
        ),
    ]
    rows: list[Row] = []
    for setting in SETTINGS:
        for method, mode, learner, x in sides:
            found = accuracies(learner, x, setting, given.tasks, 0)
            ci95 = 1.96 * float(np.std(found, ddof=1)) / len(found) ** 0.5
            rows.append(
                row(
                    method=method,
                    setting=str(setting),
                    mode=mode,
                    metric="accuracy %",
                    value=float(np.mean(found)),
                    ci95=ci95,
                    n=given.tasks,
                )
            )
            print(method, setting, f"{np.mean(found):.2f} ± {ci95:.2f}", flush=True)
    rows += honesty(photos, features, given.draws)
    write("photos", rows)


if __name__ == "__main__":
    main()

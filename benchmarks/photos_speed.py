"""How long `predict` takes for a thousand photographs of 640 × 480, and the network's share of that.

The pictures are parts of scikit-learn's two photographs, as JPEG files; twelve classes with five labelled
ones each. Measured is the whole of `predict_folders` with `photos`, in a process that has imported everything
before, and within it the time inside of the network. It takes as many cores as torch does.
"""

import argparse
import json
import random
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.children import run
from benchmarks.rows import Row, write

WAYS, SHOTS = 12, 5
SIDES = (640, 480)


def write_pictures(root: Path, queries: int) -> None:
    """Labelled pictures in `root/known`, others in `root/unknown`."""
    from sklearn.datasets import load_sample_image

    wholes = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    rng = random.Random(0)
    names = [root / "known" / f"class {c}" / f"{i}.jpg" for c in range(WAYS) for i in range(SHOTS)]
    for k, path in enumerate([*names, *(root / "unknown" / f"{i}.jpg" for i in range(queries))]):
        whole = wholes[k % 2]
        height = rng.randint(240, whole.height)
        width = height * 4 // 3
        left, top = rng.randint(0, whole.width - width), rng.randint(0, whole.height - height)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = whole.crop((left, top, left + width, top + height))
        part.resize(SIDES, Image.Resampling.BICUBIC).save(path, quality=90)


def measured(root: Path) -> dict[str, Any]:
    """Seconds of the whole and of the network."""
    from quickstudy.core.kernels.memory import keep_freed_memory
    from quickstudy.recipes.weights import item_format_of, load_learner
    from quickstudy.training.card import card_of
    from quickstudy.training.predict import predict_folders

    keep_freed_memory()
    learner, manifest = load_learner("photos")
    network: Any = learner.encoder
    inside, pictures, began = 0.0, 0, 0.0

    def before(_: object, given: tuple[torch.Tensor]) -> None:
        nonlocal began, pictures
        pictures += len(given[0])
        began = time.perf_counter()

    def after(*_: object) -> None:
        nonlocal inside
        inside += time.perf_counter() - began

    network.register_forward_pre_hook(before)
    network.register_forward_hook(after)
    decoded: list[float] = []
    started = time.perf_counter()
    found = predict_folders(
        learner,
        item_format_of(manifest),
        root / "known",
        root / "unknown",
        card=card_of(manifest),
        progress=lambda done, of: decoded.append(time.perf_counter() - started) if done == of else None,
    )
    whole = time.perf_counter() - started
    return {"whole": whole, "network": inside, "decoding": decoded[-1], "seen": pictures, "told": len(found)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measured(given.child)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder), given.pictures)
        rounds = [run("-m", "benchmarks.photos_speed", "--child", folder) for _ in range(given.rounds)]
    done = sorted(rounds, key=lambda child: child.report["whole"])[given.rounds // 2]
    told = done.report
    row = partial(
        Row,
        benchmark="photos_speed",
        method="predict with photos",
        setting=f"{given.pictures} JPEG of {SIDES[0]}×{SIDES[1]}, {WAYS}w{SHOTS}s",
        n=given.rounds,
    )
    rows = [
        row(metric="s, without imports", value=told["whole"]),
        row(metric="network's own time %", value=100 * told["network"] / told["whole"]),
        row(metric="decoding s", value=told["decoding"]),
        row(metric="pictures a second", value=(given.pictures + WAYS * SHOTS) / told["whole"]),
        row(metric="peak MiB", value=done.peak),
    ]
    for r in rows:
        print(f"{r.metric}: {r.value:.4g}")
    print(f"{told['seen']} pictures went through the network, {given.pictures + WAYS * SHOTS} are there")
    write("photos_speed", rows)


if __name__ == "__main__":
    main()

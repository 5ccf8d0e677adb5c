"""Memory of `ClassPool.from_dataset`: a data set that draws its pictures, so that it holds none itself.

In memory, and from a file that is larger than what the process may hold. The latter is drawn from as well,
and hashed whole, as a training does for its manifest. Peaks are of the process beyond what it held before
the call, so they hold neither Python nor torch.
"""

import argparse
import json
import resource
import time
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from benchmarks.children import run
from benchmarks.rows import Row, write
from quickstudy.data.episodes import Episodes
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting

SIDE, EACH = 84, 600
"""Pixels of a side, and pictures of a class: those of miniImageNet, which has 60,000 of them."""
STEPS = 200
"""Meta-batches that are drawn, of 4 tasks."""


class Drawn(Dataset[Any]):
    """Pictures that are drawn when they are asked for, with labels in no order."""

    def __init__(self, items: int) -> None:
        self.targets = np.random.default_rng(0).permutation(np.arange(items) // EACH).tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        noise = np.random.default_rng(i).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        return Image.fromarray(noise), self.targets[i]


def peak() -> int:
    """Largest resident memory so far, in bytes, of Linux."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10


def measure(items: int, lazy: bool) -> dict[str, float]:
    """Peak of memory beyond what was held before, and seconds."""
    before, started = peak(), time.perf_counter()
    pool = ClassPool.from_dataset(Drawn(items), lazy=lazy)
    seconds, loaded = time.perf_counter() - started, peak()
    episodes = Episodes(pool, Setting(5, 5, 15), tasks=4)
    for i in range(STEPS):
        episodes[i]
    pool.content_digest()
    return {
        "bytes": pool.items.nbytes,
        "loading": loaded - before,
        "in all": peak() - before,
        "seconds": seconds,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--items", type=int, default=60_000, help="in memory; from a file, three times as many"
    )
    parser.add_argument("--child", choices=["memory", "file"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.items, options.child == "file")))
        return
    rows: list[Row] = []
    for where, items in (("memory", options.items), ("file", 3 * options.items)):
        found = run("-m", "benchmarks.own_data", "--child", where, "--items", str(items)).report
        row: dict[str, Any] = {
            "benchmark": "own_data",
            "method": f"from_dataset, {'lazy' if where == 'file' else 'in memory'}",
            "dataset": "drawn",
            "setting": f"{items:,} pictures {SIDE} × {SIDE}",
            "n": 1,
        }
        for mode, key in (("loading", "loading"), ("loading, drawing and hashing", "in all")):
            rows.append(Row(**row, mode=mode, metric="peak MiB", value=found[key] / 2**20))
        if where == "memory":
            ratio = found["loading"] / found["bytes"]
            rows.append(Row(**row, mode="loading", metric="peak / pictures' bytes", value=ratio))
        rows.append(Row(**row, mode="loading", metric="pictures a second", value=items / found["seconds"]))
    for r in rows:
        print(f"{r.method}, {r.setting}, {r.mode}: {r.value:,.4g} {r.metric}")
    write("own_data", rows)


if __name__ == "__main__":
    main()

"""Enrolling all of LFW, beside decoding and encoding alone, one after the other and overlapping.

The network is that of `faces-lfw`, from runs/faces-lfw or, without it, untrained: its speed is the same.
"""

import argparse
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.rows import Row, write
from quickstudy.core import checkpoint
from quickstudy.core.kernels.memory import keep_freed_memory
from quickstudy.core.kernels.sizes import sizes_on
from quickstudy.data.cache import data_root
from quickstudy.data.datasets.folders import find_files
from quickstudy.recipes import weights
from quickstudy.recognition.embedder import Embedder
from quickstudy.recognition.recognizer import Recognizer

RECIPE = "faces-lfw"


def untrained(folder: Path) -> Path:
    """A checkpoint that nothing was learned by."""
    recipe = weights.recipe_of({"recipe": RECIPE, "arguments": {}})
    manifest = {"recipe": RECIPE, "arguments": {}, "items": recipe.item_format.as_dict()}
    manifest |= {"train": asdict(recipe.train), "seed": 0}
    checkpoint.save(folder / "best.safetensors", recipe.used(recipe.learner()).state_dict(), manifest)
    return folder


@contextmanager
def timed(seconds: dict[str, float], what: str) -> Generator[None]:
    """Notes how long its block took."""
    started = time.perf_counter()
    yield
    seconds[what] = time.perf_counter() - started


def main() -> None:
    """Command line."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        run = Path("runs") / RECIPE
        model = run if (run / "best.safetensors").exists() else untrained(Path(folder))
        root = data_root() / "lfw"
        embedder = Embedder(model)
        groups = list(find_files(root, embedder.format).values())
        files = sum(map(len, groups))
        list(embedder.batches(groups[:50]))  # what is slow the first time
        seconds: dict[str, float] = {}
        with timed(seconds, "decode"):
            items = embedder.decode([file for group in groups for file in group])[2]
        with timed(seconds, "encode"):
            for i in range(0, files, sizes_on().embedded_files):
                embedder.embed(items[i : i + sizes_on().embedded_files])
        with timed(seconds, "decode and encode, overlapping"):
            for _ in embedder.batches(groups):
                pass
        recognizer = Recognizer(model, Path(folder) / "people.db")
        with timed(seconds, "enroll"):
            done = recognizer.enroll_folder(root)
    print(f"{files} files, seconds: {seconds}")
    assert not done.refused
    write(
        "enrollment",
        [
            Row(
                benchmark="enrollment",
                method=method,
                dataset="lfw",
                setting=f"{files:,} pictures, {torch.get_num_threads()} threads",
                metric="seconds",
                value=value,
                n=1,
            )
            for method, value in seconds.items()
        ],
    )


if __name__ == "__main__":
    main()

"""Enrolling all of LFW, beside decoding and encoding alone: what the database costs.

The network is that of `faces-lfw`, from runs/faces-lfw or, without it, untrained: its speed is the same.
"""

import argparse
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.rows import Row, write
from quickstudy import checkpoint, experiment
from quickstudy.data.folders import find_files
from quickstudy.data.pool import data_root
from quickstudy.memory import keep_freed_memory
from quickstudy.recognition.embedder import Embedder
from quickstudy.recognition.recogniser import Recogniser

RECIPE = "faces-lfw"


def untrained(folder: Path) -> Path:
    """A checkpoint that nothing was learned by."""
    recipe = experiment.RECIPES[RECIPE]()
    manifest = {"recipe": RECIPE, "arguments": {}, "items": recipe.item_format.as_dict()}
    manifest |= {"train": asdict(recipe.train), "seed": 0}
    checkpoint.save(folder / "best.safetensors", recipe.learner().state_dict(), manifest)
    return folder


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
        started = time.perf_counter()
        for _ in embedder.batches(groups):
            pass
        alone = time.perf_counter() - started
        recogniser = Recogniser(model, Path(folder) / "people.db")
        started = time.perf_counter()
        done = recogniser.enroll_folder(root)
        whole = time.perf_counter() - started
    print(f"{files} files: {alone:.1f} s decoded and encoded, {whole:.1f} s enrolled")
    assert not done.refused
    write(
        "enrolment",
        [
            Row(
                benchmark="enrolment",
                method=method,
                dataset="lfw",
                setting=f"{files:,} pictures, {torch.get_num_threads()} threads",
                metric="seconds",
                value=seconds,
                n=1,
            )
            for method, seconds in (("decode and encode", alone), ("enroll", whole))
        ],
    )


if __name__ == "__main__":
    main()

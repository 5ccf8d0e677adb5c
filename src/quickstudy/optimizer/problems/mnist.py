"""MNIST, from the standard files in the data root."""

import gzip
from pathlib import Path

import numpy as np
import torch

from quickstudy.data.cache import data_root
from quickstudy.optimizer.problems.supervised import SPLITS, Labelled, part_of

FILES = (
    ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    (
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ),
)


def mnist(split: str, root: str | Path | None = None) -> Labelled:
    """A split of MNIST's 28 × 28 digits: x [n, 784] in 0 … 1, y [n].

    With all four files, "test" is the 10,000 digits of the test set, and "train" and "validation" the other
    60,000. Where only the test set lies there, its digits are dealt out (60, 20 and 20 %).

    Args:
        split: "train", "validation" or "test".
        root: data root; the files, gzipped or not, are looked for in `root/mnist`.

    Raises:
        FileNotFoundError: if they aren't there.
        OSError: if a file is damaged.
        ValueError: if there is no split of that name.
    """
    folder = data_root(root) / "mnist"
    train, test = (_read(folder, *names) for names in FILES)
    if not test:
        raise FileNotFoundError(
            f"no MNIST in {folder}: put {FILES[1][0]}.gz and {FILES[1][1]}.gz there, or take the digits "
            "of scikit-learn, which need no download"
        )
    if not train or split not in SPLITS:
        return part_of(test, split)
    return {
        "train": Labelled(train.x[:50_000], train.y[:50_000]),
        "validation": Labelled(train.x[50_000:], train.y[50_000:]),
        "test": test,
    }[split]


def _read(folder: Path, images: str, labels: str) -> Labelled | None:
    found = [
        next((p for p in (folder / name, folder / f"{name}.gz") if p.exists()), None)
        for name in (images, labels)
    ]
    if not (found[0] and found[1]):
        return None
    x, y = (_idx(path) for path in found if path)
    return Labelled(torch.from_numpy(x).flatten(1).float() / 255, torch.from_numpy(y).long())


def _idx(path: Path) -> np.ndarray:
    """The array of bytes in a file of the IDX format."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as f:
            raw = f.read()
        sizes = np.frombuffer(raw, ">i4", raw[3], 4)
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(sizes).copy()
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise OSError(f"{path} is no whole IDX file ({error}): fetch it again") from None

"""MNIST, from the standard files in the data root."""

import gzip
from pathlib import Path

import numpy as np
import torch

from quickstudy.data.cache import data_root
from quickstudy.optimizer.problems.supervised import SPLIT_SHARES, Dataset, part_of

FILES = (
    ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    (
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ),
)


def mnist(split: str, root: str | Path | None = None) -> Dataset:
    """A split of MNIST's 28 × 28 digits.

    With all four files, "test" is the 10,000 digits of the test set, "train" the first 50,000 of the training
    set and "validation" its last 10,000. If only the test set is there, its digits are divided at random into
    the three splits (60, 20 and 20 %).

    Args:
        split: Name of the split: "train", "validation" or "test".
        root: Data root; the files, gzipped or not, are expected in `root/mnist`.

    Returns:
        Items x [n, 784] in 0 … 1 and labels y [n].

    Raises:
        FileNotFoundError: If the files are not there.
        OSError: If a file is damaged.
        ValueError: If there is no split of that name.
    """
    folder = data_root(root) / "mnist"
    train = _read(folder, *FILES[0])
    test = _read(folder, *FILES[1])
    if not test:
        raise FileNotFoundError(
            f"no MNIST in {folder}: put {FILES[1][0]}.gz and {FILES[1][1]}.gz there, or take the digits "
            "of scikit-learn, which need no download"
        )
    if not train or split not in SPLIT_SHARES:
        return part_of(test, split)
    return {
        "train": Dataset(train.x[:50_000], train.y[:50_000]),
        "validation": Dataset(train.x[50_000:], train.y[50_000:]),
        "test": test,
    }[split]


def _read(folder: Path, images: str, labels: str) -> Dataset | None:
    x_path, y_path = _found(folder, images), _found(folder, labels)
    if not (x_path and y_path):
        return None
    x, y = _idx(x_path), _idx(y_path)
    return Dataset(torch.from_numpy(x).flatten(1).float() / 255, torch.from_numpy(y).long())


def _found(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.exists()), None)


def _idx(path: Path) -> np.ndarray:
    """The array of bytes in a file of the IDX format."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as f:
            raw = f.read()
        sizes = np.frombuffer(raw, ">i4", raw[3], 4)
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(sizes).copy()
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise OSError(f"{path} is no whole IDX file ({error}): fetch it again") from None

"""Embeddings that somebody has made, in a file: `.npy`, `.npz` or parquet."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quickstudy.core.wording import shown
from quickstudy.data.formats.features import FeatureFormat
from quickstudy.data.pool import ClassPool
from quickstudy.data.splits import FRACTIONS

LABELS = ("labels", "label", "y", "targets", "target", "class", "classes", "class_name")
"""Names of the array or column of labels, where none is given; the first that there is."""
ENDINGS = (".npy", ".npz", ".parquet")


def feature_file(
    path: str | Path,
    labels: str | Path | None = None,
    features: str | None = None,
    split: Mapping[str, Sequence[Any]] | Sequence[Any] | str | Path | None = FRACTIONS,
    seed: int = 0,
) -> ClassPool:
    """Load a pool of the embeddings in a file.

    Args:
        path: `.npz` with an array [I, D] of features and one [I] of labels; `.npy` with the features, and
            `labels` in another file; or parquet with a column of labels, and either a column of lists of D
            numbers or D columns of numbers.
        labels: Name of the array or column of labels (by default "labels", "label", "y", "targets", "class"
            or the like); for `.npy` the file of labels, `.npy` or text with a label a line.
        features: Name of the array or column of features; by default the only one that may be.
        split: Class-disjoint split, as `ClassPool.from_arrays` takes it, or the name of an array or column
            that says the split of each item; None for no splits.
        seed: Seed of a split by fractions.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is another, it isn't clear what are features and labels, these disagree, or a
            feature is not finite.
        ModuleNotFoundError: If parquet is to be read and pyarrow isn't installed.
    """
    path = Path(path)
    x, y, columns = _read(path, labels, features)
    if isinstance(split, str) and split in columns:
        split = columns[split].tolist()
    if x.ndim != 2 or x.dtype.kind not in "fiu":
        raise ValueError(f"{path}: features are {x.dtype} {list(x.shape)}: give an array [I, D] of numbers")
    x = x if x.dtype.kind == "f" else x.astype(np.float32)
    pool = ClassPool.from_arrays(x, y, split=split, seed=seed, name=path.stem)
    return replace(pool, digest=pool.content_digest(), item_format=FeatureFormat(x.shape[1]))


def is_feature_file(path: str | Path) -> bool:
    """Whether a file may be one of features, by its name.

    Args:
        path: Path of anything.
    """
    return Path(path).suffix.lower() in ENDINGS


def dimensions_of(path: str | Path, labels: str | Path | None = None, features: str | None = None) -> int:
    """Length D of the features in a file.

    Args:
        path: File as in `feature_file`.
        labels: Labels as in `feature_file`.
        features: Features as in `feature_file`.
    """
    return int(_read(Path(path), labels, features)[0].shape[-1])


def _read(
    path: Path, labels: str | Path | None, features: str | None
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], Mapping[str, npt.NDArray[Any]]]:
    """Features [I, D], labels [I], and all arrays or columns by name."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    kind = path.suffix.lower()
    if kind == ".npy":
        if labels is None:
            raise ValueError(f"{path} holds no labels: name their file by labels=FILE, or save both as .npz")
        return _array(path), _labels_in(Path(labels)), {}
    if kind == ".npz":
        columns = _arrays(path)
    elif kind == ".parquet":
        columns = _columns(path)
    else:
        raise ValueError(f"{path} is no file of features: give .npy, .npz or .parquet")
    named = str(labels) if labels is not None else next((n for n in LABELS if n in columns), None)
    if named is None or named not in columns:
        raise ValueError(
            f"{path} has no labels{f' {shown(named)}' if named else ''}: it has "
            f"{', '.join(map(shown, columns))}; "
            "say which are the labels, labels=NAME"
        )
    return _features(path, columns, named, features), columns[named], columns


def _features(
    path: Path, columns: Mapping[str, npt.NDArray[Any]], labels: str, named: str | None
) -> npt.NDArray[Any]:
    if named is not None:
        if named not in columns:
            raise ValueError(f"{path} has no {shown(named)}: it has {', '.join(map(shown, columns))}")
        return columns[named]
    wide = [name for name, a in columns.items() if a.ndim == 2 and a.dtype.kind in "fiu"]
    if len(wide) == 1:
        return columns[wide[0]]
    single = [a for name, a in columns.items() if name != labels and a.ndim == 1 and a.dtype.kind == "f"]
    if not wide and single:  # a column for each dimension
        return np.stack(single, 1)
    found = ", ".join(f"{shown(name)} {list(a.shape)}" for name, a in columns.items())
    raise ValueError(f"{path} holds {found}: say which are the features, [I, D] numbers, by features=NAME")


def _array(path: Path) -> npt.NDArray[Any]:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} can't be read ({error}): save a plain array by numpy.save") from None


def _labels_in(path: Path) -> npt.NDArray[Any]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} of labels")
    if path.suffix.lower() == ".npy":
        return _array(path)
    return np.asarray(path.read_text(encoding="utf-8").splitlines())


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} can't be read ({error}): save plain arrays by numpy.savez") from None


def _columns(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        arrow: Any = import_module("pyarrow")  # so, as it may not be there for a type checker either
        parquet: Any = import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{path} is parquet, which takes pyarrow: pip install 'quickstudy[parquet]'"
        ) from None
    try:
        table: Any = parquet.read_table(path)
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(
            f"{path} can't be read ({str(error).splitlines()[0]}): save it again as parquet"
        ) from None
    found: dict[str, npt.NDArray[Any]] = {}
    for name in table.column_names:
        column: Any = table.column(name).combine_chunks()
        if arrow.types.is_list(column.type) or arrow.types.is_fixed_size_list(column.type):
            numbers = np.asarray(column.flatten())
            rows = len(column)
            if not rows or len(numbers) % rows or not _even(column, len(numbers) // rows):
                raise ValueError(
                    f"{path}: lists of column {shown(name)} have unequal lengths: make them equal"
                )
            found[name] = numbers.reshape(rows, -1)
        else:
            values = column.to_numpy(zero_copy_only=False)
            found[name] = values.astype(str) if values.dtype.kind == "O" else values
    return found


def _even(column: Any, length: int) -> bool:
    sizes: Any = import_module("pyarrow.compute").list_value_length(column)
    return column.null_count == 0 and set(sizes.to_pylist()) == {length}

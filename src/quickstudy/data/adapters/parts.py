"""Data sets of torch, torchvision and Hugging Face, each as a number of items and their labels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

from quickstudy.core.errors import WrongTypeError
from quickstudy.core.wording import one_line
from quickstudy.data.adapters.labels import flat_labels

PROBED = 100
"""Items that are tried to find one that can be read, to see how items look."""


@dataclass(frozen=True)
class Part:
    """A data set as items and labels.

    Args:
        name: What it is called in messages.
        size: Number of its items.
        get: Gives the picture (or whatever the item is) and the label of an item.
        labels: [I] all labels, where they are known without reading the items.
        names: Names of the classes, where the data set has them.
        column: Gives a column by its name, such as that of the splits; None if there are none.
    """

    name: str
    size: int
    get: Callable[[int], tuple[Any, Any]]
    labels: npt.NDArray[Any] | None
    names: Sequence[str] | None = None
    column: Callable[[str], Any] | None = None


def part_of(dataset: Any, image: str | int | None, label: Any, name: str) -> Part:
    """A data set of torch or Hugging Face as items and labels.

    Args:
        dataset: Map-style data set.
        image: Where an item has its picture: a column, a key or a place; None to find out.
        label: The same of the label, or the labels of all items.
        name: What the data set is called in messages.

    Raises:
        TypeError: If it is none.
        ValueError: If it isn't clear where pictures and labels are.
    """
    if isinstance(dataset, DataLoader):
        raise WrongTypeError(f"{name} is a DataLoader: give what it loads, loader.dataset")
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__") or isinstance(dataset, type):
        raise WrongTypeError(
            f"{name} is a {type(dataset).__name__}, which gives no item by its number: give a map-style "
            "data set with len(ds) and ds[i]"
        )
    size = len(dataset)
    given: npt.NDArray[Any] | None = None
    if label is not None and not isinstance(label, str | int):
        given = flat_labels(label, "label")
        if len(given) != size:
            raise ValueError(
                f"label has {len(given)} values for the {size} items of {name}: give one of each"
            )
    columns: Any = getattr(dataset, "column_names", None)
    if columns is not None and hasattr(dataset, "features"):
        return _of_columns(dataset, image, label, given, name)
    if not size:
        return Part(name, 0, dataset.__getitem__, None)
    labelled = given is not None
    places = _places(dataset, image, label, labelled, name)

    def get(i: int) -> tuple[Any, Any]:
        item = dataset[i]
        if places is None:
            return item, None
        return item[places[0]], None if labelled else item[places[1]]

    if given is None and places and isinstance(places[1], int):
        found = _labels_ahead(dataset) if places[1] == 1 else None
        given = None if found is None else flat_labels(found, "the labels of the data set")
    return Part(name, size, get, given, None if label is not None else _class_names(dataset))


def _of_columns(ds: Any, image: Any, label: Any, given: npt.NDArray[Any] | None, name: str) -> Part:
    """A data set of Hugging Face, by the features of its columns."""
    features, columns = ds.features or {}, list(ds.column_names)

    def find(asked: Any, kind: str, usual: tuple[str, ...], argument: str) -> str:
        if isinstance(asked, str):
            if asked not in columns:
                raise ValueError(f"{name} has no column {asked!r}: its columns are {', '.join(columns)}")
            return asked
        found = [c for c in columns if type(features.get(c)).__name__ == kind]
        found = found or [c for c in columns if c in usual]
        if len(found) != 1:
            what = f"several columns that may be it ({', '.join(found)})" if found else "no such column"
            raise ValueError(f'{name} has {what}: name one of {", ".join(columns)} by {argument}="…"')
        return found[0]

    pictures = find(image, "Image", ("image", "img"), "image")
    names: Any = None
    if given is None:
        labels = find(label, "ClassLabel", ("label", "labels"), "label")
        names = getattr(features.get(labels), "names", None)
        given = flat_labels(list(ds[labels]), f"column {labels!r}") if len(ds) else None
    rows = ds.select_columns([pictures]) if hasattr(ds, "select_columns") else ds  # decodes no others
    return Part(name, len(ds), lambda i: (rows[i][pictures], None), given, names, lambda c: list(ds[c]))


Place = str | int


def _places(ds: Any, image: Any, label: Any, labelled: bool, name: str) -> tuple[Place, Place] | None:
    """Where an item has its picture and its label; None where the item is the picture."""
    first = _first_readable(ds, name)
    by_key = isinstance(first, Mapping)
    if not by_key and not isinstance(first, list | tuple):
        if labelled:
            return None
        raise ValueError(f"items of {name} have no label: give all labels, label=[…]")
    keys: list[Any] = list(cast(Any, first)) if by_key else list(range(len(cast(Any, first))))

    def find(asked: Any, usual: tuple[Any, ...], argument: str) -> Any:
        if isinstance(asked, str | int):
            if asked not in keys:
                raise ValueError(f"items of {name} have no {asked!r}: they have {', '.join(map(str, keys))}")
            return asked
        found = [k for k in usual if k in keys]
        if not found:
            raise ValueError(
                f"items of {name} have {', '.join(map(str, keys))}: say which is the {argument}, {argument}=…"
            )
        return found[0]

    pictures = find(image, ("image", "img", "x", "pixel_values") if by_key else (0,), "image")
    if labelled:
        return pictures, pictures
    return pictures, find(label, ("label", "labels", "y", "target") if by_key else (1,), "label")


def _first_readable(ds: Any, name: str) -> Any:
    """The first item that can be read; others may be skipped later."""
    failed: Exception | None = None
    for i in range(min(PROBED, len(ds))):
        try:
            return ds[i]
        except Exception as error:
            failed = failed or error
    raise OSError(f"item 0 of {name} can't be read ({one_line(failed)}): mend or leave it out") from failed


def _labels_ahead(ds: Any) -> Any:
    """All labels of a data set of torch or torchvision that tells them without its items; None otherwise."""
    if getattr(ds, "target_transform", None) is not None:
        return None
    if isinstance(ds, Subset):
        inner = _labels_ahead(ds.dataset)
        return None if inner is None else [inner[i] for i in cast(Any, ds).indices]
    if isinstance(ds, ConcatDataset):
        each = [_labels_ahead(part) for part in cast(Any, ds).datasets]
        return None if any(of is None for of in each) else [label for of in each for label in of]
    if isinstance(ds, TensorDataset):
        return ds.tensors[1] if len(ds.tensors) == 2 else None
    for attribute in ("targets", "labels", "samples", "imgs"):
        found: Any = getattr(ds, attribute, None)
        if found is None or not hasattr(found, "__len__") or len(found) != len(ds):
            continue
        if attribute in ("samples", "imgs"):
            if not all(isinstance(pair, tuple) and len(cast(Any, pair)) == 2 for pair in found):
                continue
            found = [pair[1] for pair in found]
        return found.tolist() if isinstance(found, Tensor | np.ndarray) else found
    return None


def _class_names(ds: Any) -> Sequence[str] | None:
    """Names of the classes of torchvision's data sets; None for others."""
    if isinstance(ds, Subset):
        return _class_names(ds.dataset)
    if isinstance(ds, ConcatDataset):
        each = [_class_names(part) for part in cast(Any, ds).datasets]
        return each[0] if all(of == each[0] for of in each) else None
    found: Any = getattr(ds, "classes", None)
    if isinstance(found, list | tuple) and all(isinstance(c, str) for c in cast(Any, found)):
        return cast(Sequence[str], found)
    return None


def name_of(ds: Any) -> str:
    """Name of a data set: what it says of itself, or its type.

    Args:
        ds: Data set.
    """
    while isinstance(ds, Subset | ConcatDataset):
        ds = ds.dataset if isinstance(ds, Subset) else ds.datasets[0]  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    stated: Any = getattr(getattr(ds, "info", None), "dataset_name", None)
    return str(stated or type(ds).__name__.lower())

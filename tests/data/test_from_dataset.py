"""`ClassPool.from_dataset`: data sets of torch, torchvision and Hugging Face, or stand-ins."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from quickstudy.data.datasets.folders import image_folders
from quickstudy.data.episodes import Episodes
from quickstudy.data.formats.images import ImageFormat
from quickstudy.data.mapped import mapping
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting

LABELS = [2, 0, 1, 0, 2, 1, 0]
ORDER = [1, 3, 6, 2, 5, 0, 4]
NAMES = ["cat", "dog", "cow"]


def picture(i: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Pillow.Image:
    return Pillow.new(mode, size, 10 * i if mode == "L" else (10 * i, 0, 255))


def codes(pool: ClassPool) -> list[int]:
    return [int(v) // 10 for v in pool.items.reshape(len(pool.items), -1)[:, 0]]


class Own(Dataset[Any]):
    """A data set of one's own, which counts what is read."""

    def __init__(self, items: Sequence[Any], labels: Sequence[Any] = LABELS) -> None:
        self.items, self.own, self.read = items, labels, list[int]()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        self.read.append(i)
        item = self.items[i]
        if isinstance(item, Exception):
            raise item
        return item, self.own[i]


class Like(Own):
    """As torchvision's: labels in `targets`, names in `classes`."""

    def __init__(self, items: Sequence[Any], labels: Sequence[Any] = LABELS) -> None:
        super().__init__(items, labels)
        self.targets, self.classes = list(labels), NAMES


PICTURES = [picture(i) for i in range(7)]


@pytest.mark.parametrize("lazy", [False, True, None])
@pytest.mark.parametrize("kind", [Own, Like])
def test_pictures(kind: type[Own], lazy: bool | None) -> None:
    seen: list[tuple[int, int]] = []
    ds = kind(PICTURES)
    pool = ClassPool.from_dataset(ds, lazy=lazy, progress=lambda done, of: seen.append((done, of)))
    assert codes(pool) == ORDER
    assert pool.items.shape == (7, 3, 8, 8)
    assert pool.items[0, :, 0, 0].tolist() == [10, 0, 255]
    assert pool.classes == (("0", "1", "2") if kind is Own else tuple(NAMES))
    assert pool.item_format == ImageFormat(8, 3)
    assert (pool.original_size, pool.name) == (8, kind.__name__.lower())
    assert bool(mapping(pool.items)) == (lazy is True)
    assert seen[-1] == (7, 7)
    assert ds.read == [0, *range(7)]  # the first tells what items look like
    assert Episodes(pool, Setting(3, 1, 1))[0].query_x.max() <= 1


def test_the_same_as_from_folders(tmp_path: Path) -> None:
    files: list[Path] = []
    rng = np.random.default_rng(0)
    for i, c in enumerate(LABELS):
        files.append(tmp_path / "all" / NAMES[c] / f"{i}.png")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(files[-1])
    folders = image_folders(tmp_path / "all", ImageFormat(12, 1), split=(1, 0, 0))
    ds = Like([Pillow.open(f) for f in files])
    ds.classes = NAMES
    pool = ClassPool.from_dataset(ds, size=12, grey=True)
    assert pool.class_digests() == folders.class_digests()
    by_path = ClassPool.from_dataset(Own(files), size=12, grey=True, names=NAMES)
    by_bytes = ClassPool.from_dataset(Own([f.read_bytes() for f in files]), size=12, grey=True, names=NAMES)
    assert by_path.class_digests() == by_bytes.class_digests() == folders.class_digests()
    assert folders.item_format == pool.item_format
    other = ClassPool.from_dataset(ds, image_format=ImageFormat(12, 1, invert=True))
    assert np.array_equal(other.items, 255 - pool.items)


def test_grey_pictures_stay_grey_and_color_is_asked_for() -> None:
    grey = [picture(i, mode="L") for i in range(7)]
    assert ClassPool.from_dataset(Own(grey)).items.shape == (7, 1, 8, 8)
    assert ClassPool.from_dataset(Own(grey), grey=False).items.shape == (7, 3, 8, 8)
    assert ClassPool.from_dataset(Own(PICTURES), grey=True).items.shape == (7, 1, 8, 8)
    assert ClassPool.from_dataset(Own(PICTURES), size=4).items.shape == (7, 3, 4, 4)


BYTES = np.stack([np.asarray(p) for p in PICTURES])


@pytest.mark.parametrize("options", [{}, {"size": 8}])
def test_arrays_of_bytes_in_any_layout(options: dict[str, Any]) -> None:
    first = torch.from_numpy(BYTES.transpose(0, 3, 1, 2).copy())
    for items in (list(BYTES), list(first), list(torch.from_numpy(BYTES))):
        pool = ClassPool.from_dataset(Own(items), **options)
        assert np.array_equal(pool.items, first.numpy()[ORDER])
    assert ClassPool.from_dataset(Own(list(BYTES[..., 0])), **options).items.shape == (7, 1, 8, 8)
    assert ClassPool.from_dataset(Own(list(BYTES)), size=4).items.shape == (7, 3, 4, 4)


@pytest.mark.parametrize("shape", [(5,), (), (2, 6, 6), (9, 4), (6, 7, 7)])
def test_floats_of_any_shape_are_kept(shape: tuple[int, ...]) -> None:
    x = torch.randn(7, *shape) * 100
    pool = ClassPool.from_dataset(TensorDataset(x, torch.tensor(LABELS)))
    assert np.array_equal(pool.items, x.numpy()[ORDER].reshape(7, *(shape or (1,))))
    assert pool.items.dtype == np.float32
    assert pool.item_format is None


def test_tensors_of_one_set_and_clips() -> None:
    clips = torch.arange(21, dtype=torch.int16).view(7, 3)
    pool = ClassPool.from_dataset(TensorDataset(clips, torch.tensor(LABELS)))
    assert pool.items.dtype == np.int16
    assert pool.items[:, 0].tolist() == [3 * i for i in ORDER]


def test_parts_and_joins_of_data_sets_keep_labels_and_names() -> None:
    ds = Like(PICTURES)
    pool = ClassPool.from_dataset(Subset(ds, [1, 2, 5]))
    assert codes(pool) == [1, 2, 5]
    assert pool.classes == ("cat", "dog")
    assert pool.name == "like"
    joined: Any = ConcatDataset([ds, ds])
    assert ClassPool.from_dataset(joined).counts.tolist() == [6, 4, 4]
    assert ClassPool.from_dataset(ConcatDataset[Any]([ds, Own(PICTURES)])).classes == ("0", "1", "2")


@pytest.mark.parametrize("attribute", ["targets", "labels", "samples", "imgs"])
@pytest.mark.parametrize("make", [list, np.array, torch.tensor])
def test_labels_are_known_before_items_are_read(attribute: str, make: Callable[[list[int]], Any]) -> None:
    ds = Own(PICTURES, [1] * 7)
    of: Any = [("a.png", 1)] * 7 if attribute in ("samples", "imgs") else make([1] * 7)
    setattr(ds, attribute, of)
    with pytest.raises(ValueError, match="all 7 labels are '1'"):
        ClassPool.from_dataset(ds)
    assert ds.read == [0]


def test_labels_that_a_transform_changes_are_read_from_the_items() -> None:
    ds: Any = Like(PICTURES)
    ds.targets, ds.target_transform, ds.classes = [0, 1, 2, 3, 4, 5, 6], abs, None
    assert codes(ClassPool.from_dataset(ds)) == ORDER


def test_labels_that_disagree_are_said() -> None:
    ds = Like(PICTURES)
    ds.targets = [0, *LABELS[1:]]
    with pytest.raises(
        ValueError, match=r"item 0 of the data set has the label 2, and the list of labels says 0"
    ):
        ClassPool.from_dataset(ds)
    assert codes(ClassPool.from_dataset(ds, label=LABELS)) == ORDER


def test_labels_of_tensors_arrays_and_text() -> None:
    assert codes(ClassPool.from_dataset(Own(PICTURES, torch.tensor(LABELS)))) == ORDER  # pyright: ignore
    assert codes(ClassPool.from_dataset(Own(PICTURES, np.array(LABELS)))) == ORDER  # pyright: ignore
    pool = ClassPool.from_dataset(Own(PICTURES, ["cba"[v] for v in LABELS]), split={"test": ["a"]})
    assert pool.classes == ("a", "b", "c")
    assert pool.split("test").classes == ("a",)


class Keyed(Own):
    def __getitem__(self, i: int) -> Any:
        x, y = super().__getitem__(i)
        return {"id": i, "image": x, "label": y, "photo": 5}


class Bare(Own):
    def __getitem__(self, i: int) -> Any:
        return super().__getitem__(i)[0]


def test_items_with_keys_places_and_none() -> None:
    assert codes(ClassPool.from_dataset(Keyed(PICTURES))) == ORDER
    assert codes(ClassPool.from_dataset(Keyed(PICTURES), image="image", label="label")) == ORDER
    turned = Own(LABELS, PICTURES)
    assert codes(ClassPool.from_dataset(turned, image=1, label=0)) == ORDER
    assert codes(ClassPool.from_dataset(Bare(PICTURES), label=LABELS)) == ORDER


def test_splits_of_numbers_names_columns_and_fractions() -> None:
    ds = Like(PICTURES)
    for split in ({"train": [0, 1], "test": [2]}, {"train": ["cat", "dog"], "test": ["cow"]}):
        assert ClassPool.from_dataset(ds, split=split).split("test").classes == ("cow",)
    column = ["test" if v == 2 else "val" for v in LABELS]
    assert ClassPool.from_dataset(ds, split=column).split("validation").classes == ("cat", "dog")
    assert len(ClassPool.from_dataset(ds, split=(0.5, 0.25, 0.25)).splits) == 3
    with pytest.raises(ValueError, match="names 'mouse', which is no class: there are cat, dog, cow"):
        ClassPool.from_dataset(ds, split={"train": ["mouse"]})


def test_several_data_sets_become_splits() -> None:
    a, b = Own(PICTURES, list("babaabb")), Own(PICTURES, list("dcdccdd"))
    for sets in ({"train": a, "val": b}, {"train": a, "validation": b}):
        pool = ClassPool.from_dataset(sets)
        assert pool.split("train").classes == ("a", "b")
        assert pool.split("validation").classes == ("c", "d")
    named = {"train": Like(PICTURES[:2], [0, 1]), "test": Like(PICTURES[2:4], [2, 2])}
    pool = ClassPool.from_dataset(named, name="mine")
    assert pool.split("test").classes == ("cow",)
    assert pool.name == "mine"
    with pytest.raises(ValueError, match="class 'cat' is in both splits 'test' and 'train'"):
        ClassPool.from_dataset({"train": Like(PICTURES), "test": Like(PICTURES)})
    with pytest.raises(ValueError, match="leave out split, or join"):
        ClassPool.from_dataset({"train": a}, split={"train": ["a"]})
    with pytest.raises(ValueError, match="labels of one data set are numbers, and of another texts"):
        ClassPool.from_dataset({"train": a, "test": Own(PICTURES)})


# What can't be read


BROKEN: list[Any] = [*PICTURES[:2], OSError("truncated"), *PICTURES[3:6], ValueError("bad\nbits")]


@pytest.mark.parametrize("kind", [Own, Like])
def test_an_item_that_cannot_be_read_is_named_or_skipped(kind: type[Own]) -> None:
    with pytest.raises(
        OSError, match=r"item 2 of the data set can't be read \(truncated\): mend or leave it"
    ) as e:
        ClassPool.from_dataset(kind(BROKEN))
    assert "\n" not in str(e.value)
    column = ["test" if v == 2 else "train" for v in LABELS]
    with pytest.warns(
        UserWarning, match=r"^2 of 7 items can't be read: item 2 .*truncated; item 6.*; skipped$"
    ):
        pool = ClassPool.from_dataset(kind(BROKEN), skip_corrupt=True, split=column)
    assert codes(pool) == [1, 3, 5, 0, 4]
    assert pool.counts.tolist() == [2, 1, 2]
    assert len(pool.split("train")) == 2


def test_files_floats_and_first_items_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(OSError, match=r"item 0 of the data set can't be read \(.*\): mend"):
        ClassPool.from_dataset(Own([tmp_path / "a.png"] * 7), size=8)
    x = torch.ones(7, 3)
    x[4, 1] = float("nan")
    with pytest.raises(OSError, match=r"item 4 .* can't be read \(it holds numbers that aren't finite\)"):
        ClassPool.from_dataset(TensorDataset(x, torch.tensor(LABELS)))
    with pytest.warns(UserWarning, match="1 of 7 items can't be read: item 0"):
        pool = ClassPool.from_dataset(Own([OSError("x"), *PICTURES[1:]]), skip_corrupt=True)
    assert codes(pool) == [1, 3, 6, 2, 5, 4]
    with pytest.raises(OSError, match="item 0 of the data set can't be read"):
        ClassPool.from_dataset(Own([OSError("x")] * 7), skip_corrupt=True)
    lost = [*PICTURES[:2], OSError("x"), *PICTURES[3:5], OSError("x"), PICTURES[6]]
    with (
        pytest.raises(ValueError, match="no item of class 'dog' can be read"),
        pytest.warns(UserWarning, match="skipped"),
    ):
        ClassPool.from_dataset(Like(lost), skip_corrupt=True)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield from ()


WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (DataLoader(Own(PICTURES)), {}, r"is a DataLoader: give what it loads, loader.dataset"),
    (Stream(), {}, "is a Stream, which gives no item by its number: give a map-style data set"),
    (Own, {}, "is a type, which gives no item by its number"),
    (5, {}, "is a int, which gives no item"),
    (Own([]), {}, "the data set is empty"),
    (Own(PICTURES), {"label": [1, 2]}, "label has 2 values for the 7 items of the data set"),
    (Own(PICTURES), {"label": 5}, "items of the data set have no 5: they have 0, 1"),
    (Keyed(PICTURES), {"image": "x"}, "items of the data set have no 'x': they have id, image, label, photo"),
    (Bare(PICTURES), {}, r"items of the data set have no label: give all labels, label=\[…\]"),
    (Own(PICTURES, [0.5] * 7), {}, "label holds float64 numbers"),
    (
        Own([picture(0), picture(1, (9, 9)), *PICTURES[2:]]),
        {},
        r"item 1 .* is 9 × 9 pixels and the first 8 × 8: say",
    ),
    (Own([picture(i, (9, 8)) for i in range(7)]), {}, r"item 0 .* is 9 × 8 pixels: .* size=84"),
    (Own(PICTURES), {"size": 8, "image_format": ImageFormat(8, 3)}, "leave out size and grey"),
    (Own(PICTURES), {"size": 0}, "size is 0: it must be at least 1"),
    (
        Own([torch.rand(3, 8, 8)] * 7),
        {"size": 8},
        r"item 0 .* is float32 \[3, 8, 8\], and size, grey .* transform",
    ),
    (Own([torch.rand(8, 8, 3)] * 7), {}, r"item 0 .* is \[8, 8, 3\], which looks like height"),
    (
        Own([torch.rand(3), torch.rand(4), *[torch.rand(3)] * 5]),
        {},
        r"item 1 .* is float32 \[4\] and the first",
    ),
    (Own([BYTES[0], BYTES[1, :5], *BYTES[2:]]), {}, r"item 1 .* make all items alike, or give size="),
    (Own([torch.zeros(3, dtype=torch.int64)] * 7), {}, "item 0 .* is int64: give pictures"),
    (
        Own([torch.zeros(9, 9, 9, dtype=torch.uint8)] * 7),
        {"size": 8},
        r"item 0 .* is uint8 \[9, 9, 9\]: pictures",
    ),
]


@pytest.mark.parametrize(("ds", "options", "message"), WRONG, ids=[w[2][:40] for w in WRONG])
def test_what_is_wrong_is_one_line(ds: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message) as error:
        ClassPool.from_dataset(ds, **options)
    assert "\n" not in str(error.value)


# Hugging Face


class Image:
    """The feature of the same name."""


class Value:
    """The feature of the same name."""


class ClassLabel:
    """The feature of the same name."""

    def __init__(self, names: list[str]) -> None:
        self.names = names


class Table:
    """What we use of a `datasets.Dataset`; reading a picture is counted."""

    def __init__(self, columns: dict[str, tuple[Any, Sequence[Any]]]) -> None:
        self.features = {name: feature for name, (feature, _) in columns.items()}
        self.columns = {name: values for name, (_, values) in columns.items()}
        self.read = 0

    @property
    def column_names(self) -> list[str]:
        return list(self.columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, str):
            return self.columns[key]
        self.read += 1
        return {name: values[key] for name, values in self.columns.items()}


def table(labels: Sequence[Any] = LABELS, **more: tuple[Any, Sequence[Any]]) -> Table:
    return Table({"photo": (Image(), PICTURES), "kind": (ClassLabel(NAMES), labels), **more})


def test_columns_are_found_by_their_features() -> None:
    ds = table(place=(Value(), list("ttvtttt")), text=(Value(), ["x"] * 7))
    pool = ClassPool.from_dataset(ds)
    assert codes(pool) == ORDER
    assert pool.classes == tuple(NAMES)
    assert ds.read == 7
    split = ClassPool.from_dataset(
        table(place=(Value(), ["val" if v == 1 else "train" for v in LABELS])), split="place"
    )
    assert split.split("validation").classes == ("dog",)


def test_columns_by_their_names() -> None:
    ds = table(other=(ClassLabel(["x", "y"]), [0, 1, 0, 1, 0, 1, 0]), word=(Value(), list("abababb")))
    with pytest.raises(
        ValueError, match=r"several columns that may be it \(kind, other\): name one of .* label="
    ):
        ClassPool.from_dataset(ds)
    assert ClassPool.from_dataset(ds, label="other").classes == ("x", "y")
    assert ClassPool.from_dataset(ds, label="word", image="photo").classes == ("a", "b")
    with pytest.raises(ValueError, match="has no column 'nothing': its columns are photo, kind, other, word"):
        ClassPool.from_dataset(ds, label="nothing")
    plain = Table({"a": (Value(), LABELS), "b": (Value(), LABELS)})
    with pytest.raises(ValueError, match=r'no such column: name one of a, b by image="…"'):
        ClassPool.from_dataset(plain)


def test_pictures_that_are_not_decoded_and_vectors() -> None:
    raw = io.BytesIO()
    picture(3).save(raw, "png")
    stored = Table(
        {"image": (Image(), [{"bytes": raw.getvalue(), "path": None}] * 7), "label": (Value(), LABELS)}
    )
    assert codes(ClassPool.from_dataset(stored)) == [3] * 7
    assert codes(ClassPool.from_dataset(stored, size=8)) == [3] * 7
    vectors = Table({"z": (Value(), [[float(i), 0.5] for i in range(7)]), "label": (Value(), LABELS)})
    assert ClassPool.from_dataset(vectors, image="z").items[:, 0].tolist() == ORDER


def test_splits_of_a_dictionary() -> None:
    pool = ClassPool.from_dataset({"train": table([0, 1] * 3 + [0]), "test": table([2] * 7)})
    assert pool.split("test").classes == ("cow",)


def test_the_library_itself() -> None:
    datasets = pytest.importorskip("datasets", reason="pip install datasets")
    features = datasets.Features(
        {"img": datasets.Image(), "fine": datasets.ClassLabel(names=NAMES), "place": datasets.Value("string")}
    )
    columns = {"img": PICTURES, "fine": LABELS, "place": ["val" if v == 1 else "train" for v in LABELS]}
    ds = datasets.Dataset.from_dict(columns, features=features)
    pool = ClassPool.from_dataset(ds, split="place")
    assert codes(pool) == ORDER
    assert pool.classes == tuple(NAMES)
    assert pool.split("validation").classes == ("dog",)
    assert np.array_equal(ClassPool.from_dataset(ds.with_format("torch")).items, pool.items)
    undecoded = ds.cast_column("img", datasets.Image(decode=False))
    assert np.array_equal(ClassPool.from_dataset(undecoded).items, pool.items)
    halves = datasets.DatasetDict({"train": ds.select([1, 2, 3]), "test": ds.select([0, 4])})
    assert ClassPool.from_dataset(halves).split("test").classes == ("cow",)
    with pytest.raises(TypeError, match="gives no item by its number"):
        ClassPool.from_dataset(ds.to_iterable_dataset())


def test_a_tensor_is_given_back_as_it_is() -> None:
    x: Tensor = torch.randn(7, 4)
    assert np.array_equal(
        ClassPool.from_dataset(TensorDataset(x, torch.tensor(LABELS))).items, x.numpy()[ORDER]
    )

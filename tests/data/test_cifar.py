"""CIFAR-FS and FC100: the same pictures in three ways, and what may be wrong with the files."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from quickstudy.data.datasets import cifar as source
from quickstudy.data.datasets.cifar import cifar_fs, class_lists, fc100
from quickstudy.data.pool import ClassPool

CLASSES = sorted(c for part in class_lists()["cifar-fs"].values() for c in part)
PARTS = {"train.bin": 2, "test.bin": 1}
EACH = 3


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("QUICKSTUDY_DATA", raising=False)
    monkeypatch.setattr(source, "PER_CLASS", PARTS)

    def unreachable(address: str, *_: object, **__: object) -> None:
        raise requests.ConnectionError("not known")

    monkeypatch.setattr(requests, "get", unreachable)


def pictures() -> np.ndarray:
    """[100, 3, 3, 32, 32], in the order of the class names."""
    return np.random.default_rng(0).integers(0, 256, (100, EACH, 3, 32, 32), dtype=np.uint8)


def encoded(picture: np.ndarray, kind: str = "WEBP") -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture.transpose(1, 2, 0)).save(out, kind, lossless=True, method=0)
    return out.getvalue()


@cache
def files(kind: str = "WEBP") -> dict[str, bytes]:
    """The pictures encoded, by their class and number, in the reverse order of the classes."""
    of = reversed(list(zip(CLASSES, pictures(), strict=True)))
    return {f"{name}/{i:03}": encoded(picture, kind) for name, three in of for i, picture in enumerate(three)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data" / "cifar100").mkdir(parents=True)
    return tmp_path / "data"


def write_zip(root: Path, above: str = "", change: Callable[[str], bytes | None] = lambda n: None) -> Path:
    path = root / "cifar100" / "cifar100.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__MACOSX/apple/._000.webp", b"nothing")
        archive.writestr(f"{above}apple/.hidden", b"nothing")
        for name, content in files().items():
            if (changed := change(name)) != b"absent":
                archive.writestr(f"{above}{name}.webp", changed or content)
    return path


def write_folders(root: Path, kind: str = "png") -> Path:
    for name, content in files(kind.upper()).items():
        path = root / "cifar100" / f"{name}.{kind}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return root / "cifar100"


def write_binary(
    root: Path, names: list[str] = CLASSES, change: Callable[[str, bytes], bytes] = lambda n, b: b
) -> Path:
    path = root / "cifar100" / "cifar-100-binary.tar.gz"
    rng = np.random.default_rng(1)
    of, starts = pictures(), {"train.bin": 0, "test.bin": 2}
    with tarfile.open(path, "w:gz") as archive:

        def add(name: str, content: bytes) -> None:
            member = tarfile.TarInfo(f"cifar-100-binary/{name}")
            content = change(name, content)
            member.size = len(content)
            if content != b"absent":
                archive.addfile(member, io.BytesIO(content))

        for part, n in PARTS.items():
            # classes in any order, the pictures of a class in theirs
            labels = rng.permutation(np.repeat(np.arange(100), n))
            seen, records = [starts[part]] * 100, b""
            for label in labels.tolist():
                picture = of[CLASSES.index(names[label])][seen[label]]
                records += bytes([label % 20, label]) + picture.tobytes()
                seen[label] += 1
            add(part, records)
        add("fine_label_names.txt", "".join(f"{n}\n" for n in names).encode())
    return path


def check(pool: ClassPool, name: str) -> None:
    assert pool.name == name
    assert pool.classes == tuple(CLASSES)
    assert pool.item_format == source.COLOR_32
    np.testing.assert_array_equal(pool.items, pictures().reshape(-1, 3, 32, 32))
    for split, classes in class_lists()[name].items():
        assert pool.split(split).classes == tuple(classes)
        assert pool.split(split).name == f"{name}.{split}"


@pytest.mark.parametrize(
    "write",
    [
        write_zip,
        lambda root: write_zip(root, "some folder/"),
        write_folders,
        lambda root: write_folders(root, "webp"),
        write_binary,
        lambda root: write_binary(root, CLASSES[::-1]),
    ],
)
def test_three_ways_to_the_same_items(root: Path, write: Callable[[Path], Path]) -> None:
    write(root)
    check(cifar_fs(root), "cifar-fs")
    check(fc100(root), "fc100")


def test_both_splits_are_decoded_once(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_zip(root)
    first = cifar_fs(root)
    monkeypatch.setattr(source, "decode_items", None)
    assert fc100(root).digest == first.digest
    assert len(list((tmp_path / "cache" / "pools").iterdir())) == 1


def test_the_lists_divide_all_classes() -> None:
    for name, sizes in (("cifar-fs", [64, 16, 20]), ("fc100", [60, 20, 20])):
        lists = class_lists()[name]
        assert list(lists) == ["train", "validation", "test"]
        assert [len(part) for part in lists.values()] == sizes
        assert sorted(c for part in lists.values() for c in part) == CLASSES
    assert len({*CLASSES}) == 100


def test_progress_is_told(root: Path) -> None:
    write_zip(root)
    told: list[tuple[int, int]] = []
    cifar_fs(root, progress=lambda done, of: told.append((done, of)))
    assert told[-1] == (300, 300)


def test_the_binary_archive_is_fetched(root: Path) -> None:
    with pytest.raises(OSError, match=r"100-binary\.tar\.gz is absent and https://.*gz can't be reached"):
        cifar_fs(root)


@pytest.mark.parametrize("name", ["cifar-100-python.tar.gz", "cifar-100-python"])
def test_a_pickle_is_refused(root: Path, name: str) -> None:
    (root / "cifar100" / name).mkdir()
    with pytest.raises(ValueError, match=r"is a pickle, which can run any program.*: put cifar-100-binary"):
        fc100(root)
    write_binary(root)
    check(fc100(root), "fc100")


def small_picture() -> bytes:
    return encoded(np.zeros((3, 31, 32), np.uint8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"absent", r"cifar100\.zip has 2 pictures of bee, not 3 \(and 0 more such classes\): copy"),
        (
            small_picture(),
            r"1 pictures of .*, first .*zip/bee/001\.webp: it has 32 × 31 pixels, not 32 × 32; copy",
        ),
        (b"text", r"first .*zip/bee/001\.webp: not a picture"),
        (encoded(pictures()[0, 0])[:-200], r"first .*zip/bee/001\.webp: "),
    ],
)
def test_a_zip_with_a_damaged_picture(root: Path, content: bytes, message: str) -> None:
    write_zip(root, change=lambda name: content if name == "bee/001" else None)
    with pytest.raises(OSError, match=message):
        cifar_fs(root)


def test_a_zip_without_a_class(root: Path) -> None:
    write_zip(root, change=lambda name: b"absent" if name.startswith("bee/") else None)
    with pytest.raises(OSError, match=r"cifar100\.zip lacks 1 of the 100 classes of CIFAR-100, e\.g\. bee"):
        cifar_fs(root)


def test_half_a_zip(root: Path) -> None:
    path = write_zip(root)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(OSError, match=r"cifar100\.zip is damaged"):
        cifar_fs(root)


def test_a_zip_that_is_damaged_inside(root: Path) -> None:
    path = write_zip(root)
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"worm/000.webp") + 200] ^= 255
    path.write_bytes(raw)
    with pytest.raises(OSError, match=r"first .*worm/000\.webp: damaged: Bad CRC"):
        cifar_fs(root)


def test_a_folder_is_absent(root: Path) -> None:
    folder = write_folders(root) / "worm"
    folder.rename(root / "elsewhere")
    with pytest.raises(OSError, match=r"cifar100 lacks 1 of the 100 classes of CIFAR-100, e\.g\. worm"):
        cifar_fs(root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n, b: b"absent" if n == "test.bin" else b, r"is damaged \(it lacks test\.bin\): delete it"),
        (lambda n, b: b[:-1] if n == "train.bin" else b, r"its train\.bin has 614799 bytes, not 614800"),
        (lambda n, b: b"\n" + b if n == "test.bin" else b, r"its test\.bin has 307401 bytes, not 307400"),
        (lambda n, b: b.replace(b"bee\n", b"wasp\n") if n[0] == "f" else b, "names other classes than CIFAR"),
        (lambda n, b: b * 100 if n[0] == "f" else b, r"its fine_label_names\.txt has \d+ bytes, not some"),
        (lambda n, b: b"\0\xff" + b[2:] if n == "train.bin" else b, "has not 3 pictures of each class"),
    ],
)
def test_a_damaged_binary_archive(root: Path, change: Callable[[str, bytes], bytes], message: str) -> None:
    write_binary(root, change=change)
    with pytest.raises(OSError, match=message):
        cifar_fs(root)


@pytest.mark.parametrize("cut", [0, 10, -5000, -4])
def test_half_a_binary_archive(root: Path, cut: int) -> None:
    path = write_binary(root)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(
        OSError, match=r"binary\.tar\.gz is damaged \(.*\): delete it, and it will be fetched"
    ):
        cifar_fs(root)


def test_a_changed_byte_in_the_binary_archive(root: Path) -> None:
    path = write_binary(root)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 255
    path.write_bytes(raw)
    with pytest.raises(
        OSError, match=r"binary\.tar\.gz is damaged \(.*\): delete it, and it will be fetched"
    ):
        cifar_fs(root)


# The real thing


@pytest.mark.parametrize("name", ["cifar-fs", "fc100"])
def test_the_lists_are_those_of_the_authors(name: str, real_data: Callable[[str], Path]) -> None:
    folder = real_data("cifar100/splits") / "cifar100" / "splits" / name
    for split, file in (("train", "train.txt"), ("validation", "val.txt"), ("test", "test.txt")):
        assert class_lists()[name][split] == (folder / file).read_text().split()


@pytest.mark.slow
def test_the_real_pictures(real_data: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "PER_CLASS", {"train.bin": 500, "test.bin": 100})
    root = real_data("cifar100/cifar100.zip")
    pool = cifar_fs(root)
    assert pool.items.shape == (60_000, 3, 32, 32)
    assert set(pool.counts.tolist()) == {600}
    assert 100 < pool.items.mean() < 140

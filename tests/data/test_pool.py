"""ClassPool, its cache, and how pictures become bytes."""

import dataclasses
import errno
import io
import json
import os
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from quickstudy.data.cache import cached_pool, data_root
from quickstudy.data.formats.audio import AudioFormat
from quickstudy.data.formats.images import Bytes, ImageFormat
from quickstudy.data.formats.items import decode_items
from quickstudy.data.pool import ClassPool, with_rotations
from tests.support.pools import coded_pool

FORMAT = ImageFormat(size=2)


def small_pool(**rest: Any) -> ClassPool:
    items = np.arange(24, dtype=np.uint8).reshape(6, 1, 2, 2)
    return ClassPool.from_grouped(items, ["a", "b", "c"], [1, 3, 2], **rest)


# The pool itself


def test_counts_that_do_not_add_up() -> None:
    with pytest.raises(ValueError, match="the counts add up to 5, but there are 6 items"):
        ClassPool.from_grouped(np.zeros((6, 1, 2, 2), np.uint8), ["a", "b"], [2, 3])


def test_as_many_names_as_counts() -> None:
    with pytest.raises(ValueError, match="3 class names, 2 starts, 2 counts: there must be one of each"):
        ClassPool.from_grouped(np.zeros((6, 1, 2, 2), np.uint8), ["a", "b", "c"], [3, 3])


def test_classes_beyond_the_items() -> None:
    with pytest.raises(ValueError, match="reach beyond the 6 items"):
        ClassPool(np.zeros((6, 1, 2, 2), np.uint8), ("a",), np.array([4]), np.array([3]))


@pytest.mark.parametrize("c", [-1, 2, 3])
def test_splits_of_classes_that_are_not_there(c: int) -> None:
    with pytest.raises(ValueError, match=rf"split 'train' names class {c} of 2"):
        ClassPool.from_grouped(
            np.zeros((6, 1, 2, 2), np.uint8), ["a", "b"], [3, 3], splits={"train": np.array([0, c])}
        )


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_with_the_channels_last(channels: int) -> None:
    items = np.zeros((6, 28, 30, channels), np.uint8)
    with pytest.raises(ValueError, match=r"height × width × channels: .*items\.transpose\(0, 3, 1, 2\)"):
        ClassPool.from_grouped(items, ["a", "b"], [3, 3])
    assert len(ClassPool.from_grouped(items.transpose(0, 3, 1, 2), ["a", "b"], [3, 3])) == 2


def test_splits_that_share_a_class() -> None:
    with pytest.raises(ValueError, match="class 'b' is in both splits 'train' and 'test'"):
        small_pool(splits={"train": np.array([0, 1]), "test": np.array([1])})


def test_a_class_gives_its_own_items() -> None:
    pool = small_pool()
    assert len(pool) == 3
    np.testing.assert_array_equal(pool.of_class("b"), pool.items[1:4])
    np.testing.assert_array_equal(pool.of_class("c"), pool.items[4:])


def test_a_subset_is_of_the_same_items_in_the_given_order() -> None:
    pool = small_pool(splits={"train": np.array([0])})
    part = pool.subset([2, 0])
    assert part.classes == ("c", "a")
    assert part.items is pool.items
    assert part.splits == {}, "indices into the whole pool would be wrong here"
    np.testing.assert_array_equal(part.of_class("c"), pool.items[4:])
    np.testing.assert_array_equal(part.of_class("a"), pool.items[:1])
    assert part.summary()["items"] == 3


def test_a_split_is_a_named_subset() -> None:
    pool = small_pool(splits={"train": np.array([0, 2]), "test": np.array([1])}, name="few", digest="d1")
    train = pool.split("train")
    assert train.classes == ("a", "c")
    assert train.summary() == {"name": "few.train", "classes": 2, "items": 3, "digest": "d1"}
    np.testing.assert_array_equal(pool.split("test").of_class("b"), pool.items[1:4])
    both = pool.split("train", "test")
    assert (both.name, both.classes) == ("few.train+test", ("a", "c", "b"))
    np.testing.assert_array_equal(both.of_class("b"), pool.items[1:4])


def test_an_unknown_split_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="pool has no split 'val': its splits are train, test"):
        small_pool(splits={"train": np.array([0]), "test": np.array([1])}).split("val")
    with pytest.raises(ValueError, match="its splits are none"):
        small_pool().split("train")


def test_rotations_are_new_classes() -> None:
    pool = small_pool()
    before = pool.items.copy()
    items, classes, counts = with_rotations(pool.items, pool.classes, pool.counts)
    turned = ClassPool.from_grouped(items, classes, counts)
    assert len(turned) == 12
    assert len(set(classes)) == 12
    for r in range(4):
        for c, name in enumerate(pool.classes):
            i = c + r * 3
            assert turned.classes[i] == f"{name}/rot{90 * r:03}"
            expected = [np.rot90(item[0], r)[None] for item in pool.of_class(name)]
            np.testing.assert_array_equal(turned.of_class(turned.classes[i]), expected)
    np.testing.assert_array_equal(pool.items, before)
    assert items.flags.c_contiguous


def sourced_pool(**rest: Any) -> ClassPool:
    return small_pool(**({"sources": np.array([0, 0, 1, 1, 0, 1]), "source_names": ("left", "right")} | rest))


def test_sources_stay_with_their_items() -> None:
    pool = sourced_pool(splits={"test": np.array([2, 0])})
    part = pool.split("test")
    assert part.sources is not None
    assert part.sources[part.starts].tolist() == [0, 0]
    assert part.sources[part.starts[0] : part.starts[0] + 2].tolist() == [0, 1]
    assert part.source_names == ("left", "right")


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([0, 1], r"sources have shape \[2\]: there must be one of each of 6 items"),
        ([0, 1, 2, 0, 1, 0], "sources go from 0 to 2: they count the 2 names from 0"),
        ([0, 1, -1, 0, 1, 0], "sources go from -1 to 1"),
    ],
)
def test_sources_that_do_not_fit(sources: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sourced_pool(sources=np.array(sources))


def test_classes_of_at_least_so_many_items() -> None:
    pool = small_pool(splits={"train": np.array([2, 0]), "test": np.array([1])}).at_least(2)
    assert pool.classes == ("b", "c")
    assert pool.split("train").classes == ("c",)
    assert pool.split("test").classes == ("b",)
    assert pool.of_class("c").ravel().tolist() == list(range(16, 24))
    assert small_pool(splits={"train": np.array([0, 1])}).split("train").at_least(2).classes == ("b",)
    assert len(pool.at_least(4)) == len(pool.at_least(4).split("test")) == 0


def test_made_classes_are_known_in_every_part_of_a_pool() -> None:
    splits = {"train": np.array([2, 0]), "test": np.array([1])}
    pool = small_pool(splits=splits, recorded=np.array([False, True, True]))
    for part, wanted in (
        (pool.split("train"), [True, False]),
        (pool.subset([1, 0]), [True, False]),
        (pool.at_least(2), [True, True]),
    ):
        assert part.recorded is not None
        assert part.recorded.tolist() == wanted
    kept = pool.recorded_classes()
    assert kept.classes == ("b", "c")
    assert kept.split("train").classes == pool.split("train").recorded_classes().classes == ("c",)
    assert kept.split("test").classes == ("b",)
    np.testing.assert_array_equal(kept.of_class("c"), pool.of_class("c"))
    assert pool.summary() == small_pool().summary(), "manifests stay what they were"


def test_all_classes_are_recorded_unless_a_pool_says_otherwise() -> None:
    pool = small_pool()
    assert pool.recorded_classes() is pool
    assert pool.subset([1]).recorded is None
    with pytest.raises(ValueError, match=r"recorded has shape \[2\]: .* each of the 3 classes"):
        small_pool(recorded=np.array([True, False]))


def test_items_of_another_type() -> None:
    with pytest.raises(ValueError, match=r"items are float64: they must be uint8 .* or float32"):
        ClassPool.from_grouped(np.zeros((2, 3)), ["a"], [2])  # pyright: ignore
    with pytest.raises(ValueError, match=r"items are >f4: they must be"):
        ClassPool.from_grouped(np.zeros((2, 3), ">f4"), ["a"], [2])
    with pytest.raises(ValueError, match=r"items are \[2\]: there must be dimensions after the first"):
        ClassPool.from_grouped(np.zeros(2, np.float32), ["a"], [2])


# The cache


class Builder:
    """Makes the small pool's content and counts how often."""

    def __init__(self) -> None:
        self.built = 0

    def __call__(self, allocate: Callable[[int], Bytes]) -> dict[str, Any]:
        self.built += 1
        allocate(6)[:] = np.arange(24, dtype=np.uint8).reshape(6, 1, 2, 2)
        return {"classes": ["a", "b", "c"], "counts": [1, 3, 2], "splits": {"train": [0, 2], "test": [1]}}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_cached_pool_is_built_once(cache: Path) -> None:
    build = Builder()
    first, second = (cached_pool("few", {"n": 1}, build, FORMAT) for _ in range(2))
    assert build.built == 1
    for pool in (first, second):
        np.testing.assert_array_equal(pool.items, small_pool().items)
        assert pool.classes == ("a", "b", "c")
        assert pool.counts.tolist() == [1, 3, 2]
        assert pool.split("test").classes == ("b",)
        assert pool.name == "few"
    assert first.digest == second.digest
    assert files(cache / "pools") == [f"few-{first.digest}/{name}" for name in ("items.npy", "pool.json")]


def test_another_key_name_or_format_is_another_cache(cache: Path) -> None:
    build = Builder()
    pools = [
        cached_pool("few", {"n": 1}, build, FORMAT),
        cached_pool("few", {"n": 2}, build, FORMAT),
        cached_pool("other", {"n": 1}, build, FORMAT),
        cached_pool("few", {"n": 1}, build, ImageFormat(size=2, invert=True)),
    ]
    assert build.built == 4
    assert len({p.digest for p in pools}) == 4


def test_the_order_of_the_key_does_not_matter(cache: Path) -> None:
    build = Builder()
    cached_pool("few", {"a": 1, "b": 2}, build, FORMAT)
    cached_pool("few", {"b": 2, "a": 1}, build, FORMAT)
    assert build.built == 1


def test_fewer_items_than_allocated(cache: Path) -> None:
    """As when some pictures turn out to be unreadable."""

    def build(allocate: Callable[[int], Bytes]) -> dict[str, Any]:
        allocate(10)[:3] = 5
        return {"classes": ["a"], "counts": [3], "splits": {}}

    assert (cached_pool("few", 0, build, FORMAT).items == np.full((3, 1, 2, 2), 5)).all()


def test_made_classes_are_cached(cache: Path) -> None:
    def build(allocate: Callable[[int], Bytes]) -> dict[str, Any]:
        allocate(2)[:] = 0
        return {"classes": ["a", "a/rot090"], "counts": [1, 1], "splits": {}, "recorded": [True, False]}

    for _ in range(2):  # built, then read
        assert cached_pool("few", 0, build, FORMAT).recorded_classes().classes == ("a",)
    (path,) = (cache / "pools").glob("*/pool.json")
    parts = json.loads(path.read_text())
    del parts["recorded"]  # as caches were before
    path.write_text(json.dumps(parts))
    assert cached_pool("few", 0, build, FORMAT).recorded is None


def test_clips_and_their_sources_are_cached(cache: Path) -> None:
    def build(allocate: Callable[[int], Any]) -> dict[str, Any]:
        allocate(3)[:] = [[-32768] * 10, [7] * 10, [32767] * 10]
        parts = {"sources": [1, 0, 1], "source_names": ["x", "y"]}
        return {"classes": ["a", "b"], "counts": [2, 1], "splits": {}} | parts

    for _ in range(2):
        pool = cached_pool("few", 0, build, AudioFormat(1000, 0.01))
        assert pool.items.dtype == np.int16
        assert pool.items[:, 3].tolist() == [-32768, 7, 32767]
        assert pool.sources is not None
        assert pool.sources.tolist() == [1, 0, 1]
        assert pool.source_names == ("x", "y")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_build_that_fails_leaves_nothing_behind(cache: Path, error: type[BaseException]) -> None:
    def build(allocate: Callable[[int], Bytes]) -> dict[str, Any]:
        allocate(6)[:] = 1
        raise error

    with pytest.raises(error):
        cached_pool("few", 0, build, FORMAT)
    assert list((cache / "pools").iterdir()) == []
    np.testing.assert_array_equal(cached_pool("few", 0, Builder(), FORMAT).items, small_pool().items)


def test_two_processes_may_build_the_same_cache(cache: Path) -> None:
    """The other one finishes while this one is still building."""
    inner = Builder()

    def build(allocate: Callable[[int], Bytes]) -> dict[str, Any]:
        cached_pool("few", 0, inner, FORMAT)
        return inner(allocate)

    pool = cached_pool("few", 0, build, FORMAT)
    np.testing.assert_array_equal(pool.items, small_pool().items)
    assert files(cache / "pools") == [f"few-{pool.digest}/{name}" for name in ("items.npy", "pool.json")]
    assert len(list((cache / "pools").iterdir())) == 1


def test_another_process_may_finish_at_the_very_same_time(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Path.rename

    def late(self: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", original)
        cached_pool("few", 0, Builder(), FORMAT)
        return original(self, target)

    monkeypatch.setattr(Path, "rename", late)
    pool = cached_pool("few", 0, Builder(), FORMAT)
    np.testing.assert_array_equal(pool.items, small_pool().items)
    assert len(list((cache / "pools").iterdir())) == 1


def test_a_cache_that_cannot_take_its_name_is_an_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        cached_pool("few", 0, Builder(), FORMAT)
    assert list((cache / "pools").iterdir()) == []


def test_writing_into_the_items_never_changes_the_file(cache: Path) -> None:
    pool = cached_pool("few", 0, Builder(), FORMAT)
    path = cache / "pools" / f"few-{pool.digest}" / "items.npy"
    before = path.read_bytes()
    pool.items[:] = 99
    del pool
    assert path.read_bytes() == before
    np.testing.assert_array_equal(cached_pool("few", 0, Builder(), FORMAT).items, small_pool().items)


def test_a_cache_folder_that_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"can't write decoded data to .*Not a directory.*set QUICKSTUDY_CACHE"):
        cached_pool("few", 0, Builder(), FORMAT)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind root")
def test_a_cache_folder_that_cannot_be_written(cache: Path) -> None:
    (cache / "pools").mkdir(parents=True)
    (cache / "pools").chmod(0o500)
    with pytest.raises(
        OSError, match=r"can't write decoded data to .*Permission denied.*set QUICKSTUDY_CACHE"
    ):
        cached_pool("few", 0, Builder(), FORMAT)


def test_a_cache_folder_on_a_read_only_disk(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OSError, match=r"Read-only file system.*set QUICKSTUDY_CACHE"):
        cached_pool("few", 0, Builder(), FORMAT)


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_a_shared_cache_can_be_read_by_others(cache: Path) -> None:
    before = os.umask(0o022)
    try:
        pool = cached_pool("few", 0, Builder(), FORMAT)
    finally:
        os.umask(before)
    assert (cache / "pools" / f"few-{pool.digest}").stat().st_mode & 0o777 == 0o755


def test_where_data_lies(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUICKSTUDY_DATA", raising=False)
    assert data_root() == cache / "data"
    monkeypatch.setenv("QUICKSTUDY_DATA", str(tmp_path))
    assert data_root() == tmp_path
    monkeypatch.setenv("QUICKSTUDY_DATA", str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=r"QUICKSTUDY_DATA names .*gone, which is not a folder"):
        data_root()
    (tmp_path / "given").mkdir()
    assert data_root(tmp_path / "given") == tmp_path / "given"
    with pytest.raises(FileNotFoundError, match="--data-root names"):
        data_root(tmp_path / "missing")


# Pictures


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def decoded(raw: bytes, image_format: ImageFormat) -> list[Any]:
    out = image_format.decode(lambda: raw)
    assert out.shape == image_format.shape
    assert out.dtype == np.uint8
    return out.tolist()


def plain(channels: int, *values: int) -> list[Any]:
    """A 2×2 picture of one colour, as nested lists."""
    return [[[v] * 2] * 2 for v in (values if channels == 3 else values[:1])]


def noise(size: tuple[int, int] = (24, 30)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))


KINDS = ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_format(kind: str) -> None:
    raw = file_of(Image.new("RGB", (6, 6), (200, 100, 50)), kind)
    out = np.asarray(decoded(raw, ImageFormat(2, 3)), dtype=int)
    assert np.abs(out - np.array([200, 100, 50]).reshape(3, 1, 1)).max() <= 4, (
        "lossy formats may be off a little"
    )


GREY = 124  # of the colour (200, 100, 50): 0.299 R + 0.587 G + 0.114 B


@pytest.mark.parametrize(
    ("image", "kind", "grey", "color"),
    [
        pytest.param(Image.new("RGB", (6, 6), (200, 100, 50)), "PNG", GREY, (200, 100, 50), id="rgb"),
        pytest.param(Image.new("L", (6, 6), 77), "PNG", 77, (77, 77, 77), id="grey"),
        pytest.param(
            Image.new("RGB", (6, 6), (200, 100, 50)).quantize(4), "PNG", GREY, (200, 100, 50), id="palette"
        ),
        pytest.param(Image.new("1", (6, 6), 1), "PNG", 255, (255, 255, 255), id="1-bit-white"),
        pytest.param(Image.new("1", (6, 6), 0), "TIFF", 0, (0, 0, 0), id="1-bit-black"),
        pytest.param(Image.new("CMYK", (6, 6), (0, 0, 0, 255)), "TIFF", 0, (0, 0, 0), id="cmyk-black"),
        pytest.param(Image.new("CMYK", (6, 6), (0, 0, 0, 0)), "JPEG", 255, (255, 255, 255), id="cmyk-white"),
        pytest.param(Image.new("RGBA", (6, 6), (0, 0, 0, 0)), "PNG", 255, (255, 255, 255), id="transparent"),
        pytest.param(Image.new("RGBA", (6, 6), (0, 0, 0, 51)), "PNG", 204, (204, 204, 204), id="alpha"),
        pytest.param(Image.new("LA", (6, 6), (0, 51)), "PNG", 204, (204, 204, 204), id="grey-alpha"),
        pytest.param(
            Image.fromarray(np.full((6, 6), 257 * 60, np.uint16)), "PNG", 60, (60, 60, 60), id="16-bit-png"
        ),
        pytest.param(
            Image.fromarray(np.full((6, 6), 65535, np.uint16)), "TIFF", 255, (255, 255, 255), id="16-bit-tiff"
        ),
        pytest.param(
            Image.fromarray(np.full((6, 6), 0.2, np.float32)), "TIFF", 51, (51, 51, 51), id="float-tiff"
        ),
        pytest.param(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG", 8, (9, 8, 7), id="1x1"),
        pytest.param(Image.new("L", (500, 1), 3), "PNG", 3, (3, 3, 3), id="500x1"),
    ],
)
def test_every_kind_of_pixel(image: Image.Image, kind: str, grey: int, color: tuple[int, ...]) -> None:
    raw = file_of(image, kind)
    assert decoded(raw, ImageFormat(2, 1)) == plain(1, grey)
    assert decoded(raw, ImageFormat(2, 3)) == plain(3, *color)
    assert decoded(raw, ImageFormat(2, 1, invert=True)) == plain(1, 255 - grey)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_paper(kind: str) -> None:
    image = Image.new("P", (6, 6), 1)
    image.putpalette([255, 0, 0, 0, 0, 0])
    assert decoded(file_of(image, kind, transparency=1), ImageFormat(2, 3)) == plain(3, 255, 255, 255)
    assert decoded(file_of(image, kind), ImageFormat(2, 3)) == plain(3, 0, 0, 0)


def test_a_palette_with_an_alpha_each_entry_is_composited() -> None:
    """Pillow warns where such a palette is not converted with its alpha."""
    image = Image.new("P", (6, 6), 1)
    image.putpalette([255, 0, 0, 0, 0, 0])
    raw = file_of(image, "PNG", transparency=bytes([255, 51]))
    assert decoded(raw, ImageFormat(2, 1)) == plain(1, 204)


def test_the_first_picture_of_an_animation_counts() -> None:
    pages = [Image.new("L", (6, 6), v) for v in (0, 255)]
    raw = file_of(pages[0], "GIF", save_all=True, append_images=pages[1:])
    assert decoded(raw, ImageFormat(2, 1)) == plain(1, 0)


@pytest.mark.parametrize(
    ("orientation", "corner"), [(1, (0, 0)), (2, (0, 1)), (3, (1, 1)), (4, (1, 0)), (6, (0, 1)), (8, (1, 0))]
)
def test_pictures_stand_as_their_camera_says(orientation: int, corner: tuple[int, int]) -> None:
    """The file holds a white upper left quarter; EXIF says where that belongs."""
    pixels = np.zeros((16, 16), np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    exif[0x112] = orientation
    out = np.asarray(decoded(file_of(Image.fromarray(pixels), "JPEG", exif=exif), ImageFormat(2)))[0]
    assert np.unravel_index(out.argmax(), out.shape) == corner
    assert out[corner] > 200
    assert np.sort(out.ravel())[2] < 50


@pytest.mark.parametrize("turned", [False, True])
def test_oblong_pictures_keep_their_middle_square(turned: bool) -> None:
    pixels = np.zeros((8, 24), np.uint8)
    pixels[:, 8:16] = 255
    raw = file_of(Image.fromarray(pixels.T if turned else pixels))
    assert decoded(raw, ImageFormat(8)) == [[[255] * 8] * 8]


def test_a_large_jpeg_is_what_a_large_png_is() -> None:
    """JPEGs are decoded at a fraction of their size, which may cost detail but not shift anything."""
    y, x = np.mgrid[:200, :200]
    smooth = Image.fromarray((127 + 60 * np.sin(x / 25) + 60 * np.cos(y / 30)).astype(np.uint8))
    jpeg, png = (
        np.asarray(decoded(file_of(smooth, kind, **options), ImageFormat(10)), dtype=int)
        for kind, options in (("JPEG", {"quality": 95}), ("PNG", {}))
    )
    assert np.abs(jpeg - png).max() <= 6


def test_a_path_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(file_of(Image.new("L", (3, 3), 9)))
    assert FORMAT.decode(tmp_path / "x.png").tolist() == plain(1, 9)
    with pytest.raises(FileNotFoundError):
        FORMAT.decode(tmp_path / "y.png")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        pytest.param(b"", "the file is empty", id="empty"),
        pytest.param(b"hello\n" * 50, "not a picture in any format", id="text"),
        pytest.param(b"\x89PNG\r\n\x1a\n", "not a picture|damaged", id="png-signature-only"),
        *(pytest.param(file_of(noise(), kind)[: n // 2], ".", id=f"half-{kind}")
          for kind in KINDS for n in (len(file_of(noise(), kind)),)),
    ],
)  # fmt: skip
def test_unreadable_files_are_an_oserror_with_the_reason(raw: bytes, reason: str) -> None:
    with pytest.raises(OSError, match=reason):
        FORMAT.decode(lambda: raw)


def damaged_dds() -> bytes:
    raw = bytearray(file_of(noise(), "DDS"))
    raw[80] = 18  # pixel format flags that do not exist
    return bytes(raw)


def damaged_avif() -> bytes:
    if not features.check("avif"):
        pytest.skip("Pillow was built without AVIF")
    return file_of(noise(), "AVIF").replace(b"iloc", b"xxxx")


@pytest.mark.parametrize("make", [damaged_dds, damaged_avif])
def test_parsers_that_raise_other_errors(make: Callable[[], bytes]) -> None:
    raw = make()
    with pytest.raises(OSError, match=r"."):
        FORMAT.decode(lambda: raw)


@pytest.mark.parametrize("pixels", [16, 36])
def test_decompression_bombs_are_refused(pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow only warns up to twice its limit, and raises beyond."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    side = int(pixels**0.5)
    raw = file_of(Image.new("L", (side, side)))
    with pytest.raises(OSError, match=rf"{pixels} pixels.*exceeds limit of"):
        FORMAT.decode(lambda: raw)
    assert decoded(file_of(Image.new("L", (3, 3))), FORMAT) == plain(1, 0)


def test_threads_leave_the_warning_filters_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """B begins while A decodes and ends after it: B then puts back the filters that A had set."""
    a_reads, b_reads, a_done = threading.Event(), threading.Event(), threading.Event()
    original = Image.open

    def slow(*args: Any, **kwargs: Any) -> Image.Image:
        if threading.current_thread().name == "A":
            a_reads.set()
            b_reads.wait(2)
        else:
            b_reads.set()
            a_done.wait(2)
        return original(*args, **kwargs)

    monkeypatch.setattr(Image, "open", slow)
    raw = file_of(Image.new("L", (3, 3)))

    def a() -> None:
        FORMAT.decode(lambda: raw)
        a_done.set()

    def b() -> None:
        a_reads.wait(2)
        FORMAT.decode(lambda: raw)

    before = list(warnings.filters)
    threads = [threading.Thread(target=a, name="A"), threading.Thread(target=b, name="B")]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert warnings.filters == before


def test_many_pictures_are_decoded_in_order_and_bad_ones_named(tmp_path: Path) -> None:
    sources: list[Callable[[], bytes] | Path] = [
        lambda v=v: file_of(Image.new("L", (3, 3), v)) for v in range(150)
    ]
    sources[70] = lambda: b"text"
    sources[149] = tmp_path / "gone.png"
    out = np.full((150, 1, 2, 2), 255, np.uint8)
    calls: list[tuple[int, int]] = []
    bad = decode_items(sources, FORMAT, out, lambda done, total: calls.append((done, total)))
    assert bad == {70: "not a picture in any format that is read", 149: "No such file or directory"}
    good = [i for i in range(150) if i not in bad]
    assert out[good].tolist() == [plain(1, i) for i in good]
    assert calls[-1] == (150, 150)


def test_an_image_format_comes_back_from_json() -> None:
    given = ImageFormat(84, 3, True)
    assert ImageFormat(**json.loads(json.dumps(given.as_dict()))) == given
    assert given.shape == (3, 84, 84)


@pytest.mark.parametrize(
    ("arguments", "message"), [({"channels": 2}, "channels is 2"), ({"size": 0}, "size is 0")]
)
def test_bad_formats_are_named(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageFormat(**arguments)


def test_a_pool_is_shown_in_a_line() -> None:
    pool = coded_pool([3, 4, 5])
    shown = repr(dataclasses.replace(pool, splits={"train": np.array([0, 2]), "test": np.array([1])}))
    assert shown == (
        f"ClassPool({pool.name!r}: 3 classes, 12 items {list(pool.items.shape[1:])} uint8; train 2, test 1)"
    )
    assert "\n" not in repr(pool)

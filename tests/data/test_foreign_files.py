"""What a foreign file is, what it may cost, and that whatever is wrong with it costs that file alone."""

import io
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from quickstudy.core import foreign
from quickstudy.data.formats import images
from quickstudy.data.formats.audio import AudioFormat
from quickstudy.data.formats.content import DecodingNote
from quickstudy.data.formats.images import ImageFormat
from quickstudy.data.formats.items import decode_items

GREY, COLOR, SECOND = ImageFormat(8, 1), ImageFormat(84, 3), AudioFormat()
EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 50 50
(touched) (w) file closefile
newpath 0 0 50 50 rectfill showpage
%%EOF
"""


def refusal(item_format: ImageFormat | AudioFormat, raw: bytes) -> str:
    with pytest.raises(OSError) as raised:  # noqa: PT011 (the caller looks)
        item_format.decode(lambda: raw)
    assert str(raised.value).isprintable()
    return str(raised.value)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)  # pyright: ignore[reportArgumentType]
    return out.getvalue()


# Which formats


def test_no_program_is_run_whatever_a_file_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> None:
        raise AssertionError("another program was started")

    monkeypatch.setattr(subprocess, "Popen", run)
    monkeypatch.setattr(subprocess, "check_call", run)
    (tmp_path / "holiday.jpg").write_bytes(EPS)
    with pytest.raises(OSError, match="not a picture in any format that is read"):
        GREY.decode(tmp_path / "holiday.jpg")


def test_every_format_that_is_read_is_decoded_by_pillow_itself() -> None:
    Image.init()
    assert {"JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP"} <= set(images.PICTURES)
    assert not {"EPS", "WMF", "GRIB", "BUFR", "HDF5", "MPEG", "IPTC", "ICO", "ICNS"} & set(images.PICTURES)


def test_only_endings_of_those_formats_are_items() -> None:
    assert {".jpg", ".png", ".tif", ".webp", ".bmp", ".gif"} <= ImageFormat.endings()
    assert not {".eps", ".ps", ".wmf", ".emf", ".mpg"} & ImageFormat.endings()


# What it costs


def peak_of(code: str, limit: int) -> None:
    """Run a program that prints what its peak grew by, in bytes."""
    start = "import resource\npeak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
    out = subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert int(out.stdout) <= limit, f"{int(out.stdout) >> 20} MiB"


def floats_of_81_megapixels() -> bytes:
    """A TIFF of float32, 9000 × 9000, packed to 0.6 MB."""
    packed, width = zlib.compress(bytes(4 * 9000 * 9000), 9), 9000
    entries = [
        *((256, 4, 1, width), (257, 4, 1, width), (258, 3, 1, 32), (259, 3, 1, 8), (262, 3, 1, 1)),
        *((273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, width), (279, 4, 1, len(packed)), (339, 3, 1, 3)),
    ]
    table = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries)
    pad = len(packed) % 2
    return struct.pack("<2sHI", b"II", 42, 8 + len(packed) + pad) + packed + bytes(pad) + table + bytes(4)


def test_a_picture_is_refused_by_the_bytes_that_it_becomes() -> None:
    raw = floats_of_81_megapixels()
    assert len(raw) < 700_000
    assert "MiB of memory are more than the 512 MiB that a file may take" in refusal(COLOR, raw)
    with Image.open(io.BytesIO(raw)) as image:
        assert (image.mode, image.size) == ("F", (9000, 9000))


def test_a_long_thin_picture_takes_no_memory_for_its_resampling() -> None:
    thin = saved(Image.new("L", (60_000_000, 1)), "PNG")
    assert "MiB of memory" in refusal(ImageFormat(28, 1, whole=True), thin)
    assert ImageFormat(28, 1).decode(lambda: thin).shape == (1, 28, 28)


def test_a_sound_is_refused_by_the_bytes_that_it_becomes() -> None:
    out = io.BytesIO()
    with soundfile.SoundFile(out, "w", 655_350, 1, "PCM_16", format="FLAC") as f:
        for _ in range(595):
            f.write(np.zeros(655_350, np.int16))
    raw = out.getvalue()
    assert len(raw) < 2_000_000
    assert "MiB of memory are more than the 512 MiB that a file may take" in refusal(SECOND, raw)


@pytest.mark.slow
def test_many_large_files_at_once_stay_below_a_gib() -> None:
    peak_of(
        """
import io
import numpy as np
from PIL import Image
from quickstudy.data.formats.images import ImageFormat
from quickstudy.data.formats.items import decode_items
out = io.BytesIO()
Image.new("RGB", (6000, 5000)).save(out, "PNG", compress_level=1)
form = ImageFormat(84, 1)
small = io.BytesIO()
Image.new("RGB", (60, 50)).save(small, "PNG")
form.decode(small.getvalue)
import quickstudy.data.formats.items as items
items.cpu_count = lambda: 32
items.sizes_on = lambda: type("S", (), {"decoded_items": 1})
before = peak()
into = np.empty((40, *form.shape), np.uint8)
assert decode_items([out.getvalue] * 40, form, into) == {}
print(peak() - before)
""",
        2**30,
    )


def test_a_budget_is_shared_and_never_exceeded() -> None:
    budget, held, most = foreign.Budget(100), [0], [0]
    lock = threading.Lock()

    def work() -> None:
        for wanted in (10, 60, 100, 1):
            with budget.taking(wanted):
                with lock:
                    held[0] += wanted
                    most[0] = max(most[0], held[0])
                with lock:
                    held[0] -= wanted

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert 0 < most[0] <= 100
    with pytest.raises(OSError, match="more than the 0 MiB that a file may take"), budget.taking(101):
        pass


@pytest.mark.parametrize("item_format", [GREY, SECOND])
def test_a_file_of_any_length_is_not_read_whole(
    item_format: ImageFormat | AudioFormat, tmp_path: Path
) -> None:
    with (tmp_path / "a.jpg").open("wb") as f:
        f.truncate(300 * 2**20)
    with pytest.raises(OSError, match="300 MiB are more than the 256 MiB that are read of a file"):
        item_format.decode(tmp_path / "a.jpg")


def test_what_is_converted_by_rows_is_as_if_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (50, 40), dtype=np.uint16)
    alpha = np.random.default_rng(0).integers(0, 256, (50, 40, 4), dtype=np.uint8)
    kinds = [saved(Image.fromarray(values), "PNG"), saved(Image.fromarray(alpha), "PNG")]
    kinds += [
        saved(Image.fromarray(alpha[..., :3]), "BMP"),
        saved(Image.fromarray(values / 7).convert("F"), "TIFF"),
    ]

    def decoded() -> list[np.ndarray]:
        return [ImageFormat(9, c).decode(lambda raw=raw: raw) for raw in kinds for c in (1, 3)]

    once = decoded()
    honest = images._by_rows

    def in_threes(image: Image.Image, mode: str, change: Callable[[Image.Image], Image.Image]) -> Image.Image:
        out = Image.new(mode, image.size)
        for top in range(0, image.height, 3):
            part = image.crop((0, top, image.width, min(top + 3, image.height)))
            part.info = image.info
            out.paste(honest(part, mode, change), (0, top))
        return out

    monkeypatch.setattr(images, "_by_rows", in_threes)
    for a, b in zip(once, decoded(), strict=True):
        np.testing.assert_array_equal(a, b)


# How it is turned upright


def exif(orientation: int, resolution: bytes = b"") -> bytes:
    """A camera's notes with an orientation and, where given, a resolution that is a text."""
    entries = [struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)]
    if resolution:
        entries.append(struct.pack("<HHI4s", 0x011A, 2, len(resolution), resolution.ljust(4, b"\0")))
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("resolution", [b"", b"72\0"])
def test_the_orientation_alone_turns_a_picture(orientation: int, resolution: bytes) -> None:
    values = np.zeros((32, 32), np.uint8)
    values[:16, :16], values[:16, 16:], values[16:, :16] = 80, 160, 240
    raw = saved(Image.fromarray(values), "JPEG", quality=95, exif=exif(orientation, resolution))
    quadrants = ImageFormat(32, 1).decode(lambda: raw)[0, 8::16, 8::16]
    a, b, c, d = 80, 160, 240, 0
    upright = {
        2: [[b, a], [d, c]],
        3: [[d, c], [b, a]],
        4: [[c, d], [a, b]],
        5: [[a, c], [b, d]],
        6: [[c, a], [d, b]],
        7: [[d, b], [c, a]],
        8: [[b, d], [a, c]],
    }.get(orientation, [[a, b], [c, d]])
    np.testing.assert_allclose(quadrants.astype(int), upright, atol=3)


# Whatever its parser throws


@pytest.mark.parametrize(
    "error",
    [TypeError("a\nb"), struct.error("x"), RecursionError(), MemoryError(), KeyError("k"), Warning("w")],
)
def test_whatever_a_parser_throws_costs_that_file_alone(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = saved(Image.new("L", (8, 8), 77), "PNG")
    honest = Image.open

    def thrown(file: io.BytesIO, **options: object) -> Image.Image:
        if file.getvalue() == b"bad":
            raise error
        return honest(file, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Image, "open", thrown)
    out = np.zeros((3, 1, 8, 8), np.uint8)
    bad = decode_items([lambda: good, lambda: b"bad", lambda: good], GREY, out)
    assert list(bad) == [1]
    assert bad[1].isprintable()
    assert out[:, 0, 0, 0].tolist() == [77, 0, 77]


@pytest.mark.parametrize("error", [TypeError("a\nb"), RecursionError(), MemoryError(), AssertionError("x")])
def test_also_about_a_sound(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def thrown(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(soundfile.SoundFile, "read", thrown)
    out = io.BytesIO()
    soundfile.write(out, np.ones(100), 8000, format="WAV")
    assert refusal(SECOND, out.getvalue())


@given(st.data())
def test_damage_anywhere_is_a_picture_or_one_line(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "TGA"]))
    values = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    raw = bytearray(saved(Image.fromarray(values), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    out = np.empty((1, *GREY.shape), np.uint8)
    for reason in decode_items([lambda: bytes(raw)], GREY, out).values():
        assert reason.isprintable()


# What is said of what can be read


def test_a_picture_that_uses_a_small_part_of_its_range_is_said() -> None:
    dark = saved(Image.fromarray(np.full((8, 8), 4095, np.uint16)), "PNG")
    with pytest.warns(
        DecodingNote, match=r"the brightest value is 4,095 of 65,535, so that it comes out dark"
    ):
        GREY.decode(lambda: dark)
    out = np.zeros((3, 1, 8, 8), np.uint8)
    with pytest.warns(DecodingNote, match=r"4,095 of 65,535.*; scale its values \(so are 2 more\)") as said:
        assert decode_items([lambda: dark] * 3, GREY, out) == {}
    assert len(said) == 1
    full = saved(Image.fromarray(np.full((8, 8), 60_000, np.uint16)), "PNG")
    assert GREY.decode(lambda: full).max() == 233
    over = saved(Image.fromarray(np.full((8, 8), 70_000, np.int32)), "TIFF")
    with pytest.warns(DecodingNote, match="are cut off at 0 and 65,535"):
        GREY.decode(lambda: over)


def test_a_picture_of_no_numbers() -> None:
    values = np.ones((8, 8), np.float32)
    values[3, 3] = np.nan
    assert "no numbers" in refusal(GREY, saved(Image.fromarray(values), "TIFF"))


def test_a_size_that_no_disk_holds() -> None:
    with pytest.raises(ValueError, match="size is 100000: it must be at most 4,096 pixels"):
        ImageFormat(100_000, 3)

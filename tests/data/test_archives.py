"""Archives in the place of folders: what is found in them, and what is refused."""

import contextlib
import io
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from quickstudy.data.datasets.folders import (
    audio_folders,
    files_in,
    find_files,
    image_folders,
    matching_files,
)
from quickstudy.data.datasets.layouts import folder_pool
from quickstudy.data.formats import archives
from quickstudy.data.formats.archives import Member, is_archive, size_of
from quickstudy.data.formats.audio import AudioFormat
from quickstudy.data.formats.content import bytes_of
from quickstudy.data.formats.images import ImageFormat
from quickstudy.data.pool import ClassPool

GREY = ImageFormat(8, 1)
ALL_TEST = (0.0, 0.0, 1.0)
KINDS = ["zip", "tar", "tar.gz", "tgz", "tar.bz2", "tar.xz"]

Content = dict[str, bytes]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def picture(grey: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (8, 8), grey).save(out, "PNG")
    return out.getvalue()


PICTURES = {f"{c}/{j:02}.png": picture(40 * i + 5 * j + 1) for i, c in enumerate("abc") for j in range(3)}


def pack(path: Path, content: Content) -> Path:
    """Names that end in a slash are folders."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
            for name, data in content.items():
                z.writestr(name, data)
        return path
    with tarfile.open(path, "w:" + {"tar": "", "tgz": "gz"}.get(path.suffix[1:], path.suffix[1:])) as t:  # type: ignore[call-overload]
        for name, data in content.items():
            member = tarfile.TarInfo(name.rstrip("/"))
            member.size, member.type = len(data), tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            t.addfile(member, io.BytesIO(data))
    return path


def unpacked(root: Path, content: Content) -> Path:
    for name, data in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def same(one: ClassPool, other: ClassPool) -> None:
    assert one.classes == other.classes
    np.testing.assert_array_equal(one.items, other.items)
    assert {s: i.tolist() for s, i in one.splits.items()} == {s: i.tolist() for s, i in other.splits.items()}
    assert one.sources is other.sources is None or one.sources.tolist() == other.sources.tolist()
    assert one.source_names == other.source_names
    assert one.name == other.name


def mixed() -> Content:
    """Out of order, as archives may be."""
    return dict(sorted(PICTURES.items(), key=lambda kv: kv[0][::-1], reverse=True))


# What is found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("above", ["", "./", "photos/", "a/b/"])
def test_an_archive_is_as_the_folder(tmp_path: Path, kind: str, above: str) -> None:
    folder = unpacked(tmp_path / "photos", PICTURES)
    path = pack(tmp_path / f"photos.{kind}", {above + name: data for name, data in mixed().items()})
    before = sorted(p for p in tmp_path.rglob("*"))
    found = find_files(path, GREY)
    assert {c: [f.name for f in files] for c, files in found.items()} == {
        c: ["00.png", "01.png", "02.png"] for c in "abc"
    }
    assert sorted(p for p in tmp_path.rglob("*")) == before, "nothing is unpacked"
    same(image_folders(path, GREY), image_folders(folder, GREY))


def test_a_capital_ending_is_an_archive_too(tmp_path: Path) -> None:
    path = pack(tmp_path / "p.zip", PICTURES).rename(tmp_path / "P.ZIP")
    assert image_folders(path, GREY, ALL_TEST).name == "P"
    (tmp_path / "folder.zip").mkdir()
    assert not is_archive(tmp_path / "folder.zip"), "a folder may be called so"


def test_what_is_compressed_is_seen_by_its_bytes(tmp_path: Path) -> None:
    path = pack(tmp_path / "p.tar.gz", PICTURES).rename(tmp_path / "p.tar")
    assert len(image_folders(path, GREY, ALL_TEST)) == 3


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_hidden_and_other_files_are_passed_over(tmp_path: Path, kind: str) -> None:
    more = {
        "__MACOSX/a/._00.png": b"x",
        ".hidden/00.png": b"x",
        "a/.00.png": b"x",
        "a/notes.txt": b"x",
        "../d/00.png": b"x",
        "a/deeper/00.png": b"x",
        "loose.png": b"x",
        "a/": b"",
    }
    path = pack(tmp_path / f"p.{kind}", more | PICTURES)
    with pytest.warns(UserWarning, match="passed over") as said:
        classes, loose = find_files(path, GREY), files_in(path, GREY)
    assert {c: len(f) for c, f in classes.items()} == dict.fromkeys("abc", 3)
    assert [f.name for f in loose] == ["loose.png"]
    assert [str(w.message) for w in said] == [
        "1 file beside the class folders passed over: loose.png",
        "1 file of other types passed over: .txt",
        "1 folder in folders of pictures passed over: a/deeper",
        f"3 folders in folders of pictures passed over: {path.name}/a",
    ]


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_one_class_is_not_taken_for_a_folder_around_classes(tmp_path: Path, kind: str) -> None:
    path = pack(tmp_path / f"p.{kind}", {n: d for n, d in PICTURES.items() if n[0] == "a"})
    assert list(find_files(path, GREY)) == ["a"]
    assert [str(f) for f in files_in(path, GREY)] == [f"{path}/a/0{j}.png" for j in range(3)]


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_members_stand_for_files(tmp_path: Path, kind: str) -> None:
    path = pack(tmp_path / f"p.{kind}", {"x/" + n: d for n, d in PICTURES.items()})
    file, again = (find_files(path, GREY)["b"][1] for _ in range(2))
    assert isinstance(file, Member)
    assert file == again
    assert len({file, again}) == 1
    assert (file.name, file.inside, str(file)) == ("01.png", "x/b/01.png", f"{path}/x/b/01.png")
    assert bytes_of(file) == file() == PICTURES["b/01.png"]
    assert size_of(file) == len(PICTURES["b/01.png"])


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.parametrize("above", ["", "clips/"])
def test_clips_by_the_pattern_of_their_names(tmp_path: Path, kind: str, above: str) -> None:
    out, content = AudioFormat(8000, 0.1), Content()
    for word in ("no", "yes"):
        for speaker in ("ann", "bob"):
            sound = io.BytesIO()
            tone = np.sin(np.arange(800) * (0.1 if word == "no" else 0.3))
            soundfile.write(sound, 0.5 * tone, 8000, format="WAV")
            content |= {f"{word}_{speaker}_1.wav": sound.getvalue()}
    folder = unpacked(tmp_path / "p", content)
    path = pack(tmp_path / f"p.{kind}", {above + name: data for name, data in content.items()})
    pattern = "{class}_{source}_{take}"
    same(
        audio_folders(path, out, ALL_TEST, pattern=pattern),
        audio_folders(folder, out, ALL_TEST, pattern=pattern),
    )
    nested = pack(tmp_path / f"n.{kind}", {above + n.replace("_", "/", 1): d for n, d in content.items()})
    assert [parts["class"] for _, parts in matching_files(nested, out, "{class}/{source}_{take}")] == [
        "no",
        "no",
        "yes",
        "yes",
    ]
    with pytest.raises(ValueError, match=r"/no/ann_1\.wav is not called as the pattern"):
        matching_files(nested, out, "{class}/{source}-{take}")


def test_a_changed_archive_is_decoded_again(tmp_path: Path) -> None:
    path = pack(tmp_path / "p.zip", PICTURES)
    first = folder_pool(path, GREY, ALL_TEST)()
    assert folder_pool(path, GREY, ALL_TEST)().digest == first.digest
    pack(path, PICTURES | {"a/00.png": picture(200)})
    os.utime(path, ns=(1, 1))
    second = folder_pool(path, GREY, ALL_TEST)()
    assert second.digest != first.digest
    assert second.items[0, 0, 0, 0] == 200


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_items_that_cannot_be_read_are_named_or_skipped(tmp_path: Path, kind: str) -> None:
    path = pack(tmp_path / f"p.{kind}", PICTURES | {"b/01.png": b"text", "c/00.png": b""})
    with pytest.raises(OSError, match=rf"2 of 9 pictures can't be read: {path}/b/01\.png: not a picture.*;"):
        image_folders(path, GREY, ALL_TEST)
    with pytest.warns(UserWarning, match=r"2 of 9 pictures can't be read"):
        pool = image_folders(path, GREY, ALL_TEST, skip_corrupt=True)
    assert pool.counts.tolist() == [3, 2, 2]


# What is refused


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_without_class_folders(tmp_path: Path, kind: str) -> None:
    loose = pack(tmp_path / f"p.{kind}", {"x.png": picture(1)})
    with pytest.raises(ValueError, match=r"holds no class folders \(pictures must lie in folders"):
        find_files(loose, GREY)
    texts = pack(tmp_path / f"q.{kind}", {"a/b/x.txt": b"text", "notes.txt": b"text"})
    with pytest.raises(ValueError, match=r"1 class folders of .* hold no pictures: a"):
        find_files(texts, GREY)
    nothing = pack(tmp_path / f"r.{kind}", {"x.txt": b"text"})
    with pytest.raises(ValueError, match="holds no class folders: expected"):
        find_files(nothing, GREY)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.6, 0.777])
def test_half_an_archive(tmp_path: Path, kind: str, keep: float) -> None:
    noise = np.random.default_rng(0).bytes(30_000)  # does not compress, and is larger than any buffer
    path = pack(tmp_path / f"p.{kind}", {f"a/{i}.png": noise for i in range(20)})
    raw = path.read_bytes()
    whole = 20 * 30_720 if kind == "tar" else len(raw)  # after that a tar has zeros only
    path.write_bytes(raw[: int(keep * whole)])
    with pytest.raises(OSError, match=r"is damaged \(.*\): copy or pack it again$"):
        find_files(path, GREY)


@pytest.mark.parametrize("kind", ["tar.gz", "tar.bz2", "tar.xz"])
def test_a_changed_byte(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(0).bytes(30_000)
    path = pack(tmp_path / f"p.{kind}", {f"a/{i}.png": noise for i in range(20)})
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(OSError, match=r"is damaged \(.*\): copy or pack it again$"):
        find_files(path, GREY)


def test_a_changed_header_does_not_end_the_list(tmp_path: Path) -> None:
    path = pack(tmp_path / "p.tar", PICTURES)
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"b/01.png")] ^= 1
    path.write_bytes(raw)
    with pytest.raises(OSError, match=r"p\.tar is damaged \(it breaks off\)"):
        find_files(path, GREY)


def test_a_changed_byte_of_a_member_of_a_zip(tmp_path: Path) -> None:
    path = pack(tmp_path / "p.zip", PICTURES)
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"b/01.png") + 20] ^= 1
    path.write_bytes(raw)
    with pytest.raises(OSError, match=r"1 of 9 pictures can't be read: .*b/01\.png: damaged"):
        image_folders(path, GREY, ALL_TEST)


@pytest.mark.filterwarnings("ignore:.*passed over")  # where the name of one is changed
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_changed_it_is_one_clear_line(tmp_path: Path, kind: str) -> None:
    raw = pack(tmp_path / f"p.{kind}", PICTURES).read_bytes()
    path, rng, said = tmp_path / f"q.{kind}", np.random.default_rng(0), list[str]()
    for _ in range(40):
        changed = bytearray(raw)
        # half of them near the end, where a zip has its directory
        at = int(rng.integers(len(raw) if rng.random() < 0.5 else 800)) * -1 % len(raw)
        if rng.random() < 0.3:
            del changed[at : at + int(rng.integers(1, 600))]
        else:
            changed[at] = int(rng.integers(256))
        path.write_bytes(changed)
        try:
            for file in [file for found in find_files(path, GREY).values() for file in found]:
                with contextlib.suppress(OSError):  # that item is refused, or skipped
                    bytes_of(file)
        except (OSError, ValueError) as error:
            said.append(str(error))
    assert len(said) > 10
    assert all(line.startswith(str(path)) and "\n" not in line for line in said)


def test_a_zip_of_a_version_to_come(tmp_path: Path) -> None:
    path = pack(tmp_path / "p.zip", PICTURES)
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 6] = 120
    path.write_bytes(raw)
    with pytest.raises(OSError, match=r"is damaged \(zip file version 12\.0\): copy or pack it again"):
        find_files(path, GREY)


def test_what_is_no_archive_at_all(tmp_path: Path) -> None:
    for ending in archives.ENDINGS:
        path = tmp_path / f"p{ending}"
        path.write_bytes(b"This is a text, and nothing else. " * 50)
        with pytest.raises(OSError, match=r"is damaged \(.*\): copy or pack it again$"):
            find_files(path, GREY)


def flagged(path: Path, flag: int = 0, method: int | None = None) -> Path:
    """Every entry of a zip, marked as if it were encrypted or compressed by another method."""
    raw = bytearray(path.read_bytes())
    for start, flags in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        at = raw.find(start)
        while at >= 0:
            raw[at + flags] |= flag
            if method is not None:
                raw[at + flags + 2 : at + flags + 4] = struct.pack("<H", method)
            at = raw.find(start, at + 4)
    path.write_bytes(raw)
    return path


def test_an_encrypted_zip(tmp_path: Path) -> None:
    path = flagged(pack(tmp_path / "p.zip", PICTURES), flag=1)
    with pytest.raises(
        ValueError, match=r"p\.zip is encrypted, as a/00\.png is: unpack it and name the folder"
    ):
        find_files(path, GREY)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 97])
def test_other_methods_of_compression(tmp_path: Path, method: int) -> None:
    path = flagged(pack(tmp_path / "p.zip", PICTURES), method=method)
    with pytest.raises(
        ValueError, match=r"is compressed by another method than deflate, as a/00\.png is: pack"
    ):
        find_files(path, GREY)


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_that_is_too_large(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "LARGEST", 2**20)
    path = pack(tmp_path / f"p.{kind}", PICTURES | {"b/99.png": bytes(2**20)})
    assert len(find_files(path, GREY)["b"]) == 4
    path = pack(path, PICTURES | {"b/99.png": bytes(2**21)})
    with pytest.raises(
        ValueError, match=r"holds b/99\.png, whose 2 MiB are more than the 1 MiB that are read"
    ):
        find_files(path, GREY)


def test_a_member_that_is_larger_than_it_states(tmp_path: Path) -> None:
    """Of a zip, which states the size twice."""
    path = pack(tmp_path / "p.zip", PICTURES | {"b/01.png": bytes(2**24)})
    raw, stated = path.read_bytes(), struct.pack("<I", 2**24)
    assert raw.count(stated) == 2
    path.write_bytes(raw.replace(stated, struct.pack("<I", 100)))
    file = find_files(path, GREY)["b"][1]
    assert size_of(file) == 100
    with pytest.raises(OSError, match="damaged: "):
        bytes_of(file)


def test_a_header_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "LARGEST", 2**20)
    path = tmp_path / "p.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.GNU_FORMAT) as t:
        t.addfile(tarfile.TarInfo("a/" + "x" * 2**21))
    with pytest.raises(OSError, match=r"is damaged \(a header of 2\d+ bytes\)"):
        find_files(path, GREY)


def test_more_than_is_kept_of_a_compressed_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_KEPT", 500)
    assert find_files(pack(tmp_path / "p.tar", PICTURES), GREY)
    with pytest.raises(
        ValueError, match=r"p\.tgz holds more than the 0 MiB that are kept of a compressed tar"
    ):
        find_files(pack(tmp_path / "p.tgz", PICTURES), GREY)


def test_links_and_devices_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "p.tar"
    with tarfile.open(path, "w") as t:
        for name, kind in (
            ("a/1.png", tarfile.SYMTYPE),
            ("a/2.png", tarfile.LNKTYPE),
            ("a/3.png", tarfile.FIFOTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            t.addfile(member)
        member = tarfile.TarInfo("a/4.png")
        member.size = len(PICTURES["a/00.png"])
        t.addfile(member, io.BytesIO(PICTURES["a/00.png"]))
    assert [f.name for f in find_files(path, GREY)["a"]] == ["4.png"]


def test_an_archive_that_may_not_be_read(tmp_path: Path) -> None:
    path = pack(tmp_path / "p.zip", PICTURES)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("nothing is forbidden to this user")
    with pytest.raises(PermissionError):
        find_files(path, GREY)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files by /proc")
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_no_file_stays_open(tmp_path: Path, kind: str) -> None:
    path = pack(tmp_path / f"p.{kind}", PICTURES)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        image_folders(path, GREY, ALL_TEST)
        find_files(path, GREY)["a"][0]  # type: ignore[index]
    broken = path.with_name(f"broken.{kind}")
    broken.write_bytes(b"no archive" * 100)
    for _ in range(3):
        with pytest.raises(OSError, match="damaged"):
            find_files(broken, GREY)
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 2 * (kind != "tar"), (
        "the maps of the caches"
    )

"""Omniglot from its two archives, and fetching what is absent."""

import hashlib
import http.server
import io
import os
import socket
import threading
import zipfile
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import pytest
import requests
import rich.console
from PIL import Image

from quickstudy.data.datasets import download as fetching
from quickstudy.data.datasets import omniglot as source
from quickstudy.data.datasets.download import download
from quickstudy.data.datasets.omniglot import omniglot
from quickstudy.data.pool import ClassPool

BACKGROUND = {"Aa": 2, "Bb": 1, "Cc": 1, "Dd": 1, "Ee": 1, "Ff": 2, "Gg": 1}
EVALUATION = {"Yy": 2, "Zz": 1}
DRAWERS = 3


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("QUICKSTUDY_DATA", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise requests.ConnectionError("Name or service not known")

    monkeypatch.setattr(requests, "get", unreachable)


def drawing(number: int, drawer: int) -> bytes:
    """Black ink on white, 1 bit as in the original: a bar on top, and one on the left that says who drew."""
    page = np.full((105, 105), 255, np.uint8)
    page[:30] = 0
    page[:, : 5 + 10 * (number % 3) + 3 * drawer] = 0
    out = io.BytesIO()
    Image.fromarray(page).convert("1").save(out, "PNG")
    return out.getvalue()


def archive(
    path: Path, alphabets: dict[str, int], spoil: Callable[[str], bytes | None] = lambda n: None
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr(f"{path.stem}/", "")  # the official ones hold folders as entries, too
        number = 0
        for alphabet, characters in alphabets.items():
            for c in range(1, characters + 1):
                number += 1
                for drawer in range(1, DRAWERS + 1):
                    name = f"{path.stem}/{alphabet}/character{c:02}/{number:04}_{drawer:02}.png"
                    z.writestr(name, spoil(name) or drawing(number, drawer))


def lists(root: Path, **names: list[str]) -> None:
    folder = root / "omniglot" / "splits" / "vinyals"
    folder.mkdir(parents=True, exist_ok=True)
    for split, found in names.items():
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in found))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Both archives in miniature, and lists that name all but Gg."""
    folder = tmp_path / "data"
    archive(folder / "omniglot" / "images_background.zip", BACKGROUND)
    archive(folder / "omniglot" / "images_evaluation.zip", EVALUATION)
    lists(
        folder,
        train=["Aa/character01", "Yy/character02", "Bb/character01", "Cc/character01", "Dd/character01"],
        val=["Aa/character02", "Ee/character01"],
        test=["Zz/character01", "Yy/character01", "Ff/character01", "Ff/character02"],
    )
    return folder


# The splits


@pytest.mark.usefixtures("offline")
def test_vinyals_split_by_the_lists(root: Path) -> None:
    pool = omniglot(root, rotations=False)
    assert len(pool) == 12
    assert pool.items.shape == (12 * DRAWERS, 1, 28, 28)
    assert pool.split("train").classes == (
        "Aa/character01",
        "Yy/character02",
        "Bb/character01",
        "Cc/character01",
        "Dd/character01",
    )
    assert pool.split("validation").classes == ("Aa/character02", "Ee/character01")
    assert "Gg/character01" in pool.classes, "it is there, but in no split"


def test_lists_may_name_rotations_as_the_authors_do(root: Path) -> None:
    before = omniglot(root)
    for path in (root / "omniglot" / "splits" / "vinyals").iterdir():
        names = path.read_text().split()
        lists(root, **{path.stem: [f"{n}/rot{r:03}" for n in names for r in (0, 90, 180, 270)]})
    after = omniglot(root)
    for split in ("train", "validation", "test"):
        assert after.split(split).classes == before.split(split).classes
    assert after.digest == before.digest, "the same split, so nothing is decoded again"


def test_lake_split_is_by_alphabet(root: Path, tmp_path: Path) -> None:
    for path in (root / "omniglot" / "splits" / "vinyals").iterdir():
        path.unlink()  # they have no part in it
    pool = omniglot(root, split="lake", rotations=False)
    alphabets = {s: {c.split("/")[0] for c in pool.split(s).classes} for s in pool.splits}
    assert alphabets == {
        "train": {"Aa", "Bb", "Cc", "Dd", "Ee", "Gg"},
        "validation": {"Ff"},  # the sixth by name
        "test": {"Yy", "Zz"},
    }


def test_random_split_is_by_character(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (root / "omniglot" / "splits" / "vinyals").iterdir():
        path.unlink()  # they have no part in it
    monkeypatch.setattr(source, "RANDOM_SIZES", (6, 2))
    pool, turned = omniglot(root, split="random", rotations=False), omniglot(root, split="random")
    assert pool.name == turned.name == "omniglot-random"
    sizes = {"train": 6, "validation": 2, "test": 4}
    assert {s: len(pool.split(s)) for s in pool.splits} == sizes
    assert {s: len(turned.split(s)) for s in turned.splits} == {s: 4 * n for s, n in sizes.items()}
    of_one_split(turned)
    for s in sizes:
        assert {c.rsplit("/", 1)[0] for c in turned.split(s).classes} == {*pool.split(s).classes}
    lake = omniglot(root, split="lake")
    np.testing.assert_array_equal(turned.items, lake.items)
    assert turned.digest == lake.digest, "nothing is decoded twice"


def test_random_split_is_by_its_seed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "RANDOM_SIZES", (6, 2))
    of = [omniglot(root, split="random", seed=seed).split("train").classes for seed in (0, 0, 1, 2)]
    assert of[0] == of[1]
    assert len({*of}) == 3
    assert omniglot(root, seed=1).split("train").classes == omniglot(root).split("train").classes
    with pytest.raises(ValueError, match="seed is -1: it must be at least 0"):
        omniglot(root, split="random", seed=-1)


def of_one_split(pool: ClassPool) -> None:
    for name in pool.splits:
        turned = [c.rsplit("/", 1) for c in pool.split(name).classes]
        characters = {c for c, _ in turned}
        assert {(c, r) for c, r in turned} == {
            (c, r) for c in characters for r in ("rot000", "rot090", "rot180", "rot270")
        }


@pytest.mark.parametrize("split", ["vinyals", "lake"])
def test_rotations_are_new_classes_in_the_split_of_their_character(
    root: Path, split: source.OmniglotSplit
) -> None:
    upright, pool = omniglot(root, split=split, rotations=False), omniglot(root, split=split)
    assert len(pool) == 4 * len(upright)
    assert len(pool.items) == 4 * len(upright.items)
    of_one_split(pool)
    assert upright.recorded_classes() is upright
    recorded = pool.recorded_classes()
    assert recorded.classes == tuple(f"{name}/rot000" for name in upright.classes)
    assert len(recorded.split("train")) == len(upright.split("train"))
    for name in upright.classes:
        for r in range(4):
            np.testing.assert_array_equal(
                pool.of_class(f"{name}/rot{90 * r:03}"), np.rot90(upright.of_class(name), r, (2, 3))
            )


def test_ink_is_255_on_0_and_every_item_is_under_its_character(root: Path) -> None:
    pool = omniglot(root, rotations=False)
    numbers = {"Aa/character01": 1, "Ff/character02": 8, "Zz/character01": 3}
    for name, number in numbers.items():
        for drawer, item in enumerate(pool.of_class(name)[:, 0], 1):
            assert item[2, 2] == 255
            assert item[26, 26] == 0
            ink = (item[20] > 127).sum() * 105 / 28
            assert ink == pytest.approx(5 + 10 * (number % 3) + 3 * drawer, abs=2.5)


def test_a_second_load_decodes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = omniglot(root)
    monkeypatch.setattr(source, "decode_items", None)
    np.testing.assert_array_equal(omniglot(root).items, first.items)


# What can be wrong


def test_unknown_split(root: Path) -> None:
    with pytest.raises(
        ValueError, match="Omniglot has no split 'mini': choose 'vinyals', 'lake' or 'random'"
    ):
        omniglot(root, split="mini")  # pyright: ignore[reportArgumentType]


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["images_evaluation.zip", "splits/vinyals/val.txt"])
def test_an_absent_file_without_network(root: Path, name: str) -> None:
    path = root / "omniglot" / name
    path.unlink()
    with pytest.raises(OSError, match="can't be reached") as raised:
        omniglot(root)
    text = str(raised.value)
    assert text.startswith(f"{path} is absent and https://")
    assert path.name in text.split("https://")[1]
    assert "(Name or service not known)" in text
    assert text.endswith("put the file there yourself, or name the folder that has it with --data-root or "
                         "QUICKSTUDY_DATA")  # fmt: skip
    assert not list(path.parent.glob(".*")), "no temporary file stays"


def test_a_truncated_archive(root: Path) -> None:
    path = root / "omniglot" / "images_background.zip"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(
        OSError, match=r"images_background\.zip is not a whole zip archive: delete it, and it"
    ):
        omniglot(root)


def test_an_archive_without_pictures(root: Path) -> None:
    with zipfile.ZipFile(root / "omniglot" / "images_background.zip", "w") as z:
        z.writestr("readme.txt", "nothing here")
    with pytest.raises(OSError, match=r"images_background\.zip holds no pictures: delete it"):
        omniglot(root)


def test_a_picture_in_the_archive_is_damaged(root: Path, cache: Path) -> None:
    def spoil(name: str) -> bytes | None:
        return drawing(1, 1)[:60] if "/Cc/" in name else None

    archive(root / "omniglot" / "images_background.zip", BACKGROUND, spoil)
    with pytest.raises(
        OSError, match=r"3 pictures .*, first of Cc/character01: .*delete .*/images_background\.zip"
    ):
        omniglot(root)
    assert not list((cache / "pools").iterdir())


def test_the_archive_itself_is_damaged_inside(root: Path) -> None:
    path = root / "omniglot" / "images_background.zip"
    with zipfile.ZipFile(path) as z:
        first = next(m for m in z.infolist() if m.filename.endswith(".png"))
    raw = bytearray(path.read_bytes())
    start = first.header_offset + 30 + len(first.filename)
    raw[start : start + 12] = b"\xff" * 12  # no deflate stream begins so
    path.write_bytes(raw)
    with pytest.raises(
        OSError, match="1 pictures of Omniglot can't be read, first of Aa/character01: damaged"
    ):
        omniglot(root)


def test_lists_that_name_unknown_characters(root: Path) -> None:
    lists(root, val=["Aa/character02", "Klingon/character01", "Klingon/character02"])
    with pytest.raises(
        ValueError,
        match=r"the class lists name 2 characters that Omniglot lacks, e\.g\. 'Klingon/character01'",
    ):
        omniglot(root)


def test_a_character_in_two_lists(root: Path) -> None:
    lists(root, val=["Zz/character01"])
    with pytest.raises(ValueError, match="class 'Zz/character01/rot000' is in both splits"):
        omniglot(root)


# Fetching

CONTENT = bytes(range(256)) * 800


class Shop(http.server.BaseHTTPRequestHandler):
    """`/whole` gives the content, `/short` breaks off in the middle, anything else is not there."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path not in ("/whole", "/short"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT if self.path == "/whole" else CONTENT[:5000])

    def log_message(self, *_: object) -> None:
        """Not into the test's output."""


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Generator[tuple[str, list[str]]]:
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)  # this machine is reached without one
    Shop.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shop) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", Shop.asked
        server.shutdown()
        thread.join()


def test_fetched_once(shop: tuple[str, list[str]], tmp_path: Path) -> None:
    address, asked = shop
    path = tmp_path / "new" / "folder" / "file.bin"
    md5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    assert download(f"{address}/whole", path, md5) == path
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]
    download(f"{address}/whole", path, md5)
    assert asked == ["/whole"]
    path.write_bytes(b"re-packed")
    download(f"{address}/whole", path, md5)
    assert path.read_bytes() == b"re-packed", "what the user put there is taken as it is"


def test_a_wrong_checksum_leaves_nothing(shop: tuple[str, list[str]], tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"what came from .*/whole has the wrong checksum: try again later"):
        download(f"{shop[0]}/whole", tmp_path / "file.bin", "0" * 32)
    assert not list(tmp_path.iterdir())


def test_a_transfer_that_breaks_off_leaves_nothing(shop: tuple[str, list[str]], tmp_path: Path) -> None:
    """Without a checksum, too: half a class list would be taken for the whole."""
    with pytest.raises(
        OSError, match=r"file\.bin is absent and .*/short can't be reached \(.*5000 bytes read, 199800 more"
    ):
        download(f"{shop[0]}/short", tmp_path / "file.bin")
    assert not list(tmp_path.iterdir())


def test_a_bar_shows_how_far_it_is(shop: tuple[str, list[str]], tmp_path: Path, monkeypatch) -> None:
    terminal = rich.console.Console(file=io.StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr(fetching, "messages", terminal)
    download(f"{shop[0]}/whole", tmp_path / "file.bin")
    shown = terminal.file.getvalue()
    assert "file.bin" in shown
    assert "100%" in shown


def test_nothing_else_is_said(shop: tuple[str, list[str]], tmp_path: Path, capfd) -> None:
    download(f"{shop[0]}/whole", tmp_path / "file.bin")
    assert capfd.readouterr() == ("", "")


def test_not_there(shop: tuple[str, list[str]], tmp_path: Path) -> None:
    with pytest.raises(
        OSError, match=r"/nothing can't be reached \(Not Found\): put the file there yourself"
    ):
        download(f"{shop[0]}/nothing", tmp_path / "file.bin")
    assert not list(tmp_path.iterdir())


def test_a_server_that_stops_answering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "TIMEOUT", 0.2)
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}/file"
        with pytest.raises(OSError, match=r"file\.bin is absent and .* can't be reached \(timed out\)"):
            download(address, tmp_path / "file.bin")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files by /proc")
@pytest.mark.usefixtures("offline")
def test_a_failure_leaves_no_file_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(OSError, match="can't be reached"):
            download("http://127.0.0.1/", tmp_path / "file.bin")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# The real thing


@pytest.fixture
def real(real_data: Callable[[str], Path]) -> Path:
    return real_data("omniglot/images_background.zip")


def test_omniglot_as_vinyals_divides_it(real: Path) -> None:
    pool = omniglot(real)
    assert len(pool) == 4 * 1623
    assert len(pool.items) == 4 * 32_460
    assert set(pool.counts.tolist()) == {20}
    assert {s: len(pool.split(s)) for s in pool.splits} == {
        "train": 4 * 1028,
        "validation": 4 * 172,
        "test": 4 * 423,
    }
    of_one_split(pool)  # with the pool's own check that splits share no class: none shares a character
    assert 0 < pool.items.mean() < 64, "mostly paper, and paper is 0"


def test_omniglot_divided_at_random(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = omniglot(real, split="random")
    assert {s: len(pool.split(s)) for s in pool.splits} == {"train": 4400, "validation": 400, "test": 4 * 423}
    of_one_split(pool)


def test_omniglot_as_lake_divides_it(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "decode_items", lambda *_: {})  # the test before has decoded them all
    pool = omniglot(real, split="lake", rotations=False)
    assert len(pool) == 1623
    assert len(pool.items) == 32_460
    sizes = {s: len(pool.split(s)) for s in pool.splits}
    assert sizes["train"] + sizes["validation"] == 964
    assert sizes["test"] == 659
    alphabets = {s: {c.split("/")[0] for c in pool.split(s).classes} for s in pool.splits}
    assert {s: len(found) for s, found in alphabets.items()} == {"train": 25, "validation": 5, "test": 20}

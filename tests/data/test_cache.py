"""Decoded once: by what is in the files, and whole whatever was killed on the way."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from quickstudy.cli.app import app
from quickstudy.data import contents
from quickstudy.data.cache import cached_pools, clear_leftovers, contents_of
from quickstudy.data.contents import content_digests
from quickstudy.data.datasets.folders import image_folders
from quickstudy.data.formats.images import ImageFormat

GREY, ALL_TEST = ImageFormat(8, 1), (0.0, 0.0, 1.0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def folders(root: Path, **shades: int) -> Path:
    for name, shade in shades.items():
        (root / name).mkdir(parents=True)
        Image.new("L", (8, 8), shade).save(root / name / "0.bmp")  # of one size, whatever they show
        os.utime(root / name / "0.bmp", ns=(10**18, 10**18))
    return root


def shades(root: Path) -> list[int]:
    return image_folders(root, GREY, ALL_TEST).items[:, 0, 0, 0].tolist()


# By their contents


def test_swapped_folders_of_equal_files_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "SETTLED", -(10**12))  # digests are kept at once
    root = folders(tmp_path / "r", a=10, b=20)
    before = image_folders(root, GREY, ALL_TEST).digest
    assert shades(root) == [10, 20]
    (root / "a").rename(root / "c")
    (root / "b").rename(root / "a")
    (root / "c").rename(root / "b")
    assert shades(root) == [20, 10]
    assert image_folders(root, GREY, ALL_TEST).digest != before


def test_another_content_of_the_same_size_and_time_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "SETTLED", -(10**12))
    root = folders(tmp_path / "r", a=10, b=20)
    assert shades(root) == [10, 20]
    time.sleep(0.02)  # the least step of the file system's clock
    Image.new("L", (8, 8), 99).save(root / "a" / "0.bmp")
    os.utime(root / "a" / "0.bmp", ns=(10**18, 10**18))
    assert shades(root) == [99, 20]


def test_a_copy_elsewhere_is_the_same_data_set(tmp_path: Path) -> None:
    first = image_folders(folders(tmp_path / "1" / "r", a=10, b=20), GREY, ALL_TEST)
    second = image_folders(folders(tmp_path / "2" / "r", a=10, b=20), GREY, ALL_TEST)
    assert first.digest == second.digest
    assert len(cached_pools()) == 1


def test_an_unchanged_file_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folders(tmp_path / "r", a=10, b=20)
    files, read = [root / "a" / "0.bmp", root / "b" / "0.bmp"], list[Path]()
    honest = contents._digest
    monkeypatch.setattr(contents, "_digest", lambda path: read.append(path) or honest(path))
    first = content_digests(files, tmp_path / "index.json")
    assert content_digests(files, tmp_path / "index.json") == first
    assert len(read) == 4, "one that is just written may change without its times"
    monkeypatch.setattr(contents, "SETTLED", -(10**12))
    assert [content_digests(files, tmp_path / "index.json") for _ in range(3)] == [first] * 3
    assert len(read) == 6
    (tmp_path / "index.json").write_text("[3]")
    assert content_digests(files, tmp_path / "index.json") == first


# Whole, whatever was killed


PROGRAM = """
import sys, time
from pathlib import Path
from quickstudy.data.datasets import folders
from quickstudy.data.formats.images import ImageFormat
honest = folders.decode_items
def slow(*arguments):
    bad = honest(*arguments)
    print("decoded", flush=True)
    time.sleep(float(sys.argv[2]))
    return bad
folders.decode_items = slow
folders.image_folders(sys.argv[1], ImageFormat(8, 1), (0.0, 0.0, 1.0))
print("done", flush=True)
"""


def killed(root: Path, seconds: float) -> None:
    """Start a program that decodes, and kill it after so many seconds from when it has begun."""
    program = subprocess.Popen([sys.executable, "-c", PROGRAM, str(root), "60"], stdout=subprocess.PIPE)
    assert program.stdout
    assert program.stdout.readline() == b"decoded\n"
    time.sleep(seconds)
    program.send_signal(signal.SIGKILL)
    program.wait()
    program.stdout.close()


@pytest.mark.skipif(os.name == "nt", reason="files are locked otherwise there")
@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_what_a_killed_process_leaves_is_cleared_at_the_next_start(
    tmp_path: Path, cache: Path, kills: int
) -> None:
    root = folders(tmp_path / "r", a=10, b=20)
    for i in range(kills):
        killed(root, 0.01 * i)
        assert any(p.name.startswith(".") for p in (cache / "pools").iterdir())
    assert shades(root) == [10, 20]
    assert [p.name[:2] for p in (cache / "pools").iterdir()] == ["r-"]
    assert sorted(p.name for p in next((cache / "pools").iterdir()).iterdir()) == ["items.npy", "pool.json"]


def test_what_another_process_is_making_stays(tmp_path: Path, cache: Path) -> None:
    root = folders(tmp_path / "r", a=10, b=20)
    program = subprocess.Popen([sys.executable, "-c", PROGRAM, str(root), "3"], stdout=subprocess.PIPE)
    assert program.stdout
    assert program.stdout.readline() == b"decoded\n"
    clear_leftovers()
    assert len(list((cache / "pools").glob(".r-*"))) == 1
    assert program.stdout.read() == b"done\n"
    program.stdout.close()
    assert program.wait() == 0
    assert not list((cache / "pools").glob(".r-*"))


@pytest.mark.parametrize("broken", ["no pool.json", "no items", "half", "empty"])
def test_a_folder_that_is_not_whole_is_made_again(tmp_path: Path, broken: str) -> None:
    root = folders(tmp_path / "r", a=10, b=20)
    assert shades(root) == [10, 20]
    (pool,) = cached_pools()
    if broken == "no pool.json":
        (pool.folder / "pool.json").unlink()
    elif broken == "no items":
        (pool.folder / "items.npy").unlink()
    elif broken == "half":
        text = (pool.folder / "pool.json").read_text()
        (pool.folder / "pool.json").write_text(text[: len(text) // 2])
    else:
        (pool.folder / "items.npy").write_bytes(b"")
    assert shades(root) == [10, 20]
    assert sorted(p.name for p in pool.folder.iterdir()) == ["items.npy", "pool.json"]


def test_clearing(tmp_path: Path, cache: Path) -> None:
    for name in ("faces", "birds"):
        image_folders(folders(tmp_path / name, a=10, b=20), GREY, ALL_TEST)
    runner = CliRunner()
    asked = runner.invoke(app, ["data", "--clear"], input="n\n")
    assert asked.exit_code == 1
    assert len(cached_pools()) == 2
    done = runner.invoke(app, ["data", "--clear", "faces", "--yes"])
    assert done.exit_code == 0
    assert [p.name for p in cached_pools()] == ["birds"]
    assert not contents_of(tmp_path / "faces").exists(), "the names of its files neither"
    assert runner.invoke(app, ["data", "--clear", "--yes"]).exit_code == 0
    assert cached_pools() == []
    assert runner.invoke(app, ["data", "--clear", "--yes"]).exit_code == 0
    assert shades(tmp_path / "faces") == [10, 20]
    assert np.array_equal(shades(tmp_path / "birds"), [10, 20])

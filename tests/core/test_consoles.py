"""What others wrote is shown, and never obeyed: on terminals, in tables, CSV, JSON and errors."""

import ast
import csv
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

import quickstudy
from quickstudy.cli.terminal import table
from quickstudy.core import consoles, foreign
from quickstudy.core.consoles import SafeConsole, print_csv
from quickstudy.core.files import write_whole
from quickstudy.core.wording import csv_cell, json_text, one_line, shown

HOSTILE = [
    "\x1b]0;owned\x07",
    "a\x9b31mb",
    "\u202egnp.exe",
    "a\u200bb",
    "\u2066x",
    "a\rb",
    "\x00",
    "\udcff",
    "\ufeffx",
]
SOURCES = Path(quickstudy.__file__).parent


@pytest.mark.parametrize("text", HOSTILE)
def test_what_cannot_be_seen_is_escaped(text: str) -> None:
    for safe in (shown(text), csv_cell(text)):
        assert safe.isprintable()
        assert "\\" in safe
    assert one_line(text).isprintable()
    assert json.loads(json_text({text: text})) == {text: text}
    assert json_text(text).isprintable()


@given(st.text())
def test_nothing_but_what_can_be_seen_is_shown(text: str) -> None:
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in shown(text))
    assert shown(shown(text)) == shown(text)
    if text.isascii() and text.isprintable():
        assert shown(text) == text


@pytest.mark.parametrize(
    "text",
    ["Zoë (2019) – été", "猫", "अभय", "👩", "a [b] & 'c'", "مريم", "می\u200cخواهم", "क्\u200dष", "അവന്\u200d"],
)
def test_names_of_all_scripts_stay_as_they_are(text: str) -> None:
    assert shown(text) == text


@pytest.mark.parametrize(
    "text", ["a\u200db", "Мария\u200c", "\u200cमीरा", "李\u200d龙", "👩\u200d🚀", "می\u200c"]
)
def test_joiners_are_shown_where_no_script_needs_them(text: str) -> None:
    assert "\\u200" in shown(text)
    assert "\\u200" in json_text(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_console_shows_them_in_texts_and_tables(text: str) -> None:
    out = io.StringIO()
    console = SafeConsole(file=out, width=60)
    console.print(text, highlight=False)
    rows = table(text, "b", wraps=(text,))
    rows.add_row(f"one {text}", text)
    console.print(rows)
    bare = Table(text)
    bare.add_row(text)
    console.print(bare)
    assert out.getvalue().replace("\n", "").isprintable()
    lines = [line for line in out.getvalue().splitlines() if line[0] in "┏┃│"]
    assert len({len(line) for line in lines[:3]}) == 1, "the table keeps its shape"


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x", "\t=1", "  =1", "＝1", "\r=1"])
def test_no_cell_is_a_formula(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_csv([["file", name], [Path("a.jpg"), -0.5]])
    read = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert read[0][1].startswith("'")
    assert read[1] == ["a.jpg", "-0.5"], "numbers are no texts"
    assert csv_cell("Ada-1") == "Ada-1"


def test_json_holds_no_numbers_that_are_none() -> None:
    assert json.loads(json_text({"a": [math.nan, math.inf, 1.5], "b": (1, None)})) == {
        "a": [None, None, 1.5],
        "b": [1, None],
    }


def test_everything_that_is_printed_goes_through_the_consoles() -> None:
    """A new `print` of a name would bring escape sequences back: use a console, or `print_json`."""
    strays: list[str] = []
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            text = ast.unparse(node)
            if called == "print":
                allowed = any(
                    word in text for word in ("json_text(", "shown(", "__version__", "print('stopped'")
                )
            elif called == "sys.exit":
                allowed = "'error" not in text or "one_line(" in text
            else:
                allowed = called not in (
                    "Console",
                    "sys.stdout.write",
                    "sys.stderr.write",
                    "csv.writer",
                    "typer.echo",
                )
                allowed = allowed or path.name == "consoles.py"
                if called == "typer.confirm":
                    allowed = any(word in text for word in ("shown(", "{what", "plural(len(pools)"))
            if not allowed:
                strays.append(f"{path.name}:{node.lineno}: {text[:60]}")
    assert not strays


# The program


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "quickstudy", *arguments]
    return subprocess.run(command, capture_output=True, env={**os.environ, **environment})


def test_errors_are_one_line_without_control_characters(tmp_path: Path) -> None:
    name = "\x1b[31mx\ny\u202e.safetensors"
    for arguments in (("predict", name, "--support", "a", "--query", "b"), ("predict", "--\x1b[31mx")):
        done = run(*arguments)
        assert done.returncode in (1, 2)
        assert b"\x1b" not in done.stderr
        assert b"Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_of_any_encoding_gets_the_table(encoding: str) -> None:
    done = run("models", PYTHONIOENCODING=encoding, COLUMNS="80")
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode(encoding)
    assert ("+-" if encoding == "ascii" else "±") in text
    assert "anil-omniglot" in text


@pytest.mark.parametrize("width", range(20, 100, 7))
def test_a_number_is_never_cut(width: int) -> None:
    out = io.StringIO()
    rows = table("name", "figure", "what", wraps=("name", "what"))
    rows.add_row("a-name-of-thirty-two-letters-long", "99.64 ± 0.07", "of many words that may be folded")
    SafeConsole(file=out, width=width).print(rows)
    assert "│ 99.64 ± 0.07 │" in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) <= max(width, 62)
    assert "name" in out.getvalue().replace("\n", "")


@pytest.mark.slow
def test_lists_fit_into_80_columns_and_are_json_as_well() -> None:
    for command, key in (("models", "model"), ("recipes", "recipe"), ("data", "source")):
        listed = json.loads(run(command, "--json").stdout)
        text = run(command, COLUMNS="80").stdout.decode()
        assert max(map(len, text.splitlines())) <= 80
        assert all(entry[key] in text for entry in listed if key in entry)


# Files


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("file/x.bin", r"/file is a file: name another folder"),
        ("folder", r"it is a folder: name a file"),
        ("x" * 300, r"name is too long: choose a shorter one"),
    ],
)
def test_why_a_file_cannot_be_written(path: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "x").mkdir(parents=True)
    with pytest.raises(OSError, match=message):
        write_whole(tmp_path / path, b"")


# What C libraries print, and terminals that are gone


def test_what_c_libraries_print_of_a_file_goes_nowhere(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def parse() -> None:
        with foreign.refusing(), foreign.silenced():
            os.write(2, b"a note of its own")
            raise ValueError("x")

    with pytest.raises(OSError, match="damaged: x"):
        parse()
    os.write(2, b"afterwards")
    assert "a note" not in capfd.readouterr().err
    os.write(2, b"and then")
    assert capfd.readouterr().err == "and then"
    # in a program whose Python writes there, too, nothing is kept back
    monkeypatch.setattr(sys.stderr, "fileno", lambda: 2, raising=False)
    with foreign.silenced():
        os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


@pytest.mark.skipif(os.name == "nt", reason="terminals are others there")
def test_writing_to_a_terminal_that_is_gone_does_not_fail() -> None:
    import pty  # not everywhere

    main, other = pty.openpty()
    with os.fdopen(other, "w") as stream:
        again = consoles._again(stream, other)
        os.close(main)
        with pytest.raises(OSError, match="Input/output"):
            os.write(other, b"x")
        print("to nobody", file=again, flush=True)

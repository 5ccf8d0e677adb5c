"""Checkpoints, logs and splits whose parts are anything: one line that names the file, and nothing else."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from quickstudy.core import checkpoint
from quickstudy.data.splits import SPLITS, read_split
from quickstudy.optimizer.weights import load_rule, shipped_rules
from quickstudy.recipes import weights
from quickstudy.recognition.embedder import Embedder
from quickstudy.training.run_folder import read_log

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("\x1b[31m"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
MODEL = "prototypical-glyphs"
SMALL = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(path: Path, tensors: dict[str, Tensor], manifest: object) -> Path:
    """A file whose digest is right, whatever it holds."""
    text = manifest if isinstance(manifest, str) else json.dumps(manifest)
    header = {checkpoint.MANIFEST: text, checkpoint.DIGEST: checkpoint.digest_of(tensors, text)}
    path.write_bytes(safetensors.torch.save(tensors, header))
    return path


def changed(value: Any, data: st.DataObject) -> Any:
    """A value with one of its parts, however deep, in place of which there is anything, or nothing."""
    if isinstance(value, dict) and value and data.draw(st.integers(0, 4)):
        key = data.draw(st.sampled_from(sorted(value)))
        if not data.draw(st.integers(0, 5)):
            return {k: v for k, v in value.items() if k != key}
        return value | {key: changed(value[key], data)}
    if isinstance(value, list) and value and data.draw(st.booleans()):
        return [changed(value[0], data), *value[1:]]
    return data.draw(ANYTHING)


def one_line_of(error: Exception, path: Path) -> None:
    text = str(error)
    assert str(path) in text
    assert text.isprintable(), text


@SMALL
@given(st.data())
def test_a_manifest_of_anything(tmp_path: Path, data: st.DataObject) -> None:
    tensors, manifest = checkpoint.load(weights.models()[MODEL])
    path = written(tmp_path / "x.safetensors", tensors, changed(manifest, data))
    for use in (weights.load_learner, Embedder, load_rule):
        try:
            use(path)
        except (ValueError, OSError) as error:
            one_line_of(error, path)


@SMALL
@given(st.data())
def test_a_manifest_of_a_training_in_python_of_anything(tmp_path: Path, data: st.DataObject) -> None:
    tensors, manifest = checkpoint.load(weights.models()[MODEL])
    plan = {
        "class": "Prototypical",
        "arguments": {"encoder": {"class": "Conv4", "arguments": {"in_channels": 1, "channels": 64}}},
    }
    facts = {"learner": plan, "train": {"pool": {"name": "glyphs.train", "digest": "0"}}, "steps": 3}
    facts |= {"validation": None}
    manifest = {"items": manifest["items"], "fit": facts}
    path = written(tmp_path / "x.safetensors", tensors, {**manifest, "fit": changed(facts, data)})
    for use in (weights.load_learner, Embedder):
        try:
            use(path)
        except (ValueError, OSError) as error:
            one_line_of(error, path)


@SMALL
@given(st.data())
def test_a_card_of_a_rule_of_anything(tmp_path: Path, data: st.DataObject) -> None:
    tensors, card = checkpoint.load(next(iter(shipped_rules().values())))
    path = written(tmp_path / "x.safetensors", tensors, changed(card, data))
    for use in (load_rule, weights.load_learner):
        try:
            use(path)
        except (ValueError, OSError) as error:
            one_line_of(error, path)


@pytest.mark.parametrize("manifest", ["[]", "3", '"x"', "null", "[" * 100_000, '{"a":' * 50_000, "{", ""])
def test_a_manifest_that_is_none(manifest: str, tmp_path: Path) -> None:
    path = written(tmp_path / "x.safetensors", {"a": torch.ones(2)}, manifest)
    with pytest.raises(ValueError, match=r"x\.safetensors is damaged or not") as raised:
        checkpoint.load(path)
    one_line_of(raised.value, path)


def test_a_manifest_that_speaks_of_more_than_there_is_takes_no_memory(tmp_path: Path) -> None:
    tensors, manifest = checkpoint.load(weights.models()[MODEL])
    plan = {
        "class": "Prototypical",
        "arguments": {"encoder": {"class": "Conv4", "arguments": {"in_channels": 1, "channels": 40_000}}},
    }
    facts = {"learner": plan, "train": {}, "steps": 1, "validation": None}
    path = written(tmp_path / "x.safetensors", tensors, {"items": manifest["items"], "fit": facts})
    with pytest.raises(ValueError, match="belongs to another encoder"):  # of 58 GB a layer
        weights.load_learner(path)


def test_the_names_of_tensors_are_shown_escaped(tmp_path: Path) -> None:
    tensors, manifest = checkpoint.load(weights.models()[MODEL])
    path = written(tmp_path / "x.safetensors", {**tensors, "\x1b[31m\u202e": torch.ones(1)}, manifest)
    with pytest.raises(ValueError, match=r"it also has \\x1b\[31m\\u202e;"):
        weights.load_learner(path)


# Bits


@SMALL
@given(st.data())
def test_a_flipped_bit_is_noticed(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {
        "a": torch.arange(20.0),
        "b": torch.ones(3, 2, dtype=torch.int64),
        "c": torch.tensor(1).bfloat16(),
    }
    manifest = {"recipe": "r", "n": 3}
    checkpoint.save(path, tensors, manifest)
    raw = bytearray(path.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8
    path.write_bytes(raw)
    try:
        loaded, stated = checkpoint.load(path)
    except ValueError as error:
        one_line_of(error, path)
        return
    assert stated == manifest, "what passes is what was written, such as with a blank in place of another"
    assert all(torch.equal(loaded[k], v) for k, v in tensors.items())


def test_a_file_without_a_digest_is_read_as_ever(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors", {"quickstudy": '{"n": 1}'})
    assert checkpoint.load(tmp_path / "x.safetensors")[1] == {"n": 1}


def test_what_ships_has_a_digest() -> None:
    for path in (*weights.models().values(), *shipped_rules().values()):
        raw = path.read_bytes()
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        assert checkpoint.DIGEST in header["__metadata__"], path.name


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    tensors, manifest = checkpoint.load(weights.models()[MODEL])
    name = next(k for k, v in tensors.items() if v.is_floating_point())
    tensors[name].view(-1)[0] = value
    path = written(tmp_path / "x.safetensors", tensors, manifest)
    with pytest.raises(ValueError, match=rf"x\.safetensors holds weights that aren't finite, in {name}"):
        weights.load_learner(path)


# Logs and splits


@SMALL
@given(st.lists(ANYTHING, min_size=1, max_size=4), st.booleans())
def test_a_log_of_anything(tmp_path: Path, lines: list[Any], cut: bool) -> None:
    path = tmp_path / "log.jsonl"
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path.write_text(text[: -len(text) // 3] if cut else text)
    try:
        assert all(isinstance(line["step"], int | float) for line in read_log(path))
    except ValueError as error:
        one_line_of(error, path)


@pytest.mark.parametrize("line", [b"[" * 100_000, b"\xff\xfe", b"3", b"[]", b'{"step": "1"}', b"{}"])
def test_a_line_of_a_log_that_is_none(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(line + b'\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"log\.jsonl, line 1, is n"):
        read_log(tmp_path / "log.jsonl")


@SMALL
@given(ANYTHING | st.dictionaries(st.sampled_from(SPLITS), ANYTHING, min_size=1))
def test_a_split_of_anything(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "split.json"
    path.write_text(json.dumps(content))
    try:
        read_split(path, ["a", "b"])
    except ValueError as error:
        one_line_of(error, path)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff\xfe\x00", b"", b'{"train": "ab"}'])
def test_a_split_that_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_bytes(content)
    with pytest.raises(ValueError, match="is no split file: expected"):
        read_split(tmp_path / "s.json", ["a", "b"])

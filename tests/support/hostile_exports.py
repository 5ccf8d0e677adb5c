"""Exports of galleries as somebody may make them who means harm, or a disk that fails."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from quickstudy.core import checkpoint
from quickstudy.recognition.gallery.gallery import Gallery

Tensors = dict[str, np.ndarray]


def text(*lines: str) -> np.ndarray:
    return np.frombuffer("\n".join(lines).encode("utf-8", "surrogatepass"), np.uint8)


def sound_export(dimensions: int = 6) -> tuple[Tensors, dict[str, Any]]:
    """Two samples of one name, as they are exported."""
    rows = np.random.default_rng(1).standard_normal((2, dimensions)).astype(np.float32)
    tensors: Tensors = {
        "embeddings": rows,
        "labels": np.zeros(2, np.int64),
        "times": np.array([10**15, 10**15 + 1]),
        "names": text("Ada"),
        "sources": text("a", "b"),
    }
    manifest = {"kind": "gallery", "schema": 1, "encoder": "e", "dimensions": dimensions, "cosine": False}
    return tensors, manifest | {"names": 1, "samples": 2}


def write(path: Path, tensors: Tensors, manifest: Any) -> None:
    path.write_bytes(blob(tensors, manifest))


def blob(tensors: Tensors, manifest: Any) -> bytes:
    told = manifest if isinstance(manifest, str) else json.dumps(manifest)
    whole = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
    return safetensors.numpy.save(whole, {checkpoint.MANIFEST: told})


STRANGE: list[Any] = [
    None,
    True,
    -1,
    0,
    1.5,
    2**63 - 1,
    10**30,
    "",
    "x",
    [],
    [1],
    {},
    {"a": 1},
    "\u202e",
    1e308,
]
"""Values for anything in a manifest."""
NAMES = [
    "",
    "unknown",
    "-x",
    "../evil",
    "\u200b",
    "\x1b[2J",
    "a\x00",
    "\ud800",
    "x" * 10**5,
    "=1+1",
    "\u202e",
]


def hostile_exports(rng: np.random.Generator, count: int = 1) -> Iterator[bytes]:
    """Contents of files, each an export with something wrong, of which some are sound all the same.

    Args:
        rng: Random number generator.
        count: Number of files.
    """
    kinds: list[Callable[[np.random.Generator], bytes]] = [
        _manifest, _tensor, _number, _names, _bytes, _cut, _missing, _header,
    ]  # fmt: skip
    for _ in range(count):
        yield kinds[rng.integers(len(kinds))](rng)


def tried(content: bytes, folder: Path) -> str:
    """Import a file into a gallery of Bob's: "refused" or "imported", else what is wrong; both leave it
    sound."""
    file, path = folder / "x.safetensors", folder / "g.db"
    file.write_bytes(content)
    path.unlink(missing_ok=True)
    with Gallery(path, encoder="e") as gallery:
        gallery.enroll("Bob", np.ones((1, 6), np.float32), ["x"])
        before = gallery.names()
        try:
            gallery.import_(file)
        except ValueError as error:
            outcome = "refused" if "x.safetensors" in str(error) and gallery.names() == before else str(error)
        else:
            outcome = "imported"
        assert gallery.check() == []
        assert all(str(entry.first) for entry in gallery.names())
        gallery.enroll("Bob", np.ones((1, 6), np.float32), ["y"])
        for entry in gallery.names():
            gallery.remove(entry.name)
    return outcome


def _manifest(rng: np.random.Generator) -> bytes:
    tensors, manifest = sound_export()
    keys = [*manifest, None]
    key = keys[rng.integers(len(keys))]
    value = STRANGE[rng.integers(len(STRANGE))]
    if key is None:
        texts = ["", "[]", "null", "{", "[" * 10**5, "NaN", '"x"', json.dumps(value)]
        return blob(tensors, texts[rng.integers(len(texts))])
    return blob(tensors, manifest | {key: value})


def _tensor(rng: np.random.Generator) -> bytes:
    tensors, manifest = sound_export()
    key = list(tensors)[rng.integers(len(tensors))]
    dtypes = [np.float16, np.float32, np.float64, np.int8, np.int64, np.uint8, np.uint64, np.bool_]
    shapes = [(0,), (1,), (2,), (3,), (2, 6), (2, 0), (0, 6), (6, 2), (1, 2, 6), ()]
    shape = shapes[rng.integers(len(shapes))]
    values = rng.integers(0, 256, (int(np.prod(shape)) * 8,), np.uint8)
    dtype = np.dtype(dtypes[rng.integers(len(dtypes))])
    strange = values.view(np.uint8)[: int(np.prod(shape)) * dtype.itemsize]
    made = (strange % 2).astype(np.bool_) if dtype == np.bool_ else strange.view(dtype)
    return blob(tensors | {key: made[: int(np.prod(shape))].reshape(shape)}, manifest)


def _number(rng: np.random.Generator) -> bytes:
    tensors, manifest = sound_export()
    key = ("embeddings", "labels", "times")[rng.integers(3)]
    changed = tensors[key].copy()
    extremes = [np.nan, np.inf, -np.inf, 3e38, 1e-45] if key == "embeddings" else [-1, 1, 2**63 - 1, -(2**63)]
    changed.flat[rng.integers(changed.size)] = extremes[rng.integers(len(extremes))]
    return blob(tensors | {key: changed}, manifest)


def _names(rng: np.random.Generator) -> bytes:
    tensors, manifest = sound_export()
    chosen = [NAMES[i] for i in rng.integers(len(NAMES), size=rng.integers(1, 3))]
    key = ("names", "sources")[rng.integers(2)]
    return blob(tensors | {key: text(*chosen)}, manifest)


def _bytes(rng: np.random.Generator) -> bytes:
    content = bytearray(blob(*sound_export()))
    for at in rng.integers(len(content), size=rng.integers(1, 8)):
        content[at] = rng.integers(256)
    return bytes(content)


def _cut(rng: np.random.Generator) -> bytes:
    content = blob(*sound_export())
    return content[: rng.integers(len(content))] + rng.bytes(int(rng.integers(20)))


def _missing(rng: np.random.Generator) -> bytes:
    tensors, manifest = sound_export()
    parts = [*tensors, *manifest]
    gone = parts[rng.integers(len(parts))]
    return blob(
        {k: v for k, v in tensors.items() if k != gone}, {k: v for k, v in manifest.items() if k != gone}
    )


def _header(rng: np.random.Generator) -> bytes:
    """A header that claims what it likes about where tensors lie."""
    claims = {
        "dtype": "F32",
        "shape": [int(rng.integers(-2, 2**40)), 6],
        "data_offsets": [0, int(rng.integers(2**40))],
    }
    header = json.dumps({"embeddings": claims, "__metadata__": {checkpoint.MANIFEST: "{}"}}).encode()
    return len(header).to_bytes(8, "little") + header + rng.bytes(48)

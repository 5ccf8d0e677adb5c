"""Export of a gallery's samples to a file, and import.

It is a `.safetensors` file of five tensors: `embeddings` [I, D] float32; `labels` [I] int64, the index of
each sample's name in `names`; `times` [I] int64, microseconds since 1970; `names` and `sources`, uint8,
UTF-8, one a line. The manifest in its header names the encoder.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from quickstudy.core import checkpoint, files
from quickstudy.core.arrays import Float32Array
from quickstudy.recognition.gallery.database import PRIVATE, WIRE
from quickstudy.recognition.gallery.naming import checked_name, checked_text

SCHEMA = 1
"""Version of the format of exports; raise it if older releases can't read the new format."""

LATEST = 253_402_300_799_000_000
"""Last second of the year 9999, in microseconds since 1970: the last time that a date can have."""


@dataclass(frozen=True)
class Kind:
    """Kind of embeddings that a gallery holds.

    Args:
        encoder: Fingerprint of the encoder.
        dimensions: Dimensions D of an embedding.
        cosine: Whether embeddings are unit vectors.
    """

    encoder: str
    dimensions: int
    cosine: bool


@dataclass(frozen=True)
class Samples:
    """Samples of any names.

    Args:
        names: Name of each sample, [I].
        sources: Digest of each sample's file, or other source, [I].
        embeddings: Embeddings [I, D], float32.
        times: Time when each was enrolled, [I], in microseconds since 1970.
    """

    names: Sequence[str]
    sources: Sequence[str]
    embeddings: Float32Array
    times: Sequence[int]

    def __len__(self) -> int:
        """Number I of samples."""
        return len(self.names)

    def __getitem__(self, part: slice) -> "Samples":
        """A part of the samples."""
        return Samples(self.names[part], self.sources[part], self.embeddings[part], self.times[part])


def write_export(path: Path, kind: Kind, samples: Iterable[Sequence[Any]]) -> int:
    """Write samples to a file, whole or not at all.

    Args:
        path: Path of the file.
        kind: Kind of the embeddings.
        samples: Name, source, time in microseconds since 1970, and embedding as bytes, of each sample.

    Returns:
        Number of samples written.
    """
    names: dict[str, int] = {}
    labels: list[int] = []
    sources: list[str] = []
    times: list[int] = []
    embeddings = bytearray()
    for name, source, time, embedding in samples:
        labels.append(names.setdefault(name, len(names)))
        sources.append(source)
        times.append(time)
        embeddings += embedding
    tensors: dict[str, npt.NDArray[Any]] = {
        "embeddings": np.frombuffer(embeddings, WIRE).reshape(-1, kind.dimensions),
        "labels": np.array(labels, np.int64),
        "times": np.array(times, np.int64),
        "names": _lines(names),
        "sources": _lines(sources),
    }
    manifest = {
        "kind": "gallery",
        "schema": SCHEMA,
        **asdict(kind),
        "names": len(names),
        "samples": len(labels),
    }
    blob = safetensors.numpy.save(tensors, {checkpoint.MANIFEST: json.dumps(manifest)})
    files.write_whole(path, blob, PRIVATE)
    return len(labels)


def read_export(path: Path) -> tuple[Kind, Samples]:
    """Read a file that `write_export` has written.

    Args:
        path: Path of the file.

    Returns:
        Kind of the embeddings, and the samples.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, no export, or written by a newer version. All of it is checked:
            nothing that couldn't have been enrolled is returned.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: name one that a gallery was exported to")
    try:
        tensors, manifest = checkpoint.load(path)
        return _checked({k: v.numpy() for k, v in tensors.items()}, manifest)
    except Exception as error:  # a foreign file: whatever its reading throws, it can't be read
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise ValueError(
            f"{path} is damaged or no export of a gallery ({reason}), and nothing was imported: export it "
            "again, "
            "with this version"
        ) from None


def _checked(tensors: dict[str, npt.NDArray[Any]], manifest: object) -> tuple[Kind, Samples]:
    if not isinstance(manifest, dict):
        raise ValueError("its manifest is no object")
    stated = cast("dict[str, object]", manifest)
    if stated.get("kind") != "gallery":
        raise ValueError("it is a checkpoint of a model")
    schema, encoder, dimensions = stated["schema"], stated["encoder"], stated["dimensions"]
    cosine, count = stated["cosine"], stated["samples"]
    numbers = (schema, dimensions, count)
    if not all(isinstance(n, int) and not isinstance(n, bool) for n in numbers):
        raise ValueError("its numbers in the manifest are none")
    if not isinstance(encoder, str) or not isinstance(cosine, bool):
        raise ValueError("its manifest doesn't say of which encoder it is")
    assert isinstance(schema, int)
    assert isinstance(dimensions, int)
    if schema > SCHEMA:
        raise ValueError("it is by a newer quickstudy")
    wanted = {"embeddings": np.float32, "labels": np.int64, "times": np.int64, "names": np.uint8}
    for name, dtype in (wanted | {"sources": np.uint8}).items():
        if tensors[name].dtype != dtype or tensors[name].ndim != (2 if name == "embeddings" else 1):
            raise ValueError(f"its {name} are {tensors[name].dtype} {list(tensors[name].shape)}")
    embeddings, labels, times = tensors["embeddings"], tensors["labels"], tensors["times"]
    names = [checked_name(name) for name in _texts(tensors["names"])]
    sources = [checked_text(source, "source") for source in _texts(tensors["sources"])]
    if {len(labels), len(times), len(sources), len(embeddings)} != {count}:
        raise ValueError("its parts differ in length")
    if dimensions < 1 or embeddings.shape[1] != dimensions:
        raise ValueError(f"its embeddings have {embeddings.shape[1]} dimensions, not {dimensions}")
    if len(set(names)) < len(names):
        raise ValueError("a name is there twice")
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(names):
        raise ValueError(f"its labels aren't those of its {len(names)} names")
    if len(times) and not 0 <= times.min() <= times.max() <= LATEST:
        raise ValueError("a time isn't between 1970 and 9999")
    if not np.isfinite(embeddings).all():
        raise ValueError("an embedding isn't finite")
    of = [names[label] for label in labels.tolist()]
    return Kind(encoder, dimensions, cosine), Samples(of, sources, embeddings, times.tolist())


def _lines(texts: Iterable[str]) -> npt.NDArray[np.uint8]:
    return np.frombuffer("\n".join(texts).encode(), np.uint8)


def _texts(lines: npt.NDArray[np.uint8]) -> list[str]:
    return lines.tobytes().decode().split("\n") if len(lines) else []

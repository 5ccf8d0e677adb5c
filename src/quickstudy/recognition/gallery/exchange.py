"""Export of a gallery's samples to a file, and import.

It is a `.safetensors` file of five tensors: `embeddings` [I, D] float32; `labels` [I] int64, the index of
each sample's name in `names`; `times` [I] int64, microseconds since 1970; `names` and `sources`, uint8,
UTF-8, one a line. The manifest in its header names the encoder.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from quickstudy.core import checkpoint, files
from quickstudy.core.arrays import Float32Array
from quickstudy.recognition.gallery.database import PRIVATE, WIRE

SCHEMA = 1
"""Version of the format of galleries and exports; raise it if older releases can't read the new format."""


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
        ValueError: If it is damaged, no export, or written by a newer version.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: name one that a gallery was exported to")
    try:
        tensors, manifest = checkpoint.load(path)
        if manifest.get("kind") != "gallery":
            raise ValueError("it is a checkpoint of a model")
        if manifest["schema"] > SCHEMA:
            raise ValueError("it is by a newer quickstudy")
        names = _texts(tensors["names"].numpy())
        sources = _texts(tensors["sources"].numpy())
        labels, times = tensors["labels"].tolist(), tensors["times"].tolist()
        embeddings: Float32Array = tensors["embeddings"].numpy()
        if {len(labels), len(times), len(sources), len(embeddings)} != {manifest["samples"]}:
            raise ValueError("its parts differ in length")
        samples = Samples([names[label] for label in labels], sources, embeddings, times)
        return Kind(manifest["encoder"], manifest["dimensions"], manifest["cosine"]), samples
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged or no export of a gallery ({error}): export it again, with this version"
        ) from None


def _lines(texts: Iterable[str]) -> npt.NDArray[np.uint8]:
    return np.frombuffer("\n".join(texts).encode(), np.uint8)


def _texts(lines: npt.NDArray[np.uint8]) -> list[str]:
    return lines.tobytes().decode().split("\n") if len(lines) else []

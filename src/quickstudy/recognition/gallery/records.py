"""What a gallery answers with."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal


@dataclass(frozen=True)
class Entry:
    """A name, how many samples it has, and when the first and the last of them were enrolled, in UTC."""

    name: str
    samples: int
    first: datetime
    last: datetime


@dataclass(frozen=True)
class Sample:
    """Digest of what an embedding came from, and when it was enrolled, in UTC."""

    source: str
    time: datetime


@dataclass(frozen=True)
class Match:
    """A name, its distance ≥ 0 to a probe, and how many samples it has."""

    name: str
    distance: float
    samples: int


@dataclass(frozen=True)
class Stats:
    """What a gallery holds.

    Args:
        names: how many.
        samples: of all names.
        fewest: samples of a name.
        most: samples of a name.
        dimensions: D.
        cosine: whether embeddings are unit vectors.
        encoder: fingerprint.
        backend: "sqlite" or "postgresql".
        bytes: on the disk.
        revision: how many transactions have written.
    """

    names: int
    samples: int
    fewest: int
    most: int
    dimensions: int
    cosine: bool
    encoder: str
    backend: Literal["sqlite", "postgresql"]
    bytes: int
    revision: int

"""Results of a gallery's queries."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal


@dataclass(frozen=True)
class Entry:
    """A name in a gallery.

    Args:
        name: Enrolled name.
        samples: Number of samples.
        first: Time in UTC when the first sample was enrolled.
        last: Time in UTC when the last sample was enrolled.
    """

    name: str
    samples: int
    first: datetime
    last: datetime


@dataclass(frozen=True)
class Sample:
    """A sample in a gallery.

    Args:
        source: Digest of the file, or other source, of the embedding.
        time: Time in UTC when it was enrolled.
    """

    source: str
    time: datetime


@dataclass(frozen=True)
class Match:
    """A name near a probe.

    Args:
        name: Enrolled name.
        distance: Euclidean distance ≥ 0 of the probe to the name.
        samples: Number of samples of the name.
    """

    name: str
    distance: float
    samples: int


@dataclass(frozen=True)
class Stats:
    """Figures of a gallery.

    Args:
        names: Number of names.
        samples: Number of samples of all names.
        fewest: Smallest number of samples of a name.
        most: Largest number of samples of a name.
        dimensions: Dimensions D of an embedding.
        cosine: Whether embeddings are unit vectors.
        encoder: Fingerprint of the encoder.
        backend: Kind of database, "sqlite" or "postgresql".
        bytes: Size on the disk, in bytes.
        revision: Number of transactions that have written.
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

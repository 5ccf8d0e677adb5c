"""Features: vectors of numbers that an encoder has made, one an item."""

import io
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from quickstudy.core.arguments import checked_class
from quickstudy.data.formats.content import FileOrBytes, bytes_of


@checked_class
@dataclass(frozen=True)
class FeatureFormat:
    """Format of vectors, of which a file `.npy` holds one.

    Args:
        dimensions: Length D of a vector, at least 1.

    Raises:
        ValueError: If it is too small.
    """

    dimensions: int

    dtype: ClassVar[type[np.uint8 | np.int16 | np.float32]] = np.float32
    noun: ClassVar[str] = "features"

    def __post_init__(self) -> None:
        """Check the argument."""
        if self.dimensions < 1:
            raise ValueError(f"dimensions is {self.dimensions}: it must be at least 1")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one item, (D,)."""
        return (self.dimensions,)

    def as_dict(self) -> dict[str, Any]:
        """JSON-serializable form for a manifest."""
        return asdict(self)

    def decode(self, source: FileOrBytes) -> npt.NDArray[Any]:
        """Read the vector in a file.

        Args:
            source: Path of a file `.npy`, or function that returns its bytes.

        Returns:
            [D] numbers, float32.

        Raises:
            OSError: If it holds no such vector.
        """
        try:
            vector = np.load(io.BytesIO(bytes_of(source)), allow_pickle=False)
        except ValueError as error:
            raise OSError(f"no array of numpy ({error})") from None
        if vector.shape != self.shape or vector.dtype.kind not in "fiu":
            raise OSError(f"it holds {vector.dtype} {list(vector.shape)}, not {self.dimensions} numbers")
        with np.errstate(over="ignore"):  # said below
            vector = vector.astype(np.float32)
        if not np.isfinite(vector).all():
            raise OSError("a number is not finite")
        return vector

    @staticmethod
    def endings() -> frozenset[str]:
        """File name extensions of its files."""
        return frozenset({".npy"})

"""The score of a probe against the samples of a name: distances, poolings, centroids.

The gallery searches by Euclidean distance in float32 (torch), thresholds are measured with energies in
float64 (numpy). Both pool here. `score_of` turns a distance of the gallery into a score.
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Pooling = Literal["centroid", "nearest", "top"]
"""How the distances of a probe to the samples of a name become one: the distance to their mean; the least; or
the root mean square of the `TOP` least, which under the cosine is the mean of their energies."""
Energy = Literal["cosine", "euclidean"]
"""Distance that an encoder was trained with: 1 − cos(p, g), or ‖p − g‖."""
TOP = 3
"""Number of nearest samples that the pooling "top" averages."""


def euclidean(probes: Tensor, rows: Tensor) -> Tensor:
    """Distances ‖p − g‖, computed from differences: precise even where the two are almost the same.

    Args:
        probes: Embeddings [B, D].
        rows: Embeddings [M, D].

    Returns:
        Distances [B, M] ≥ 0.
    """
    return torch.cdist(probes, rows, compute_mode="donot_use_mm_for_euclid_dist")


def energies(probes: npt.NDArray[np.float64], rows: npt.NDArray[np.float64], energy: Energy) -> Tensor:
    """Energies of single embeddings, by a matrix product.

    Args:
        probes: Embeddings [B, D]; of length 1 for the cosine.
        rows: Embeddings [M, D] of any length; with length 0 the cosine is 0.
        energy: "cosine" or "euclidean".

    Returns:
        Energies [B, M].
    """
    if energy == "cosine":
        return torch.from_numpy(1 - probes @ unit(rows).T)
    squares = (probes**2).sum(1)[:, None] + (rows**2).sum(1) - 2 * probes @ rows.T
    return torch.from_numpy(np.sqrt(np.maximum(squares, 0)))


def pooled(values: Tensor, pooling: Pooling, squared: bool = False, dim: int = -1) -> Tensor:
    """Distances to names, from those to the samples of each.

    Args:
        values: Distances [..., n] to the n rows of a name: its samples, or its centroid alone.
        pooling: "top" for the `TOP` least; with either of the others, the least.
        squared: Whether the values are squared distances, or energies of the cosine, which are half of these:
            then "top" is their mean, not their root mean square.
        dim: Dimension of the n rows.

    Returns:
        Distances [...], squared if the values are.
    """
    if values.shape[dim] == 1:
        return values.select(dim, 0)
    if pooling != "top":
        return values.amin(dim)
    least = _least(values, dim)
    return least.mean(0) if squared else least.square().mean(0).sqrt()


def _least(values: Tensor, dim: int) -> Tensor:
    """The `TOP` least along a dimension, or all if there are fewer, in a new first dimension."""
    n = values.shape[dim]
    if not TOP < n <= 64 or values.numel() < 100 * n * n:
        return values.topk(min(TOP, n), dim, largest=False).values.movedim(dim, 0)
    # topk sorts every short list by itself. A running minimum, second and third, of whole slices at a time,
    # takes a third of the time for large tensors.
    first = second = third = torch.full_like(values.select(dim, 0), torch.inf)
    for v in values.unbind(dim):
        third = torch.minimum(third, torch.maximum(second, v))
        second = torch.minimum(second, torch.maximum(first, v))
        first = torch.minimum(first, v)
    return torch.stack([first, second, third])


def score_of(distance: float, energy: Energy) -> float:
    """Score of a probe against a name, the negative energy.

    Args:
        distance: Euclidean distance ≥ 0, as the gallery finds it; between unit vectors for the cosine.
        energy: "cosine", for which 1 − cos is half the squared distance, or "euclidean".

    Returns:
        Score ≤ 0; the higher, the likelier the probe is of the name.
    """
    return -(distance**2) / 2 if energy == "cosine" else -distance


def unit(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Embeddings [..., D] divided by their lengths; the zero vector stays."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def centroids(
    rows: npt.NDArray[np.float32], counts: npt.NDArray[np.int64], cosine: bool
) -> npt.NDArray[np.float32]:
    """Mean embedding of each name.

    Args:
        rows: Embeddings [M, D] of the samples, name after name.
        counts: Number of samples of each name, [n], at least 1, M in total.
        cosine: Whether embeddings are unit vectors; then the means are scaled to length 1 as well.

    Returns:
        Centroids [n, D], float32.
    """
    sums = np.add.reduceat(rows, np.cumsum(counts) - counts, axis=0, dtype=np.float64)
    return means_of(sums, counts, cosine)


def means_of(sums: npt.NDArray[Any], counts: npt.NDArray[np.int64], cosine: bool) -> npt.NDArray[np.float32]:
    """Mean embedding of each name, from sums.

    Args:
        sums: Sum [n, D] of the samples of each name.
        counts: Number of samples of each name, [n], at least 1.
        cosine: Whether embeddings are unit vectors; then the means are scaled to length 1 as well.

    Returns:
        Centroids [n, D], float32.
    """
    means = sums / counts[:, None]
    return (unit(means) if cosine else means).astype(np.float32)


def nearness(products: npt.NDArray[Any], rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Ranks rows by their distance to a probe, ‖p‖² / 2 − ‖p − g‖² / 2, without computing the distance.

    Args:
        products: Dot products p·g, [..., M].
        rows: Embeddings g, [M, D].

    Returns:
        Nearness [..., M]; the greater, the nearer.
    """
    return products - np.square(rows).sum(1) / 2

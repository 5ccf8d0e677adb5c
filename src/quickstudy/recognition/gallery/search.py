"""Exact search among named embeddings, in memory.

Names with the same number of samples lie in one array [n, c, D], a `Group`. So a search is one matrix product
a group, and pooling a reduction over its axis c, even if names differ in their numbers of samples. It takes
4 (D + 1) bytes of memory a row, a row being a sample, or a name if pooling is by centroid, and up to an
eighth more if names were added later; a search takes a few times 8 MB in addition.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from quickstudy.core.arrays import Float32Array, IntArray
from quickstudy.core.kernels.sizes import sizes_on
from quickstudy.recognition.gallery.pooling import Pooling, centroids, euclidean, pooled

SPARE = 8
"""Number of names beyond k that the quick pass, by matrix product, hands to the precise pass."""


class Group:
    """Names with c rows each.

    Args:
        rows: Number c of rows of a name.
        dimensions: Dimensions D of an embedding.
        capacity: Number of names to allocate memory for; with more, all are moved.
    """

    def __init__(self, rows: int, dimensions: int, capacity: int) -> None:
        self.size = 0
        self.names: IntArray = np.empty(capacity, np.int64)
        self.rows: Float32Array = np.empty((capacity, rows, dimensions), np.float32)
        self.norms: Float32Array = np.empty((capacity, rows), np.float32)
        """Squared length of each row."""

    def append(self, names: IntArray, rows: Float32Array) -> IntArray:
        """Add names.

        Args:
            names: Numbers of the names, [n].
            rows: Rows of each name, [n, c, D].

        Returns:
            Places of the names in the group, [n].
        """
        end = self.size + len(names)
        if end > len(self.names):
            capacity = end + end // 8 + 16
            self.names = _moved(self.names, capacity)
            self.rows = _moved(self.rows, capacity)
            self.norms = _moved(self.norms, capacity)
        places = np.arange(self.size, end)
        self.names[self.size : end] = names
        self.rows[self.size : end] = rows
        self.norms[self.size : end] = np.einsum("ncd,ncd->nc", rows, rows)
        self.size = end
        return places

    def drop(self, place: int) -> int:
        """Remove a name; the last name moves to its place.

        Args:
            place: Place of the name in the group.

        Returns:
            Number of the name that was moved.
        """
        self.size -= 1
        for a in (self.names, self.rows, self.norms):
            a[place] = a[self.size]
        return int(self.names[place])

    def nearest(self, probes: Tensor, k: int, pooling: Pooling) -> tuple[Tensor, Tensor]:
        """Find the nearest names to each probe, in no order.

        Args:
            probes: Embeddings [B, D].
            k: Number of names to find; fewer if the group has fewer.
            pooling: Pooling of the distances to the c rows of a name.

        Returns:
            Distances [B, K], and numbers of the names [B, K]; K is at least k if the group has as many.
        """
        keep = min(k + SPARE, self.size)
        least, places = torch.empty(len(probes), 0), torch.empty(len(probes), 0, dtype=torch.int64)
        step = max(1, sizes_on().searched_distances // (self.rows.shape[1] * len(probes)))
        for start in range(0, self.size, step):
            found = self._quick(probes, slice(start, min(start + step, self.size)), pooling)
            some, at = found.topk(min(keep, found.shape[1]), largest=False, sorted=False)
            least, places = torch.cat([least, some], 1), torch.cat([places, at + start], 1)
            if least.shape[1] > keep:
                least, at = least.topk(keep, largest=False, sorted=False)
                places = places.gather(1, at)
        rows = torch.from_numpy(self.rows)
        exact = torch.stack(
            [
                pooled(euclidean(p[None], rows[at].flatten(0, 1)).view(len(at), -1), pooling)
                for p, at in zip(probes, places, strict=True)
            ]
        )
        return exact, torch.from_numpy(self.names)[places]

    def _quick(self, probes: Tensor, part: slice, pooling: Pooling) -> Tensor:
        """Rank [B, n] of the names of a part: ‖g‖² − 2 p·g, pooled, is the squared distance minus ‖p‖².

        One matrix product gives it, but imprecisely where two embeddings are almost the same.
        """
        rows, norms = torch.from_numpy(self.rows[part]), torch.from_numpy(self.norms[part])
        n, c, _ = rows.shape
        if c == 1:
            return torch.addmm(norms[:, 0], probes, rows[:, 0].T, alpha=-2)
        # probes last, so that pooling works on contiguous memory
        squares = torch.addmm(norms.view(-1, 1), rows.view(n * c, -1), probes.T, alpha=-2).view(n, c, -1)
        return pooled(squares, pooling, squared=True, dim=1).T


def _moved(array: npt.NDArray[Any], capacity: int) -> npt.NDArray[Any]:
    roomy = np.empty((capacity, *array.shape[1:]), array.dtype)
    roomy[: len(array)] = array
    return roomy


class SearchIndex:
    """Rows of all names of a gallery, in memory.

    Args:
        dimensions: Dimensions D of an embedding.
        centroid: Whether a name has one row, the mean of its samples, rather than a row for each sample.
        cosine: Whether embeddings are unit vectors.
        expected: Number of names to allocate memory for, by their number of samples.
    """

    def __init__(self, dimensions: int, centroid: bool, cosine: bool, expected: Mapping[int, int]) -> None:
        self.dimensions, self.centroid, self.cosine = dimensions, centroid, cosine
        self._expected = {1: sum(expected.values())} if centroid else dict(expected)
        self.ids: IntArray = np.empty(0, np.int64)
        """Database ids of the names, [N], ascending."""
        self.counts: IntArray = np.empty(0, np.int64)
        """Number of samples of each name, [N]."""
        self._places: IntArray = np.empty(0, np.int64)
        """Place of each name in its group, [N]."""
        self._groups: dict[int, Group] = {}

    def put(self, ids: IntArray, counts: IntArray, rows: Float32Array) -> None:
        """Add names, or replace all rows of names that are there already.

        Args:
            ids: Database ids of the names, [n], ascending; new ones are larger than all that are there.
            counts: Number of samples of each name, [n].
            rows: Embeddings of all these samples, [M, D], name after name.
        """
        known = int(np.searchsorted(ids, self.ids[-1], side="right")) if len(self.ids) else 0
        at = np.searchsorted(self.ids, ids[:known])
        for name in at.tolist():
            group = self._groups[self._rows_of(name)]
            place = int(self._places[name])
            moved = group.drop(place)
            self._places[moved] = place
        self.counts[at] = counts[:known]
        names = np.concatenate([at, np.arange(len(self.ids), len(self.ids) + len(ids) - known)])
        self.ids = np.concatenate([self.ids, ids[known:]])
        self.counts = np.concatenate([self.counts, counts[known:]])
        self._places = np.concatenate([self._places, np.empty(len(ids) - known, np.int64)])
        if self.centroid:
            rows, counts = centroids(rows, counts, self.cosine), np.ones_like(counts)
        starts = np.cumsum(counts) - counts
        for c in np.unique(counts).tolist():
            chosen = counts == c
            added = rows[starts[chosen, None] + np.arange(c)]
            self._places[names[chosen]] = self._group(c, len(added)).append(names[chosen], added)

    def search(self, probes: Tensor, k: int, pooling: Pooling) -> tuple[Float32Array, IntArray]:
        """Find the names nearest to each probe, nearest first; ties are ordered by id.

        Args:
            probes: Embeddings [B, D].
            k: Number of names to find.
            pooling: Pooling of the distances to the rows of a name.

        Returns:
            Distances [B, K], and places of the names in `ids` [B, K]; K is less than k if there are fewer
            names.
        """
        groups = [group for group in self._groups.values() if group.size]
        found = [group.nearest(probes, k, pooling) for group in groups] if len(probes) else []
        if not found:
            return np.empty((len(probes), 0), np.float32), np.empty((len(probes), 0), np.int64)
        distances = torch.cat([distance for distance, _ in found], 1).numpy()
        names = torch.cat([name for _, name in found], 1).numpy()
        order = np.lexsort((names, distances))[:, :k]
        return np.take_along_axis(distances, order, 1), np.take_along_axis(names, order, 1)

    def _rows_of(self, name: int) -> int:
        return 1 if self.centroid else int(self.counts[name])

    def _group(self, c: int, least: int) -> Group:
        if c not in self._groups:
            room = max(least, self._expected.get(c, 0))
            self._groups[c] = Group(c, self.dimensions, room + room // 8 + 16)
        return self._groups[c]

"""Distances and class means that the metric learners share."""

from collections.abc import Callable
from typing import Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosines of the angles between a_i and b_j, in full precision; 0 where either is the zero vector.

    Args:
        a: [T, Q, D].
        b: [T, S, D].

    Returns:
        [T, Q, S] in −1 … 1.
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = (F.normalize(v, dim=-1, eps=1e-6) for v in (a, b))
        return a @ b.mT


def prototypes(z: Tensor, y: Tensor, ways: int) -> Tensor:
    """Class means (equation 1).

    Args:
        z: [T, S, D] embeddings of the support.
        y: [T, S] labels in 0 … N − 1; classes may have unequal numbers of items.
        ways: N.

    Returns:
        [T, N, D] prototypes.
    """
    member = F.one_hot(y, ways).to(z.dtype)
    with torch.autocast(z.device.type, enabled=False):
        return member.mT @ z / member.sum(1).unsqueeze(-1)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances ‖a_i − b_j‖².

    Computed as ‖a‖² + ‖b‖² − 2 a·b after moving the origin into the middle of `b`, so that nothing
    cancels when the embeddings lie far out, and never in reduced precision.

    Args:
        a: [T, Q, D].
        b: [T, N, D].

    Returns:
        [T, Q, N], each ≥ 0.
    """
    with torch.autocast(a.device.type, enabled=False):
        middle = b.mean(1, keepdim=True).detach()
        a, b = a - middle, b - middle
        products = torch.baddbmm(a.square().sum(-1, keepdim=True), a, b.mT, alpha=-2)
        return (products + b.square().sum(-1).unsqueeze(1)).clamp_min(0)


@runtime_checkable
class Distance(Protocol):
    """A function of the distances [T, A, B] between embeddings [T, A, D] and [T, B, D], with a name."""

    name: str

    def __call__(self, a: Tensor, b: Tensor, /) -> Tensor:
        """The distances."""
        ...


def _named(name: str) -> Callable[[Callable[[Tensor, Tensor], Tensor]], Distance]:
    """Name a distance. Fingerprints of encoders hold this name: it stays if the function is renamed."""

    def give(function: Callable[[Tensor, Tensor], Tensor]) -> Distance:
        function.__dict__["name"] = name
        return cast(Distance, function)

    return give


@_named("euclidean")
def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """Energy ‖a − b‖ ≥ 0, [T, A, B]; 1e-12 inside the root, so that its gradient at 0 is 0 and not NaN."""
    return (squared_distances(a, b) + 1e-12).sqrt()


@_named("cosine")
def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Energy 1 − cos(a, b) in 0 … 2, [T, A, B]."""
    return 1 - cosines(a, b)

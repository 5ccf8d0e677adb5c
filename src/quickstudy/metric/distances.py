"""Distances and class means that the metric learners share."""

from collections.abc import Callable
from typing import Any, Protocol, TypeGuard, cast, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosines of the angles between a_i and b_j, in full precision; 0 where either is the zero vector.

    Args:
        a: [T, Q, D] embeddings, usually of the queries.
        b: [T, S, D] embeddings, usually of the support.

    Returns:
        [T, Q, S] cosines in −1 … 1.
    """
    with torch.autocast(a.device.type, enabled=False):
        a = F.normalize(a, dim=-1, eps=1e-6)
        b = F.normalize(b, dim=-1, eps=1e-6)
        return a @ b.mT


def membership(y: Tensor, ways: int, dtype: torch.dtype) -> Tensor:
    """Indicator of the class of each item; its product with [T, S, D] embeddings sums them by class.

    Args:
        y: [T, S] labels in 0 … N − 1.
        ways: N, the number of classes.
        dtype: Type of the result, usually that of the embeddings.

    Returns:
        [T, N, S] 1 where item s is of class n, else 0.
    """
    return F.one_hot(y, ways).to(dtype).mT


def prototypes(z: Tensor, y: Tensor, ways: int) -> Tensor:
    """Class means (equation 1 of Snell et al. 2017).

    Args:
        z: [T, S, D] embeddings of the support.
        y: [T, S] labels in 0 … N − 1; classes may have unequal numbers of items.
        ways: N, the number of classes; each has an item.

    Returns:
        [T, N, D] prototypes.
    """
    member = membership(y, ways, z.dtype)
    with torch.autocast(z.device.type, enabled=False):
        return member @ z / member.sum(2, keepdim=True)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances ‖a_i − b_j‖².

    Computed as ‖a‖² + ‖b‖² − 2 a·b after moving the origin to the mean of `b`, so that no digits cancel
    when all embeddings are far from the origin, and never in reduced precision.

    Args:
        a: [T, Q, D] embeddings, usually of the queries.
        b: [T, N, D] embeddings, usually the prototypes.

    Returns:
        [T, Q, N] squared distances ≥ 0.
    """
    with torch.autocast(a.device.type, enabled=False):
        middle = b.mean(1, keepdim=True).detach()
        a, b = a - middle, b - middle
        if torch.is_grad_enabled():
            squares = a.square().sum(-1, keepdim=True)
        else:  # in one pass, and without memory for the squares
            squares = torch.linalg.vector_norm(a, dim=-1, keepdim=True).square()
        products = torch.baddbmm(squares, a, b.mT, alpha=-2)
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
def euclidean_distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance ‖a − b‖, as an energy for `Siamese`.

    1e-12 is added inside the root, so that the gradient at distance 0 is 0 and not NaN.

    Args:
        a: [T, A, D] embeddings.
        b: [T, B, D] embeddings.

    Returns:
        [T, A, B] distances > 0.
    """
    return (squared_distances(a, b) + 1e-12).sqrt()


@_named("cosine")
def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """Cosine distance 1 − cos(a, b), as an energy for `Siamese`.

    Args:
        a: [T, A, D] embeddings.
        b: [T, B, D] embeddings.

    Returns:
        [T, A, B] distances in 0 … 2.
    """
    return 1 - cosines(a, b)


class Embeds(Protocol):
    """A learner that compares embeddings: an encoder, and a distance with a name."""

    @property
    def encoder(self) -> nn.Module:
        """Encoder from items [B, ...] to embeddings [B, D]."""
        ...

    @property
    def distance(self) -> Distance | None:
        """Distance to compare embeddings by, or None if it has no name."""
        ...


def embeds(learner: Any) -> TypeGuard[Embeds]:
    """Whether a learner has an encoder and a property `distance`."""
    # isinstance of a runtime-checkable protocol sees no submodules, such as the encoder, from Python 3.12 on
    return hasattr(learner, "encoder") and hasattr(learner, "distance")

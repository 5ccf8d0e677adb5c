"""The nearest labelled items, by cosines."""

from torch import Tensor

from quickstudy.core.arguments import check_whole
from quickstudy.metric.distances import cosines, membership

LEAST = 1e-9
"""Share of the votes that a class without any gets, so that scores are finite."""


def nearest_neighbors(
    shots: Tensor, y: Tensor, ways: int, queries: Tensor, *, neighbors: int = 5, sharpness: float = 1 / 0.07
) -> Tensor:
    r"""The classes of the nearest items of the support, weighted by their cosines (inductive).

    $$p(k \mid q) = \frac{\sum_{s \in K(q)} [y_s = k] \exp(\tau \cos(q, z_s))}
    {\sum_{s \in K(q)} \exp(\tau \cos(q, z_s))}$$

    with K(q) the nearest items; where there are fewer, all. With one shot the class is that of the nearest.

    Args:
        shots: [T, S, D] features of the support.
        y: [T, S] labels in 0 … N − 1.
        ways: Number N of classes.
        queries: [T, Q, D] features of the queries.
        neighbors: Number of nearest items, at least 1.
        sharpness: τ > 0; the greater it is, the more the very nearest count.

    Returns:
        [T, Q, N] log p, with p at least 1e-9.

    Raises:
        ValueError: If there are no neighbors.

    Reference: Wu et al. 2018, "Unsupervised feature learning via non-parametric instance discrimination",
    section 3.4, with its τ = 1 / 0.07.

    Departures: 5 neighbors, not 200, as a support is small.
    """
    check_whole(1, neighbors=neighbors)
    near = cosines(queries, shots)  # [T, Q, S]
    number = min(neighbors, near.shape[-1])
    last = near.topk(number, -1).values[..., -1:]
    votes = (sharpness * near).masked_fill(near < last, float("-inf")).softmax(-1)
    return (votes @ membership(y, ways, votes.dtype).mT).clamp_min(LEAST).log()

"""BD-CSPN: class means rectified by the queries.

Jinlu Liu, Liang Song, Yongqiang Qin: "Prototype Rectification for Few-Shot Learning", ECCV 2020.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.core.arguments import check_whole
from quickstudy.metric.distances import cosines, prototypes
from quickstudy.metric.features.normalization import unit
from quickstudy.metric.heads import transductive


@transductive
def bd_cspn(
    shots: Tensor,
    y: Tensor,
    ways: int,
    queries: Tensor,
    *,
    sharpness: float = 10.0,
    confident: int | None = 8,
) -> Tensor:
    r"""BD-CSPN: queries moved to the support, and class means that take in the surest of them (transductive).

    All features are of unit length. The queries are moved by the difference of the means of support and
    queries (the cross-class bias). Then each is given to the class whose mean $P_k$ has the greatest cosine,
    and the Z surest of each class go into a new mean with the support (the intra-class bias):

    $$P'_k = \sum_{x \in X_k} w_{k}(x)\, x, \qquad
    w_k(x) = \frac{\exp(\varepsilon \cos(x, P_k))}{\sum_{x' \in X_k} \exp(\varepsilon \cos(x', P_k))}$$

    Args:
        shots: [T, S, D] features of the support.
        y: [T, S] labels in 0 … N − 1.
        ways: Number N of classes.
        queries: [T, Q, D] features of the queries.
        sharpness: ε > 0, here also the factor of the scores.
        confident: Number Z of queries of each class that are taken in; None for all.

    Returns:
        [T, Q, N] scores ε cos(q, P'_k).

    Raises:
        ValueError: If `confident` is no number from 1 on.

    Reference: Liu et al. 2020, section 3.2, with their ε = 10.

    Departures: none known; the authors have published no code, and Z = 8, about half of the usual 15 queries
    of a class, is our choice. easyfsl 1.5 has features of any length, ε = 1,
    takes in all queries, and classifies the queries where they were before they were moved.
    """
    means, moved = rectified(unit(shots), y, ways, unit(queries), sharpness, confident)
    return sharpness * cosines(moved, means)


def rectified(
    shots: Tensor, y: Tensor, ways: int, queries: Tensor, sharpness: float, confident: int | None
) -> tuple[Tensor, Tensor]:
    """Class means [T, N, D] that take in queries, and the queries [T, Q, D] as they were moved.

    Args:
        shots: [T, S, D] features of the support.
        y: [T, S] labels in 0 … N − 1.
        ways: Number N of classes.
        queries: [T, Q, D] features of the queries.
        sharpness: ε > 0.
        confident: Number Z of queries of each class that are taken in; None for all.
    """
    means = prototypes(shots, y, ways)
    moved = queries + (shots.mean(1, keepdim=True) - queries.mean(1, keepdim=True))
    near = cosines(moved, means)
    taken = F.one_hot(near.argmax(-1), ways).bool()
    if confident is not None:
        check_whole(1, confident=confident)
        own = near.masked_fill(~taken, -torch.inf)
        taken &= own >= own.topk(min(confident, own.shape[1]), 1).values[:, -1:]
    near = torch.cat([cosines(shots, means), near], 1)
    members = torch.cat([F.one_hot(y, ways).bool(), taken], 1)
    weights = (sharpness * near).masked_fill(~members, -torch.inf).softmax(1)
    return weights.mT @ torch.cat([shots, moved], 1), moved

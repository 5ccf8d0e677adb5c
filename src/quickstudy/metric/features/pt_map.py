"""PT-MAP: features made more Gaussian, then classes by optimal transport.

Yuqing Hu, Vincent Gripon, Stéphane Pateux: "Leveraging the Feature Distribution in Transfer-based Few-Shot
Learning", ICANN 2021.
"""

import torch
from torch import Tensor

from quickstudy.metric.distances import membership, prototypes, squared_distances
from quickstudy.metric.features.normalization import unit
from quickstudy.metric.heads import transductive

TOLERANCE, MOST = 1e-6, 1000
"""The transport has converged when no row's sum changes by more, and ends after so many iterations."""
LEAST = 1e-30
"""What an entry of the plan's kernel is at least, so that no sum of them is 0."""


@transductive
def pt_map(
    shots: Tensor,
    y: Tensor,
    ways: int,
    queries: Tensor,
    *,
    power: float = 0.5,
    sharpness: float = 10.0,
    rate: float = 0.2,
    steps: int = 20,
) -> Tensor:
    r"""PT-MAP: power transform, then class means and assignments in turns (transductive).

    Features, which are to be ≥ 0, are transformed, $z = (f(x) + 10^{-6})^\beta$, brought to unit length,
    centered, support and queries each by their own mean, and brought to unit length again. The class means
    $c_k$ begin as those of the support. In each step the queries are assigned to classes by the transport
    plan P that costs least, with an entropy term, among those that give each query the weight 1 and each
    class Q / N queries (Sinkhorn's algorithm):

    $$P = \arg\min_P \sum_{qk} P_{qk} \lVert z_q - c_k \rVert^2 - \tfrac{1}{\lambda} H(P), \qquad
    c_k \leftarrow c_k + \alpha \left(\frac{\sum_s [y_s = k] z_s + \sum_q P_{qk} z_q}
    {\sum_s [y_s = k] + \sum_q P_{qk}} - c_k\right)$$

    It takes the classes to have equally many queries; where they don't, it loses.

    Args:
        shots: [T, S, D] features of the support; what is below 0 counts as 0.
        y: [T, S] labels in 0 … N − 1.
        ways: Number N of classes.
        queries: [T, Q, D] features of the queries.
        power: β of the transform.
        sharpness: λ > 0.
        rate: α in (0, 1].
        steps: Number of steps.

    Returns:
        [T, Q, N] log P.

    Reference: Hu et al. 2021, with the values of the authors' code: β = 0.5, λ = 10, α = 0.2, 20 steps.

    Departures: none; the authors' rotation to fewer dimensions (QR) changes no distance, and is left out.
    Each task's transport ends by itself, theirs when that of all tasks has. easyfsl 1.5 leaves out both unit
    lengths and the centering, and takes 10 steps.
    """
    z, q = (unit(power_transform(x, power)) for x in (shots, queries))
    z, q = (unit(x - x.mean(1, keepdim=True)) for x in (z, q))
    return transported(z, y, ways, q, sharpness, rate, steps)


def power_transform(z: Tensor, power: float) -> Tensor:
    """Features (z + 1e-6)^β [T, B, D], with z at least 0.

    Args:
        z: [T, B, D] features.
        power: β.
    """
    return (z.clamp_min(0) + 1e-6).pow(power)


def transported(
    shots: Tensor, y: Tensor, ways: int, queries: Tensor, sharpness: float, rate: float, steps: int
) -> Tensor:
    """Logarithms [T, Q, N] of the transport plan after some steps of means and assignments in turns (MAP).

    Args:
        shots: [T, S, D] features of the support.
        y: [T, S] labels in 0 … N − 1.
        ways: Number N of classes.
        queries: [T, Q, D] features of the queries.
        sharpness: λ > 0.
        rate: α in (0, 1].
        steps: Number of steps.
    """
    means, own = prototypes(shots, y, ways), membership(y, ways, shots.dtype)
    for _ in range(steps):
        plan = log_plan(squared_distances(queries, means), sharpness).exp().mT
        total = own.sum(2, keepdim=True) + plan.sum(2, keepdim=True)
        means = means + rate * ((own @ shots + plan @ queries) / total - means)
    return log_plan(squared_distances(queries, means), sharpness)


def log_plan(cost: Tensor, sharpness: float) -> Tensor:
    """Logarithms of the transport plan between queries and classes, by Sinkhorn's algorithm.

    The sum over the classes is 1 for each query, that over the queries Q / N for each class.

    Args:
        cost: [T, Q, N] costs.
        sharpness: Weight λ of the costs beside the plan's entropy.

    Returns:
        [T, Q, N] log P; what is below 1e-30 of its query isn't exact.
    """
    logits = (-sharpness * cost).log_softmax(-1)  # which divides each row by its sum, as the algorithm begins
    kernel, each = logits.exp().clamp_min(LEAST), cost.shape[1] / cost.shape[2]
    plan, tasks = logits.clone(), torch.arange(len(cost), device=cost.device)
    rows = kernel.sum(2, keepdim=True)  # [T, Q, 1], whose inverses are the factors of the queries
    sums = torch.zeros_like(rows)
    for i in range(MOST):
        columns = each / (kernel.mT @ rows.reciprocal())  # [T, N, 1] factors of the classes
        following = kernel @ columns
        before, sums = sums, following / rows
        done = (sums - before).abs().amax((1, 2)) <= TOLERANCE
        if i == MOST - 1:
            done = torch.ones_like(done)
        if done.any():  # these tasks have their plan; the others go on without them
            plan[tasks[done]] += (columns.log().mT - rows.log())[done]
            if done.all():
                break
            on = ~done
            kernel, tasks, following, sums = kernel[on], tasks[on], following[on], sums[on]
        rows = following
    return plan

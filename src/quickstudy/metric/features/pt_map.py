"""PT-MAP: features made more Gaussian, then classes by optimal transport.

Yuqing Hu, Vincent Gripon, Stéphane Pateux: "Leveraging the Feature Distribution in Transfer-based Few-Shot
Learning", ICANN 2021.
"""

import torch
from torch import Tensor

from quickstudy.metric.distances import squared_distances
from quickstudy.metric.features.normalization import unit
from quickstudy.metric.heads import transductive
from quickstudy.metric.semi_supervised import k_means

TOLERANCE, MOST = 1e-12, 100
"""The plan is found when the sums of all classes are right up to this share; so many steps at most."""
PARTS = (1.0, 0.5, 0.25, 0.1, 0.03)
"""Parts of a step of Newton's method that are tried."""
LEAST = 1e-300
"""What the sum of a class is at least that a logarithm is taken of."""


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
    class Q / N queries:

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

    Departures: none from the paper. The authors' code ends Sinkhorn's algorithm when the weights of the
    queries change by less than 1e-6, here the plan is exact; its rotation to fewer dimensions (QR) changes no
    distance, and is left out. easyfsl 1.5 leaves out both unit lengths and the centering, and takes 10 steps.
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

    def plan(items: Tensor, means: Tensor) -> Tensor:
        return log_plan(squared_distances(items, means), sharpness)

    means = k_means(shots, y, ways, queries, steps, lambda q, c: plan(q, c).exp(), rate)
    return plan(queries, means)


def log_plan(cost: Tensor, sharpness: float) -> Tensor:
    r"""Logarithms of the transport plan between queries and classes that costs least, with an entropy term.

    The sum over the classes is 1 for each query, that over the queries Q / N for each class. So
    $P_{qk} = \operatorname{softmax}_k(b_k - \lambda C_{qk})$, with the b that make the sums of the classes
    right. They are found by Newton's method, in float64 where the device has it. A step that doesn't bring
    the sums nearer is replaced by the best of parts of it and a step of Sinkhorn's algorithm.

    Args:
        cost: [T, Q, N] costs C.
        sharpness: Weight λ of the costs beside the plan's entropy.

    Returns:
        [T, Q, N] log P; no gradient flows through b.
    """
    logits = -sharpness * (cost if cost.device.type == "mps" else cost.double())
    shifts = _shifts(logits.detach())
    return (logits + shifts.unsqueeze(1)).log_softmax(-1).to(cost.dtype)


def _shifts(logits: Tensor) -> Tensor:
    """The shifts b [T, N] of the plan, by Newton's method."""
    shifts, each = torch.zeros_like(logits[:, 0]), logits.shape[1] / logits.shape[2]
    plan, off = _shifted(logits, shifts, each)
    for _ in range(MOST):
        error = off.abs().amax(1)
        going = (error > TOLERANCE * each).nonzero()[:, 0]  # a task that has its plan is left alone
        if not len(going):
            break
        p, wrong = plan[going], off[going]
        slope = (
            torch.diag_embed(p.sum(1)) - p.mT @ p + each / logits.shape[2]
        )  # a constant to b changes nothing
        step = torch.linalg.solve_ex(slope, wrong.unsqueeze(2))[0].squeeze(2)
        plan_at, off_at = _shifted(logits[going], shifts[going] - step, each)
        far = (~(off_at.abs().amax(1) < error[going] / 2)).nonzero()[:, 0]
        if len(far):
            sinkhorn = ((wrong[far] + each).clamp_min(LEAST) / each).log()
            steps = torch.stack([*(part * step[far] for part in PARTS), sinkhorn])  # [steps, far, N]
            plans, offs = _shifted(logits[going[far]], shifts[going[far]] - steps, each)
            best = (
                offs.abs().amax(2).nan_to_num(torch.inf).argmin(0),
                torch.arange(len(far), device=far.device),
            )
            step[far], plan_at[far], off_at[far] = steps[best], plans[best], offs[best]
        shifts[going], plan[going], off[going] = shifts[going] - step, plan_at, off_at
    return shifts


def _shifted(logits: Tensor, shifts: Tensor, each: float) -> tuple[Tensor, Tensor]:
    """The plan by the shifts b [..., T, N], [..., T, Q, N], and what each class has too much, [..., T, N]."""
    plan = (logits + shifts.unsqueeze(-2)).softmax(-1)
    return plan, plan.sum(-2) - each

"""MetaOptNet, a head of multi-class support vector machines.

Kwonjoon Lee, Subhransu Maji, Avinash Ravichandran, Stefano Soatto: "Meta-Learning with Differentiable Convex
Optimization", CVPR 2019.
"""

import torch
from torch import Tensor, nn

from quickstudy.core.blueprint import rebuildable
from quickstudy.core.episode import Support
from quickstudy.core.learner import Learner, embed_together
from quickstudy.metric.distances import membership

ROUNDS = 30
"""Most rounds of the interior-point method; it takes eight to twenty-five."""


@rebuildable
class MetaOptNet(Learner):
    r"""MetaOptNet: a linear head on the embeddings, fitted to the support of each task as an SVM.

    It is the multi-class machine of Crammer and Singer, with $z_s$ the embeddings of the support:

    $$\min_{w, \xi}\; \frac{1}{2} \sum_k \lVert w_k \rVert^2 + C \sum_s \xi_s, \qquad
    w_{y_s} \cdot z_s - w_k \cdot z_s \ge 1 - [k = y_s] - \xi_s \tag{1}$$

    Its dual, with $K_{st} = z_s \cdot z_t$, is what is solved:

    $$\min_\alpha\; \frac{1}{2} \sum_k \alpha_k^\top (K + \rho I) \alpha_k - \sum_s \alpha_{s y_s}, \qquad
    \alpha_{sk} \le C [k = y_s], \quad \sum_k \alpha_{sk} = 0 \tag{2}$$

    $$\hat y_k = \gamma\, w_k \cdot f_\phi(x), \qquad w_k = \sum_s \alpha_{sk} z_s \tag{3}$$

    The meta-loss is the cross-entropy of $\mathrm{softmax}(\hat y)$, averaged over the queries; its gradient
    flows through the solution. γ is learned with the encoder. The numbers of the equations are ours.

    Args:
        encoder: Any module from [B, ...] to [B, D].
        cost: C > 0, what an item costs that is on the wrong side; the greater it is, the closer the fit.
        ridge: ρ > 0, which makes the solution unique.
        scale: γ, the factor from the machine's outputs to scores, at the start of training.

    Raises:
        ValueError: If `cost` or `ridge` is not positive.

    Reference: Lee, Maji, Ravichandran, Soatto: "Meta-Learning with Differentiable Convex Optimization", CVPR
    2019; Crammer, Singer: "On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines",
    JMLR 2001.

    Departures: the paper has no ρ; the authors' code adds ρ = 1 to help its solver, and so do we. Their
    solver stops early, in float32; ours goes on to rounding errors, in float64 where the device has it. They
    smooth labels by 0.1 on miniImageNet; here labels are as they are.
    """

    def __init__(self, encoder: nn.Module, cost: float = 0.1, ridge: float = 1.0, scale: float = 1.0) -> None:
        super().__init__()
        if not (cost > 0 and ridge > 0):
            raise ValueError(f"cost is {cost} and ridge {ridge}: both must be positive")
        self.encoder, self.cost, self.ridge = encoder, cost, ridge
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    def predict(self, support: Support, query_x: Tensor) -> Tensor:
        """Scores of the queries (equation 3).

        Args:
            support: Labelled items of T tasks.
            query_x: [T, Q, ...] items to classify.

        Returns:
            [T, Q, N] scores, whose sum over the classes is 0.
        """
        x, queries = embed_together(self.encoder, support.x, query_x)
        with torch.autocast(x.device.type, enabled=False):
            alpha = support_vectors(x, support.y, support.ways, self.cost, self.ridge)
            return self.scale * (queries @ (x.mT @ alpha))


def support_vectors(x: Tensor, y: Tensor, ways: int, cost: float = 0.1, ridge: float = 1.0) -> Tensor:
    """Solution of equation 2 of `MetaOptNet`, differentiable in the embeddings.

    An interior-point method finds which α are at their bounds. With these held, the others solve a linear
    system, and the gradient is that of this system: the implicit function theorem at the solution. In float64
    where the device has it.

    Args:
        x: [T, S, D] embeddings of the support.
        y: [T, S] labels in 0 … N − 1.
        ways: Number N of classes.
        cost: C > 0, the bound of the α of an item's own class.
        ridge: ρ > 0, added to the diagonal of the embeddings' products.

    Returns:
        [T, S, N] α, in the type of `x`; not finite where the embeddings are not.
    """
    with torch.autocast(x.device.type, enabled=False):
        exact = x if x.device.type == "mps" else x.double()
        bound = membership(y, ways, exact.dtype)  # [T, N, S], and α / C what is solved for: all are near 1
        gram = exact @ exact.mT
        h = cost * (gram + ridge * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device))
        return (cost * _solution(h, bound, _below_bounds(h.detach(), bound))).mT.to(x.dtype)


def _solution(h: Tensor, bound: Tensor, free: Tensor) -> Tensor:
    """Solution [T, N, S] of the dual, if it is known which variables are free, and not at their bounds."""
    held = bound.masked_fill(free, 0)
    both = free.unsqueeze(-1) & free.unsqueeze(-2)  # [T, N, S, S]
    system = torch.where(both, h.unsqueeze(1), torch.diag_embed((~free).to(h.dtype)))
    # inv_ex and solve_ex, as the others raise where an embedding is NaN, and wait for a GPU to know it
    inverse = torch.linalg.inv_ex(system)[0] * both
    wanted = bound - held @ h
    sums = (_times(inverse, wanted) + held).sum(1)
    multipliers = torch.linalg.solve_ex(inverse.sum(1), sums)[0]
    return held + _times(inverse, wanted - multipliers.unsqueeze(1))


@torch.no_grad()
def _below_bounds(h: Tensor, bound: Tensor) -> Tensor:
    """Which variables [T, N, S] of the dual are below their bounds in the solution.

    By Mehrotra's predictor and corrector, from a point that fulfills all conditions but complementarity. Each
    class has a system of its own, of S unknowns, and the sums over the classes tie them together. A task that
    is done stands still while the others of the call go on.
    """
    ways, tiny = bound.shape[1], torch.finfo(h.dtype).eps ** 1.2
    a = (ways * bound - 1) / (2 * ways - 2)
    slack, slope = bound - a, a @ h - bound
    top = slope.amax(1, keepdim=True)
    z, multipliers = top - slope + 1, -top - 1  # of the bounds, and of the sums over the classes
    for _ in range(ROUNDS):
        gap = (slack * z).mean((1, 2), keepdim=True)
        going = gap > tiny
        if h.device.type == "cpu" and not torch.compiler.is_compiling() and not going.any():
            break
        unmet, uneven, stiff = a @ h - bound + multipliers + z, a.sum(1), z / slack
        inverse = torch.cholesky_inverse(
            torch.linalg.cholesky_ex(h.unsqueeze(1) + torch.diag_embed(stiff))[0]
        )
        factor = torch.linalg.cholesky_ex(inverse.sum(1))[0]

        system = inverse, factor, unmet, uneven, stiff, slack
        da, dz, _ = _newton(slack * z, *system)
        step = _longest(slack, z, da, dz).clamp_max(1)
        left = ((slack - step * da) * (z + step * dz)).mean((1, 2), keepdim=True)
        da, dz, tie = _newton(slack * z - da * dz - gap * (left / gap) ** 3, *system)
        step = (0.995 * _longest(slack, z, da, dz)).clamp_max(1)
        going = going & step.isfinite()
        moves = (a, da), (slack, -da), (z, dz), (multipliers, tie)
        a, slack, z, multipliers = (torch.where(going, was + step * by, was) for was, by in moves)
    ratio = slack / z
    return ~(ratio <= 1) | (ratio == ratio.amax(1, keepdim=True))  # of an item, one at least is free


def _newton(
    excess: Tensor,
    inverse: Tensor,
    factor: Tensor,
    unmet: Tensor,
    uneven: Tensor,
    stiff: Tensor,
    slack: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Changes of a, z and the multipliers that take away the excess of slack × z, and all that is unmet."""
    moved = _times(inverse, excess / slack - unmet)
    tie = torch.cholesky_solve((moved.sum(1) + uneven).unsqueeze(-1), factor).mT
    da = moved - _times(inverse, tie)
    return da, stiff * da - excess / slack, tie


def _longest(slack: Tensor, z: Tensor, da: Tensor, dz: Tensor) -> Tensor:
    """How far each task can go, [T, 1, 1], until a slack or a multiplier is 0."""
    rate = torch.maximum(da / slack, -dz / z).amax((1, 2), keepdim=True)
    return 1 / rate.clamp_min(1e-3)


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    return (matrices @ vectors.unsqueeze(-1)).squeeze(-1)

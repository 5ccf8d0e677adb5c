"""Semi-supervised prototypical networks.

Mengye Ren, Eleni Triantafillou, Sachin Ravi, Jake Snell, Kevin Swersky, Joshua Tenenbaum, Hugo Larochelle,
Richard Zemel: "Meta-Learning for Semi-Supervised Few-Shot Classification", ICLR 2018.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from quickstudy.core.blueprint import rebuildable
from quickstudy.core.episode import Support
from quickstudy.core.learner import Learner, embed_together
from quickstudy.metric.distances import membership, prototypes, squared_distances

Refinement = Literal["soft", "cluster", "masked"]
DISTRACTOR_RADIUS = 100.0
"""Radius of the distractors' cluster at the start of training."""


@rebuildable
class SemiPrototypical(Learner):
    r"""Semi-supervised prototypical networks: unlabelled items (`Support.unlabelled`) refine the prototypes.

    A prototype starts as the mean $p_c$ of its class (Snell et al. 2017). Then a step of soft k-means:

    $$\tilde p_c = \frac{\sum_i h(x_i) z_{i,c} + \sum_j h(\tilde x_j) \tilde z_{j,c}}
    {\sum_i z_{i,c} + \sum_j \tilde z_{j,c}}, \qquad
    \tilde z_{j,c} = \frac{\exp(-\lVert h(\tilde x_j) - p_c \rVert^2)}
    {\sum_{c'} \exp(-\lVert h(\tilde x_j) - p_{c'} \rVert^2)} \tag{3}$$

    where $z$ is 1 for an item of the support and its class, else 0. The scores are the negative squared
    distances of the queries to $\tilde p$. Two variants allow for distractors, unlabelled items that are of
    none of the task's classes:

    "cluster" adds a cluster for the distractors, with its centre at the origin and a learned radius $r$ (the
    radii of the classes are 1),

    $$\tilde z_{j,c} \propto \exp\left(-\frac{\lVert h(\tilde x_j) - p_c \rVert^2}{2 r_c^2}
    - A(r_c)\right), \qquad A(r) = \tfrac12 \log 2\pi + \log r \tag{5}$$

    "masked" gives an unlabelled item less weight the farther it is from a prototype. A small network predicts
    the threshold $\beta_c$ and the slope $\gamma_c$ of this mask from statistics of the normalised distances
    to a class:

    $$\tilde d_{j,c} = \frac{\lVert h(\tilde x_j) - p_c \rVert^2}
    {\frac1M \sum_j \lVert h(\tilde x_j) - p_c \rVert^2} \tag{6}$$

    $$[\log \beta_c, \log \gamma_c] = \mathrm{MLP}([\min_j, \max_j, \mathrm{var}_j, \mathrm{skew}_j,
    \mathrm{kurt}_j](\tilde d_{j,c})) \tag{7}$$

    $$m_{j,c} = \sigma(\gamma_c (\beta_c - \tilde d_{j,c})), \qquad
    \tilde z_{j,c} \to \tilde z_{j,c} m_{j,c} \tag{8}$$

    The gradient flows through everything except the statistics that the small network reads, as in the
    authors' code.

    Args:
        encoder: $h$, any module from [B, ...] to [B, D].
        refinement: Variant of the refinement: "soft", "cluster" or "masked".
        steps: Number of k-means steps, 1 in the paper. The support items keep their assignments.

    Raises:
        ValueError: If `refinement` is none of these, or `steps` < 1.

    Without unlabelled items this is `Prototypical`. The equations have the paper's numbers.

    Departures: none from the paper. The authors' code differs from the paper: it applies the mask twice, and
    with "cluster" it includes the distractors' cluster among the classes in the scores of the queries, which
    are halved. With more than one step it changes the threshold from step to step by a third output of the
    network, keeps the statistics of the first step, and moves the distractors' cluster.
    """

    def __init__(self, encoder: nn.Module, refinement: Refinement = "soft", steps: int = 1) -> None:
        super().__init__()
        if refinement not in ("soft", "cluster", "masked") or steps < 1:
            raise ValueError(
                f"refinement is {refinement!r} and steps {steps}: "
                "refinement must be 'soft', 'cluster' or 'masked', steps at least 1"
            )
        self.encoder, self.refinement, self.steps = encoder, refinement, steps
        cluster, masked = refinement == "cluster", refinement == "masked"
        self.log_radius = nn.Parameter(torch.tensor(math.log(DISTRACTOR_RADIUS))) if cluster else None
        self.mask = nn.Sequential(nn.Linear(5, 20), nn.Tanh(), nn.Linear(20, 2)) if masked else None

    def predict(self, support: Support, query_x: Tensor) -> Tensor:
        """Scores −‖h(q) − p̃_c‖² of the queries.

        Args:
            support: Labelled and unlabelled items of T tasks.
            query_x: [T, Q, ...] items to classify.

        Returns:
            [T, Q, N] scores ≤ 0.
        """
        shots, unlabelled, queries = embed_together(self.encoder, support.x, support.unlabelled, query_x)
        return -squared_distances(queries, self.refined(shots, support.y, support.ways, unlabelled))

    def refined(self, shots: Tensor, y: Tensor, ways: int, unlabelled: Tensor) -> Tensor:
        """Prototypes after the k-means steps (equation 3).

        Args:
            shots: [T, S, D] embeddings of the support.
            y: [T, S] labels of the support, in 0 … N − 1.
            ways: N, the number of classes; each has an item.
            unlabelled: [T, U, D] embeddings of the unlabelled items; U may be 0.

        Returns:
            [T, N, D] refined prototypes.
        """
        return k_means(shots, y, ways, unlabelled, self.steps, self._assignments)

    def _assignments(self, items: Tensor, p: Tensor) -> Tensor:
        """[T, U, N] soft assignments z̃ in 0 … 1 of unlabelled items [T, U, D] to the classes."""
        d = squared_distances(items, p)
        if self.log_radius is not None:
            return _beside_a_cluster(d, items.square().sum(2, keepdim=True), self.log_radius)
        z = (-d).softmax(2)
        if self.mask is None:
            return z
        near = d / d.mean(1, keepdim=True).clamp_min(1e-12)
        log_threshold, log_slope = self.mask(spread(near.detach())).unsqueeze(1).unbind(-1)
        return z * (log_slope.exp() * (log_threshold.exp() - near)).sigmoid()


def k_means(
    shots: Tensor,
    y: Tensor,
    ways: int,
    unlabelled: Tensor,
    steps: int,
    assignments: Callable[[Tensor, Tensor], Tensor],
    rate: float = 1.0,
) -> Tensor:
    """Prototypes after steps of k-means (equation 3).

    Args:
        shots: [T, S, D] embeddings of the support.
        y: [T, S] labels of the support, in 0 … N − 1.
        ways: N, the number of classes; each has an item.
        unlabelled: [T, U, D] embeddings of the unlabelled items; U may be 0.
        steps: Number of steps. The support items keep their assignments.
        assignments: Function from items [T, U, D] and prototypes [T, N, D] to soft assignments [T, U, N].
        rate: How much of the way to the new means the prototypes go in a step, in (0, 1].

    Returns:
        [T, N, D] refined prototypes.
    """
    p = prototypes(shots, y, ways)
    if not unlabelled.shape[1]:
        return p
    with torch.autocast(shots.device.type, enabled=False):
        member = membership(y, ways, shots.dtype)
        for _ in range(steps):
            share = assignments(unlabelled, p).mT
            total = member.sum(2, keepdim=True) + share.sum(2, keepdim=True)
            p = p.lerp((member @ shots + share @ unlabelled) / total, rate)  # all of it where the rate is 1
    return p


def _beside_a_cluster(d: Tensor, from_origin: Tensor, log_radius: Tensor) -> Tensor:
    """Assignments to the N classes (equation 5), without the one to the distractors' cluster."""
    # ½ log 2π is the same for all clusters, so softmax cancels it
    distractor = -from_origin / 2 * (-2 * log_radius).exp() - log_radius
    return torch.cat([-d / 2, distractor], 2).softmax(2)[..., :-1]


def spread(d: Tensor) -> Tensor:
    """Statistics of the distances of unlabelled items to each class (equation 7).

    Args:
        d: [T, U, N] normalised distances of the unlabelled items to the classes.

    Returns:
        [T, N, 5] minimum, maximum, variance, skewness and excess kurtosis over the U items.
    """
    away = d - d.mean(1, keepdim=True)
    variance = away.square().mean(1)
    skewness = away.pow(3).mean(1) / (variance + 1e-8).pow(1.5)
    kurtosis = away.pow(4).mean(1) / (variance + 1e-8).square() - 3
    return torch.stack([d.amin(1), d.amax(1), variance, skewness, kurtosis], 2)

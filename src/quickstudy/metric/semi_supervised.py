"""Semi-supervised prototypical networks.

Mengye Ren, Eleni Triantafillou, Sachin Ravi, Jake Snell, Kevin Swersky, Joshua Tenenbaum, Hugo Larochelle,
Richard Zemel: "Meta-Learning for Semi-Supervised Few-Shot Classification", ICLR 2018.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.blueprint import rebuildable
from quickstudy.core.episode import Support
from quickstudy.core.learner import Learner, embed
from quickstudy.metric.distances import prototypes, squared_distances

Refinement = Literal["soft", "cluster", "masked"]
DISTRACTOR_RADIUS = 100.0
"""What the radius of the distractors' cluster begins as."""


@rebuildable
class SemiPrototypical(Learner):
    r"""Prototypical networks whose prototypes are refined by items without labels (`Support.unlabelled`).

    A prototype starts as the mean $p_c$ of its class (Snell et al. 2017). Then a step of soft k-means:

    $$\tilde p_c = \frac{\sum_i h(x_i) z_{i,c} + \sum_j h(\tilde x_j) \tilde z_{j,c}}
    {\sum_i z_{i,c} + \sum_j \tilde z_{j,c}}, \qquad
    \tilde z_{j,c} = \frac{\exp(-\lVert h(\tilde x_j) - p_c \rVert^2)}
    {\sum_{c'} \exp(-\lVert h(\tilde x_j) - p_{c'} \rVert^2)} \tag{3}$$

    where $z$ is 1 for an item of the support and its class, else 0. The scores are the negative squared
    distances of the queries to $\tilde p$. Where not all unlabelled items are of the task's classes:

    "cluster" gives the others, the distractors, a cluster of their own, at the origin, of which nothing but
    the radius $r$ is learned (those of the classes are 1),

    $$\tilde z_{j,c} \propto \exp\left(-\frac{\lVert h(\tilde x_j) - p_c \rVert^2}{2 r_c^2}
    - A(r_c)\right), \qquad A(r) = \tfrac12 \log 2\pi + \log r \tag{5}$$

    "masked" counts an unlabelled item the less the farther it is, by a threshold $\beta_c$ and a slope
    $\gamma_c$ that a small network makes of how the normalised distances of a class are spread:

    $$\tilde d_{j,c} = \frac{\lVert h(\tilde x_j) - p_c \rVert^2}
    {\frac1M \sum_j \lVert h(\tilde x_j) - p_c \rVert^2} \tag{6}$$

    $$[\log \beta_c, \log \gamma_c] = \mathrm{MLP}([\min_j, \max_j, \mathrm{var}_j, \mathrm{skew}_j,
    \mathrm{kurt}_j](\tilde d_{j,c})) \tag{7}$$

    $$m_{j,c} = \sigma(\gamma_c (\beta_c - \tilde d_{j,c})), \qquad
    \tilde z_{j,c} \to \tilde z_{j,c} m_{j,c} \tag{8}$$

    The gradient flows through all of it but the statistics that the small network is given, as in the
    authors' code.

    Args:
        encoder: $h$, any module from [B, ...] to [B, D].
        refinement: "soft", "cluster" or "masked".
        steps: of k-means, 1 in the paper. The items of the support stay where they are.

    Raises:
        ValueError: if `refinement` is none of these, or `steps` < 1.

    Without unlabelled items this is `Prototypical`.

    Departures: none from the paper, whose numbers of equations these are. The authors' code differs from it:
    the mask is applied twice, and with "cluster" the distractors' cluster stands beside the classes in the
    queries' scores, which are halved. With more than one step it changes the threshold from step to step by
    a third output, keeps the first step's statistics, and moves the distractors' cluster.
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
        """Scores −‖h(q) − p̃_c‖² of the queries, [T, Q, N], each ≤ 0."""
        sizes = [support.x.shape[1], support.unlabelled.shape[1], query_x.shape[1]]
        z = embed(self.encoder, torch.cat([support.x, support.unlabelled, query_x], 1))
        shots, unlabelled, queries = z.split(sizes, 1)
        return -squared_distances(queries, self.refined(shots, support.y, support.ways, unlabelled))

    def refined(self, shots: Tensor, y: Tensor, ways: int, unlabelled: Tensor) -> Tensor:
        """The prototypes after the steps of k-means (equation 3).

        Args:
            shots: [T, S, D] embeddings of the support.
            y: [T, S] its labels.
            ways: N.
            unlabelled: [T, U, D] embeddings of the items without labels; U may be 0.

        Returns:
            [T, N, D].
        """
        p = prototypes(shots, y, ways)
        if not unlabelled.shape[1]:
            return p
        with torch.autocast(shots.device.type, enabled=False):
            member = F.one_hot(y, ways).to(shots.dtype).mT
            for _ in range(self.steps):
                share = self._assignments(unlabelled, p).mT
                total = member.sum(2, keepdim=True) + share.sum(2, keepdim=True)
                p = (member @ shots + share @ unlabelled) / total
        return p

    def _assignments(self, items: Tensor, p: Tensor) -> Tensor:
        """How much each item [T, U, D] counts for each class, [T, U, N], each in 0 … 1."""
        d = squared_distances(items, p)
        if self.log_radius is not None:
            return _beside_a_cluster(d, items.square().sum(2, keepdim=True), self.log_radius)
        z = (-d).softmax(2)
        if self.mask is None:
            return z
        near = d / d.mean(1, keepdim=True).clamp_min(1e-12)
        log_threshold, log_slope = self.mask(spread(near.detach())).unsqueeze(1).unbind(-1)
        return z * (log_slope.exp() * (log_threshold.exp() - near)).sigmoid()


def _beside_a_cluster(d: Tensor, from_origin: Tensor, log_radius: Tensor) -> Tensor:
    """Equation 5, with radius 1 for the classes: of the N + 1 assignments, those to the classes."""
    # ½ log 2π stands in all of them, and so counts for nothing
    distractor = -from_origin / 2 * (-2 * log_radius).exp() - log_radius
    return torch.cat([-d / 2, distractor], 2).softmax(2)[..., :-1]


def spread(d: Tensor) -> Tensor:
    """Minimum, maximum, variance, skewness and excess kurtosis of distances [T, U, N] over U: [T, N, 5]."""
    away = d - d.mean(1, keepdim=True)
    variance = away.square().mean(1)
    skewness = away.pow(3).mean(1) / (variance + 1e-8).pow(1.5)
    kurtosis = away.pow(4).mean(1) / (variance + 1e-8).square() - 3
    return torch.stack([d.amin(1), d.amax(1), variance, skewness, kurtosis], 2)

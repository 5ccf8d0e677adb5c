"""Siamese networks.

Contrastive loss: Raia Hadsell, Sumit Chopra, Yann LeCun: "Dimensionality Reduction by Learning an Invariant
Mapping", CVPR 2006. Weighted L1 distance with cross-entropy: Gregory Koch, Richard Zemel, Ruslan
Salakhutdinov: "Siamese Neural Networks for One-shot Image Recognition", ICML Deep Learning Workshop 2015.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.episode import Episode, Support
from quickstudy.core.learner import Learner, embed
from quickstudy.metric.distances import Distance, euclidean, prototypes
from quickstudy.metric.pairs import different, labelled_items

Energy = Callable[[Tensor, Tensor], Tensor]
"""From embeddings [T, A, D] and [T, B, D] to energies [T, A, B], low where two are likely of one class."""
PairLoss = Callable[[Tensor, Tensor], Tensor]
"""From energies [B] and genuine [B] (1 where a pair is of one class, else 0) to their mean loss."""
Pooling = Literal["prototype", "mean", "nearest"]


class WeightedL1(nn.Module):
    r"""Koch's energy $-\sum_d \alpha_d |a_d - b_d| - \beta$, of which $p = \sigma(-E)$ is "the same class".

    No tensor of all differences is made: positive and negative weights are two L1 distances.

    Args:
        dimensions: D.
    """

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((dimensions,), -1 / dimensions))
        self.bias = nn.Parameter(torch.ones(()))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """[T, A, D] and [T, B, D] → [T, A, B]."""
        with torch.autocast(a.device.type, enabled=False):
            near, far = self.weight.clamp_min(0), (-self.weight).clamp_min(0)
            return torch.cdist(a * far, b * far, p=1) - torch.cdist(a * near, b * near, p=1) - self.bias


def contrastive_loss(energy: Tensor, genuine: Tensor, margin: float = 1.0) -> Tensor:
    """Mean contrastive loss of pairs, Y·E² + (1 − Y)·max(margin − E, 0)².

    Args:
        energy: [B] E of each pair.
        genuine: [B] Y, 1 where both items are of one class and 0 where they are not.
        margin: energy beyond which an impostor pair costs nothing.

    Returns:
        A scalar ≥ 0.

    Reference: Hadsell et al. 2006, equation 4.

    Departures: there Y is 0 for a genuine pair, and there is a factor ½.
    """
    return (genuine * energy.square() + (1 - genuine) * (margin - energy).clamp_min(0).square()).mean()


def cross_entropy(energy: Tensor, genuine: Tensor) -> Tensor:
    """Mean cross-entropy of pairs in nats, where p = σ(−E) is that they are genuine (Koch et al. 2015).

    Args:
        energy: [B] E of each pair.
        genuine: [B] 1 where both items are of one class and 0 where they are not.
    """
    return F.binary_cross_entropy_with_logits(-energy, genuine)


class Siamese(Learner):
    r"""Siamese networks: two towers that share their weights, and an energy between what they make of a pair.

    $$E(x_1, x_2) = d(f_\phi(x_1), f_\phi(x_2))$$

    The meta-loss is that of all pairs of different items, support and queries alike, of each task, genuine
    and impostor pairs counting half each: the mean of what balanced draws of pairs would give. A query is of
    the class with the least energy.

    Args:
        encoder: $f_\phi$, any module from [B, ...] to [B, D].
        energy: d, `euclidean`, `cosine` or a module such as `WeightedL1`.
        loss: of pairs, `contrastive_loss` (with `functools.partial` for another margin) or `cross_entropy`.
        pooling: of several items of a class: "prototype", the energy to their mean embedding; "mean", the
            mean of the energies to each; "nearest", the least of them. With one shot all are the same.

    Raises:
        ValueError: if `pooling` is none of these; in `forward`, if a task has no genuine pair.
    """

    def __init__(
        self,
        encoder: nn.Module,
        energy: Energy = euclidean,
        loss: PairLoss = contrastive_loss,
        pooling: Pooling = "prototype",
    ) -> None:
        super().__init__()
        if pooling not in ("prototype", "mean", "nearest"):
            raise ValueError(f"pooling is {pooling!r}: it must be 'prototype', 'mean' or 'nearest'")
        self.encoder, self.energy, self.loss, self.pooling = encoder, energy, loss, pooling

    @property
    def distance(self) -> Distance | None:
        """Distance to compare embeddings by: the energy, or None if it has no name."""
        return self.energy if isinstance(self.energy, Distance) else None

    def predict(self, support: Support, query_x: Tensor) -> Tensor:
        """Scores of the queries, the negative energy to each class, [T, Q, N]."""
        z = embed(self.encoder, torch.cat([support.x, query_x], 1))
        shots, queries = z.split([support.x.shape[1], query_x.shape[1]], 1)
        if self.pooling == "prototype":
            return -self.energy(queries, prototypes(shots, support.y, support.ways))
        energies = self.energy(queries, shots)
        index = support.y.unsqueeze(1).expand_as(energies)
        pooled = energies.new_zeros(*energies.shape[:2], support.ways)
        how = "mean" if self.pooling == "mean" else "amin"
        return -pooled.scatter_reduce(2, index, energies, how, include_self=False)

    def pairs(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """All pairs of different items of each task, support and queries alike.

        Returns:
            [T, B] their energies, and [T, B] whether they are genuine: of one class.
        """
        x, y = labelled_items(episode)
        first, second = different(x.shape[1], y.device)
        z = embed(self.encoder, x)
        return self.energy(z, z)[:, first, second], y[:, first] == y[:, second]

    def forward(self, episode: Episode) -> Tensor:
        """The meta-loss, a scalar, in the units of `loss`."""
        energies, genuine = self.pairs(episode)
        if not genuine.any(1).all():
            raise ValueError("a task of one item a class has no genuine pair: ask for more shots or queries")
        return torch.stack([self._balanced(e, g) for e, g in zip(energies, genuine, strict=True)]).mean()

    def _balanced(self, energies: Tensor, genuine: Tensor) -> Tensor:
        same, other = energies[genuine], energies[~genuine]
        return (self.loss(same, torch.ones_like(same)) + self.loss(other, torch.zeros_like(other))) / 2

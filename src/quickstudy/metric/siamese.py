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

from quickstudy.core.arguments import check_whole
from quickstudy.core.blueprint import rebuildable
from quickstudy.core.episode import Episode, Support
from quickstudy.core.learner import Learner, embed, embed_together
from quickstudy.metric.distances import Distance, euclidean_distance, prototypes
from quickstudy.metric.pairs import different, labelled_items

Energy = Callable[[Tensor, Tensor], Tensor]
"""Function from embeddings [T, A, D] and [T, B, D] to energies [T, A, B], low for items of one class."""
PairLoss = Callable[[Tensor, Tensor], Tensor]
"""Function from energies [B] and genuine [B] (1 where a pair is of one class, else 0) to their mean loss."""
ScorePooling = Literal["prototype", "mean", "nearest"]


@rebuildable
class WeightedL1(nn.Module):
    r"""Weighted L1 energy $E = -\sum_d \alpha_d |a_d - b_d| - \beta$ of Koch et al. 2015.

    $\sigma(-E)$ is the probability that both items are of one class. No tensor of all differences is made:
    the positive and the negative weights are one L1 distance each.

    Args:
        dimensions: D, the size of an embedding.
    """

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        check_whole(1, dimensions=dimensions)
        self.weight = nn.Parameter(torch.full((dimensions,), -1 / dimensions))
        self.bias = nn.Parameter(torch.ones(()))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Energies of all pairs.

        Args:
            a: [T, A, D] embeddings.
            b: [T, B, D] embeddings.

        Returns:
            [T, A, B] energies, low where two items are likely of one class.
        """
        with torch.autocast(a.device.type, enabled=False):
            near, far = self.weight.clamp_min(0), (-self.weight).clamp_min(0)
            return torch.cdist(a * far, b * far, p=1) - torch.cdist(a * near, b * near, p=1) - self.bias


def contrastive_loss(energy: Tensor, genuine: Tensor, margin: float = 1.0) -> Tensor:
    """Mean contrastive loss of pairs, Y·E² + (1 − Y)·max(margin − E, 0)².

    Args:
        energy: [B] energies E ≥ 0 of the pairs.
        genuine: [B] Y, 1 where both items are of one class and 0 where they are not.
        margin: Energy beyond which an impostor pair costs nothing.

    Returns:
        The mean loss ≥ 0, a scalar.

    Reference: Hadsell et al. 2006, equation 4.

    Departures: in the paper Y is 0 for a genuine pair, and the loss has a factor ½.
    """
    return (genuine * energy.square() + (1 - genuine) * (margin - energy).clamp_min(0).square()).mean()


def cross_entropy(energy: Tensor, genuine: Tensor) -> Tensor:
    """Mean binary cross-entropy of pairs, where σ(−E) is the probability of a genuine pair.

    Args:
        energy: [B] energies E of the pairs.
        genuine: [B] 1 where both items are of one class and 0 where they are not.

    Returns:
        The mean loss ≥ 0 in nats, a scalar.

    Reference: Koch et al. 2015.
    """
    return F.binary_cross_entropy_with_logits(-energy, genuine)


@rebuildable
class Siamese(Learner):
    r"""Siamese networks: two towers with shared weights, and an energy between the embeddings of a pair.

    $$E(x_1, x_2) = d(f_\phi(x_1), f_\phi(x_2))$$

    The meta-loss is taken over all pairs of different items of each task, support and query items. Genuine
    and impostor pairs have half the weight each: it is the expected loss of balanced random draws of pairs. A
    query is assigned to the class with the least energy.

    Args:
        encoder: $f_\phi$, any module from [B, ...] to [B, D].
        energy: Energy d between embeddings: `euclidean_distance`, `cosine_distance` or a module such as
            `WeightedL1`.
        loss: Loss of pairs: `contrastive_loss` (with `functools.partial` for another margin) or
            `cross_entropy`.
        pooling: Energy of a query to a class of several items: "prototype", the energy to their mean
            embedding; "mean", the mean of the energies to each; "nearest", the least of them. With one shot
            all three are the same.

    Raises:
        ValueError: If `pooling` is none of these; in `forward`, if a task has no genuine pair.
    """

    def __init__(
        self,
        encoder: nn.Module,
        energy: Energy = euclidean_distance,
        loss: PairLoss = contrastive_loss,
        pooling: ScorePooling = "prototype",
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
        """Scores of the queries: the negative energy to each class.

        Args:
            support: Labelled items of T tasks.
            query_x: [T, Q, ...] items to classify.

        Returns:
            [T, Q, N] scores.
        """
        shots, queries = embed_together(self.encoder, support.x, query_x)
        if self.pooling == "prototype":
            return -self.energy(queries, prototypes(shots, support.y, support.ways))
        energies = self.energy(queries, shots)
        index = support.y.unsqueeze(1).expand_as(energies)
        pooled = energies.new_zeros(*energies.shape[:2], support.ways)
        how = "mean" if self.pooling == "mean" else "amin"
        return -pooled.scatter_reduce(2, index, energies, how, include_self=False)

    def pairs(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Energies of all pairs of different items of each task, support and query items.

        Args:
            episode: Labelled items of T tasks.

        Returns:
            [T, B] energies of the pairs, and [T, B] bool, true where a pair is genuine (of one class).
        """
        x, y = labelled_items(episode)
        first, second = different(x.shape[1], y.device)
        z = embed(self.encoder, x)
        return self.energy(z, z)[:, first, second], y[:, first] == y[:, second]

    def forward(self, episode: Episode) -> Tensor:
        """Meta-loss of a batch of tasks.

        Args:
            episode: Labelled items of T tasks.

        Returns:
            The mean over the tasks, a scalar in the units of `loss`.

        Raises:
            ValueError: If a task has no genuine pair.
        """
        energies, genuine = self.pairs(episode)
        if not genuine.any(1).all():
            raise ValueError("a task of one item a class has no genuine pair: ask for more shots or queries")
        return torch.stack([self._balanced(e, g) for e, g in zip(energies, genuine, strict=True)]).mean()

    def _balanced(self, energies: Tensor, genuine: Tensor) -> Tensor:
        same, other = energies[genuine], energies[~genuine]
        return (self.loss(same, torch.ones_like(same)) + self.loss(other, torch.zeros_like(other))) / 2

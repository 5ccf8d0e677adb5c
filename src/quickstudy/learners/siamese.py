"""Siamese networks.

Contrastive loss: Raia Hadsell, Sumit Chopra, Yann LeCun: "Dimensionality Reduction by Learning an Invariant
Mapping", CVPR 2006. Weighted L1 distance with cross-entropy: Gregory Koch, Richard Zemel, Ruslan
Salakhutdinov: "Siamese Neural Networks for One-shot Image Recognition", ICML Deep Learning Workshop 2015.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.episode import Episode, Support
from quickstudy.learner import Learner, embed
from quickstudy.learners.matching import cosines
from quickstudy.learners.prototypical import prototypes, squared_distances

Energy = Callable[[Tensor, Tensor], Tensor]
"""From embeddings [T, A, D] and [T, B, D] to energies [T, A, B], low where two are likely of one class."""
PairLoss = Callable[[Tensor, Tensor], Tensor]
"""From energies [B] and genuine [B] (1 where a pair is of one class, else 0) to their mean loss."""
Pooling = Literal["prototype", "mean", "nearest"]


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """Energy ‖a − b‖ ≥ 0, [T, A, B]; 1e-12 inside the root, so that its gradient at 0 is 0 and not NaN."""
    return (squared_distances(a, b) + 1e-12).sqrt()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Energy 1 − cos(a, b) in 0 … 2, [T, A, B]."""
    return 1 - cosines(a, b)


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


def draw_pairs(episode: Episode, count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Balanced pairs of different items of each task, for a two-tower loop of your own.

    Half of them are genuine and half impostor pairs, of support and queries alike, in random order. None is
    drawn twice.

    Args:
        episode: T tasks.
        count: B, pairs of each task.
        seed: of the draw.

    Returns:
        X1 [T, B, ...] and X2 [T, B, ...], the items of the pairs, and Y [T, B], 1.0 where they are of one
        class and else 0.0.

    Raises:
        ValueError: if `count` is odd or not positive, or a task has too few pairs of either kind.

    Example:
        >>> support = Support(torch.rand(1, 4, 9), torch.tensor([[0, 0, 1, 1]]), ways=2)
        >>> episode = Episode(support, torch.rand(1, 1, 9), torch.tensor([[1]]))
        >>> x1, x2, y = draw_pairs(episode, 6)
        >>> contrastive_loss((x1 - x2).norm(dim=-1), y).shape, y.mean().item()
        (torch.Size([]), 0.5)
    """
    if count < 2 or count % 2:
        raise ValueError(
            f"count is {count}: it must be even and at least 2, half genuine and half impostor pairs"
        )
    x, y = labelled_items(episode)
    first, second = _different(x.shape[1])
    labels = y.cpu()
    genuine, rng = labels[:, first] == labels[:, second], np.random.default_rng(seed)
    chosen = torch.stack([draw_balanced(g, count // 2, rng) for g in genuine])
    task = torch.arange(len(x)).unsqueeze(1)
    one, other = (x[task.to(x.device), side[chosen].to(x.device)] for side in (first, second))
    return one, other, genuine[task, chosen].to(x)


def draw_balanced(genuine: Tensor, each: int, rng: np.random.Generator) -> Tensor:
    """Draw as many genuine as impostor pairs, none of them twice.

    Args:
        genuine: [B] whether each pair is of one class, on the CPU.
        each: how many of each kind.
        rng: source of randomness.

    Returns:
        [2 each] int64 indices of pairs, in random order.

    Raises:
        ValueError: if there are too few of either kind.
    """
    same = genuine.numpy().astype(bool)
    kinds = [np.flatnonzero(same), np.flatnonzero(~same)]
    fewest = min(len(kind) for kind in kinds)
    if each > fewest:
        raise ValueError(
            f"a task has {len(kinds[0])} genuine and {len(kinds[1])} impostor pairs, not {each} of each: "
            f"ask for at most {fewest} of each, or for more shots, queries or ways"
        )
    drawn = np.concatenate([rng.choice(kind, each, replace=False) for kind in kinds])
    return torch.from_numpy(rng.permutation(drawn))


def labelled_items(episode: Episode) -> tuple[Tensor, Tensor]:
    """All labelled items of each task, [T, B, ...], and their labels, [T, B]."""
    support = episode.support
    return torch.cat([support.x, episode.query_x], 1), torch.cat([support.y, episode.query_y], 1)


def _different(items: int, device: torch.device | str = "cpu") -> Tensor:
    """[2, B] the B = items (items − 1) / 2 unordered pairs of different items."""
    return torch.triu_indices(items, items, 1, device=device)


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
        first, second = _different(x.shape[1], y.device)
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

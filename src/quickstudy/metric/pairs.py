"""Genuine pairs (two items of one class) and impostor pairs (of two classes), drawn from episodes."""

import numpy as np
import torch
from torch import Tensor

from quickstudy.core.episode import Episode


def draw_pairs(episode: Episode, count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Balanced pairs of different items of each task, for a training loop of your own with two towers.

    Half of them are genuine and half impostor pairs, in random order. Both support and query items are used.
    No pair is drawn twice.

    Args:
        episode: Labelled items of T tasks.
        count: B, the number of pairs of each task: even, at least 2.
        seed: Seed of the draw.

    Returns:
        X1 [T, B, ...] and X2 [T, B, ...], the items of the pairs, and Y [T, B], 1.0 where they are of one
        class and else 0.0.

    Raises:
        ValueError: If `count` is odd or not positive, or a task has too few pairs of either kind.

    Example:
        >>> from quickstudy.core.episode import Support
        >>> from quickstudy.metric.siamese import contrastive_loss
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
    first, second = different(x.shape[1])
    labels = y.cpu()
    genuine = labels[:, first] == labels[:, second]
    rng = np.random.default_rng(seed)
    chosen = torch.stack([draw_balanced(g, count // 2, rng) for g in genuine])
    task = torch.arange(len(x)).unsqueeze(1)
    x1 = x[task.to(x.device), first[chosen].to(x.device)]
    x2 = x[task.to(x.device), second[chosen].to(x.device)]
    return x1, x2, genuine[task, chosen].to(x)


def draw_balanced(genuine: Tensor, each: int, rng: np.random.Generator) -> Tensor:
    """Draw equal numbers of genuine and impostor pairs, without replacement.

    Args:
        genuine: [B] bool on the CPU, true where a pair is of one class.
        each: Number of pairs of either kind.
        rng: Random number generator.

    Returns:
        [2 each] int64 indices of the drawn pairs, in random order.

    Raises:
        ValueError: If there are too few pairs of either kind.
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
    """All labelled items of T tasks: the support followed by the queries.

    Args:
        episode: Labelled items of T tasks.

    Returns:
        [T, S + Q, ...] items, and [T, S + Q] labels.
    """
    support = episode.support
    return torch.cat([support.x, episode.query_x], 1), torch.cat([support.y, episode.query_y], 1)


def different(items: int, device: torch.device | str = "cpu") -> Tensor:
    """All unordered pairs of different items.

    Args:
        items: Number n of items.
        device: Device of the result.

    Returns:
        [2, n (n − 1) / 2] int64 indices of the first and the second item of each pair.
    """
    return torch.triu_indices(items, items, 1, device=device)

"""Pairs of items of one class and of two, drawn from episodes."""

import numpy as np
import torch
from torch import Tensor

from quickstudy.core.episode import Episode


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


def different(items: int, device: torch.device | str = "cpu") -> Tensor:
    """[2, B] the B = items (items − 1) / 2 unordered pairs of different items."""
    return torch.triu_indices(items, items, 1, device=device)

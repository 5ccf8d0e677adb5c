"""What is trained of a pretrained network: all, the last blocks, or low-rank additions to its weights."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from quickstudy.core.arguments import check_whole


class LowRank(nn.Module):
    r"""A weight with an addition of low rank, $W + BA$ (LoRA), as a parametrization of that weight.

    A begins at random and B at 0, so at first nothing is added.

    Args:
        weight: The weight W, [O, ...]; all but its first dimension is taken as one.
        rank: Number of rows of A, and of columns of B.

    Reference: Hu et al. 2022, "LoRA: low-rank adaptation of large language models".

    Departures: the factor α / r in front of BA is 1.
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        inputs = weight[0].numel()
        self.down = nn.Parameter(torch.empty(rank, inputs, dtype=weight.dtype, device=weight.device))
        self.up = nn.Parameter(torch.zeros(len(weight), rank, dtype=weight.dtype, device=weight.device))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """W [O, ...] → W + BA of the same shape."""
        return weight + (self.up @ self.down).view(weight.shape)


def low_rank(module: nn.Module, rank: int) -> nn.Module:
    """Freeze a module, and give each weight of its linear layers and convolutions an addition of low rank.

    Only the additions are trained. Convolutions in groups stay as they are: theirs are small already.

    Args:
        module: Module that is changed, in place.
        rank: Rank of the additions, such as 4; the smaller of a weight's two sides where that is less.

    Returns:
        The module.

    Raises:
        ValueError: If the rank is below 1, or the module has no such layer.
    """
    check_whole(1, rank=rank)
    module.requires_grad_(False)
    layers = [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    layers = [m for m in layers if getattr(m, "groups", 1) == 1]
    if not layers:
        raise ValueError(
            f"{type(module).__name__} has no linear layer and no convolution to add to: leave rank out"
        )
    for layer in layers:
        weight = layer.weight
        most = min(len(weight), weight[0].numel())
        # unsafe: its shape is checked here, and running it once more would only take time
        parametrize.register_parametrization(layer, "weight", LowRank(weight, min(rank, most)), unsafe=True)
    return module


def unfreeze(module: nn.Module, blocks: int | None = None) -> nn.Module:
    """Make a module trainable: whole, or from one of its last blocks on.

    Blocks are the elements of its lists and sequences of layers, such as the stages or residual blocks of a
    ResNet and the layers of a transformer. What comes after the last block, such as a norm, is trained with
    it.

    Args:
        module: Module that is changed, in place.
        blocks: Number of blocks, from the last one; None for the whole module.

    Returns:
        The module.

    Raises:
        ValueError: If it has fewer blocks, or the number is below 1.
    """
    if blocks is None:
        return module.requires_grad_(True)
    check_whole(1, blocks=blocks)
    module.requires_grad_(False)
    parts = list(_parts(module))
    places = [i for i, (_, block) in enumerate(parts) if block]
    if len(places) < blocks:
        raise ValueError(f"{type(module).__name__} has {len(places)} blocks, not {blocks}: unfreeze fewer")
    for part, _ in parts[places[-blocks] :]:
        part.requires_grad_(True)
    return module


def _parts(module: nn.Module) -> Iterator[tuple[nn.Module, bool]]:
    """The parts of a module with parameters, in order, and whether each is a block."""
    listed = isinstance(module, nn.ModuleList | nn.Sequential)
    for child in module.children():
        if not any(True for _ in child.parameters()):
            continue
        nested = isinstance(child, nn.ModuleList | nn.Sequential)
        lists = not listed and any(isinstance(m, nn.ModuleList | nn.Sequential) for m in child.modules())
        if nested or lists:
            yield from _parts(child)
        else:
            yield child, listed

"""Where the pixels of a picture are, as `grid_sample` counts."""

import torch
from torch import Tensor


def pixel_middles(length: int, like: Tensor) -> Tensor:
    """[length] where the middles of pixels are, from edge to edge of a picture −1 to 1."""
    return (torch.arange(length).to(like) + 0.5) * 2 / length - 1


def pixel_places(height: int, width: int, like: Tensor) -> Tensor:
    """[H, W, 2] the same of both axes, across and down, as `grid_sample` takes them."""
    across, down = pixel_middles(width, like), pixel_middles(height, like)
    return torch.stack(torch.meshgrid(across, down, indexing="xy"), 2)

"""Coordinates of the pixels of a picture, as `grid_sample` defines them."""

import torch
from torch import Tensor


def pixel_middles(length: int, like: Tensor) -> Tensor:
    """Coordinates [length] of the pixel centers along one axis; the edges of the picture are −1 and 1.

    Args:
        length: Number of pixels along the axis.
        like: Tensor that sets the dtype and the device of the result.
    """
    return (torch.arange(length).to(like) + 0.5) * 2 / length - 1


def pixel_places(height: int, width: int, like: Tensor) -> Tensor:
    """Coordinates [H, W, 2] of the pixel centers of a picture, (x, y) as in the grid of `grid_sample`.

    Args:
        height: Number H of rows of pixels.
        width: Number W of columns of pixels.
        like: Tensor that sets the dtype and the device of the result.
    """
    across, down = pixel_middles(width, like), pixel_middles(height, like)
    return torch.stack(torch.meshgrid(across, down, indexing="xy"), 2)

"""MomentNorm: written characters brought to one place and size."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.blueprint import rebuildable
from quickstudy.core.pixels import pixel_middles

LEAST, MOST = 0.5, 1.6
"""Bounds of s, but for ends of strokes: at most 1 / LEAST times as large, and no smaller than by 1 / MOST."""
FAINT = 0.3
"""Ink of at most so much of the darkest may be cut off."""


@rebuildable
class MomentNorm(nn.Module):
    r"""Moment normalisation: ink brought to the middle of the picture, and to one size.

    Where somebody put a character, and how large, says nothing about which it is. Of a picture x of ink, with
    a pixel's place p from −1 to 1 on both axes, these are measured and undone:

    $$m = \frac{\sum_p x_p\,p}{\sum_p x_p}, \qquad
      s = \frac1{s_0} \sqrt{\frac{\sum_p x_p \lVert p - m\rVert^2}{2 \sum_p x_p}}, \qquad
      x'_p = x_{m + s p}$$

    with s kept within 0.5 … 1.6, so that a dot stays a dot, and x interpolated between pixels. Where an end
    of a stroke would lie outside the picture, that is a pixel of more than 0.3 of the darkest, s is as much
    larger as it takes to keep it in.

    Args:
        spread: s₀, the deviation of ink along an axis that all are brought to, as a share of half the side.

    Raises:
        ValueError: if the spread isn't in (0, 1).

    Reference: Casey 1970, "Moment normalization of handprinted characters".

    Departures: there slant and the ratio of width to height are undone too. The bounds of s are ours.
    """

    def __init__(self, spread: float = 0.45) -> None:
        super().__init__()
        if not 0 < spread < 1:
            raise ValueError(f"spread is {spread}: it must lie in (0, 1)")
        self.spread = spread

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] pictures, ink > 0 on 0 → as many of the same shape; an empty one stays empty.

        Raises:
            ValueError: if they are of another shape.
        """
        if x.ndim != 4:
            raise ValueError(f"the pictures are {list(x.shape)}: MomentNorm takes [B, C, H, W]")
        exact = x if x.dtype == torch.float64 else x.float()  # in half precision places are too coarse
        down, across = (pixel_middles(length, exact) for length in x.shape[2:])
        ink = exact.sum(1)
        rows, columns = ink.sum(2), ink.sum(1)
        total = rows.sum(1).clamp_min(torch.finfo(exact.dtype).tiny)
        at_y, at_x = (rows * down).sum(1) / total, (columns * across).sum(1) / total
        off_y, off_x = down - at_y[:, None], across - at_x[:, None]
        variance = ((rows * off_y**2).sum(1) + (columns * off_x**2).sum(1)) / (2 * total)
        scale = (variance.sqrt() / self.spread).clamp(LEAST, MOST)
        inked = ink > FAINT * ink.amax((1, 2), keepdim=True)
        for off, there in ((off_y, inked.any(2)), (off_x, inked.any(1))):
            furthest = (off.abs() * there).amax(1) + 1 / off.shape[1]  # to the pixel's edge
            scale = torch.maximum(scale, furthest)
        scale = scale[:, None]
        from_y = (at_y[:, None] + scale * down)[:, :, None].expand(*ink.shape)
        from_x = (at_x[:, None] + scale * across)[:, None, :].expand(*ink.shape)
        return F.grid_sample(exact, torch.stack([from_x, from_y], 3), align_corners=False).to(x.dtype)

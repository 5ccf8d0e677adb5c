"""`MomentNorm`, which normalizes position and size of handwritten characters."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.blueprint import rebuildable
from quickstudy.core.pixels import pixel_middles

LEAST, MOST = 0.5, 1.6
"""Limits of the zoom s; strokes that would leave the picture may exceed them."""
FAINT = 0.3
"""Ink up to this fraction of the darkest pixel may be cut off."""


@rebuildable
class MomentNorm(nn.Module):
    r"""Moment normalisation: the ink of each picture is centered, and scaled to one size.

    Position and size of a character say nothing about its class. For a picture x of ink, with pixel
    coordinates p from −1 to 1 on both axes, they are measured by the moments of the ink and removed:

    $$m = \frac{\sum_p x_p\,p}{\sum_p x_p}, \qquad
      s = \frac1{s_0} \sqrt{\frac{\sum_p x_p \lVert p - m\rVert^2}{2 \sum_p x_p}}, \qquad
      x'_p = x_{m + s p}$$

    with the zoom s limited to 0.5 … 1.6, so that a dot stays a dot, and x interpolated between pixels. If a
    part of a stroke, a pixel with more than 0.3 of the darkest one's ink, would leave the picture, s is
    increased just enough to keep it inside.

    Args:
        spread: Standard deviation s₀ of the ink along an axis after normalisation, as a fraction of half the
            side of the picture, in (0, 1).

    Raises:
        ValueError: If the spread isn't in (0, 1).

    Reference: Casey 1970, "Moment normalization of handprinted characters".

    Departures: Casey also normalizes slant and the ratio of width to height. The limits of s are ours.
    """

    def __init__(self, spread: float = 0.45) -> None:
        super().__init__()
        if not 0 < spread < 1:
            raise ValueError(f"spread is {spread}: it must lie in (0, 1)")
        self.spread = spread

    def forward(self, x: Tensor) -> Tensor:
        """Pictures [B, C, H, W] → normalized pictures of the same shape; an empty picture stays empty.

        Args:
            x: [B, C, H, W] pictures, with ink > 0 on a background of 0.

        Raises:
            ValueError: If the pictures have another shape.
        """
        if x.ndim != 4:
            raise ValueError(f"the pictures are {list(x.shape)}: MomentNorm takes [B, C, H, W]")
        exact = x if x.dtype == torch.float64 else x.float()  # coordinates are too coarse in half precision
        down = pixel_middles(x.shape[2], exact)
        across = pixel_middles(x.shape[3], exact)
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

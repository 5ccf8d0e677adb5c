"""Augment, the type of a random change to a batch of items, and what each of ours refuses."""

from collections.abc import Callable

import numpy as np
from torch import Tensor

Augment = Callable[[Tensor, np.random.Generator], Tensor]
"""Maps float items and a random generator to changed items of the same shape, on the same device.

As `Episodes(augment=…)` it is given items [B, ...] of any classes and must not change these. As
`Episodes(augment_classes=…)` it is given items [N, B, ...] of N classes and decides itself which of them
share a random draw: the items of a class (`Speed`), or all of them (`SameOnBatch`).
"""


def check_pictures(change: object, x: Tensor, in_unit: bool = False) -> None:
    """Refuse items that are no pictures.

    Args:
        change: Augmentation of pictures.
        x: Items that it is given.
        in_unit: Whether values must lie in 0 … 1; not checked on an accelerator, which that would wait for.

    Raises:
        ValueError: If they are not [B, C, H, W], or not in 0 … 1.
    """
    name = type(change).__name__
    if x.ndim != 4:
        raise ValueError(
            f"{name} changes pictures [C, H, W], and the items are {list(x.shape[1:])}: leave it out"
        )
    if in_unit and x.device.type == "cpu" and x.numel():
        low, high = (float(v) for v in x.aminmax())
        if low < -0.001 or high > 1.001:
            raise ValueError(
                f"{name} takes pictures in 0 … 1, and these are in {low:.3g} … {high:.3g}: scale them to it, "
                "and normalize in the encoder"
            )


def check_clips(change: object, x: Tensor, most: int = 2) -> None:
    """Refuse items that are no clips.

    Args:
        change: Augmentation of clips.
        x: Items that it is given.
        most: Most dimensions that it takes: 2 for [B, samples], 3 for [N, B, samples] too.

    Raises:
        ValueError: If they have more dimensions.
    """
    if not 2 <= x.ndim <= most:
        raise ValueError(
            f"{type(change).__name__} changes clips [samples], and the items are {list(x.shape[1:])}: "
            "leave it out"
        )

"""Augment, the type of a random change to a batch of items."""

from collections.abc import Callable

import numpy as np
from torch import Tensor

Augment = Callable[[Tensor, np.random.Generator], Tensor]
"""Maps float items and a random generator to changed items of the same shape, on the same device.

As `Episodes(augment=…)` it is given items [B, ...] of any classes and must not change these. As
`Episodes(augment_classes=…)` it is given items [N, B, ...] of N classes and decides itself which of them
share a random draw: the items of a class (`Speed`), or all of them (`SameOnBatch`).
"""

"""What heads do to features before they compare them: unit length, and centering."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.data.pool import ClassPool

Mean = Tensor | Sequence[float]
"""A mean of features, [D]: a tensor, or numbers, which a checkpoint can keep."""


def unit(z: Tensor) -> Tensor:
    """Features of unit length; the zero vector stays as it is.

    Args:
        z: [T, B, D] features.

    Returns:
        [T, B, D] the same directions.
    """
    return F.normalize(z, dim=-1)


def centered(shots: Tensor, queries: Tensor, mean: Mean | None) -> tuple[Tensor, Tensor]:
    """Features of support and queries after a mean is subtracted, of unit length (CL2N).

    Args:
        shots: [T, S, D] features of the support.
        queries: [T, Q, D] features of the queries.
        mean: [D] mean of the features of the training classes; None for the mean of the task's own support.

    Returns:
        Support [T, S, D] and queries [T, Q, D].

    Raises:
        ValueError: If the mean has another length than the features.
    """
    if mean is None:
        middle = shots.mean(1, keepdim=True)
    else:
        middle = torch.as_tensor(mean).to(shots)
        if middle.shape != shots.shape[-1:]:
            raise ValueError(
                f"the mean is {list(middle.shape)} and features have {shots.shape[-1]} numbers: give the "
                "mean of features of the same encoder, mean_of(pool)"
            )
    return unit(shots - middle), unit(queries - middle)


def mean_of(pool: ClassPool) -> Tensor:
    """Mean of all features of a pool, which some heads subtract: `partial(head, mean=mean_of(pool))`.

    Args:
        pool: Features of the training classes, such as `pool.split("train").embedded(encoder)`.

    Returns:
        [D] mean, float32.

    Raises:
        ValueError: If the pool holds something else than features.
    """
    if pool.items.ndim != 2 or pool.items.dtype != np.float32:
        raise ValueError(f"{pool.name} holds no features: give pool.embedded(encoder)")
    return torch.from_numpy(pool.items[pool.indices].mean(0, dtype=np.float64)).float()

"""Shared functions of coordinatewise rules: one small network for all coordinates, each with its own state.

Features are in the first dimension and coordinates in the last, so that the gates of an LSTM are contiguous
after the product with the weights.
"""

import math

import torch
from torch import Tensor, nn

from quickstudy.core.adapt import Tensors


def flatten_tensors(tensors: Tensors) -> Tensor:
    """All elements of some tensors as one vector.

    Args:
        tensors: Tensors by name, with C elements in all.

    Returns:
        [C] elements, one tensor after the other.
    """
    return torch.cat([t.flatten() for t in tensors.values()])


def add_flat_steps(parameters: Tensors, steps: Tensor) -> Tensors:
    """Parameters after a step.

    Args:
        parameters: Parameters before the step, by name, with C elements in all.
        steps: [C] change of each element, in the order of `flatten_tensors`.

    Returns:
        Parameters after the step, by name.
    """
    return {k: parameters[k] + part for k, part in unflatten_like(steps, parameters).items()}


def unflatten_like(values: Tensor, like: Tensors) -> Tensors:
    """Inverse of `flatten_tensors`: a vector divided into tensors.

    Args:
        values: [C] elements, in the order of `flatten_tensors`.
        like: Tensors by name that give the shapes, with C elements in all.

    Returns:
        Tensors of these names and shapes.
    """
    parts = values.split([t.numel() for t in like.values()])
    return {k: part.view(t.shape) for (k, t), part in zip(like.items(), parts, strict=True)}


def log_and_sign(x: Tensor, p: float = 10.0) -> Tensor:
    r"""Scale a number of any magnitude to two numbers of comparable size: its logarithm and its sign.

    $$x \to \begin{cases}
    \left(\frac{\log |x|}{p}, \operatorname{sgn} x\right) & |x| \ge e^{-p} \\
    \left(-1, e^p x\right) & \text{otherwise}
    \end{cases}$$

    Args:
        x: [C] numbers, such as gradients.
        p: Number p > 0 that sets the smallest magnitude $e^{-p}$ given by its logarithm.

    Returns:
        [2, C] scaled numbers.

    Reference: Andrychowicz et al. 2016, appendix A.
    """
    least = math.exp(-p)
    size = x.abs()
    return torch.stack([size.clamp_min(least).log() / p, (x / least).clamp(-1, 1)])


def feature_first_linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Apply a linear layer to features in the first dimension.

    Args:
        layer: The layer.
        x: [in, C] features of C coordinates.

    Returns:
        [out, C] outputs.
    """
    return layer.weight @ x + layer.bias.unsqueeze(1)

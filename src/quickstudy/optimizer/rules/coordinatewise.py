"""What coordinatewise rules share: one small network for all coordinates, each with a state of its own.

Coordinates lie in the last dimension and features in the first, so that a product with the weights has the
coordinates side by side and the gates of an LSTM are contiguous.
"""

import math

import torch
from torch import Tensor, nn

from quickstudy.core.adapt import Tensors


def flat(tensors: Tensors) -> Tensor:
    """[C] all elements of some tensors, one tensor after the other."""
    return torch.cat([t.flatten() for t in tensors.values()])


def moved(parameters: Tensors, steps: Tensor) -> Tensors:
    """The parameters, each moved by its part of `steps` [C], which are in the order of `flat`."""
    return {k: parameters[k] + part for k, part in shaped(steps, parameters).items()}


def shaped(values: Tensor, like: Tensors) -> Tensors:
    """The way back from `flat`: the parts of `values` [C], in the shapes of some tensors."""
    parts = values.split([t.numel() for t in like.values()])
    return {k: part.view(t.shape) for (k, t), part in zip(like.items(), parts, strict=True)}


def log_and_sign(x: Tensor, p: float = 10.0) -> Tensor:
    r"""Two numbers of about the same size for each number x, whatever its magnitude.

    $$x \to \begin{cases}
    \left(\frac{\log |x|}{p}, \operatorname{sgn} x\right) & |x| \ge e^{-p} \\
    \left(-1, e^p x\right) & \text{otherwise}
    \end{cases}$$

    Args:
        x: [C].
        p: how small a number still counts.

    Returns:
        [2, C].

    Reference: Andrychowicz et al. 2016, appendix A.
    """
    least = math.exp(-p)
    size = x.abs()
    return torch.stack([size.clamp_min(least).log() / p, (x / least).clamp(-1, 1)])


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """A linear layer on features that lie first, [in, C] to [out, C]."""
    return layer.weight @ x + layer.bias.unsqueeze(1)

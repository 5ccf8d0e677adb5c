"""`Conv4` for T tasks at once, each with parameters of its own, by grouped convolutions."""

import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.core.adapt import Tensors
from quickstudy.core.kernels.batchnorm import norm_pool
from quickstudy.core.kernels.conv_pool_relu import conv_pool_relu, moments, patches3x3
from quickstudy.core.kernels.convolution import conv3x3, side_by_side
from quickstudy.core.kernels.pooling import pool2x2
from quickstudy.core.kernels.task_norm import next_statistics, record_statistics


def conv4_per_task(parameters: Tensors, x: Tensor) -> Tensor:
    """`Conv4.forward` for T tasks in one call; batch norm takes the statistics of each task's own items.

    Args:
        parameters: [T, ...] for each of Conv4's parameters, by name.
        x: [T, B, C, H, W] pictures.

    Returns:
        [T, B, D] embeddings.
    """
    y = _first_block(parameters, x)
    for i in range(1, 4):
        y = conv3x3(y, parameters[f"convs.{i}.weight"])
        weight, bias = (parameters[f"norms.{i}.{name}"].flatten() for name in ("weight", "bias"))
        y = F.relu(norm_pool(y, weight, bias))
    return y.unflatten(1, (len(x), -1)).transpose(0, 1).flatten(2)


def _first_block(parameters: Tensors, x: Tensor) -> Tensor:
    """The first block, which has most of the activations, and few channels in.

    So its batch norm is folded into the filters before (by statistics from the pictures' moments) and a
    bias after the pool: one pass over the activations less in each direction.
    """
    names = "convs.0.weight", "norms.0.weight", "norms.0.bias"
    filters, weight, bias = (parameters[name] for name in names)
    statistics, patches = next_statistics(), patches3x3(x)
    if statistics:
        mean, variance = statistics
    else:
        with torch.autocast(x.device.type, enabled=False):
            patch_mean, covariance = moments(patches)
            rows = filters.flatten(2)  # [T, D, 9 C]
            mean = (rows @ patch_mean.unsqueeze(2)).squeeze(2)
            variance = ((rows @ covariance) * rows).sum(2)
        record_statistics(mean, variance)
    scale = weight * (variance + 1e-5) ** -0.5
    filters, shift = filters * scale[..., None, None, None], bias - scale * mean
    if not x.requires_grad:
        return conv_pool_relu(x, patches, filters, shift)
    y = pool2x2(conv3x3(side_by_side(x), filters))
    return F.relu(y + shift.flatten()[:, None, None].to(y.dtype))

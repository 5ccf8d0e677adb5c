"""`Conv4` for T tasks in one call, each with its own parameters, by grouped convolutions."""

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
    """`Conv4.forward` for T tasks in one call; batch norm takes the batch statistics of each task.

    Args:
        parameters: Parameters of Conv4 by name, each [T, ...].
        x: [T, B, C, H, W] pictures.

    Returns:
        [T, B, D] embeddings.
    """
    y = _first_block(parameters, x)
    for i in range(1, 4):
        y = conv3x3(y, parameters[f"convs.{i}.weight"])
        weight = parameters[f"norms.{i}.weight"].flatten()
        bias = parameters[f"norms.{i}.bias"].flatten()
        y = F.relu(norm_pool(y, weight, bias))
    return y.unflatten(1, (len(x), -1)).transpose(0, 1).flatten(2)


def _first_block(parameters: Tensors, x: Tensor) -> Tensor:
    """The first block, with its batch norm folded into the filters and into a bias after the pool.

    This block has most of the activations, and few input channels. Because there are few, the statistics of
    batch norm can be computed from the moments of the pictures, which saves one pass over the activations
    in each direction.
    """
    filters = parameters["convs.0.weight"]
    weight = parameters["norms.0.weight"]
    bias = parameters["norms.0.bias"]
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

"""Convolution, max-pool and ReLU fused into one operation, for the first block of an encoder."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from quickstudy.core.kernels.convolution import How, filters_side_by_side, side_by_side
from quickstudy.core.kernels.pooling import empty, gather, pool_into, unpool_into
from quickstudy.core.kernels.sizes import sizes_on
from quickstudy.core.kernels.torch_private import aten


def patches3x3(x: Tensor) -> Tensor:
    """The 3×3 patches (padding 1) around all pixels, as the columns of `F.unfold`.

    Args:
        x: [T, B, C, H, W] pictures.

    Returns:
        [T, 9 C, B, H, W] patches in float32 or float64. Dimension 1 is in the order of flattened filters:
        9 numbers for each channel.
    """
    height, width = x.shape[-2:]
    exact = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    framed = F.pad(exact.transpose(1, 2), (1, 1, 1, 1))
    # not F.unfold, which runs picture by picture and takes ten times as long
    shifted = [framed[..., i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return torch.stack(shifted, 2).flatten(1, 2)


def moments(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [T, 9 C] and biased covariance [T, 9 C, 9 C] of each task's patches.

    The output of a 3×3 convolution by a filter w has mean w·m and variance wᵀΣw over positions and pictures,
    with m and Σ the mean and covariance of the patches. For few input channels this is the cheaper way to
    the statistics of batch norm: it needs no pass over the output of the convolution.

    Args:
        patches: [T, 9 C, ...] patches, from `patches3x3`.
    """
    with torch.autocast(patches.device.type, enabled=False):
        rows = patches.flatten(2)
        mean = rows.mean(2)
        rows = rows - mean.unsqueeze(2)
        return mean, rows @ rows.transpose(1, 2) / rows.shape[2]


def conv_pool_relu(x: Tensor, patches: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
    """ReLU(max-pool(x * w) + shift) with 3×3 convolutions (padding 1) and a 2×2 pool, for few input channels.

    With few channels the activations are many times as large as the pictures. So it takes a few pictures at a
    time, and keeps only the output of the pool. Twice differentiable.

    Args:
        x: [T, B, C, H, W] pictures. They get no gradient; use `conv3x3` if they need one.
        patches: [T, 9 C, B, H, W] patches of `x`, from `patches3x3`, for the gradient of the filters.
        weight: [T, D, C, 3, 3] filters w of each task.
        shift: [T, D] numbers that are added to the output of each filter.

    Returns:
        [B, T · D, H // 2, W // 2] activations, channels-last; in lower precision inside autocast.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, weight = x.to(dtype), weight.to(dtype)
    y: Any = _ConvPoolReLU.apply(x, patches, weight, shift.to(x.dtype))
    return y


# y = max(0, pool(x * w) + shift) is linear in filters and shift, given the pool's indices and ReLU's mask.
class _ConvPoolReLU(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, patches: Tensor, w: Tensor, shift: Tensor) -> Tensor:
        x, filters, how = side_by_side(x), filters_side_by_side(w), _how3x3(w)
        shape = len(x), len(filters), *(n // 2 for n in x.shape[2:])
        y = empty(shape, x.dtype, x.device)
        indices = empty(shape, torch.int64, x.device)
        added = shift.flatten()[:, None, None]
        # pooled directly into y, which saves one pass
        for items, out, at in _few(x, y, indices):
            pool_into(torch.conv2d(items, filters, None, *how), out, at)
            out.add_(added).clamp_min_(0)
        ctx.save_for_backward(x, patches, w, y, indices)
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        gradients = _ConvPoolReLUBackward.apply if torch.is_grad_enabled() else _conv_pool_relu_backward
        return None, None, *gradients(*grad_outputs, *ctx.saved_tensors)  # pyright: ignore


class _ConvPoolReLUBackward(Function):
    """Gradients with respect to the filters and the shift; only the shape of `w` is used."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, patches: Tensor, w: Tensor, y: Tensor, indices: Tensor
    ) -> Any:
        ctx.save_for_backward(x, y, indices)
        return _conv_pool_relu_backward(g, x, patches, w, y, indices)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] (the decorator's type)
        ctx: Any, *grad_outputs: Tensor
    ) -> Any:
        x, y, indices = ctx.saved_tensors
        w, shift = grad_outputs
        filters, added, to_g = filters_side_by_side(w), shift.flatten()[:, None, None], torch.empty_like(y)
        for items, out, at in _few(x, to_g, indices):
            v = torch.conv2d(items, filters, None, *_how3x3(w))
            torch.add(gather(v, at), added, out=out)
        return aten.threshold_backward(to_g, y, 0), None, None, None, None, None


def _conv_pool_relu_backward(
    g: Tensor, x: Tensor, patches: Tensor, w: Tensor, y: Tensor, indices: Tensor
) -> tuple[Tensor, Tensor]:
    tasks, filters = w.shape[:2]
    to_w, to_shift = patches.new_zeros(tasks, patches.shape[1], filters), patches.new_zeros(tasks * filters)
    by_picture = patches.transpose(0, 2)  # [B, 9 C, T, H, W]
    few = min(len(x), _at_once(x))
    spread = empty((few, tasks * filters, *x.shape[2:]), patches.dtype, x.device)
    with torch.autocast(x.device.type, enabled=False):
        for _, out, of_y, at, rows in _few(x, y, g, indices, by_picture):
            passed = aten.threshold_backward(of_y, out, 0).to(patches.dtype)
            to_shift += passed.sum((0, 2, 3))
            columns = unpool_into(spread[: len(passed)], passed, at).permute(0, 2, 3, 1)
            columns = columns.reshape(-1, tasks, filters)  # [B · H · W, T, D]
            # not the convolution's own gradient: for few channels it is slower, in bfloat16 by far
            to_w += rows.transpose(0, 2).flatten(2) @ columns.transpose(0, 1)
    return to_w.transpose(1, 2).reshape(w.shape).to(w.dtype), to_shift.view(w.shape[:2]).to(w.dtype)


def _how3x3(w: Tensor) -> How:
    return (1, 1), (1, 1), (1, 1), len(w)


def _few(x: Tensor, *beside: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Chunks of a few pictures of every task, with the same chunks of the other tensors."""
    n = _at_once(x)
    return zip(*(t.split(n) for t in (x, *beside)), strict=True)


def _at_once(x: Tensor) -> int:
    return max(1, sizes_on(x.device.type).first_block_numbers // x[0].numel())

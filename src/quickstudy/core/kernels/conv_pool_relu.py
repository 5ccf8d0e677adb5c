"""Convolution, pool and ReLU as one operation, for the first block of an encoder."""

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
    """[T, B, C, H, W] pictures to the 3×3 patches (padding 1) around their pixels, [T, 9 C, B, H, W].

    In float32 at least. Dimension 1 is that of filters: 9 numbers a channel.
    """
    height, width = x.shape[-2:]
    exact = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    framed = F.pad(exact.transpose(1, 2), (1, 1, 1, 1))
    # not F.unfold, which takes picture by picture and is ten times as slow
    shifted = [framed[..., i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return torch.stack(shifted, 2).flatten(1, 2)


def moments(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [T, 9 C] and biased covariance [T, 9 C, 9 C] of each task's patches.

    A 3×3 convolution by filters w has mean w·m and variance wᵀCw over positions and pictures: where there
    are few channels, as in pictures, batch norm needs no look at what the convolution has made of them.

    Args:
        patches: [T, 9 C, ...] patches, as `patches3x3` makes them.
    """
    with torch.autocast(patches.device.type, enabled=False):
        rows = patches.flatten(2)
        mean = rows.mean(2)
        rows = rows - mean.unsqueeze(2)
        return mean, rows @ rows.transpose(1, 2) / rows.shape[2]


def conv_pool_relu(x: Tensor, patches: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
    """ReLU of the 2×2 max-pool of 3×3 convolutions (padding 1) plus a shift, for pictures of few channels.

    There the activations are many times as large as the pictures; so it takes a few pictures at a time, and
    keeps only what is left after the pool. Twice differentiable.

    Args:
        x: [T, B, C, H, W] pictures. They get no gradient: see `conv3x3` where they need one.
        patches: [T, 9 C, B, H, W] their patches, by `patches3x3`: for the gradient of the filters.
        weight: [T, D, C, 3, 3] filters.
        shift: [T, D] numbers added to each filter's output.

    Returns:
        [B, T · D, H // 2, W // 2], channels-last; in lower precision inside autocast.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, weight = x.to(dtype), weight.to(dtype)
    y: Any = _ConvPoolReLU.apply(x, patches, weight, shift.to(x.dtype))
    return y


# y = max(0, pool(x * w) + shift): for fixed indices and where ReLU passes, linear in filters and shift.
class _ConvPoolReLU(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, patches: Tensor, w: Tensor, shift: Tensor) -> Tensor:
        x, filters, how = side_by_side(x), filters_side_by_side(w), _how3x3(w)
        shape = len(x), len(filters), *(n // 2 for n in x.shape[2:])
        y, indices = (empty(shape, dtype, x.device) for dtype in (x.dtype, torch.int64))
        added = shift.flatten()[:, None, None]
        # pooled straight into y: a pass less than to pool apart and add into it
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
    """The gradients with respect to the filters and the shift; of `w` only the shape is used."""

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
            # not the convolution's own gradient, which for few channels is slower, and far so in bfloat16
            to_w += rows.transpose(0, 2).flatten(2) @ columns.transpose(0, 1)
    return to_w.transpose(1, 2).reshape(w.shape).to(w.dtype), to_shift.view(w.shape[:2]).to(w.dtype)


def _how3x3(w: Tensor) -> How:
    return (1, 1), (1, 1), (1, 1), len(w)


def _few(x: Tensor, *beside: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """A few pictures of every task at a time, and what belongs to them."""
    n = _at_once(x)
    return zip(*(t.split(n) for t in (x, *beside)), strict=True)


def _at_once(x: Tensor) -> int:
    return max(1, sizes_on(x.device.type).first_block_numbers // x[0].numel())

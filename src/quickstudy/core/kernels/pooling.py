"""2×2 max-pool with indices, with second derivatives as fast as the first."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from quickstudy.core.kernels.torch_private import aten


def pool2x2(x: Tensor) -> Tensor:
    """2×2 max-pool with derivatives of any order.

    Args:
        x: [B, C, H, W] activations.

    Returns:
        [B, C, H // 2, W // 2] maxima.
    """
    y: Any = _Pool.apply(x)
    return y


# Max-pool gathers values by their indices, and its gradient scatters them back: each is the derivative of the
# other. Torch's own second derivative fills a tensor of the pool's input size with zeros and adds it.
def pool_with_indices(x: Tensor) -> tuple[Tensor, Tensor]:
    """2×2 max-pool without derivatives.

    Args:
        x: [B, C, H, W] activations.

    Returns:
        [B, C, H // 2, W // 2] maxima, and the int64 index of each among the H · W pixels of its channel.
    """
    return aten.max_pool2d_with_indices(x, [2, 2], [2, 2])


def pool_into(x: Tensor, y: Tensor, indices: Tensor) -> None:
    """2×2 max-pool into existing tensors.

    Args:
        x: [B, C, H, W] activations.
        y: [B, C, H // 2, W // 2] tensor that gets the maxima.
        indices: [B, C, H // 2, W // 2] int64 tensor that gets their indices.
    """
    aten.max_pool2d_with_indices.out(x, [2, 2], [2, 2], out=y, indices=indices)


def unpool_into(x: Tensor, g: Tensor, indices: Tensor) -> Tensor:
    """Gradient of the 2×2 max-pool, written into an existing tensor.

    Args:
        x: [B, C, H, W] tensor that gets the gradient with respect to the pool's input; 0 where not picked.
        g: [B, C, H // 2, W // 2] gradient with respect to the pool's output.
        indices: [B, C, H // 2, W // 2] indices that the pool picked.
    """
    how = [2, 2], [2, 2], [0, 0], [1, 1], False
    return aten.max_pool2d_with_indices_backward.grad_input(g, x, *how, indices, grad_input=x)


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialized tensor [B, C, H, W] in channels-last layout."""
    return torch.empty(shape, dtype=dtype, device=device, memory_format=torch.channels_last)


def flat_pixels(x: Tensor) -> Tensor:
    """View of channels-last [B, C, H, W] as [B, H · W, C], with dimension 1 addressed by a pool's indices."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def gather(v: Tensor, indices: Tensor) -> Tensor:
    """Values at the indices that a pool picked.

    Args:
        v: [B, C, H, W] values, channels-last.
        indices: [B, C, H // 2, W // 2] indices that the pool picked.

    Returns:
        [B, C, H // 2, W // 2] values.
    """
    return flat_pixels(v).gather(1, flat_pixels(indices)).unflatten(1, indices.shape[2:]).permute(0, 3, 1, 2)


class _Pool(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y, indices = pool_with_indices(x)
        ctx.save_for_backward(indices)
        ctx.shape = x.shape
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        return _MaxUnpool.apply(*grad_outputs, *ctx.saved_tensors, ctx.shape)


class _MaxUnpool(Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, indices: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(indices)
        return unpool_into(empty(shape, g.dtype, g.device), g, indices)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (v,), (indices,) = grad_outputs, ctx.saved_tensors
        picked: Any = _Gather.apply(v, indices)
        return picked, None, None


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.shape = v.shape
        return gather(v, indices)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        return _MaxUnpool.apply(*grad_outputs, *ctx.saved_tensors, ctx.shape), None

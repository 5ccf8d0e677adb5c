"""Batch norm with batch statistics and a fast second derivative."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from quickstudy.core.kernels.pooling import flat_pixels, pool2x2, pool_with_indices
from quickstudy.core.kernels.task_norm import next_statistics, record_statistics, uses_given_statistics
from quickstudy.core.kernels.torch_private import aten


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    r"""Batch norm with batch statistics, or with the statistics that an active `TaskNorm` gives.

    $$y = \gamma \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta$$

    with the mean $\mu$ and the biased variance $\sigma^2$ of each channel over the batch. Twice
    differentiable, by formulas that pass over the data as few times as possible.

    Args:
        x: [B, C, ...] activations.
        weight: [C] scale γ of each channel.
        bias: [C] offset β of each channel.
        eps: Stabilizer ε of the division.

    Returns:
        [B, C, ...] normalized activations y.
    """
    statistics = next_statistics()
    if statistics:
        return F.batch_norm(x, *statistics, weight, bias, eps=eps)
    y, mean, r = _Norm.apply(x, weight, bias, eps)  # pyright: ignore[reportGeneralTypeIssues]
    record_statistics(mean, r.detach() ** -2 - eps)
    return y


def norm_pool(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """`batch_norm` followed by a 2×2 max-pool.

    If every γ is positive, the pool picks the same positions before the norm as after it. So only the picked
    values are normalized, and backward needs one pass over the activations. The second derivative is that of
    the two operations in sequence.

    Args:
        x: [B, C, H, W] activations.
        weight: [C] scale γ of each channel.
        bias: [C] offset β of each channel.
        eps: Stabilizer ε of the division.

    Returns:
        [B, C, H // 2, W // 2] normalized and pooled activations.
    """
    # only on the CPU: looking at γ on another device would have to wait for it
    if not x.is_cpu or uses_given_statistics() or not (weight > 0).all():
        return pool2x2(batch_norm(x, weight, bias, eps))
    y, mean, variance = _NormPool.apply(x, weight, bias, eps)  # pyright: ignore[reportGeneralTypeIssues]
    record_statistics(mean, variance)
    return y


class _NormPool(Function):
    """y, and the statistics μ and σ², which carry no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
        exact = torch.zeros_like(weight)  # statistics take its dtype, and momentum 0 leaves it unchanged
        mean, variance = torch.batch_norm_update_stats(x, exact, exact, 0.0)
        picked, indices = pool_with_indices(x)
        y = F.batch_norm(picked, mean, variance, weight, bias, eps=eps)
        ctx.save_for_backward(x, weight, bias, mean, variance, picked, indices)
        ctx.mark_non_differentiable(mean, variance)
        ctx.eps = eps
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        g = grad_outputs[0]
        x, weight, bias, mean, variance, picked, indices = ctx.saved_tensors
        if torch.is_grad_enabled():
            y = pool2x2(_Norm.apply(x, weight, bias, ctx.eps)[0])  # pyright: ignore
            of = [t for t in (x, weight, bias) if t.requires_grad]
            found = iter(torch.autograd.grad(y, of, g, create_graph=True))
            return *(next(found) if t.requires_grad else None for t in (x, weight, bias)), None
        r = (variance + ctx.eps) ** -0.5
        _, sum_gx, sum_g = aten.native_batch_norm_backward(
            g, picked, weight, None, None, mean, r, True, ctx.eps, [False, True, True]
        )
        # γr(g − ḡ − x̂·mean(gx̂)) = γr·g + across + along·x, where g is 0 at positions that were not picked
        n, slope = x.numel() // x.shape[1], weight * r
        along = -slope * r * sum_gx / n
        across = -slope * sum_g / n - along * mean

        each = partial(_by_channel, x)
        to_x = torch.addcmul(each(across), each(along), x).contiguous(memory_format=torch.channels_last)
        there = torch.addcmul(each(across), each(along), picked).addcmul_(each(slope), g)
        flat_pixels(to_x).scatter_(1, flat_pixels(indices), flat_pixels(there))
        return to_x, sum_gx, sum_g, None


class _Norm(Function):
    """y, and the statistics μ and r = 1/√(σ² + ε), which carry no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
        y, mean, r = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)
        ctx.save_for_backward(x, weight, mean, r)
        ctx.mark_non_differentiable(mean, r)
        ctx.eps = eps
        return y, mean, r

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        gradients = _NormBackward.apply if torch.is_grad_enabled() else _backward
        return *gradients(grad_outputs[0], *ctx.saved_tensors, ctx.eps), None  # pyright: ignore


class _NormBackward(Function):
    """Gradients of x, γ and β: γr(g − ḡ − x̂·mean(gx̂)), Σgx̂ and Σg; x̂ = (x − μ)r.

    Its own gradients are derived by hand from L = Σv·dx + v_γ·dγ + v_β·dβ, where v are the cotangents:
    torch's formula for them passes over the data about twenty times.
    """

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, r: Tensor, eps: float
    ) -> tuple[Tensor, ...]:
        dx, sum_gx, sum_g = _backward(g, x, weight, mean, r, eps)
        ctx.save_for_backward(g, x, weight, mean, r, sum_gx, sum_g)
        ctx.eps = eps
        return dx, sum_gx, sum_g

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] (the decorator's type)
        ctx: Any, *grad_outputs: Tensor
    ) -> Any:
        v, v_weight, v_bias = grad_outputs
        g, x, weight, mean, r, sum_gx, sum_g = ctx.saved_tensors
        n = x.numel() // x.shape[1]
        to_g, sum_vx, sum_v = _backward(v, x, weight, mean, r, ctx.eps)
        inner = _channel_sum(v * g).to(r.dtype) - sum_v * sum_g / n - sum_vx * sum_gx / n  # Σv·dx / γr
        to_weight = r * inner

        each = partial(_by_channel, x)
        slope = v_weight * r
        to_g = to_g.addcmul_(each(slope), x).add_(each(v_bias - slope * mean))
        # through x̂, whose gradient is by_v·v + by_g·g, and through r, which scales dx
        by_v, by_g = -weight * r * sum_gx / n, v_weight - weight * r * sum_vx / n
        average = (by_v * sum_v + by_g * sum_g) / n
        along = (by_v * sum_vx + by_g * sum_gx) / n
        by_x = -r * r * (along + weight * r * inner / n)
        to_x = torch.addcmul(each(-r * average - by_x * mean), each(by_x), x)
        to_x = to_x.addcmul_(each(r * by_v), v).addcmul_(each(r * by_g), g)
        return to_g, to_x, to_weight, None, None, None


def _backward(g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, r: Tensor, eps: float) -> Any:
    return aten.native_batch_norm_backward(g, x, weight, None, None, mean, r, True, eps, [True, True, True])


def _by_channel(x: Tensor, t: Tensor) -> Tensor:
    """[C] numbers in the dtype of x, in a shape that broadcasts to x [B, C, ...]."""
    return t.to(x.dtype).view(-1, *[1] * (x.ndim - 2))


def _channel_sum(x: Tensor) -> Tensor:
    """Sum over all dimensions but 1; over rows if x is channels-last, because such sums are fastest."""
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return x.permute(0, 2, 3, 1).flatten(0, 2).sum(0)
    return x.transpose(0, 1).flatten(1).sum(1)

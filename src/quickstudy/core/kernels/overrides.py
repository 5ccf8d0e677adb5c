"""Replacing torch's layers by the kernels, inside any module that an inner loop runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

from quickstudy.core.kernels.batchnorm import batch_norm
from quickstudy.core.kernels.convolution import Pair, convolution, filters_side_by_side, side_by_side
from quickstudy.core.kernels.pooling import pool2x2
from quickstudy.core.kernels.task_norm import is_active
from quickstudy.core.kernels.torch_private import is_vmapped, pair


class FastOps(TorchFunctionMode):
    """While active, the kernels replace torch's convolution, batch norm and max-pool.

    They have faster second derivatives. Batch norm is replaced only while a `TaskNorm` is active.

    Raises:
        NotImplementedError: Under vmap, if torch would compute wrong second derivatives of a layer there.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Called by torch instead of each of its functions."""
        substitute = _SUBSTITUTES.get(func)
        y = substitute(*args, **(kwargs or {})) if substitute else None
        if y is None and func in _WRONG_UNDER_VMAP and is_vmapped(args[0]):
            raise NotImplementedError(f"{func} under vmap")
        return func(*args, **(kwargs or {})) if y is None else y


def _norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    """Replacement of `F.batch_norm` with batch statistics and without running statistics; else None."""
    if not is_active() or not training or running_mean is not None:
        return None
    weight = input.new_ones(input.shape[1]) if weight is None else weight
    bias = input.new_zeros(input.shape[1]) if bias is None else bias
    if not is_vmapped(input):
        return batch_norm(input, weight, bias, eps)
    if input.ndim == 4:
        return _SideBySide.apply(_norms, input, weight, bias, eps)  # pyright: ignore
    return None


def _norms(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return batch_norm(side_by_side(x), weight.flatten(), bias.flatten(), eps)


def _conv(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    """Replacement of `F.conv2d` for a batch, with padding given as numbers; else None."""
    if input.ndim != 4 or isinstance(padding, str):
        return None
    how = pair(stride), pair(padding), pair(dilation), groups
    if is_vmapped(input):
        y: Any = _SideBySide.apply(_convolutions, input, weight, bias, *how)
        return y
    return convolution(input, weight, bias, *how)


def _convolutions(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    filters = filters_side_by_side(weight)
    biases = None if bias is None else bias.flatten()
    return convolution(side_by_side(x), filters, biases, stride, padding, dilation, groups * len(weight))


def _pool(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | None:
    """Replacement of `F.max_pool2d` for 2×2 windows; else None."""
    how = pair(kernel_size), pair(stride or kernel_size), pair(padding), pair(dilation)
    if how != ((2, 2), (2, 2), (0, 0), (1, 1)) or ceil_mode or return_indices or input.ndim != 4:
        return None
    if is_vmapped(input):
        return _SideBySide.apply(lambda x: pool2x2(side_by_side(x)), input)  # pyright: ignore
    return pool2x2(input)


_SUBSTITUTES: dict[Any, Callable[..., Tensor | None]] = {
    F.batch_norm: _norm,
    F.conv2d: _conv,
    F.max_pool2d: _pool,
    torch.max_pool2d: _pool,
}
"""Replacements by torch function; if one returns None, torch's own function is called."""
_WRONG_UNDER_VMAP = {F.batch_norm, torch.batch_norm, F.instance_norm, torch.instance_norm}
"""Functions whose second derivatives under vmap wrongly treat the statistics as constants (torch 2.x)."""


class _SideBySide(Function):
    """Apply, under vmap, a function from pictures [T, B, C, H, W] and parameters to [B, T · D, H', W']."""

    @staticmethod
    def forward(of_all: Callable[..., Tensor], *operands: Any) -> Any:
        raise NotImplementedError

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Save nothing, because the function is differentiable by itself."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *operands: Any) -> Any:
        """Apply the function to all tasks in one call."""
        tasks = info.batch_size
        stacked: list[Any] = [
            x if not isinstance(x, Tensor) else x.expand(tasks, *x.shape) if d is None else x.movedim(d, 0)
            for x, d in zip(operands, in_dims, strict=True)
        ]
        of_all, *rest = stacked
        return of_all(*rest).unflatten(1, (tasks, -1)), 1

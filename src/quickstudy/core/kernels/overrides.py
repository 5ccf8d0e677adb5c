"""Our layers in the place of torch's, inside any module that an inner loop runs."""

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
    """While active, torch's convolution, batch norm and pool are ours, which are fast to differentiate twice.

    Batch norm only while a `TaskNorm` is active.

    Raises:
        NotImplementedError: under vmap, for layers that torch differentiates wrongly there, or task by task.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Torch calls this in the place of every function of its own."""
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
    """For `F.batch_norm`, where it takes nothing but batch statistics."""
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
    """For `F.conv2d`, of a batch, with padding in numbers."""
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
    """For `F.max_pool2d`, where it is 2×2."""
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
"""What replaces a function of torch; None as its result means that torch's own is called."""
_WRONG_UNDER_VMAP = {F.batch_norm, torch.batch_norm, F.instance_norm, torch.instance_norm}
"""Their second derivatives under vmap take the statistics for constants, which is wrong (torch 2.x)."""


class _SideBySide(Function):
    """Under vmap, a function of all tasks' pictures [T, B, C, H, W] and parameters to [B, T · D, H', W']."""

    @staticmethod
    def forward(of_all: Callable[..., Tensor], *operands: Any) -> Any:
        raise NotImplementedError

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing to keep: the function is differentiable."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *operands: Any) -> Any:
        """All tasks at once."""
        tasks = info.batch_size
        stacked: list[Any] = [
            x if not isinstance(x, Tensor) else x.expand(tasks, *x.shape) if d is None else x.movedim(d, 0)
            for x, d in zip(operands, in_dims, strict=True)
        ]
        of_all, *rest = stacked
        return of_all(*rest).unflatten(1, (tasks, -1)), 1

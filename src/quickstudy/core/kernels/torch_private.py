"""All private API of torch that the library uses, so that an upgrade of torch can break only this file.

No other file imports a name of torch that begins with an underscore, or uses `torch.ops`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.utils import _pair  # pyright: ignore
from torch.utils import _pytree  # pyright: ignore[reportPrivateUsage]

BatchNorm = _BatchNorm
"""The base class of `nn.BatchNorm1d`, `2d`, `3d` and `nn.SyncBatchNorm`."""
aten: Any = torch.ops.aten
"""Torch's low-level operators, which include the backward passes of layers."""
pytree = _pytree
"""Flattening nested tuples, lists and dictionaries of tensors to lists, and restoring them."""


def pair(value: Any) -> tuple[int, int]:
    """A pair as it is, or a number twice, as 2-D layers take their arguments."""
    return _pair(value)


def is_vmapped(x: Tensor) -> bool:
    """Whether a tensor is a batched tensor inside `torch.func.vmap`."""
    return torch._C._functorch.is_batchedtensor(x)  # pyright: ignore


def is_traced() -> bool:
    """Whether `torch.jit.trace`, or an export to ONNX by it, is running."""
    return torch._C._is_tracing()  # pyright: ignore


def cpu_has_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()

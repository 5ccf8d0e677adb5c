"""All that is used of torch and that torch does not promise to keep: an upgrade of torch breaks here first.

Nothing else imports a name of torch that begins with an underscore, or reaches into `torch.ops`.
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
"""The operators below `torch.nn.functional`: their backward passes are operators too."""
pytree = _pytree
"""Nested tuples, lists and dictionaries of tensors as flat lists, and back."""


def pair(value: Any) -> tuple[int, int]:
    """A number twice, a pair as it is: how layers of pictures take their arguments."""
    return _pair(value)


def is_vmapped(x: Tensor) -> bool:
    """Whether this is what `torch.func.vmap` hands to the function it maps."""
    return torch._C._functorch.is_batchedtensor(x)  # pyright: ignore


def cpu_has_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()

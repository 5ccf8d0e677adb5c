"""MLP, and Classifier: an encoder with a head."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.adapt import Tensors
from quickstudy.core.blueprint import rebuildable
from quickstudy.core.kernels.convolution import per_task_linear
from quickstudy.core.kernels.per_task import below, per_task


@rebuildable
class MLP(nn.Module):
    """Fully connected layers with ReLU between them: [B, inputs] → [B, outputs].

    Args:
        inputs: Numbers in an item.
        widths: Units of each hidden layer.
        outputs: Numbers in an output.
    """

    def __init__(self, inputs: int, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        sizes = [inputs, *widths, outputs]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs] → [B, outputs]."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)

    def forward_per_task(self, parameters: Tensors, x: Tensor) -> Tensor:
        """`forward` for T tasks, each with parameters of its own: [T, B, inputs] → [T, B, outputs]."""
        last = len(self.layers) - 1
        for i in range(last + 1):
            x = per_task_linear(x, parameters[f"layers.{i}.weight"], parameters[f"layers.{i}.bias"])
            x = F.relu(x) if i < last else x
        return x


@rebuildable
class Classifier(nn.Module):
    """An encoder and a linear head: what learners of an initialisation adapt.

    Args:
        encoder: Any module from [B, ...] to [B, D].
        ways: N, the number of outputs; tasks may have fewer classes, and then use the first of them.
        dimensions: D, the length of an embedding.
    """

    def __init__(self, encoder: nn.Module, ways: int, dimensions: int = 64) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(dimensions, ways)

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] items → [B, N] scores."""
        return self.head(self.encoder(x))

    def forward_per_task(self, parameters: Tensors, x: Tensor) -> Tensor:
        """`forward` for T tasks, each with parameters of its own: [T, B, ...] → [T, B, N]."""
        z = per_task(self.encoder, below("encoder", parameters), x)
        if z.shape[-1] != self.head.in_features:
            raise ValueError(
                f"the encoder makes {z.shape[-1]} numbers and the head takes {self.head.in_features}: "
                f"say so, Classifier(encoder, ways, dimensions={z.shape[-1]})"
            )
        return per_task_linear(z, parameters["head.weight"], parameters["head.bias"])

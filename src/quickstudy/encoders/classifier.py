"""`MLP`, and `Classifier`, an encoder with a linear head."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.adapt import Tensors
from quickstudy.core.arguments import check_whole
from quickstudy.core.blueprint import rebuildable
from quickstudy.core.kernels.convolution import per_task_linear
from quickstudy.core.kernels.per_task import below, per_task


@rebuildable
class MLP(nn.Module):
    """Multilayer perceptron: linear layers with ReLU between them, [B, inputs] → [B, outputs].

    Args:
        inputs: Number of elements in an item.
        widths: Number of units in each hidden layer.
        outputs: Number of elements in an output.
    """

    def __init__(self, inputs: int, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        sizes = [inputs, *widths, outputs]
        if min(sizes) < 1:
            raise ValueError(
                f"inputs is {inputs}, widths {tuple(widths)}, outputs {outputs}: each must be at least 1"
            )
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """Items [B, inputs] → outputs [B, outputs]."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)

    def forward_per_task(self, parameters: Tensors, x: Tensor) -> Tensor:
        """`forward` for T tasks, each with its own parameters: [T, B, inputs] → [T, B, outputs].

        Args:
            parameters: Parameters of the module by name, each [T, ...].
            x: [T, B, inputs] items.
        """
        last = len(self.layers) - 1
        for i in range(last + 1):
            x = per_task_linear(x, parameters[f"layers.{i}.weight"], parameters[f"layers.{i}.bias"])
            x = F.relu(x) if i < last else x
        return x


@rebuildable
class Classifier(nn.Module):
    """An encoder with a linear head: the model that learners with an inner loop, such as MAML, adapt.

    Args:
        encoder: Any module from [B, ...] to [B, D].
        ways: Number N of outputs; tasks with fewer classes use the first outputs.
        dimensions: Length D of an embedding.
    """

    def __init__(self, encoder: nn.Module, ways: int, dimensions: int = 64) -> None:
        super().__init__()
        check_whole(1, ways=ways, dimensions=dimensions)
        self.encoder = encoder
        self.head = nn.Linear(dimensions, ways)

    def forward(self, x: Tensor) -> Tensor:
        """Items [B, ...] → scores [B, N]."""
        return self.head(self.encoder(x))

    def forward_per_task(self, parameters: Tensors, x: Tensor) -> Tensor:
        """`forward` for T tasks, each with its own parameters: [T, B, ...] → [T, B, N].

        Args:
            parameters: Parameters of the module by name, each [T, ...].
            x: [T, B, ...] items.

        Raises:
            ValueError: If the encoder's embeddings do not have `dimensions` elements.
        """
        z = per_task(self.encoder, below("encoder", parameters), x)
        if z.shape[-1] != self.head.in_features:
            raise ValueError(
                f"the encoder makes {z.shape[-1]} numbers but the head takes {self.head.in_features}: "
                f"build Classifier(encoder, ways, dimensions={z.shape[-1]})"
            )
        return per_task_linear(z, parameters["head.weight"], parameters["head.bias"])

"""Baseline and Baseline++ of Chen et al. 2019, one task at a time, with torch's own layers and optimizer."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class Cosines(nn.Module):
    """A layer without bias and with normalized weights, on features of unit length, times 2."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = weight_norm(linear, dim=0)

    def forward(self, z: Tensor) -> Tensor:
        lengths = torch.tensor([math.sqrt(sum(float(v) ** 2 for v in item)) for item in z], dtype=z.dtype)
        return 2 * self.linear(z / (lengths[:, None] + 1e-5))


def chen(z: Tensor, y: Tensor, ways: int, queries: Tensor, cosine: bool, epochs: int, seed: int) -> Tensor:
    """Scores [Q, N] of one task; weights and orders are drawn in the order that the docstring states."""
    rng = torch.Generator().manual_seed(seed)
    bound = 1 / math.sqrt(z.shape[1])
    first = torch.rand(ways, z.shape[1] + (not cosine), generator=rng, dtype=torch.float64)
    first = -bound + 2 * bound * first
    linear = nn.Linear(z.shape[1], ways, bias=not cosine).double()
    with torch.no_grad():
        linear.weight.copy_(first[:, : z.shape[1]])
        if not cosine:
            linear.bias.copy_(first[:, -1])
    layer = Cosines(linear) if cosine else linear
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01, momentum=0.9, dampening=0.9, weight_decay=0.001)
    for _ in range(epochs):
        order = torch.randperm(len(z), generator=rng)
        for start in range(0, len(z), 4):
            chosen = order[start : start + 4]
            optimizer.zero_grad()
            F.cross_entropy(layer(z[chosen]), y[chosen]).backward()
            optimizer.step()
    return layer(queries).detach()

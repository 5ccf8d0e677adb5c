"""Oracle of MAML, first and second order: the equations of the paper, literally and slowly."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.support.oracles import Weights

# Finn, Abbeel, Levine 2017: "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks"
Net = Callable[[Weights, Tensor], Tensor]
"""f_θ: from weights and a batch [B, ...] to scores [B, N]."""
ItemLoss = Callable[[Tensor, Tensor], Tensor]
"""From the scores [N] of one item and its label to its loss."""


def finn_convolution(kernel: Tensor, x: Tensor) -> Tensor:
    """3×3 convolution without bias, with a border of zeros: [B, C, H, W] → [B, D, H, W]."""
    height, width = x.shape[2:]
    bordered = torch.zeros(len(x), x.shape[1], height + 2, width + 2, dtype=x.dtype)
    bordered[:, :, 1:-1, 1:-1] = x
    total = torch.zeros(len(x), len(kernel), height, width, dtype=x.dtype)
    for i in range(3):
        for j in range(3):
            shifted = bordered[:, :, i : i + height, j : j + width]
            total = total + torch.einsum("dc,bchw->bdhw", kernel[:, :, i, j], shifted)
    return total


def finn_batch_norm(weight: Tensor, bias: Tensor, x: Tensor, first: int) -> Tensor:
    """Ioffe, Szegedy 2015: (x − μ) / √(σ² + ε) · γ + β, μ and σ² of each channel over the `first` items."""
    planes = []
    for c in range(x.shape[1]):
        seen = x[:first, c]
        mean = seen.sum() / seen.numel()
        variance = ((seen - mean) ** 2).sum() / seen.numel()
        planes.append((x[:, c] - mean) / torch.sqrt(variance + 1e-5) * weight[c] + bias[c])
    return torch.stack(planes, 1)


def finn_linear(weight: Tensor, bias: Tensor, z: Tensor) -> Tensor:
    """[B, D] → [B, N]."""
    return torch.stack([(weight[n] * z).sum(1) + bias[n] for n in range(len(weight))], 1)


def finn_conv4(weights: Weights, x: Tensor, first: int | None = None) -> Tensor:
    """The network of section 5.2: 4 × (3×3 convolution, batch norm, ReLU, 2×2 max-pooling), linear layer.

    Batch norm takes the statistics of the `first` items of the batch, of all by default.
    """
    for i in range(4):
        x = finn_convolution(weights[f"encoder.convs.{i}.weight"], x)
        norm = weights[f"encoder.norms.{i}.weight"], weights[f"encoder.norms.{i}.bias"]
        x = finn_batch_norm(*norm, x, len(x) if first is None else first)
        x = torch.where(x > 0, x, torch.zeros_like(x))
        rows = torch.maximum(x[:, :, 0::2], x[:, :, 1::2])
        x = torch.maximum(rows[..., 0::2], rows[..., 1::2])
    return finn_linear(weights["head.weight"], weights["head.bias"], x.reshape(len(x), -1))


def finn_mlp(weights: Weights, x: Tensor) -> Tensor:
    """The network of section 5.1: fully connected layers with ReLU between them."""
    layers = len(weights) // 2
    for i in range(layers):
        x = finn_linear(weights[f"layers.{i}.weight"], weights[f"layers.{i}.bias"], x)
        if i < layers - 1:
            x = torch.where(x > 0, x, torch.zeros_like(x))
    return x


def finn_cross_entropy(scores: Tensor, y: Tensor) -> Tensor:
    """Equation 3, of one item: −log of the softmax at the label."""
    probabilities = torch.exp(scores) / torch.exp(scores).sum()
    return -torch.log(probabilities[int(y)])


def finn_squared_error(prediction: Tensor, y: Tensor) -> Tensor:
    """Equation 2 of the paper's section 3.1, of one item, averaged over its outputs as over the items."""
    return ((prediction - y) ** 2).sum() / y.numel()


def finn_loss(outputs: Tensor, y: Tensor, item_loss: ItemLoss) -> Tensor:
    """The mean of the items' losses."""
    total = torch.zeros((), dtype=outputs.dtype)
    for i in range(len(outputs)):
        total = total + item_loss(outputs[i], y[i])
    return total / len(outputs)


def finn_gradient(loss: Tensor, weights: Weights, names: Iterable[str]) -> Weights:
    """∇_θ of the named weights, itself differentiable; 0 where the loss doesn't depend on them."""
    wanted = {name: weights[name] for name in names}
    gradients = torch.autograd.grad(loss, list(wanted.values()), create_graph=True, allow_unused=True)
    return {
        name: torch.zeros_like(w) if gradient is None else gradient
        for (name, w), gradient in zip(wanted.items(), gradients, strict=True)
    }


def finn_adapt(
    net: Net, item_loss: ItemLoss, weights: Weights, rates: Weights, x: Tensor, y: Tensor, steps: int
) -> Weights:
    """θ' = θ − α∇_θ L(f_θ), some times; α by the name of the weight, which stays as it is without."""
    for _ in range(steps):
        gradients = finn_gradient(finn_loss(net(weights, x), y, item_loss), weights, rates)
        weights = weights | {name: weights[name] - rates[name] * gradients[name] for name in rates}
    return weights


@dataclass
class Finn:
    """What Algorithm 2 computes for a meta-batch."""

    adapted: list[Weights]
    outputs: Tensor
    loss: Tensor


def finn(
    net: Net,
    item_loss: ItemLoss,
    weights: Weights,
    rates: Weights,
    support: tuple[Tensor, Tensor],
    query: tuple[Tensor, Tensor],
    steps: int,
) -> Finn:
    """Adapted weights, outputs [T, Q, N] and the mean over tasks of the loss of equation 1.

    With rates that are tensors of the weights' shapes it is equation 2 of Li, Zhou, Chen, Li 2017,
    "Meta-SGD"; with rates for the last layer alone it is equation 1 of Raghu, Raghu, Bengio, Vinyals 2020,
    "Rapid Learning or Feature Reuse?" (ANIL).
    """
    adapted, outputs = [], []
    loss = torch.zeros((), dtype=query[0].dtype)
    tasks = len(query[0])
    for t in range(tasks):
        own = finn_adapt(net, item_loss, weights, rates, support[0][t], support[1][t], steps)
        output = net(own, query[0][t])
        adapted.append(own)
        outputs.append(output)
        loss = loss + finn_loss(output, query[1][t], item_loss) / tasks
    return Finn(adapted, torch.stack(outputs), loss)


def finn_first_order(
    net: Net,
    item_loss: ItemLoss,
    weights: Weights,
    rates: Weights,
    support: tuple[Tensor, Tensor],
    query: tuple[Tensor, Tensor],
    steps: int,
) -> tuple[Weights, Weights]:
    """Section 5.2: the meta-gradient is ∇L at the adapted weights, and nothing else; mean over tasks.

    Also that of the rates: θ' = θ − Σ_k α ∘ g_k with constant g_k, so it is −Σ_k g_k ∘ ∇L(θ').
    """
    tasks = len(query[0])
    of_weights = {name: torch.zeros_like(w) for name, w in weights.items()}
    of_rates = {name: torch.zeros_like(weights[name]) for name in rates}
    for t in range(tasks):
        own, walked = weights, {name: torch.zeros_like(weights[name]) for name in rates}
        for _ in range(steps):
            own = {name: w.detach().requires_grad_() for name, w in own.items()}
            gradients = finn_gradient(
                finn_loss(net(own, support[0][t]), support[1][t], item_loss), own, rates
            )
            own = own | {name: own[name] - rates[name] * gradients[name] for name in rates}
            walked = {name: walked[name] + gradients[name].detach() for name in rates}
        own = {name: w.detach().requires_grad_() for name, w in own.items()}
        gradients = finn_gradient(finn_loss(net(own, query[0][t]), query[1][t], item_loss), own, own)
        for name in weights:
            of_weights[name] = of_weights[name] + gradients[name].detach() / tasks
        for name in rates:
            of_rates[name] = of_rates[name] - walked[name] * gradients[name].detach() / tasks
    return of_weights, of_rates

"""Oracle of the LSTM optimizer: the equations of the paper, literally and slowly."""

import math

import torch
from torch import Tensor

from tests.support.oracles import Weights

# Andrychowicz et al. 2016: "Learning to learn by gradient descent by gradient descent"
# This and the next two are in plain numbers, one coordinate after the other, and so not differentiable.
Numbers = dict[str, list[float]]
"""The elements of some tensors, by name."""


def numbers(tensors: Weights) -> Numbers:
    """Each tensor's elements in the order of `flatten`."""
    return {name: t.detach().flatten().tolist() for name, t in tensors.items()}


def sigmoid(x: float) -> float:
    """1 / (1 + e^−x)."""
    return 1 / (1 + math.exp(-x))


def andrychowicz_preprocess(x: float, p: float) -> list[float]:
    """Appendix A: (log|∇|/p, sgn ∇) if |∇| ≥ e^−p, and (−1, e^p ∇) otherwise."""
    if abs(x) >= math.exp(-p):
        return [math.log(abs(x)) / p, 1.0 if x > 0 else -1.0]
    return [-1.0, math.exp(p) * x]


def andrychowicz_layer(weight: Tensor, bias: Tensor, x: list[float]) -> list[float]:
    """Σ_d w_kd x_d + b_k for each k."""
    rows, biases, out = weight.tolist(), bias.flatten().tolist(), []
    for k in range(len(rows)):
        total = biases[k]
        for d in range(len(x)):
            total += rows[k][d] * x[d]
        out.append(total)
    return out


def andrychowicz_lstm(weights: Weights, x: list[float], hidden: list[list[float]]) -> list[float]:
    """A stack of LSTM cells (Hochreiter, Schmidhuber 1997, with forget gates) for one coordinate.

    `hidden` has h and c of each layer, and is moved on. Rows of the weights: those of i, of f, of o, of g.
    """
    for layer in range(len(hidden) // 2):
        h, c = hidden[2 * layer], hidden[2 * layer + 1]
        name, size = f"lstm.cells.{layer}", len(h)
        of_x = andrychowicz_layer(weights[f"{name}.of_input"], weights[f"{name}.bias"], x)
        of_h = andrychowicz_layer(weights[f"{name}.of_state"], torch.zeros(4 * size), h)
        gates = [of_x[k] + of_h[k] for k in range(4 * size)]
        new_h, new_c = [], []
        for d in range(size):
            i, f, o = (sigmoid(gates[n * size + d]) for n in range(3))
            new_c.append(f * c[d] + i * math.tanh(gates[3 * size + d]))
            new_h.append(o * math.tanh(new_c[d]))
        hidden[2 * layer], hidden[2 * layer + 1] = new_h, new_c
        x = new_h
    return x


def andrychowicz(
    weights: Weights,
    start: Weights,
    gradients: list[Weights],
    preprocess: bool = True,
    scale: float = 0.1,
    units: int = 20,
    layers: int = 2,
    p: float = 10.0,
) -> list[Numbers]:
    """θ_{t+1} = θ_t + g_t with (g_t, h_{t+1}) = m(∇_t, h_t, φ), after each step, coordinate by coordinate."""
    after = [numbers(start) for _ in gradients]
    for name in start:
        for n in range(start[name].numel()):
            theta = start[name].flatten()[n].item()
            hidden = [[0.0] * units for _ in range(2 * layers)]
            for t in range(len(gradients)):
                nabla = gradients[t][name].flatten()[n].item()
                x = andrychowicz_preprocess(nabla, p) if preprocess else [nabla]
                h = andrychowicz_lstm(weights, x, hidden)
                theta = theta + scale * andrychowicz_layer(weights["step.weight"], weights["step.bias"], h)[0]
                after[t][name][n] = theta
    return after

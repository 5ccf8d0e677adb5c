"""Oracle of the LSTM meta-learner: the equations of the paper, literally and slowly."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.initialization.oracle_maml import Finn, ItemLoss, Net, finn_gradient, finn_loss
from tests.support.oracles import Weights


# Ravi, Larochelle 2017: "Optimization as a Model for Few-Shot Learning"
# What a gate remembers of itself is its value before σ, as in the authors' code.
def ravi_preprocess(x: Tensor, p: float) -> list[Tensor]:
    """Section 3.2: (log|x| / p, sgn x) where |x| ≥ e^−p, else (−1, e^p x)."""
    if abs(x.item()) >= math.exp(-p):
        return [torch.log(torch.abs(x)) / p, torch.sign(x)]
    return [-torch.ones_like(x), math.exp(p) * x]


def ravi_dot(weights: Tensor, values: list[Tensor]) -> Tensor:
    """Σ_d w_d v_d."""
    total = torch.zeros((), dtype=weights.dtype)
    for w, v in zip(weights, values, strict=True):
        total = total + w * v
    return total


@dataclass
class Ravi:
    """What the meta-learner remembers of one coordinate: h and c of the LSTM, and the gates before σ."""

    h: list[Tensor]
    c: list[Tensor]
    f: Tensor
    i: Tensor


def ravi_lstm(rule: Weights, x: list[Tensor], state: Ravi) -> tuple[list[Tensor], list[Tensor]]:
    """The LSTM's next h and c; its weights have the input gate first, then forget, output, candidate."""
    before, n = [], len(state.h)
    for k in range(4 * n):
        of_input = ravi_dot(rule["lstm.of_input"][k], x)
        of_state = ravi_dot(rule["lstm.of_state"][k], state.h)
        before.append(of_input + of_state + rule["lstm.bias"][k, 0])
    h, c = [], []
    for k in range(n):
        i, f, o = (torch.sigmoid(before[gate * n + k]) for gate in range(3))
        c.append(f * state.c[k] + i * torch.tanh(before[3 * n + k]))
        h.append(o * torch.tanh(c[k]))
    return h, c


def ravi_coordinate(
    rule: Weights, theta: Tensor, gradient: Tensor, loss: Tensor, state: Ravi, p: float
) -> tuple[Tensor, Ravi]:
    """Equation 2: c_t = f_t c_{t−1} + i_t c̃_t with c_{t−1} = θ_{t−1} and c̃_t = −∇L_t."""
    h, c = ravi_lstm(rule, ravi_preprocess(loss, p) + ravi_preprocess(gradient, p), state)
    f = ravi_dot(rule["weight"][0], [*h, theta, state.f]) + rule["bias"][0, 0]
    i = ravi_dot(rule["weight"][1], [*h, theta, state.i]) + rule["bias"][1, 0]
    return torch.sigmoid(f) * theta + torch.sigmoid(i) * -gradient, Ravi(h, c, f, i)


def ravi_adapt(
    net: Net,
    item_loss: ItemLoss,
    rule: Weights,
    weights: Weights,
    x: Tensor,
    y: Tensor,
    steps: int,
    first_order: bool,
    p: float = 10.0,
) -> Weights:
    """Algorithm 1, lines 7 to 12: θ_T of one task. First order: gradients and losses are constants."""
    zero = torch.zeros((), dtype=torch.float64)
    hidden = [zero] * rule["lstm.of_state"].shape[1]
    states = {name: [Ravi(hidden, hidden, zero, zero)] * w.numel() for name, w in weights.items()}
    for _ in range(steps):
        at = {name: w.detach().requires_grad_() for name, w in weights.items()} if first_order else weights
        loss = finn_loss(net(at, x), y, item_loss)
        gradients = finn_gradient(loss, at, at)
        moved: Weights = {}
        for name, w in weights.items():
            numbers, after = [], []
            for j in range(w.numel()):
                gradient, now = gradients[name].flatten()[j], loss
                if first_order:
                    gradient, now = gradient.detach(), loss.detach()
                number, state = ravi_coordinate(rule, w.flatten()[j], gradient, now, states[name][j], p)
                numbers.append(number)
                after.append(state)
            moved[name], states[name] = torch.stack(numbers).reshape(w.shape), after
        weights = moved
    return weights


def ravi(
    net: Net,
    item_loss: ItemLoss,
    rule: Weights,
    weights: Weights,
    support: tuple[Tensor, Tensor],
    query: tuple[Tensor, Tensor],
    steps: int,
    first_order: bool,
) -> Finn:
    """Adapted weights, outputs [T, Q, N] and the mean over tasks of the loss of the queries at θ_T."""
    adapted, outputs = [], []
    loss = torch.zeros((), dtype=query[0].dtype)
    for t in range(len(query[0])):
        own = ravi_adapt(net, item_loss, rule, weights, support[0][t], support[1][t], steps, first_order)
        output = net(own, query[0][t])
        adapted.append(own)
        outputs.append(output)
        loss = loss + finn_loss(output, query[1][t], item_loss) / len(query[0])
    return Finn(adapted, torch.stack(outputs), loss)

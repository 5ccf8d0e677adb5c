"""What coordinatewise rules share: one small network for all coordinates, each with a state of its own.

Coordinates lie in the last dimension and features in the first, so that a product with the weights has the
coordinates side by side and the gates of an LSTM are contiguous.
"""

import math

import torch
from torch import Tensor, nn

from quickstudy.adapt import Tensors


def flat(tensors: Tensors) -> Tensor:
    """[C] all elements of some tensors, one tensor after the other."""
    return torch.cat([t.flatten() for t in tensors.values()])


def moved(parameters: Tensors, steps: Tensor) -> Tensors:
    """The parameters, each moved by its part of `steps` [C], which are in the order of `flat`."""
    return {k: parameters[k] + part for k, part in shaped(steps, parameters).items()}


def shaped(values: Tensor, like: Tensors) -> Tensors:
    """The way back from `flat`: the parts of `values` [C], in the shapes of some tensors."""
    parts = values.split([t.numel() for t in like.values()])
    return {k: part.view(t.shape) for (k, t), part in zip(like.items(), parts, strict=True)}


def log_and_sign(x: Tensor, p: float = 10.0) -> Tensor:
    r"""Two numbers of about the same size for each number x, whatever its magnitude.

    $$x \to \begin{cases}
    \left(\frac{\log |x|}{p}, \operatorname{sgn} x\right) & |x| \ge e^{-p} \\
    \left(-1, e^p x\right) & \text{otherwise}
    \end{cases}$$

    Args:
        x: [C].
        p: how small a number still counts.

    Returns:
        [2, C].

    Reference: Andrychowicz et al. 2016, appendix A.
    """
    least = math.exp(-p)
    size = x.abs()
    return torch.stack([size.clamp_min(least).log() / p, (x / least).clamp(-1, 1)])


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """A linear layer on features that lie first, [in, C] to [out, C]."""
    return layer.weight @ x + layer.bias.unsqueeze(1)


class LSTMCell(nn.Module):
    r"""A step of an LSTM for C coordinates that share its weights.

    $$i, f, o = \sigma(W_x x + W_h h + b)_{i, f, o}, \quad g = \tanh(W_x x + W_h h + b)_g, \quad
    c' = f \circ c + i \circ g, \quad h' = o \circ \tanh c'$$

    Args:
        inputs: features of x.
        hidden: of h and c.

    Departures: `torch.nn.LSTMCell` has two biases, another order of gates and the coordinates first.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        bound = hidden**-0.5
        self.hidden = hidden
        self.of_input = nn.Parameter(torch.empty(4 * hidden, inputs).uniform_(-bound, bound))
        self.of_state = nn.Parameter(torch.empty(4 * hidden, hidden).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(4 * hidden, 1))

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """From [inputs, C] and h, c [hidden, C] to the next h and c."""
        n = self.hidden
        gates = torch.addmm(torch.addmm(self.bias, self.of_input, x), self.of_state, h)
        if torch.is_grad_enabled():
            (i, f, o), g = gates[: 3 * n].sigmoid().chunk(3), gates[3 * n :].tanh()
        else:  # in place, as no gradient needs what they are made of: it saves memory and time
            (i, f, o), g = gates[: 3 * n].sigmoid_().chunk(3), gates[3 * n :].tanh_()
        c = torch.addcmul(f * c, i, g)
        return o * c.tanh(), c


class StackedLSTM(nn.Module):
    """Some LSTM cells one on top of the other."""

    def __init__(self, inputs: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.cells = nn.ModuleList(LSTMCell(hidden if i else inputs, hidden) for i in range(layers))

    def init(self, like: Tensor) -> tuple[Tensor, ...]:
        """The h and c of each layer, [hidden, C] zeros for [C] coordinates."""
        return tuple(like.new_zeros(self.hidden, like.numel()) for _ in range(2 * len(self.cells)))

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """From [inputs, C] to the last layer's [hidden, C], and the next state."""
        after: list[Tensor] = []
        for cell, h, c in zip(self.cells, state[::2], state[1::2], strict=True):
            x, c = cell(x, h, c)
            after += [x, c]
        return x, tuple(after)

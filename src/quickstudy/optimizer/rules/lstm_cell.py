"""An LSTM cell, its layers, and its step for very many coordinates."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from quickstudy.core.kernels.sizes import sizes_on
from quickstudy.core.kernels.switch import kernels_enabled
from quickstudy.core.kernels.torch_private import aten


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


def lstm_step(cell: LSTMCell, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """What the cell does, in 0.6 of the time for many coordinates, keeping a quarter of it for backward.

    It goes through some coordinates at a time, and computes the gates again in backward. Differentiable
    once; in the precision of its arguments, inside autocast too.

    Args:
        cell: The cell, with its weights.
        x: [inputs, C] features of the coordinates.
        h: [hidden, C] the last output.
        c: [hidden, C] the cell's state.

    Returns:
        The next h and c.
    """
    with torch.autocast(x.device.type, enabled=False):
        if not kernels_enabled():
            return cell(x, h, c)
        weight = torch.cat([cell.of_input, cell.of_state, cell.bias], 1)
        after: Any = _Step.apply(x, h, c, weight)
        return after


class _Step(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, h: Tensor, c: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        after_h, after_c = torch.empty_like(h), torch.empty_like(c)
        for s in _parts(x):
            i, f, o, g = _gates(x[:, s], h[:, s], weight)[1].chunk(4)
            torch.mul(f, c[:, s], out=after_c[:, s]).addcmul_(i, g)
            torch.tanh(after_c[:, s], out=after_h[:, s]).mul_(o)
        ctx.save_for_backward(x, h, c, weight, after_c)
        return after_h, after_c

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] (the decorator's type)
        ctx: Any, *grad_outputs: Tensor
    ) -> Any:
        to_after_h, to_after_c = grad_outputs
        x, h, c, weight, after_c = ctx.saved_tensors
        inputs, n = len(x), len(h)
        to_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        to_h, to_c, to_weight = torch.empty_like(h), torch.empty_like(c), torch.zeros_like(weight)
        back = weight.t().contiguous()
        with torch.autocast(x.device.type, enabled=False):
            for s in _parts(x):
                given, gates = _gates(x[:, s], h[:, s], weight)
                i, f, o, g = gates.chunk(4)
                tanh = after_c[:, s].tanh()
                to_c_now = aten.tanh_backward(o * to_after_h[:, s], tanh).add_(to_after_c[:, s])
                torch.mul(to_c_now, f, out=to_c[:, s])
                slopes = torch.empty_like(
                    gates
                )  # with respect to the gates, then to what is before σ and tanh
                to_i, to_f, to_o, to_g = slopes.chunk(4)
                torch.mul(to_c_now, g, out=to_i)
                torch.mul(to_c_now, c[:, s], out=to_f)
                torch.mul(to_after_h[:, s], tanh, out=to_o)
                torch.mul(to_c_now, i, out=to_g)
                sigmoids = slopes[: 3 * n]
                aten.sigmoid_backward(sigmoids, gates[: 3 * n], grad_input=sigmoids)
                aten.tanh_backward(to_g, g, grad_input=to_g)
                torch.mm(back[inputs:-1], slopes, out=to_h[:, s])
                if to_x is not None:
                    torch.mm(back[:inputs], slopes, out=to_x[:, s])
                to_weight.addmm_(slopes, given.t())
        return to_x, to_h, to_c, to_weight


def _parts(x: Tensor) -> list[slice]:
    count = x.shape[1]
    size = min(sizes_on(x.device.type).lstm_coordinates, max(1, count))
    return [slice(i, i + size) for i in range(0, count, size)]


def _gates(x: Tensor, h: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """[x, h, 1], and the gates i, f, o, g that the weights make of it."""
    given = torch.cat([x, h, x.new_ones(1, x.shape[1])])
    gates = weight @ given
    gates[: 3 * len(h)].sigmoid_()
    gates[3 * len(h) :].tanh_()
    return given, gates

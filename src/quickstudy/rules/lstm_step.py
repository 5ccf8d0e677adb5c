"""A step of an LSTM for very many coordinates, such as all weights of a network in some tasks."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from quickstudy.kernel_sizes import sizes_on
from quickstudy.kernel_switch import kernels_enabled
from quickstudy.rules.coordinates import LSTMCell
from quickstudy.torch_private import aten


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

"""Oracle of matching networks: the equations of the paper, literally and slowly."""

import torch
from torch import Tensor

from tests.support.oracles import Weights


# Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra 2016: "Matching Networks for One Shot Learning"
def dot(a: Tensor, b: Tensor) -> Tensor:
    """Σ_d a_d b_d."""
    total = torch.zeros((), dtype=a.dtype)
    for i in range(len(a)):
        total = total + a[i] * b[i]
    return total


def vinyals_softmax(values: list[Tensor]) -> list[Tensor]:
    """exp(v_i) / Σ_j exp(v_j)."""
    total = torch.zeros((), dtype=values[0].dtype)
    for v in values:
        total = total + torch.exp(v)
    return [torch.exp(v) / total for v in values]


def vinyals_cell(weights: Weights, suffix: str, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an LSTM with the gates i, f, g, o in this order: h and c after it."""
    gates = []
    for row in range(4 * len(c)):
        gates.append(
            dot(weights[f"weight_ih{suffix}"][row], x)
            + weights[f"bias_ih{suffix}"][row]
            + dot(weights[f"weight_hh{suffix}"][row], h)
            + weights[f"bias_hh{suffix}"][row]
        )
    size = len(c)
    new_h, new_c = [], []
    for d in range(size):
        i, f, o = (torch.sigmoid(gates[n * size + d]) for n in (0, 1, 3))
        new_c.append(f * c[d] + i * torch.tanh(gates[2 * size + d]))
        new_h.append(o * torch.tanh(new_c[d]))
    return torch.stack(new_h), torch.stack(new_c)


def vinyals_support(weights: Weights, g: list[Tensor]) -> list[Tensor]:
    """Appendix A.2: g(x_i, S) = h→_i + h←_i + g'(x_i), by LSTMs that read the support in both directions."""
    there, back = [], []
    h = c = torch.zeros_like(g[0])
    for i in range(len(g)):
        h, c = vinyals_cell(weights, "_l0", g[i], h, c)
        there.append(h)
    h = c = torch.zeros_like(g[0])
    for i in reversed(range(len(g))):
        h, c = vinyals_cell(weights, "_l0_reverse", g[i], h, c)
        back.insert(0, h)
    return [there[i] + back[i] + g[i] for i in range(len(g))]


def vinyals_query(weights: Weights, f: Tensor, g: list[Tensor], steps: int) -> Tensor:
    """Appendix A.1, the attention LSTM; [h, r] is what the recurrent weights multiply.

    The library's cell keeps the weights of r beside those of f', which is put right here.
    """
    size = len(f)
    given: Weights = {
        "weight_ih": weights["weight_ih"][:, :size],
        "weight_hh": torch.cat([weights["weight_hh"], weights["weight_ih"][:, size:]], 1),
        "bias_ih": weights["bias_ih"],
        "bias_hh": weights["bias_hh"],
    }
    h = c = torch.zeros_like(f)
    for _ in range(steps):
        attention = vinyals_softmax([dot(h, g[i]) for i in range(len(g))])
        r = torch.zeros_like(f)
        for i in range(len(g)):
            r = r + attention[i] * g[i]
        h_hat, c = vinyals_cell(given, "", f, torch.cat([h, r]), c)
        h = h_hat + f
    return h


def vinyals_probabilities(
    f: Tensor, g: list[Tensor], y: list[int], ways: int, scale: float | Tensor
) -> list[Tensor]:
    """Equation 1, with a the softmax of scaled cosines: P(k) = Σ_{i: y_i = k} a(x̂, x_i)."""
    attention = vinyals_softmax(
        [scale * dot(f, v) / (torch.sqrt(dot(f, f)) * torch.sqrt(dot(v, v))) for v in g]
    )
    probabilities = []
    for k in range(ways):
        total = torch.zeros((), dtype=f.dtype)
        for i in range(len(g)):
            if y[i] == k:
                total = total + attention[i]
        probabilities.append(total)
    return probabilities

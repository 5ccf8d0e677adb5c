"""Oracle of the small network on accumulators: the equations of the paper, literally and slowly."""

import math

from tests.optimizer.oracle_lstm import Numbers, andrychowicz_layer, numbers
from tests.support.oracles import Weights


# In the manner of Metz, Freeman, Harrison, Maheswaranathan, Sohl-Dickstein 2022: "Practical Tradeoffs Between
# Memory, Compute, and Performance in Learned Optimizers"; the equation is that of the rule's docstring.
def metz(
    weights: Weights,
    start: Weights,
    gradients: list[Weights],
    alpha: float = 0.01,
    decays: tuple[float, ...] = (0.5, 0.9, 0.99),
    square_decay: float = 0.99,
    horizons: tuple[float, ...] = (3, 10, 30, 100, 300, 1000),
    eps: float = 1e-8,
) -> list[Numbers]:
    """θ_{t+1} = θ_t − α d e^s, (d, s) = MLP(g/r, m̂_β/r for each β, t/(t + τ) for each τ), r = √v̂ + ε."""
    after = [numbers(start) for _ in gradients]
    for name in start:
        for n in range(start[name].numel()):
            theta, means, v = start[name].flatten()[n].item(), [0.0] * len(decays), 0.0
            for t in range(1, len(gradients) + 1):
                g = gradients[t - 1][name].flatten()[n].item()
                means = [b * m + (1 - b) * g for b, m in zip(decays, means, strict=True)]
                v = square_decay * v + (1 - square_decay) * g**2
                r = math.sqrt(v / (1 - square_decay**t)) + eps
                x = [g / r]
                x += [m / (1 - b**t) / r for b, m in zip(decays, means, strict=True)]
                x += [t / (t + tau) for tau in horizons]
                for layer in ("first", "second"):
                    x = andrychowicz_layer(weights[f"{layer}.weight"], weights[f"{layer}.bias"], x)
                    x = [max(0.0, e) for e in x]
                d, s = andrychowicz_layer(weights["last.weight"], weights["last.bias"], x)
                theta = theta - alpha * d * math.exp(s)
                after[t - 1][name][n] = theta
    return after

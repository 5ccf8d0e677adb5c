"""Oracle of RNNprop: the equations of the paper, literally and slowly."""

import math

from tests.optimizer.oracle_lstm import Numbers, andrychowicz_layer, andrychowicz_lstm, numbers
from tests.support.oracles import Weights


# Lv, Jiang, Li 2017: "Learning Gradient Descent: Better Generalization and Longer Horizons"
def lv(
    weights: Weights,
    start: Weights,
    gradients: list[Weights],
    alpha: float = 0.1,
    beta1: float = 0.95,
    beta2: float = 0.95,
    units: int = 20,
    layers: int = 2,
    eps: float = 1e-8,
) -> list[Numbers]:
    """RNNprop: m̃_t and g̃_t into a layer with ELU, an LSTM on it, and θ_{t+1} = θ_t − α tanh(x_out)."""
    after = [numbers(start) for _ in gradients]
    for name in start:
        for n in range(start[name].numel()):
            theta, m, v = start[name].flatten()[n].item(), 0.0, 0.0
            hidden = [[0.0] * units for _ in range(2 * layers)]
            for t in range(1, len(gradients) + 1):
                g = gradients[t - 1][name].flatten()[n].item()
                m = beta1 * m + (1 - beta1) * g
                v = beta2 * v + (1 - beta2) * g**2
                m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
                m_tilde, g_tilde = m_hat / (math.sqrt(v_hat) + eps), g / (math.sqrt(v_hat) + eps)
                x = andrychowicz_layer(weights["inputs.weight"], weights["inputs.bias"], [m_tilde, g_tilde])
                x = [e if e > 0 else math.exp(e) - 1 for e in x]
                h = andrychowicz_lstm(weights, x, hidden)
                x_out = andrychowicz_layer(weights["step.weight"], weights["step.bias"], h)[0]
                theta = theta - alpha * math.tanh(x_out)
                after[t - 1][name][n] = theta
    return after

"""RNNprop.

Kaifeng Lv, Shunhua Jiang, Jian Li: "Learning Gradient Descent: Better Generalization and Longer Horizons",
ICML 2017.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.adapt import RuleState, Tensors
from quickstudy.core.arguments import checked_class
from quickstudy.optimizer.rules.coordinatewise import add_flat_steps, feature_first_linear, flatten_tensors
from quickstudy.optimizer.rules.lstm_cell import StackedLSTM


@checked_class
class RNNpropRule(nn.Module):
    r"""RNNprop: an LSTM that reads the steps of Adam and RMSprop, and so does not see the gradient's scale.

    $$\tilde m_t = \hat m_t / (\sqrt{\hat v_t} + \epsilon), \qquad
    \tilde g_t = g_t / (\sqrt{\hat v_t} + \epsilon), \qquad
    \theta_{t+1} = \theta_t - \alpha \tanh(x_{\text{out}})$$

    Args:
        lr: Step size α > 0, the longest step of a coordinate; 0.1 in the paper.
        beta1: Decay of the mean m in 0 … 1; 0.95 in the paper.
        beta2: Decay of the mean square v in 0 … 1; 0.95 in the paper.
        hidden: Number of units of a layer, 20 in the paper.
        layers: Number of LSTM layers, 2 in the paper.
        eps: Constant ε > 0 of the root.

    Raises:
        ValueError: If a number is out of range.
    """

    coordinatewise = True

    def __init__(
        self,
        lr: float = 0.1,
        beta1: float = 0.95,
        beta2: float = 0.95,
        hidden: int = 20,
        layers: int = 2,
        eps: float = 1e-8,
    ) -> None:
        super().__init__()
        if min(lr, hidden, layers, eps) <= 0 or not (0 <= beta1 < 1 and 0 <= beta2 < 1):
            raise ValueError(
                f"lr is {lr}, hidden {hidden}, layers {layers}, eps {eps}, betas {beta1} and {beta2}: "
                "all must be positive, and the betas below 1"
            )
        self.lr, self.beta1, self.beta2, self.eps = lr, beta1, beta2, eps
        self.inputs = nn.Linear(2, hidden)
        self.lstm = StackedLSTM(hidden, hidden, layers)
        self.step = nn.Linear(hidden, 1)

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the constructor, to save the rule with."""
        own = {"lr": self.lr, "beta1": self.beta1, "beta2": self.beta2, "eps": self.eps}
        return own | {"hidden": self.lstm.hidden, "layers": len(self.lstm.cells)}

    def init(self, parameters: Tensors) -> RuleState:
        """State before the first step, zeros: steps taken, m and v [C], h and c of each layer [hidden, C]."""
        like = flatten_tensors(parameters)
        return like.new_zeros(()), torch.zeros_like(like), torch.zeros_like(like), *self.lstm.init(like)

    def update(
        self, gradients: Tensors, state: RuleState, parameters: Tensors, loss: Tensor
    ) -> tuple[Tensors, RuleState]:
        """Take a step, as `Rule.update`."""
        t, m, v, *lstm = state
        g, t = flatten_tensors(gradients), t + 1
        m = torch.lerp(g, m, self.beta1)
        v = torch.addcmul(self.beta2 * v, g, g, value=1 - self.beta2)  # lerp would give nan for an infinite v
        root = (v.clamp_min(1e-38) / (1 - self.beta2**t)).sqrt() + self.eps
        x = torch.stack([m / (1 - self.beta1**t) / root, g / root])
        h, lstm = self.lstm(F.elu(feature_first_linear(self.inputs, x)), lstm)
        step: Tensor = self.lr * feature_first_linear(self.step, h)[0].tanh()
        return add_flat_steps(parameters, -step), (t, m, v, *lstm)

"""The LSTM optimizer.

Marcin Andrychowicz, Misha Denil, Sergio Gómez Colmenarejo, Matthew W. Hoffman, David Pfau, Tom Schaul,
Brendan Shillingford, Nando de Freitas: "Learning to learn by gradient descent by gradient descent", 2016.
"""

from typing import Any

from torch import Tensor, nn

from quickstudy.core.adapt import RuleState, Tensors
from quickstudy.core.arguments import checked_class
from quickstudy.optimizer.rules.coordinatewise import (
    add_flat_steps,
    feature_first_linear,
    flatten_tensors,
    log_and_sign,
)
from quickstudy.optimizer.rules.lstm_cell import StackedLSTM


@checked_class
class LSTMRule(nn.Module):
    r"""The LSTM optimizer: one small LSTM makes the steps of all coordinates, each with its own state.

    $$\theta_{t+1} = \theta_t + g_t, \qquad
    \begin{bmatrix} g_t \\ h_{t+1} \end{bmatrix} = m(\nabla_t, h_t, \phi)$$

    Args:
        preprocess: Give m the logarithm and the sign of a gradient (appendix A); otherwise the gradient
            itself, as the paper does for quadratics.
        scale: Factor > 0 of the steps $g_t$, 0.1 in the paper.
        hidden: Number of units of a layer, 20 in the paper.
        layers: Number of LSTM layers, 2 in the paper.
        p: Parameter p > 0 of `log_and_sign`, 10 in the paper.

    Raises:
        ValueError: If a number is not positive.

    Departures: none from the paper. The authors' code has p = 5 and a scale of 0.01.
    """

    coordinatewise = True

    def __init__(
        self,
        preprocess: bool = True,
        scale: float = 0.1,
        hidden: int = 20,
        layers: int = 2,
        p: float = 10.0,
    ) -> None:
        super().__init__()
        if min(scale, hidden, layers, p) <= 0:
            raise ValueError(
                f"scale is {scale}, hidden {hidden}, layers {layers}, p {p}: all must be positive"
            )
        self.preprocess, self.scale, self.p = preprocess, scale, p
        self.lstm = StackedLSTM(2 if preprocess else 1, hidden, layers)
        self.step = nn.Linear(hidden, 1)

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the constructor, to save the rule with."""
        own = {"preprocess": self.preprocess, "scale": self.scale, "p": self.p}
        return own | {"hidden": self.lstm.hidden, "layers": len(self.lstm.cells)}

    def init(self, parameters: Tensors) -> RuleState:
        """State before the first step: h and c of each layer, [hidden, C] zeros for C coordinates."""
        return self.lstm.init(flatten_tensors(parameters))

    def update(
        self, gradients: Tensors, state: RuleState, parameters: Tensors, loss: Tensor
    ) -> tuple[Tensors, RuleState]:
        """Take a step, as `Rule.update`."""
        g = flatten_tensors(gradients)
        h, state = self.lstm(log_and_sign(g, self.p) if self.preprocess else g.unsqueeze(0), state)
        return add_flat_steps(parameters, self.scale * feature_first_linear(self.step, h)[0]), state

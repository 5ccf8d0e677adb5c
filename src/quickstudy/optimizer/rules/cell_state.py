"""The LSTM meta-learner's rule: an LSTM cell whose state is the parameters.

Sachin Ravi, Hugo Larochelle: "Optimization as a Model for Few-Shot Learning", ICLR 2017.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from quickstudy.core.adapt import RuleState, Tensors
from quickstudy.core.blueprint import rebuildable
from quickstudy.optimizer.rules.coordinatewise import flat, log_and_sign, shaped
from quickstudy.optimizer.rules.lstm_cell import LSTMCell, lstm_step

Gates = Literal["learned", "scalar", "fixed"]


@rebuildable
class CellStateRule(nn.Module):
    r"""Gradient descent as the cell state of an LSTM: what to forget and how far to go are learned gates.

    $$c_t = f_t \circ c_{t-1} + i_t \circ \tilde c_t, \qquad c_t = \theta_t, \quad
    \tilde c_t = -\nabla_{\theta_{t-1}} \mathcal{L}_t \tag{2}$$

    $$i_t = \sigma\left(W_I \cdot [h_t, \theta_{t-1}, i_{t-1}] + b_I\right)$$

    $$f_t = \sigma\left(W_F \cdot [h_t, \theta_{t-1}, f_{t-1}] + b_F\right)$$

    h is the output of an LSTM that reads the gradient and the loss, two numbers of each (`log_and_sign`);
    $\tilde c$ has the gradient as it is. All weights are the same for every coordinate, each of which has
    states of its own. Parameters may be of T tasks side by side, [T, ...], with a loss [T]; each coordinate
    then reads the loss of its task.

    Args:
        gates: "learned": as above. "scalar": $i = \sigma(b_I)$ and $f = \sigma(b_F)$, two numbers that are
            learned. "fixed": the same, not learned. What the last two are short of is what the LSTM is
            worth: only the initial state is left to the learner, with a rate and a decay, or without.
        forget_bias: $b_F$ is drawn uniformly between these two.
        input_bias: $b_I$ likewise. With these, and all weights between ±0.01, it begins near gradient descent
            with a rate of 0.01.
        divisor: of the gradients before anything else sees them. 1 as in the paper; the authors' code divides
            the mean gradient by the number of items in a batch once more.
        hidden: units of the LSTM.
        p: of `log_and_sign`.

    Raises:
        ValueError: if `gates` is none of these, or a number is not positive.

    As in the authors' code, what a gate remembers of itself is its value before σ; the first time it is 0.

    Departures: none.
    """

    def __init__(
        self,
        gates: Gates = "learned",
        forget_bias: tuple[float, float] = (4.0, 5.0),
        input_bias: tuple[float, float] = (-5.0, -4.0),
        divisor: float = 1.0,
        hidden: int = 20,
        p: float = 10.0,
    ) -> None:
        super().__init__()
        if gates not in ("learned", "scalar", "fixed"):
            raise ValueError(f"gates is {gates!r}: choose 'learned', 'scalar' or 'fixed'")
        if min(divisor, hidden, p) <= 0:
            raise ValueError(f"divisor is {divisor}, hidden {hidden}, p {p}: all must be positive")
        self.gates, self.divisor, self.p = gates, divisor, p
        self.coordinatewise, self.needs_loss = True, gates == "learned"  # for `LearnedOptimizer`
        if gates == "learned":
            self.lstm = LSTMCell(4, hidden)
            self.weight = nn.Parameter(torch.empty(2, hidden + 2))  # W_F, W_I
            for weight in self.parameters():
                nn.init.uniform_(weight, -0.01, 0.01)
        drawn = torch.tensor([[torch.empty(()).uniform_(*between)] for between in (forget_bias, input_bias)])
        self.bias = nn.Parameter(drawn, requires_grad=gates != "fixed")  # b_F, b_I

    def init(self, parameters: Tensors) -> RuleState:
        """The LSTM's h and c [hidden, C] and the gates before σ [2, C], f first: zeros for C coordinates."""
        if self.gates != "learned":
            return ()
        like = flat(parameters)
        hidden = like.new_zeros(self.lstm.hidden, len(like))
        return hidden, hidden, like.new_zeros(2, len(like))

    def update(
        self, gradients: Tensors, state: RuleState, parameters: Tensors, loss: Tensor
    ) -> tuple[Tensors, RuleState]:
        """A step, as `Rule.update`.

        Raises:
            ValueError: if there are losses of tasks and a parameter's first dimension is not the tasks.
        """
        if self.gates != "learned":
            f, i = self.bias.sigmoid().flatten()
            i = i / self.divisor
            return {k: f * p - i * gradients[k] for k, p in parameters.items()}, state
        h, c, before = state
        theta, g = flat(parameters), flat(gradients) / self.divisor
        with torch.autocast(theta.device.type, enabled=False):
            x = torch.cat([self._losses(loss, parameters), log_and_sign(g, self.p)])
            h, c = lstm_step(self.lstm, x, h, c)
            of_h, of_theta, of_before = self.weight.split([len(h), 1, 1], 1)
            before = of_h @ h + of_theta * theta + of_before * before + self.bias
            f, i = before.sigmoid()
            after = shaped(f * theta - i * g, parameters)
        return after, (h, c, before)

    def _losses(self, loss: Tensor, parameters: Tensors) -> Tensor:
        """[2, C] each coordinate's loss, as `log_and_sign`."""
        for k, p in parameters.items():
            if p.shape[: loss.ndim] != loss.shape:
                raise ValueError(
                    f"the losses are {list(loss.shape)} and the parameter {k} is {list(p.shape)}: "
                    "with a loss for each of T tasks, parameters must be [T, ...]"
                )
        both = log_and_sign(loss.reshape(-1), self.p).unsqueeze(2)
        tasks = loss.numel()
        return torch.cat(
            [both.expand(2, tasks, p.numel() // tasks).flatten(1) for p in parameters.values()], 1
        )

"""The update rule of the LSTM meta-learner: an LSTM cell with the parameters as its cell state.

Sachin Ravi, Hugo Larochelle: "Optimization as a Model for Few-Shot Learning", ICLR 2017.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from quickstudy.core.adapt import RuleState, Tensors
from quickstudy.core.blueprint import rebuildable
from quickstudy.optimizer.rules.coordinatewise import flatten_tensors, log_and_sign, unflatten_like
from quickstudy.optimizer.rules.lstm_cell import LSTMCell, lstm_step

Gates = Literal["learned", "scalar", "fixed"]


@rebuildable
class CellStateRule(nn.Module):
    r"""Gradient descent as the cell update of an LSTM, with learned forget and input gates.

    $$c_t = f_t \circ c_{t-1} + i_t \circ \tilde c_t, \qquad c_t = \theta_t, \quad
    \tilde c_t = -\nabla_{\theta_{t-1}} \mathcal{L}_t \tag{2}$$

    $$i_t = \sigma\left(W_I \cdot [h_t, \theta_{t-1}, i_{t-1}] + b_I\right)$$

    $$f_t = \sigma\left(W_F \cdot [h_t, \theta_{t-1}, f_{t-1}] + b_F\right)$$

    h is the output of an LSTM that reads the gradient and the loss, each as two numbers (`log_and_sign`);
    $\tilde c$ uses the gradient itself. All coordinates share the same weights, and each has its own state.
    Parameters may be those of T tasks side by side, [T, ...], with a loss [T]; each coordinate then reads the
    loss of its task.

    Args:
        gates: Form of the gates: "learned", as above; "scalar", two learned numbers $i = \sigma(b_I)$ and
            $f = \sigma(b_F)$; or "fixed", the same numbers, not learned. The last two are ablations that
            show what the LSTM contributes: the learner then has only the initial state, with or without a
            learned rate and decay.
        forget_bias: Bounds of the uniform distribution that $b_F$ is drawn from.
        input_bias: Bounds of the uniform distribution that $b_I$ is drawn from. With the default biases, and
            all weights between ±0.01, the rule starts near gradient descent with a rate of 0.01.
        divisor: Number > 0 that the gradients are first divided by: 1 as in the paper; the authors' code
            divides the mean gradient by the number of items in a batch once more.
        hidden: Number of units of the LSTM.
        p: Parameter p > 0 of `log_and_sign`.

    Raises:
        ValueError: If `gates` is none of these, or a number is not positive.

    As in the authors' code, the $i_{t-1}$ and $f_{t-1}$ that the gates read are values before σ, at first 0.

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
        """State before the first step, all zeros for C coordinates; empty without an LSTM.

        Args:
            parameters: The parameters to optimize, by name.

        Returns:
            The LSTM's h and c, [hidden, C] each, and the gates f and i before σ, [2, C].
        """
        if self.gates != "learned":
            return ()
        like = flatten_tensors(parameters)
        hidden = like.new_zeros(self.lstm.hidden, len(like))
        return hidden, hidden, like.new_zeros(2, len(like))

    def update(
        self, gradients: Tensors, state: RuleState, parameters: Tensors, loss: Tensor
    ) -> tuple[Tensors, RuleState]:
        """Take a step, as `Rule.update`.

        Raises:
            ValueError: If there is a loss for each task and a parameter's first dimension is not the tasks.
        """
        if self.gates != "learned":
            f, i = self.bias.sigmoid().flatten()
            i = i / self.divisor
            return {k: f * p - i * gradients[k] for k, p in parameters.items()}, state
        h, c, before = state
        theta, g = flatten_tensors(parameters), flatten_tensors(gradients) / self.divisor
        with torch.autocast(theta.device.type, enabled=False):
            x = torch.cat([self._losses(loss, parameters), log_and_sign(g, self.p)])
            h, c = lstm_step(self.lstm, x, h, c)
            of_h, of_theta, of_before = self.weight.split([len(h), 1, 1], 1)
            before = of_h @ h + of_theta * theta + of_before * before + self.bias
            f, i = before.sigmoid()
            after = unflatten_like(f * theta - i * g, parameters)
        return after, (h, c, before)

    def _losses(self, loss: Tensor, parameters: Tensors) -> Tensor:
        """The loss of each coordinate's task, as two numbers by `log_and_sign`, [2, C]."""
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

"""A small network on normalised accumulators: the learned rule to try first.

After Luke Metz, C. Daniel Freeman, James Harrison, Niru Maheswaranathan, Jascha Sohl-Dickstein:
"Practical Tradeoffs Between Memory, Compute, and Performance in Learned Optimizers", CoLLAs 2022.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.adapt import RuleState, Tensors
from quickstudy.core.arguments import checked_class
from quickstudy.optimizer.rules.coordinatewise import add_flat_steps, feature_first_linear, flatten_tensors

DECAYS = (0.5, 0.9, 0.99)
"""Decays of the running means of the gradient."""
SQUARE_DECAY = 0.99
"""Decay of the running mean of the squared gradient."""
HORIZONS = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""Steps τ at which the time features t / (t + τ) reach ½."""


@checked_class
class MLPRule(nn.Module):
    r"""A learned rule without recurrence: a small network on normalised running means of the gradient.

    $$\theta_{t+1} = \theta_t - \alpha\, d\, e^{s}, \qquad [d, s] = \mathrm{MLP}\Big(\frac{g}{r},
    \frac{\hat m_\beta}{r}, \frac{t}{t + \tau}\Big), \qquad r = \sqrt{\hat v} + \epsilon$$

    where $\hat m_\beta$ are means with several decays β, $\hat v$ is the mean square, and the time t is given
    relative to several horizons τ.

    Args:
        lr: Step size α > 0, a typical step of a coordinate.
        hidden: Number of units of each of the two layers.
        eps: Constant ε > 0 of the root.

    Raises:
        ValueError: If a number is not positive.

    Departures from Metz et al.: no features of whole tensors or of the parameters' values, so that a step is
    coordinatewise, and no features of a second mean of squares.
    """

    coordinatewise = True

    def __init__(self, lr: float = 0.01, hidden: int = 16, eps: float = 1e-8) -> None:
        super().__init__()
        if min(lr, hidden, eps) <= 0:
            raise ValueError(f"lr is {lr}, hidden {hidden}, eps {eps}: all must be positive")
        self.lr, self.eps = lr, eps
        self.first = nn.Linear(1 + len(DECAYS) + len(HORIZONS), hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, 2)
        self.decays: Tensor
        self.horizons: Tensor
        self.register_buffer("decays", torch.tensor(DECAYS).unsqueeze(1), persistent=False)
        self.register_buffer("horizons", torch.tensor(HORIZONS), persistent=False)

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the constructor, to save the rule with."""
        return {"lr": self.lr, "hidden": self.second.in_features, "eps": self.eps}

    def init(self, parameters: Tensors) -> RuleState:
        """State before the first step, zeros: steps taken, means [len(DECAYS), C] and mean squares [C]."""
        like = flatten_tensors(parameters)
        return like.new_zeros(()), like.new_zeros(len(DECAYS), like.numel()), torch.zeros_like(like)

    def update(
        self, gradients: Tensors, state: RuleState, parameters: Tensors, loss: Tensor
    ) -> tuple[Tensors, RuleState]:
        """Take a step, as `Rule.update`."""
        t, means, v = state[0] + 1, state[1], state[2]
        g = flatten_tensors(gradients)
        means = torch.lerp(g.unsqueeze(0), means, self.decays)
        v = torch.addcmul(
            SQUARE_DECAY * v, g, g, value=1 - SQUARE_DECAY
        )  # lerp would give nan for an infinite v
        root = (v.clamp_min(1e-38) / (1 - SQUARE_DECAY**t)).sqrt() + self.eps
        size = torch.cat([g.unsqueeze(0), means / (1 - self.decays**t)]) / root
        # the time is the same for all coordinates, so its features are added to the bias
        split = 1 + len(DECAYS)
        time = self.first.weight[:, split:] @ (t / (t + self.horizons))
        x = self.first.weight[:, :split] @ size + (self.first.bias + time).unsqueeze(1)
        d, s = feature_first_linear(self.last, F.relu(feature_first_linear(self.second, F.relu(x))))
        return add_flat_steps(parameters, -self.lr * d * s.exp()), (t, means, v)

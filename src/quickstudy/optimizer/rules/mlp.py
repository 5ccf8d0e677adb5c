"""A small network on normalised accumulators: the learned rule to reach for first.

In the manner of Luke Metz, C. Daniel Freeman, James Harrison, Niru Maheswaranathan, Jascha Sohl-Dickstein:
"Practical Tradeoffs Between Memory, Compute, and Performance in Learned Optimizers", CoLLAs 2022.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.adapt import RuleState, Tensors
from quickstudy.optimizer.rules.coordinatewise import flat, linear, moved

DECAYS = (0.5, 0.9, 0.99)
"""Of the running means of the gradient."""
SQUARE_DECAY = 0.99
"""Of the running mean of its square."""
HORIZONS = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""Steps by which the features of time have come to half."""


class MLPRule(nn.Module):
    r"""A rule without recurrence: a small network on normalised running means of the gradient.

    $$\theta_{t+1} = \theta_t - \alpha\, d\, e^{s}, \qquad [d, s] = \mathrm{MLP}\Big(\frac{g}{r},
    \frac{\hat m_\beta}{r}, \frac{t}{t + \tau}\Big), \qquad r = \sqrt{\hat v} + \epsilon$$

    for some decays β of the means $\hat m_\beta$, and horizons τ in whose terms it knows the time.

    Args:
        lr: α, a typical step of a coordinate.
        hidden: units of each of the two layers.
        eps: ε.

    Raises:
        ValueError: if a number is not positive.

    Departures from Metz et al.: no features of the parameters' tensors and of their values, so that a step
    is coordinatewise, and no features of a second mean of squares.
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
        """What it was made with."""
        return {"lr": self.lr, "hidden": self.second.in_features, "eps": self.eps}

    def init(self, parameters: Tensors) -> RuleState:
        """Steps taken, and the means [len(DECAYS), C] and mean squares [C]: zeros."""
        like = flat(parameters)
        return like.new_zeros(()), like.new_zeros(len(DECAYS), like.numel()), torch.zeros_like(like)

    def update(
        self, gradients: Tensors, state: RuleState, parameters: Tensors, loss: Tensor
    ) -> tuple[Tensors, RuleState]:
        """A step, as `Rule.update`."""
        t, means, v = state[0] + 1, state[1], state[2]
        g = flat(gradients)
        means = torch.lerp(g.unsqueeze(0), means, self.decays)
        v = torch.addcmul(SQUARE_DECAY * v, g, g, value=1 - SQUARE_DECAY)  # lerp makes nan of an infinite v
        root = (v.clamp_min(1e-38) / (1 - SQUARE_DECAY**t)).sqrt() + self.eps
        size = torch.cat([g.unsqueeze(0), means / (1 - self.decays**t)]) / root
        # the time is the same for all coordinates: a bias, not so many features more
        split = 1 + len(DECAYS)
        time = self.first.weight[:, split:] @ (t / (t + self.horizons))
        x = self.first.weight[:, :split] @ size + (self.first.bias + time).unsqueeze(1)
        d, s = linear(self.last, F.relu(linear(self.second, F.relu(x))))
        return moved(parameters, -self.lr * d * s.exp()), (t, means, v)

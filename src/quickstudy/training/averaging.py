"""The average of the weights of a training's last steps."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from quickstudy.core.arguments import checked_class


@checked_class
class WeightAverage:
    """Exponential moving average of a module's parameters and floating-point buffers, such as statistics.

    With weights p₁ … pₜ after steps 1 … t and decay d it is, without a bias to the first weights,

        aₜ = Σᵢ (1 − d) dᵗ⁻ⁱ pᵢ / (1 − dᵗ),  that is  aₜ = aₜ₋₁ + w (pₜ − aₜ₋₁)  with  w = (1 − d) / (1 − dᵗ).

    So it is the plain mean of all steps at first, and later that of about the last 1 / (1 − d).

    Args:
        module: Module whose weights are averaged; it is never changed but inside `applied` and by `apply`.
        decay: d, in (0, 1).

    Raises:
        ValueError: If the decay is out of range.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"ema_decay is {decay}: it must lie between 0 and 1, such as 0.999")
        self.module, self.decay = module, decay
        self.average = {name: t.detach().clone() for name, t in self._weights().items()}

    def _weights(self) -> dict[str, Tensor]:
        """The module's present weights by name; those that are shared once."""
        buffers = {name: b for name, b in self.module.named_buffers() if b.is_floating_point()}
        return {name: p.detach() for name, p in (*self.module.named_parameters(), *buffers.items())}

    def update(self, step: int) -> None:
        """Take the weights after a step into the average.

        Args:
            step: t, number of steps done, from 1.
        """
        w = (1 - self.decay) / (1 - self.decay**step)
        move = get_ema_multi_avg_fn(1 - w)
        move(tuple(self.average.values()), tuple(self._weights().values()), step)

    @torch.no_grad()
    def apply(self) -> None:
        """Give the module the average."""
        for name, weight in self._weights().items():
            weight.copy_(self.average[name])

    @contextmanager
    def applied(self) -> Generator[None]:
        """Context in which the module has the average; afterwards it has its own weights again."""
        own = {name: weight.clone() for name, weight in self._weights().items()}
        try:
            self.apply()
            yield
        finally:
            with torch.no_grad():
                for name, weight in self._weights().items():
                    weight.copy_(own[name])

    def load(self, average: Mapping[str, Tensor]) -> None:
        """Take up an earlier average.

        Args:
            average: The attribute `average` of the earlier one, on any device.
        """
        for name, tensor in self.average.items():
            tensor.copy_(average[name])

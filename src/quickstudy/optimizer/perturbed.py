"""Rules with parameters of their own for each task, as evolution strategies need them."""

from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from quickstudy.core.adapt import RuleState, Tensors
from quickstudy.core.kernels.switch import for_each


class PerTaskRule:
    """A rule with separate weights for each of B optimizees.

    Args:
        rule: The rule, a `Rule` that is a module.
        weights: [B, ...] weights of the rule for each optimizee, by name.
    """

    def __init__(self, rule: nn.Module, weights: Tensors) -> None:
        self.rule, self.weights = rule, weights

    def init(self, parameters: Tensors) -> RuleState:
        """State before the first step, [B, ...]."""
        return self._call("init", parameters)

    def update(
        self, gradients: Tensors, state: RuleState, parameters: Tensors, loss: Tensor
    ) -> tuple[Tensors, RuleState]:
        """Take a step of each optimizee with its own weights, as `Rule.update`."""
        return self._call("update", gradients, state, parameters, loss)

    def _call(self, method: str, *arguments: Any) -> Any:
        caller = _Caller(self.rule, method)

        def one(weights: Tensors, *own: Any) -> Any:
            return functional_call(caller, {f"rule.{k}": w for k, w in weights.items()}, own)

        return for_each(one)(self.weights, *arguments)


class _Caller(nn.Module):
    """Exposes a method of a module as `forward`, as `functional_call` swaps the weights of `forward` only."""

    def __init__(self, rule: nn.Module, method: str) -> None:
        super().__init__()
        self.rule, self.method = rule, method

    def forward(self, *arguments: Any) -> Any:
        """Call the method."""
        return getattr(self.rule, self.method)(*arguments)

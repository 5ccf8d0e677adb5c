"""Rules with parameters of their own for each task, as evolution strategies need them."""

from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from quickstudy.core.adapt import RuleState, Tensors
from quickstudy.core.kernels.switch import for_each


class OnesOwn:
    """A rule that has other weights for each optimisee, [B, ...] by name."""

    def __init__(self, rule: nn.Module, weights: Tensors) -> None:
        self.rule, self.weights = rule, weights

    def init(self, parameters: Tensors) -> RuleState:
        """A state [B, ...] for each optimisee."""
        return self._call("init", parameters)

    def update(
        self, gradients: Tensors, state: RuleState, parameters: Tensors, loss: Tensor
    ) -> tuple[Tensors, RuleState]:
        """A step of each optimisee by its own weights."""
        return self._call("update", gradients, state, parameters, loss)

    def _call(self, method: str, *arguments: Any) -> Any:
        caller = _Caller(self.rule, method)

        def one(weights: Tensors, *own: Any) -> Any:
            return functional_call(caller, {f"rule.{k}": w for k, w in weights.items()}, own)

        return for_each(one)(self.weights, *arguments)


class _Caller(nn.Module):
    """A method of a module as the `forward` of another: the one that torch can call with other weights."""

    def __init__(self, rule: nn.Module, method: str) -> None:
        super().__init__()
        self.rule, self.method = rule, method

    def forward(self, *arguments: Any) -> Any:
        """What the method makes of the arguments."""
        return getattr(self.rule, self.method)(*arguments)

"""What may differ between the inner steps of a learner: the weight of its loss, batch norm, rates.

Antreas Antoniou, Harrison Edwards, Amos Storkey: "How to train your MAML", ICLR 2019.
"""

import torch
from torch import Tensor, nn

from quickstudy.core.adapt import RuleState, Tensors
from quickstudy.core.kernels.task_groups import repeated
from quickstudy.core.kernels.torch_private import BatchNorm
from quickstudy.core.update_rules import sgd_by_step


def multi_step_weights(steps: int, progress: float) -> list[float]:
    r"""Weight of the query loss after each inner step, $w_k = \max((1 - p) / K, 0.03 / K)$ for $k < K$.

    The last step has the rest, $w_K = 1 - (K - 1) w_1$. At first all weigh the same.

    Args:
        steps: Number K of inner steps, at least 1.
        progress: p in [0, 1], the share of the annealing that is done.

    Returns:
        K weights, whose sum is 1.

    Reference: "How to train your MAML", section 4, and its authors' code.
    """
    early = max(1 - progress, 0.03) / steps
    return [early] * (steps - 1) + [1 - (steps - 1) * early]


class PerStepNorm(nn.Module):
    """γ and β of a model's batch norm for each of K inner steps: those of the first step are the model's own.

    Args:
        model: Model with batch norm; all steps begin with its γ and β.
        steps: Number K of inner steps with γ and β of their own; further steps have those of the last.

    Raises:
        ValueError: If the model has no batch norm with γ or β that require a gradient.
    """

    def __init__(self, model: nn.Module, steps: int) -> None:
        super().__init__()
        parameters = {k: p for k, p in model.named_parameters() if p.requires_grad}
        of_norms = {
            id(p) for m in model.modules() if isinstance(m, BatchNorm) for p in m.parameters(recurse=False)
        }
        self.names = [k for k, p in parameters.items() if id(p) in of_norms]
        if not self.names:
            raise ValueError("the model has no batch norm to learn for each step: leave per_step_norm out")
        self.later = nn.ParameterList(
            parameters[k].detach().repeat(max(1, steps) - 1, 1) for k in self.names if steps > 1
        )

    def at(self, step: int, model: nn.Module, tasks: int) -> Tensors:
        """γ and β [T, C] of one step, by their names in the model.

        Args:
            step: Number of the step, from 0.
            model: Model whose own γ and β are those of the first step.
            tasks: Number T of tasks.
        """
        own = [model.get_parameter(name) for name in self.names]
        # all rows in one tensor, so that each has a gradient, if 0: processes that share the work wait for it
        rows = (
            [torch.cat([p[None], more]) for p, more in zip(own, self.later, strict=True)]
            if len(self.later)
            else [p[None] for p in own]
        )
        return {
            name: repeated(row[min(step, len(row) - 1)], tasks)
            for name, row in zip(self.names, rows, strict=True)
        }


class StepRates(nn.Module):
    """Gradient descent with a learned rate for each tensor of weights and inner step, `sgd_by_step` (LSLR).

    Args:
        parameters: Parameters that are adapted, by name.
        steps: Number K of inner steps with rates of their own; further steps take the rates of the last.
        lr: Rate that all begin with.
    """

    def __init__(self, parameters: Tensors, steps: int, lr: float) -> None:
        super().__init__()
        self.names = list(parameters)
        self.rates = nn.ParameterList(p.new_full((max(1, steps),), lr) for p in parameters.values())

    def init(self, parameters: Tensors) -> RuleState:
        """Number of the first step, 0."""
        return 0

    def update(
        self, gradients: Tensors, state: RuleState, parameters: Tensors, loss: Tensor
    ) -> tuple[Tensors, RuleState]:
        """Take one step, as `Rule.update`."""
        rule = sgd_by_step(dict(zip(self.names, self.rates, strict=True)))
        return rule.update(gradients, state, parameters, loss)

"""Meta-SGD.

Zhenguo Li, Fengwei Zhou, Fei Chen, Hang Li: "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning",
2017.
"""

from typing import Literal, Unpack

import torch
from torch import nn

from quickstudy.core.adapt import Rule
from quickstudy.core.arguments import check_whole
from quickstudy.core.blueprint import rebuildable
from quickstudy.core.inner_loop import InnerLoop, InnerLoopOptions
from quickstudy.core.update_rules import sgd, sgd_by_step


@rebuildable
class MetaSGD(InnerLoop):
    r"""Meta-SGD: MAML that also learns a rate for every parameter, and so the direction of the inner step.

    $$\theta' = \theta - \alpha \circ \nabla \mathcal{L}_{\text{train}(\mathcal{T})}(\theta) \tag{1}$$

    $$\min_{\theta, \alpha} \mathbb{E}_{\mathcal{T}}
    \big[\mathcal{L}_{\text{test}(\mathcal{T})}(\theta')\big] \tag{2}$$

    with α of the shape of θ. A rate may become negative; the step then goes uphill in that direction.

    Args:
        model: $f_\theta$, any module from [B, ...] to [B, N], such as `Classifier`.
        rates: Granularity of the learned rates: "parameter", one for each weight, as in the paper;
            "layer", one for each tensor of weights; "layer and step", one for each tensor of weights and
            inner step, of which further steps in evaluation take the last.
        init: Bounds of the uniform distribution that α is drawn from at the start of training.
        steps: Inner steps in training; the paper takes one.
        test_steps: Inner steps in evaluation; as many as in training by default.
        first_order: Treat the inner gradients as constants; the rates are learned in any case.
        chunk_size: Tasks that run at the same time, as in `MAML`.
        options: Options of `InnerLoop` by name, such as `loss`, a loss of your own for both loops.

    Raises:
        ValueError: If `rates` is neither, or for the reasons of `MAML`.

    Departures: the meta-loss is the mean over tasks, not the sum.
    """

    def __init__(
        self,
        model: nn.Module,
        rates: Literal["parameter", "layer", "layer and step"] = "parameter",
        init: tuple[float, float] = (0.005, 0.1),
        steps: int = 1,
        test_steps: int | None = None,
        first_order: bool = False,
        chunk_size: int | None = None,
        **options: Unpack[InnerLoopOptions],
    ) -> None:
        super().__init__(model, steps, test_steps, first_order, chunk_size, **options)
        check_whole(1, steps=steps)
        if rates not in ("parameter", "layer", "layer and step"):
            raise ValueError(f"rates is {rates!r}: choose 'parameter', 'layer' or 'layer and step'")
        parameters = self.adaptable(dict(model.named_parameters()))
        self.names, self.by_step = list(parameters), rates == "layer and step"
        shape = (max(1, steps),) if self.by_step else ()
        self.rates = nn.ParameterList(
            torch.empty_like(p if rates == "parameter" else p.new_empty(shape)).uniform_(*init)
            for p in parameters.values()
        )

    def rule(self) -> Rule:
        """Update rule of the inner steps (equation 1)."""
        rates = dict(zip(self.names, self.rates, strict=True))
        return sgd_by_step(rates) if self.by_step else sgd(rates)

"""Meta-SGD.

Zhenguo Li, Fengwei Zhou, Fei Chen, Hang Li: "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning",
2017.
"""

from typing import Literal

import torch
from torch import nn

from quickstudy.core.adapt import Rule
from quickstudy.core.blueprint import rebuildable
from quickstudy.core.inner_loop import InnerLoop
from quickstudy.core.update_rules import sgd


@rebuildable
class MetaSGD(InnerLoop):
    r"""Meta-SGD: MAML that learns the rate, and so the direction, of the step of every parameter as well.

    $$\theta' = \theta - \alpha \circ \nabla \mathcal{L}_{\text{train}(\mathcal{T})}(\theta) \tag{1}$$

    $$\min_{\theta, \alpha} \mathbb{E}_{\mathcal{T}}
    \big[\mathcal{L}_{\text{test}(\mathcal{T})}(\theta')\big] \tag{2}$$

    with α of the shape of θ. A rate may turn negative: then the step goes uphill in that direction.

    Args:
        model: $f_\theta$, as in `MAML`.
        rates: "parameter": a rate for each weight, as in the paper; "layer": one for each tensor of weights.
        init: α is drawn uniformly between these two.
        steps: as in `MAML`; the paper takes one.
        test_steps: as in `MAML`.
        first_order: as in `MAML`; the rates are learned in any case.
        chunk_size: Tasks that run at the same time, as in `MAML`.

    Raises:
        ValueError: if `rates` is neither, or as in `MAML`.

    Departures: the mean over tasks stands for the sum.
    """

    def __init__(
        self,
        model: nn.Module,
        rates: Literal["parameter", "layer"] = "parameter",
        init: tuple[float, float] = (0.005, 0.1),
        steps: int = 1,
        test_steps: int | None = None,
        first_order: bool = False,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__(model, steps, test_steps, first_order, chunk_size)
        if rates not in ("parameter", "layer"):
            raise ValueError(f"rates is {rates!r}: choose 'parameter' or 'layer'")
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        parameters = dict(model.named_parameters())
        self.rates = nn.ParameterList(
            torch.empty_like(
                parameters[name] if rates == "parameter" else parameters[name].new_empty(())
            ).uniform_(*init)
            for name in self.names
        )

    def rule(self) -> Rule:
        """The inner step, equation 1."""
        return sgd(dict(zip(self.names, self.rates, strict=True)))

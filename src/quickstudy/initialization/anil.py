"""ANIL, "almost no inner loop".

Aniruddh Raghu, Maithra Raghu, Samy Bengio, Oriol Vinyals: "Rapid Learning or Feature Reuse? Towards
Understanding the Effectiveness of MAML", ICLR 2020.
"""

from typing import Unpack

from torch import Tensor

from quickstudy.core.adapt import Adapted, Rule, Tensors
from quickstudy.core.arguments import check_finite
from quickstudy.core.blueprint import rebuildable
from quickstudy.core.episode import Support
from quickstudy.core.errors import WrongTypeError
from quickstudy.core.inner_loop import (
    InnerLoop,
    InnerLoopOptions,
    first_ways,
    task_losses,
    trainable,
    uses_batch_statistics,
)
from quickstudy.core.kernels.per_task import below, per_task
from quickstudy.core.kernels.task_norm import Statistics, TaskNorm
from quickstudy.core.per_step import StepRates
from quickstudy.core.update_rules import sgd
from quickstudy.encoders.classifier import Classifier


@rebuildable
class ANIL(InnerLoop):
    r"""ANIL: MAML that adapts only the head in the inner loop.

    $$\theta_m^{(b)} = \big(\theta_1, \dots, (\theta_l)_{m-1}^{(b)} - \alpha \nabla_{(\theta_l)_{m-1}^{(b)}}
    \mathcal{L}_{S_b}(f_{\theta_{m-1}^{(b)}})\big) \tag{1}$$

    with $\theta_l$ the last layer. All layers are learned by the meta-loss.

    Args:
        model: $f_\theta$, an encoder with a linear head.
        lr: Inner learning rate α.
        steps: Inner steps in training.
        test_steps: Inner steps in evaluation; as many as in training by default.
        first_order: Treat the inner gradients as constants, as first-order MAML does.
        chunk_size: Tasks that run at the same time, as in `MAML`.
        learned_rates: Learn a rate for each tensor of weights and inner step, as in `MAML`.
        options: Options of `InnerLoop` by name, such as `loss`, a loss of your own for both loops;
            all but `per_step_norm`.

    Raises:
        ValueError: If no parameter of the head requires a gradient, or for the reasons of `MAML`.
        TypeError: If the model is not a `Classifier`.

    Departures: the meta-loss is the mean over tasks, not the sum.
    """

    model: Classifier

    def __init__(
        self,
        model: Classifier,
        lr: float = 0.1,
        steps: int = 1,
        test_steps: int | None = None,
        first_order: bool = False,
        chunk_size: int | None = None,
        learned_rates: bool = False,
        **options: Unpack[InnerLoopOptions],
    ) -> None:
        if not isinstance(model, Classifier):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise WrongTypeError(
                f"the model is a {type(model).__name__} and ANIL adapts the head alone: "
                "wrap your encoder, ANIL(Classifier(encoder, ways, dimensions))"
            )
        if options.get("per_step_norm"):
            raise ValueError("ANIL embeds the support once, before its steps: leave per_step_norm out")
        super().__init__(model, steps, test_steps, first_order, chunk_size, **options)
        if not any(p.requires_grad for p in model.head.parameters()):
            raise ValueError("no parameter of the head requires a gradient: there is nothing to adapt")
        check_finite(0, lr=lr)
        self.lr = lr
        self.rates = (
            StepRates(self.adaptable(dict(model.named_parameters())), steps, lr) if learned_rates else None
        )

    def rule(self) -> Rule:
        """Update rule of the inner steps (equation 1)."""
        return sgd(self.lr) if self.rates is None else self.rates

    def adapt(self, support: Support, path: list[Tensors] | None = None) -> Adapted:
        """Adapt the head to the support of T tasks; the support is embedded once.

        Args:
            support: Labelled items of T tasks.
            path: List to which all parameters after each step are appended.

        Returns:
            Parameters [T, ...] by name, those of the encoder included, and the losses [steps, T].
        """
        everything = self.starting_parameters(len(support.x))
        with TaskNorm():
            z = self._embed(everything, support.x)
        return self._adapt_head(everything, z, support, path)

    def scores(self, support: Support, query_x: Tensor) -> Tensor:
        """Scores of the queries after adapting the head to the support, all tasks at once.

        Args:
            support: Labelled items of T tasks.
            query_x: [T, Q, ...] items to classify.

        Returns:
            [T, Q, N] scores, or predictions for a regression.
        """
        return self._scores_along(support, query_x, None)[0]

    def scores_by_step(self, support: Support, query_x: Tensor) -> list[Tensor]:
        """Scores [T, Q, N] of the queries after each inner step; they are embedded once.

        Args:
            support: Labelled items of T tasks.
            query_x: [T, Q, ...] items to classify.
        """
        return self._scores_along(support, query_x, [])

    def _scores_along(self, support: Support, query_x: Tensor, path: list[Tensors] | None) -> list[Tensor]:
        everything = self.starting_parameters(len(support.x))
        statistics: list[Statistics] | None = None if uses_batch_statistics(self.model) else []
        with TaskNorm(keep=statistics):
            z = self._embed(everything, support.x)
        last = self._adapt_head(everything, z, support, path).parameters
        with TaskNorm(use=statistics):
            queries = self._embed(everything, query_x)
            return [
                first_ways(self._head(parameters, queries), support.ways)
                for parameters in ([last] if path is None else path)
            ]

    def _embed(self, parameters: Tensors, x: Tensor) -> Tensor:
        return per_task(self.model.encoder, below("encoder", parameters), x)

    def _head(self, parameters: Tensors, z: Tensor) -> Tensor:
        return per_task(self.model.head, below("head", parameters), z)

    def _adapt_head(
        self, everything: Tensors, z: Tensor, support: Support, path: list[Tensors] | None
    ) -> Adapted:
        def loss(head: Tensors, step: int) -> Tensor:
            return task_losses(self._head(everything | head, z), support.y, support.ways, self.loss)

        return self._stepped(everything, loss, lambda head, step: everything | head, path)

    def adaptable(self, parameters: Tensors) -> Tensors:
        """Those of the model's parameters that the inner steps change, by name: the head's.

        Args:
            parameters: Parameters of the model, by name.
        """
        return {k: p for k, p in trainable(parameters).items() if k.startswith("head.")}

"""ANIL, "almost no inner loop".

Aniruddh Raghu, Maithra Raghu, Samy Bengio, Oriol Vinyals: "Rapid Learning or Feature Reuse? Towards
Understanding the Effectiveness of MAML", ICLR 2020.
"""

from dataclasses import replace
from typing import Unpack

from torch import Tensor

from quickstudy.core.adapt import Adapted, Rule, Tensors, adapt
from quickstudy.core.blueprint import rebuildable
from quickstudy.core.episode import Support
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
        options: Options of `InnerLoop` by name, such as `loss`, a loss of your own for both loops.

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
        **options: Unpack[InnerLoopOptions],
    ) -> None:
        if not isinstance(model, Classifier):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"the model is a {type(model).__name__} and ANIL adapts the head alone: "
                "wrap your encoder, ANIL(Classifier(encoder, ways, dimensions))"
            )
        super().__init__(model, steps, test_steps, first_order, chunk_size, **options)
        if not any(p.requires_grad for p in model.head.parameters()):
            raise ValueError("no parameter of the head requires a gradient: there is nothing to adapt")
        self.lr = lr

    def rule(self) -> Rule:
        """Update rule of the inner steps (equation 1)."""
        return sgd(self.lr)

    def adapt(self, support: Support) -> Adapted:
        """Adapt the head to the support of T tasks; the support is embedded once.

        Args:
            support: Labelled items of T tasks.

        Returns:
            Parameters [T, ...] by name, those of the encoder included, and the losses [steps, T].
        """
        everything = self.starting_parameters(len(support.x))
        with TaskNorm():
            z = self._embed(everything, support.x)
        return self._adapt_head(everything, z, support)

    def scores(self, support: Support, query_x: Tensor) -> Tensor:
        """Scores of the queries after adapting the head to the support, all tasks at once.

        Args:
            support: Labelled items of T tasks.
            query_x: [T, Q, ...] items to classify.

        Returns:
            [T, Q, N] scores, or predictions for a regression.
        """
        everything = self.starting_parameters(len(support.x))
        statistics: list[Statistics] | None = None if uses_batch_statistics(self.model) else []
        with TaskNorm(keep=statistics):
            z = self._embed(everything, support.x)
        parameters = self._adapt_head(everything, z, support).parameters
        with TaskNorm(use=statistics):
            return first_ways(self._head(parameters, self._embed(everything, query_x)), support.ways)

    def _embed(self, parameters: Tensors, x: Tensor) -> Tensor:
        return per_task(self.model.encoder, below("encoder", parameters), x)

    def _head(self, parameters: Tensors, z: Tensor) -> Tensor:
        return per_task(self.model.head, below("head", parameters), z)

    def _adapt_head(self, everything: Tensors, z: Tensor, support: Support) -> Adapted:
        def loss(head: Tensors, step: int) -> Tensor:
            return task_losses(self._head(everything | head, z), support.y, support.ways, self.loss)

        head = {k: p for k, p in trainable(everything).items() if k.startswith("head.")}
        adapted = adapt(loss, head, self.rule(), self.steps_now, self.first_order)
        return replace(adapted, parameters=everything | adapted.parameters)

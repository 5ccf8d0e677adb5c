"""Telling classes apart by the features of a pretrained network, without any training."""

import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.blueprint import rebuildable
from quickstudy.core.episode import Support
from quickstudy.core.learner import Learner, embed_together
from quickstudy.metric.distances import Distance, cosine_distance
from quickstudy.metric.heads import Head, calibrated_ridge, is_transductive, told_apart


@rebuildable
class PretrainedFeatures(Learner):
    """A head on the features of a pretrained encoder, by default of unit length.

    It needs no training. Where parameters of the encoder require a gradient, its meta-loss trains them: the
    cross-entropy of the queries of tasks. With the head `nearest_prototype` it is SimpleShot's L2N.

    Args:
        encoder: Any module from [B, ...] to [B, D], such as `pretrained("photos")`.
        head: Classifier of the features of a task, a `Head`.
        unit: Whether features are brought to unit length before the head gets them; those of `HEADS` do by
            themselves what their papers say, and take features as they are, `unit=False`.

    Reference: Wang, Chao, Weinberger, van der Maaten 2019, "SimpleShot: revisiting nearest-neighbor
    classification for few-shot learning".
    """

    def __init__(self, encoder: nn.Module, head: Head = calibrated_ridge, unit: bool = True) -> None:
        super().__init__()
        self.encoder, self.head, self.unit = encoder, head, unit

    @property
    def distance(self) -> Distance:
        """Distance to compare embeddings by: that of features of unit length."""
        return cosine_distance

    @property
    def transductive(self) -> bool:
        """Whether the head looks at all queries of a task together."""
        return is_transductive(self.head)

    def predict(self, support: Support, query_x: Tensor) -> Tensor:
        """Scores of the queries by the head.

        Args:
            support: Labelled items of T tasks.
            query_x: [T, Q, ...] items to classify.

        Returns:
            [T, Q, N] scores; their softmax gives probabilities.
        """
        shots, queries = embed_together(self.encoder, support.x, query_x)
        if self.unit:
            shots, queries = F.normalize(shots, dim=-1), F.normalize(queries, dim=-1)
        return told_apart(self.head, shots, support, queries)

"""A plain classifier of all training classes, whose features tell new classes apart.

Yonglong Tian, Yue Wang, Dilip Krishnan, Joshua B. Tenenbaum, Phillip Isola: "Rethinking Few-Shot Image
Classification: a Good Embedding Is All You Need?", ECCV 2020.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.arguments import check_whole
from quickstudy.core.blueprint import rebuildable
from quickstudy.core.episode import LabelledBatch, Support
from quickstudy.core.learner import Learner, embed_together, embeddings_of
from quickstudy.metric.distances import Distance, cosine_distance
from quickstudy.metric.features.baseline import CosineLinear
from quickstudy.metric.heads import Head, is_transductive, logistic_regression, told_apart


@rebuildable
class PlainClassifier(Learner):
    r"""A classifier of all training classes; new classes are told by a head on its features (RFS).

    Training is ordinary classification, on `LabelledBatches` instead of episodes. The loss is the
    cross-entropy of a linear layer on the features, with smoothed labels $\tilde y$ if wanted:

    $$\mathcal{L} = -\frac{1}{B} \sum_b \sum_{k=1}^{K} \tilde y_{bk} \log \operatorname{softmax}(W
    f_\phi(x_b) + b)_k, \qquad \tilde y_{bk} = (1 - \varepsilon) [y_b = k] + \varepsilon / K$$

    Then the linear layer is left aside. In a task of new classes all features are brought to unit length,
    $f_\phi(x) / \lVert f_\phi(x) \rVert$, and the head is fitted to those of the support.

    Args:
        encoder: $f_\phi$, any module from [B, ...] to [B, D].
        classes: Number K of training classes.
        dimensions: Length D of a feature vector.
        label_smoothing: ε, in [0, 1).
        head: Classifier of the features of a task, a `Head`.
        cosine: Whether the layer that is trained is one of cosines, `CosineLinear`, as in Baseline++.

    Raises:
        ValueError: If there are fewer than two classes, or the smoothing is out of range.

    Departures: the authors add five augmented copies of each support item, here it is taken once; the
    distillation of later generations is not there. On several processes batch norm sees the share of each.
    """

    def __init__(
        self,
        encoder: nn.Module,
        classes: int,
        dimensions: int,
        label_smoothing: float = 0.0,
        head: Head = logistic_regression,
        cosine: bool = False,
    ) -> None:
        super().__init__()
        check_whole(1, dimensions=dimensions)
        if classes < 2 or not 0 <= label_smoothing < 1:
            raise ValueError(
                f"classes is {classes} and label_smoothing {label_smoothing}: there must be two classes or "
                "more, and 0 ≤ label_smoothing < 1"
            )
        self.encoder, self.head, self.label_smoothing = encoder, head, label_smoothing
        self.linear = (CosineLinear if cosine else nn.Linear)(dimensions, classes)

    @property
    def classes(self) -> int:
        """Number K of training classes."""
        return self.linear.out_features

    @property
    def distance(self) -> Distance:
        """Distance to compare embeddings by: that of features of unit length."""
        return cosine_distance

    @property
    def transductive(self) -> bool:
        """Whether the head looks at all queries of a task together."""
        return is_transductive(self.head)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] (it learns from batches, not episodes)
        self, batch: LabelledBatch
    ) -> Tensor:
        """Mean cross-entropy of the items among all training classes, in nats, a scalar.

        Args:
            batch: Items with the numbers of their classes.

        Raises:
            ValueError: If the batch is an episode or has another number of classes, or if the features don't
                have `dimensions` elements.
        """
        if not isinstance(batch, LabelledBatch):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                f"a plain classifier can't learn from an {type(batch).__name__}: train it on "
                "LabelledBatches(pool, batch_size)"
            )
        self.check_classes(batch.classes)
        z = embeddings_of(self.encoder, batch.x)
        if z.ndim != 2 or z.shape[1] != self.linear.in_features:
            raise ValueError(
                f"the encoder made {list(z.shape)} of {list(batch.x.shape)}, but the linear layer takes "
                f"{self.linear.in_features} numbers an item: PlainClassifier(…, dimensions={z.shape[-1]})"
            )
        return F.cross_entropy(self.linear(z), batch.y, label_smoothing=self.label_smoothing)

    def check_classes(self, number: int) -> None:
        """Refuse data with another number of training classes.

        Args:
            number: Number of classes in the data.

        Raises:
            ValueError: If it is not `classes`.
        """
        if number != self.classes:
            raise ValueError(
                f"the plain classifier tells {self.classes} classes apart, but {number} are trained on: "
                f"build it with classes={number}, or leave out what changes their number, such as trainval"
            )

    def predict(self, support: Support, query_x: Tensor) -> Tensor:
        """Scores of the queries by the head.

        Args:
            support: Labelled items of T tasks.
            query_x: [T, Q, ...] items to classify.

        Returns:
            [T, Q, N] scores; log-probabilities by default.
        """
        shots, queries = embed_together(self.encoder, support.x, query_x)
        return told_apart(self.head, F.normalize(shots, dim=-1), support, F.normalize(queries, dim=-1))

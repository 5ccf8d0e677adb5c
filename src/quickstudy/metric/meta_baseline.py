"""Meta-Baseline: a plain classifier's encoder, trained on for the nearest mean by cosines.

Yinbo Chen, Zhuang Liu, Huijuan Xu, Trevor Darrell, Xiaolong Wang: "Meta-Baseline: Exploring Simple
Meta-Learning for Few-Shot Learning", ICCV 2021.
"""

import torch
from torch import Tensor, nn

from quickstudy.core.blueprint import rebuildable
from quickstudy.core.episode import Support
from quickstudy.core.learner import Learner, embed_together
from quickstudy.metric.distances import Distance, cosine_distance, cosines, prototypes


@rebuildable
class MetaBaseline(Learner):
    r"""Meta-Baseline: classification by the class mean at the least angle, with a learned temperature.

    $$p(y = k \mid x) = \frac{\exp(\tau \cos(f_\phi(x), c_k))}{\sum_{k'} \exp(\tau \cos(f_\phi(x), c_{k'}))}$$

    with $c_k$ the class means of the support, of embeddings as they are. The meta-loss is the cross-entropy
    of the queries. The encoder begins as a `PlainClassifier` has trained it (the paper's
    Classifier-Baseline); τ is learned with it.

    Args:
        encoder: $f_\phi$, any module from [B, ...] to [B, D].
        temperature: τ, the factor of the cosines, at the start of training.

    Reference: Chen, Liu, Xu, Darrell, Wang: "Meta-Baseline: Exploring Simple Meta-Learning for Few-Shot
    Learning", ICCV 2021.

    Departures: none.
    """

    def __init__(self, encoder: nn.Module, temperature: float = 10.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.temperature = nn.Parameter(torch.tensor(float(temperature)))

    @property
    def distance(self) -> Distance:
        """Distance to compare embeddings by."""
        return cosine_distance

    def predict(self, support: Support, query_x: Tensor) -> Tensor:
        """Scores τ cos(f(q), c_k) of the queries.

        Args:
            support: Labelled items of T tasks.
            query_x: [T, Q, ...] items to classify.

        Returns:
            [T, Q, N] scores in −τ … τ.
        """
        shots, queries = embed_together(self.encoder, support.x, query_x)
        return self.temperature * cosines(queries, prototypes(shots, support.y, support.ways))

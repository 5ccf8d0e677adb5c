"""Prototypical networks.

Jake Snell, Kevin Swersky, Richard Zemel: "Prototypical Networks for Few-shot Learning", NeurIPS 2017.
"""

from torch import Tensor, nn

from quickstudy.core.blueprint import rebuildable
from quickstudy.core.episode import Support
from quickstudy.core.learner import Learner, embed_together
from quickstudy.metric.distances import Distance, euclidean_distance, prototypes, squared_distances


@rebuildable
class Prototypical(Learner):
    r"""Prototypical networks: classification by the nearest class mean, in a learned embedding space.

    $$c_k = \frac{1}{|S_k|} \sum_{(x_i, y_i) \in S_k} f_\phi(x_i) \tag{1}$$

    $$p_\phi(y = k \mid x) = \frac{\exp(-d(f_\phi(x), c_k))}{\sum_{k'} \exp(-d(f_\phi(x), c_{k'}))},
    \qquad d(a, b) = \lVert a - b \rVert^2 \tag{2}$$

    The meta-loss is $-\log p_\phi(y = k \mid x)$, averaged over the queries. The distance is *squared* and
    summed over dimensions; an unsquared or averaged one is another model.

    Args:
        encoder: $f_\phi$, any module from [B, ...] to [B, D].

    Departures: none. The support and the queries of a task go through the encoder in one batch, as in the
    authors' code, so in training batch norm takes its statistics over both.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    @property
    def distance(self) -> Distance:
        """Distance to compare embeddings by."""
        return euclidean_distance

    def predict(self, support: Support, query_x: Tensor) -> Tensor:
        """Scores −‖f(q) − c_k‖² of the queries, the logits of equation 2.

        Args:
            support: Labelled items of T tasks.
            query_x: [T, Q, ...] items to classify.

        Returns:
            [T, Q, N] scores ≤ 0.
        """
        shots, queries = embed_together(self.encoder, support.x, query_x)
        return -squared_distances(queries, prototypes(shots, support.y, support.ways))

"""Prototypical networks.

Jake Snell, Kevin Swersky, Richard Zemel: "Prototypical Networks for Few-shot Learning", NeurIPS 2017.
"""

import torch
from torch import Tensor, nn

from quickstudy.core.episode import Support
from quickstudy.core.learner import Learner, embed
from quickstudy.metric.distances import euclidean, prototypes, squared_distances


class Prototypical(Learner):
    r"""Prototypical networks: the nearest class mean, in a space learned for it.

    $$c_k = \frac{1}{|S_k|} \sum_{(x_i, y_i) \in S_k} f_\phi(x_i) \tag{1}$$

    $$p_\phi(y = k \mid x) = \frac{\exp(-d(f_\phi(x), c_k))}{\sum_{k'} \exp(-d(f_\phi(x), c_{k'}))},
    \qquad d(a, b) = \lVert a - b \rVert^2 \tag{2}$$

    The meta-loss is $-\log p_\phi(y = k \mid x)$, averaged over the queries. The distance is *squared* and
    summed over dimensions; an unsquared or averaged one is another model.

    Args:
        encoder: $f_\phi$, any module from [B, ...] to [B, D].

    Departures: none. Support and queries of a task go through the encoder together, as in the authors'
    code, so in training its batch norm sees both.
    """

    distance = euclidean
    """Distance to compare embeddings by."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def predict(self, support: Support, query_x: Tensor) -> Tensor:
        """Scores −‖f(q) − c_k‖² of the queries, [T, Q, N], each ≤ 0 (the logits of equation 2)."""
        z = embed(self.encoder, torch.cat([support.x, query_x], 1))
        shots, queries = z.split([support.x.shape[1], query_x.shape[1]], 1)
        return -squared_distances(queries, prototypes(shots, support.y, support.ways))

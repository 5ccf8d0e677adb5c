"""FEAT: prototypes adapted to each other by a set transformer.

Han-Jia Ye, Hexiang Hu, De-Chuan Zhan, Fei Sha: "Few-Shot Learning via Embedding Adaptation with Set-to-Set
Functions", CVPR 2020.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.arguments import check_whole
from quickstudy.core.blueprint import rebuildable
from quickstudy.core.episode import Episode, Support
from quickstudy.core.learner import Learner, embed_together
from quickstudy.metric.distances import prototypes, squared_distances


class SetTransformer(nn.Module):
    r"""Self-attention of one head over a set of embeddings, with a residual and layer norm.

    $$\psi(z)_i = \operatorname{LayerNorm}\Big(z_i + A \sum_j a_{ij} W_V z_j + b\Big), \qquad
    a_{ij} = \operatorname{softmax}_j\frac{W_Q z_i \cdot W_K z_j}{\sqrt D}$$

    Args:
        dimensions: Length D of an embedding, and of queries, keys and values.
        dropout: Probability, in [0, 1), that a number of the residual's addition is left out in training.
    """

    def __init__(self, dimensions: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(dimensions, dimensions, bias=False) for _ in range(3))
        self.output = nn.Linear(dimensions, dimensions)
        self.norm = nn.LayerNorm(dimensions)
        self.attention_dropout, self.dropout = nn.Dropout(0.1), nn.Dropout(dropout)
        for layer in (self.query, self.key, self.value, self.output):
            nn.init.normal_(layer.weight, std=dimensions**-0.5)  # the authors': √(2 / (D + D))

    def forward(self, z: Tensor, together: Tensor | None = None) -> Tensor:
        """Adapt each embedding to those of its set.

        Args:
            z: [T, M, D] embeddings of T sets.
            together: [T, M, M] whether two of them see each other, where a set is made of several.

        Returns:
            [T, M, D] adapted embeddings.
        """
        with torch.autocast(z.device.type, enabled=False):
            likeness = self.query(z) @ self.key(z).mT / math.sqrt(z.shape[-1])
            if together is not None:
                likeness = likeness.masked_fill(~together, -torch.inf)
            seen = self.attention_dropout(likeness.softmax(-1)) @ self.value(z)
            return self.norm(z + self.dropout(self.output(seen)))


@rebuildable
class FEAT(Learner):
    r"""FEAT: prototypes that a set transformer has adapted to each other classify by their distance.

    $$(\psi_1 \dots \psi_N) = \operatorname{SetTransformer}(c_1 \dots c_N), \qquad
    \text{score}_k(x) = -\lVert f_\phi(x) - \psi_k \rVert^2 / \tau_1 \tag{1}$$

    with $c_k$ the class means of the support. The meta-loss is the cross-entropy of the queries, and, weighed
    by λ, that of all items of the task by the means of the adapted items of their classes, where the
    support and the queries $z_i$ of a class are a set of their own:

    $$\mathcal{L} = -\frac{1}{Q} \sum_{q} \log p(y_q \mid x_q) + \lambda \mathcal{L}_\text{aux}, \qquad
    \mathcal{L}_\text{aux} = -\frac{1}{S + Q} \sum_i \log
    \operatorname{softmax}_k\big({-\lVert z_i - \bar\psi_k \rVert^2} / \tau_2\big)_{y_i} \tag{2}$$

    $$\bar\psi_k = \operatorname{mean}\, \operatorname{SetTransformer}(\{z_i : y_i = k\}) \tag{3}$$

    Args:
        encoder: $f_\phi$, any module from [B, ...] to [B, D], as a plain classifier has trained it.
        dimensions: Length D of an embedding.
        temperature: τ₁ > 0 of the scores.
        auxiliary_temperature: τ₂ > 0 of the auxiliary loss.
        balance: λ ≥ 0, weight of the auxiliary loss.
        dropout: Probability, in [0, 1), of dropout in the transformer.

    Raises:
        ValueError: If a temperature is not positive, or `balance` or `dropout` is out of range.

    Reference: Ye, Hu, Zhan, Sha: "Few-Shot Learning via Embedding Adaptation with Set-to-Set Functions", CVPR
    2020. The numbers of the equations are ours.

    Departures: none from the authors' code. A class without queries has an auxiliary set of its support.
    """

    def __init__(
        self,
        encoder: nn.Module,
        dimensions: int,
        temperature: float = 64.0,
        auxiliary_temperature: float = 64.0,
        balance: float = 0.01,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        check_whole(1, dimensions=dimensions)
        if not (temperature > 0 and auxiliary_temperature > 0 and balance >= 0):
            raise ValueError(
                f"temperature is {temperature}, auxiliary_temperature {auxiliary_temperature} and balance "
                f"{balance}: temperatures must be above 0, and balance 0 or more"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}: it must be in 0 ≤ dropout < 1")
        self.encoder, self.transformer = encoder, SetTransformer(dimensions, dropout)
        self.temperature, self.auxiliary_temperature = temperature, auxiliary_temperature
        self.balance = balance

    def predict(self, support: Support, query_x: Tensor) -> Tensor:
        """Scores of the queries (equation 1).

        Args:
            support: Labelled items of T tasks.
            query_x: [T, Q, ...] items to classify.

        Returns:
            [T, Q, N] scores ≤ 0.

        Raises:
            ValueError: If an embedding has another length than `dimensions`.
        """
        shots, queries = self._embedded(support, query_x)
        return self._scores(shots, queries, support)

    def forward(self, episode: Episode) -> Tensor:
        """Meta-loss of a batch of tasks (equation 2), in nats, a scalar.

        Args:
            episode: Labelled items of T tasks.
        """
        support, ways = episode.support, episode.ways
        shots, queries = self._embedded(support, episode.query_x)
        scores = self._scores(shots, queries, support)
        loss = F.cross_entropy(scores.flatten(0, 1), episode.query_y.flatten())
        z, y = torch.cat([shots, queries], 1), torch.cat([support.y, episode.query_y], 1)
        adapted = self.transformer(z, y.unsqueeze(1) == y.unsqueeze(2))
        auxiliary = -squared_distances(z, prototypes(adapted, y, ways)) / self.auxiliary_temperature
        return loss + self.balance * F.cross_entropy(auxiliary.flatten(0, 1), y.flatten())

    def _embedded(self, support: Support, query_x: Tensor) -> tuple[Tensor, ...]:
        z = embed_together(self.encoder, support.x, query_x)
        dimensions = self.transformer.query.in_features
        if z[0].shape[-1] != dimensions:
            raise ValueError(
                f"the encoder gives {z[0].shape[-1]} numbers an item and the transformer takes {dimensions}: "
                f"FEAT(…, dimensions={z[0].shape[-1]})"
            )
        return z

    def _scores(self, shots: Tensor, queries: Tensor, support: Support) -> Tensor:
        adapted = self.transformer(prototypes(shots, support.y, support.ways))
        return -squared_distances(queries, adapted) / self.temperature

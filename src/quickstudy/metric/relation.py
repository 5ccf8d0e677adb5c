"""Relation networks.

Flood Sung, Yongxin Yang, Li Zhang, Tao Xiang, Philip Torr, Timothy Hospedales: "Learning to Compare: Relation
Network for Few-Shot Learning", CVPR 2018.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.arguments import check_whole
from quickstudy.core.blueprint import rebuildable
from quickstudy.core.episode import Episode, Support
from quickstudy.core.kernels.convolution import channels_last
from quickstudy.core.learner import Learner, embed, embed_together
from quickstudy.metric.distances import membership

RelationLoss = Literal["mse", "cross-entropy"]
ClassPooling = Literal["sum", "mean"]


def relation_encoder(in_channels: int = 1, channels: int = 64) -> nn.Sequential:
    """The paper's encoder: four blocks of convolution, batch norm, ReLU; 2×2 max-pool after the first two.

    The first two convolutions have no padding, as in the authors' code.

    Args:
        in_channels: Channels of an image.
        channels: Channels of each convolution.

    Returns:
        A module from [B, C, H, W] to flattened maps [B, channels × side × side]; the side is 5 for images of
        28×28 pixels, 19 for 84×84.

    Departures: as in `Conv4`, pooled before ReLU, no bias before batch norm, channels-last.
    """
    blocks = [
        layer
        for i in range(4)
        for layer in (
            nn.Conv2d(channels if i else in_channels, channels, 3, padding=0 if i < 2 else 1, bias=False),
            nn.BatchNorm2d(channels),
            *([nn.MaxPool2d(2)] if i < 2 else []),
            nn.ReLU(),
        )
    ]
    encoder = nn.Sequential(*blocks, nn.Flatten())
    return encoder.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] (its stub lacks this)


@rebuildable
class Comparison(nn.Module):
    """The paper's relation module: two convolutional blocks, each with a pool, and two linear layers.

    Nothing is concatenated: the convolution of two concatenated maps is the sum of two convolutions, so
    each class and each query is convolved once, not each pair. Maps are laid out channels-last.

    Args:
        side: Height and width of the encoder's maps, at least 4 (else nothing is left after two pools).
        channels: C, the number of channels of the encoder's maps and of the convolutions.
        hidden: Number of units of the first linear layer.

    Raises:
        ValueError: If `side` < 4.
    """

    def __init__(self, side: int = 5, channels: int = 64, hidden: int = 8) -> None:
        super().__init__()
        check_whole(1, channels=channels, hidden=hidden)
        if side < 4:
            raise ValueError(f"side is {side}: maps of at least 4×4 are left by two pools")
        self.maps = (channels, side, side)
        self.join = nn.Conv2d(2 * channels, channels, 3, padding=1, bias=False)
        self.rest = nn.Sequential(
            _ChannelsLast(),
            nn.BatchNorm2d(channels),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(channels * (side // 4) ** 2, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1),
        )
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] (its stub lacks this)

    def forward(self, classes: Tensor, queries: Tensor) -> Tensor:
        """Relation of each query to each class, before the sigmoid.

        Args:
            classes: [T, N, D] flattened maps of the classes, D = C × side × side.
            queries: [T, Q, D] flattened maps of the queries.

        Returns:
            [T, Q, N] logits.

        Raises:
            ValueError: If D does not fit `channels` and `side`.
        """
        of_class, of_query = self.join.weight.chunk(2, 1)
        a, b = self._convolved(classes, of_class), self._convolved(queries, of_query)
        if torch.is_grad_enabled():
            return self._of_pairs(a, b)
        return torch.cat([self._of_pairs(a[t : t + 1], b[t : t + 1]) for t in range(len(a))])  # saves memory

    def _convolved(self, maps: Tensor, weight: Tensor) -> Tensor:
        if maps.shape[-1] != self.maps[0] * self.maps[1] ** 2:
            raise ValueError(
                f"the encoder gives {maps.shape[-1]} numbers an item, and Comparison takes maps of "
                f"{self.maps[0]} × {self.maps[1]} × {self.maps[2]}: choose its channels and side to fit"
            )
        x = channels_last(maps.flatten(0, 1).unflatten(1, self.maps))
        return F.conv2d(x, weight, padding=1).unflatten(0, maps.shape[:2])

    def _of_pairs(self, a: Tensor, b: Tensor) -> Tensor:
        pairs = a.unsqueeze(1) + b.unsqueeze(2)  # [T, Q, N, C, side, side]
        return embed(self.rest, pairs.flatten(1, 2)).view(pairs.shape[:3])


class _ChannelsLast(nn.Module):
    """Lays maps out channels-last, in which the layers after it are fastest.

    Sums of maps that have this layout have it already, and are not copied.
    """

    def forward(self, maps: Tensor) -> Tensor:
        return channels_last(maps)


@rebuildable
class Relation(Learner):
    r"""Relation networks: a learned network compares each query with each class.

    $$r_{k,j} = \sigma\Big(g_\phi\Big(\mathcal{C}\Big(\sum_{i: y_i = k} f_\varphi(x_i),\; f_\varphi(x_j)
    \Big)\Big)\Big) \tag{1}$$

    where $\mathcal{C}$ concatenates the maps of a class and of a query. The meta-loss is the squared error

    $$\frac{1}{N Q} \sum_{k, j} (r_{k,j} - \mathbf{1}(y_j = k))^2 \tag{2}$$

    Args:
        encoder: $f_\varphi$, any module from [B, ...] to [B, D]; `relation_encoder` is the paper's.
        comparison: $g_\phi(\mathcal{C}(\cdot))$, any module from classes [T, N, D] and queries [T, Q, D] to
            logits [T, Q, N]; `Comparison` is the paper's.
        loss: Meta-loss: "mse", the paper's, or "cross-entropy" of the softmax of $\sigma^{-1}(r)$ over the
            classes.
        pooling: Pooling of the embeddings of a class: "sum", the paper's, or "mean", which does not depend
            on the number of shots.

    Raises:
        ValueError: If `loss` or `pooling` is none of these.

    Departures: equation 2 is averaged, as in the authors' code, not summed.
    """

    def __init__(
        self,
        encoder: nn.Module,
        comparison: nn.Module,
        loss: RelationLoss = "mse",
        pooling: ClassPooling = "sum",
    ) -> None:
        super().__init__()
        if loss not in ("mse", "cross-entropy") or pooling not in ("sum", "mean"):
            raise ValueError(
                f"loss is {loss!r} and pooling {pooling!r}: "
                "loss must be 'mse' or 'cross-entropy', pooling 'sum' or 'mean'"
            )
        self.encoder, self.comparison, self.loss, self.pooling = encoder, comparison, loss, pooling

    def predict(self, support: Support, query_x: Tensor) -> Tensor:
        """Logits σ⁻¹(r) of the relations; their sigmoid is equation 1.

        Args:
            support: Labelled items of T tasks.
            query_x: [T, Q, ...] items to classify.

        Returns:
            [T, Q, N] logits.
        """
        shots, queries = embed_together(self.encoder, support.x, query_x)
        member = membership(support.y, support.ways, shots.dtype)
        if self.pooling == "mean":
            member = member / member.sum(2, keepdim=True)
        with torch.autocast(shots.device.type, enabled=False):
            classes = member @ shots
        return self.comparison(classes, queries)

    def forward(self, episode: Episode) -> Tensor:
        """Meta-loss of a batch of tasks.

        Args:
            episode: Labelled items of T tasks.

        Returns:
            The squared error of equation 2 in 0 … 1, or the cross-entropy in nats, a scalar.
        """
        if self.loss == "cross-entropy":
            return super().forward(episode)
        scores = self.predict(episode.support, episode.query_x)
        return F.mse_loss(scores.sigmoid(), F.one_hot(episode.query_y, episode.ways).to(scores.dtype))

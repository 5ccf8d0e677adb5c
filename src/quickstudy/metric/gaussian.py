"""Gaussian prototypical networks.

Stanislav Fort: "Gaussian Prototypical Networks for Few-Shot Learning on Omniglot", 2017.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.blueprint import rebuildable
from quickstudy.core.episode import Support
from quickstudy.core.learner import Learner, embed

InverseVariance = Callable[[Tensor], Tensor]
"""From what the encoder says of the variance, any number, to s > 0, elementwise."""
Covariance = Literal["radius", "diagonal"]


def one_plus_softplus(x: Tensor) -> Tensor:
    """S = 1 + softplus(x), in 1 … ∞; the paper's first."""
    return 1 + F.softplus(x)


def one_plus_sigmoid(x: Tensor) -> Tensor:
    """S = 1 + sigmoid(x), in 1 … 2."""
    return 1 + x.sigmoid()


def one_plus_four_sigmoids(x: Tensor) -> Tensor:
    """S = 1 + 4 sigmoid(x), in 1 … 5."""
    return 1 + 4 * x.sigmoid()


@rebuildable
class LearnedSoftplus(nn.Module):
    """S = offset + scale · softplus(x / div), all three of them learned."""

    def __init__(self) -> None:
        super().__init__()
        self.offset, self.scale, self.div = (nn.Parameter(torch.ones(())) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return self.offset + self.scale * F.softplus(x / self.div)


@dataclass(slots=True)
class Gaussians:
    """What a learner makes of the classes of T tasks.

    Args:
        mean: [T, N, D] prototypes.
        inverse_variance: [T, N, 1] (radius) or [T, N, D] (diagonal).
    """

    mean: Tensor
    inverse_variance: Tensor


@rebuildable
class GaussianPrototypical(Learner):
    r"""Gaussian prototypical networks: the encoder also says how sure it is of each item.

    Of an item $i$ it gives the embedding $x_i$ and an inverse variance $s_i$, one number (radius) or one for
    each dimension (diagonal). A class is a Gaussian,

    $$p_c = \frac{\sum_i s_i \circ x_i}{\sum_i s_i} \tag{1}$$

    $$S_c = \sum_i s_i \tag{2}$$

    and a query, of which the variance plays no part, has to it the distance

    $$d_c(q) = \sqrt{\sum_d S_{c,d} (q_d - p_{c,d})^2} \tag{3}$$

    The meta-loss is the cross-entropy of $\mathrm{softmax}(-d_c)$, averaged over the queries. The numbers of
    the equations are ours.

    Args:
        encoder: any module from [B, ...] to [B, D + 1] (radius) or [B, 2 D] (diagonal), the embedding first;
            `gaussian_encoder` is the paper's.
        covariance: "radius" or "diagonal".
        inverse_variance: from what the encoder says of the variance to s, a function or a module.

    Raises:
        ValueError: if `covariance` is neither, or the encoder's output can't be parted.

    $S_c$ grows with the shots, and the distances with it: a network trained with one shot is surer of itself
    with five.

    Departures: none.
    """

    def __init__(
        self,
        encoder: nn.Module,
        covariance: Covariance = "radius",
        inverse_variance: InverseVariance = one_plus_softplus,
    ) -> None:
        super().__init__()
        if covariance not in ("radius", "diagonal"):
            raise ValueError(f"covariance is {covariance!r}: it must be 'radius' or 'diagonal'")
        self.encoder, self.covariance, self.inverse_variance = encoder, covariance, inverse_variance

    def predict(self, support: Support, query_x: Tensor) -> Tensor:
        """Scores −d_c of the queries (equation 3), [T, Q, N], each ≤ 0."""
        items = support.x.shape[1]
        x, s = self.embed(torch.cat([support.x, query_x], 1))
        classes = gaussians(x[:, :items], s[:, :items], support.y, support.ways)
        return -distances(x[:, items:], classes)

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings [T, B, D] and inverse variances, [T, B, 1] or [T, B, D], of items [T, B, ...]."""
        z = embed(self.encoder, x)
        size = z.shape[-1]
        if size < 2 or (self.covariance == "diagonal" and size % 2):
            raise ValueError(
                f"the encoder gives {size} numbers an item: {self.covariance} takes "
                + (
                    "an even number of them, D and D"
                    if self.covariance == "diagonal"
                    else "D + 1, at least 2"
                )
            )
        d = size // 2 if self.covariance == "diagonal" else size - 1
        with torch.autocast(z.device.type, enabled=False):
            return z[..., :d], self.inverse_variance(z[..., d:])


def gaussians(x: Tensor, s: Tensor, y: Tensor, ways: int) -> Gaussians:
    """Equations 1 and 2.

    Args:
        x: [T, S, D] embeddings of the support.
        s: [T, S, 1] or [T, S, D] their inverse variances.
        y: [T, S] labels.
        ways: N.
    """
    member = F.one_hot(y, ways).to(x.dtype).mT
    with torch.autocast(x.device.type, enabled=False):
        total = member @ s
        return Gaussians(member @ (s * x) / total, total)


def distances(q: Tensor, classes: Gaussians) -> Tensor:
    """Equation 3, without a tensor of all differences; 1e-12 inside the root for its gradient at 0.

    Args:
        q: [T, Q, D] embeddings.
        classes: of T tasks.

    Returns:
        [T, Q, N], each ≥ 0.
    """
    with torch.autocast(q.device.type, enabled=False):
        p, s = classes.mean, classes.inverse_variance.expand_as(classes.mean)
        middle = p.mean(1, keepdim=True).detach()  # so that nothing cancels when embeddings lie far out
        q, p = q - middle, p - middle
        squares = q.square() @ s.mT - 2 * q @ (s * p).mT + (s * p.square()).sum(-1).unsqueeze(1)
        return (squares.clamp_min(0) + 1e-12).sqrt()


def gaussian_encoder(in_channels: int = 1, channels: int = 64, outputs: int = 65) -> nn.Sequential:
    """The paper's encoder: four blocks of 3×3 convolution, ReLU, batch norm, 2×2 max-pool.

    Batch norm comes last, so that what it says of the variance may be negative. For 28×28 pictures:
    [B, C, H, W] → [B, outputs].

    Args:
        in_channels: of a picture.
        channels: of the first three convolutions.
        outputs: of the last, D + 1 or 2 D.
    """
    widths = [in_channels, *[channels] * 3, outputs]
    blocks = [
        layer
        for i in range(4)
        for layer in (
            nn.Conv2d(widths[i], widths[i + 1], 3, padding=1),
            nn.ReLU(),
            nn.BatchNorm2d(widths[i + 1]),
            nn.MaxPool2d(2),
        )
    ]
    encoder = nn.Sequential(*blocks, nn.Flatten())
    return encoder.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] (its stub lacks this)

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
from quickstudy.metric.distances import membership

InverseVariance = Callable[[Tensor], Tensor]
"""Elementwise function from the encoder's raw output for the variance, any number, to s > 0."""
Covariance = Literal["radius", "diagonal"]


def one_plus_softplus(x: Tensor) -> Tensor:
    """Inverse variance S = 1 + softplus(x), in 1 … ∞; the paper's first choice."""
    return 1 + F.softplus(x)


def one_plus_sigmoid(x: Tensor) -> Tensor:
    """Inverse variance S = 1 + sigmoid(x), in 1 … 2."""
    return 1 + x.sigmoid()


def one_plus_four_sigmoids(x: Tensor) -> Tensor:
    """Inverse variance S = 1 + 4 sigmoid(x), in 1 … 5."""
    return 1 + 4 * x.sigmoid()


@rebuildable
class LearnedSoftplus(nn.Module):
    """Inverse variance S = offset + scale · softplus(x / div), with all three numbers learned, 1 at first."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.ones(()))
        self.scale = nn.Parameter(torch.ones(()))
        self.div = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Inverse variances, elementwise, in the shape of `x`."""
        return self.offset + self.scale * F.softplus(x / self.div)


@dataclass(slots=True)
class Gaussians:
    """Gaussians of the classes of T tasks.

    Args:
        mean: [T, N, D] means p, the prototypes.
        inverse_variance: [T, N, 1] (radius) or [T, N, D] (diagonal) inverse variances S > 0.
    """

    mean: Tensor
    inverse_variance: Tensor


@rebuildable
class GaussianPrototypical(Learner):
    r"""Gaussian prototypical networks: the encoder also estimates how certain each embedding is.

    For an item $i$ it returns the embedding $x_i$ and an inverse variance $s_i$, one number (radius) or one
    for each dimension (diagonal). A class is a Gaussian,

    $$p_c = \frac{\sum_i s_i \circ x_i}{\sum_i s_i} \tag{1}$$

    $$S_c = \sum_i s_i \tag{2}$$

    and the distance of a query to it, in which the query's own variance plays no part, is

    $$d_c(q) = \sqrt{\sum_d S_{c,d} (q_d - p_{c,d})^2} \tag{3}$$

    The meta-loss is the cross-entropy of $\mathrm{softmax}(-d_c)$, averaged over the queries. The paper does
    not number its equations; the numbers are ours.

    Args:
        encoder: Any module from [B, ...] to [B, D + 1] (radius) or [B, 2 D] (diagonal), the embedding first;
            `gaussian_encoder` is the paper's.
        covariance: Form of the covariance matrix: "radius", one variance for all dimensions, or "diagonal".
        inverse_variance: Elementwise function or module from the encoder's raw output for the variance to
            s > 0.

    Raises:
        ValueError: If `covariance` is neither, or the encoder's output cannot be split accordingly.

    $S_c$ grows with the number of shots, and the distances with it: a network trained with one shot gives
    more confident predictions with five.

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
        """Scores of the queries, −d_c of equation 3.

        Args:
            support: Labelled items of T tasks.
            query_x: [T, Q, ...] items to classify.

        Returns:
            [T, Q, N] scores < 0.
        """
        items = support.x.shape[1]
        x, s = self.embed(torch.cat([support.x, query_x], 1))
        classes = gaussians(x[:, :items], s[:, :items], support.y, support.ways)
        return -distances(x[:, items:], classes)

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings and inverse variances of items.

        Args:
            x: [T, B, ...] items.

        Returns:
            [T, B, D] embeddings, and [T, B, 1] (radius) or [T, B, D] (diagonal) inverse variances s > 0.

        Raises:
            ValueError: If the number of the encoder's outputs does not fit `covariance`.
        """
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
    """Gaussians of the classes (equations 1 and 2).

    Args:
        x: [T, S, D] embeddings of the support.
        s: [T, S, 1] or [T, S, D] inverse variances of the embeddings.
        y: [T, S] labels in 0 … N − 1.
        ways: N, the number of classes; each has an item.

    Returns:
        Means and inverse variances of the N classes of each task.
    """
    member = membership(y, ways, x.dtype)
    with torch.autocast(x.device.type, enabled=False):
        total = member @ s
        return Gaussians(member @ (s * x) / total, total)


def distances(q: Tensor, classes: Gaussians) -> Tensor:
    """Distances of queries to the classes (equation 3), without a tensor of all differences.

    1e-12 is added inside the root, so that the gradient at distance 0 is finite.

    Args:
        q: [T, Q, D] embeddings of the queries.
        classes: Gaussians of the N classes of each of the T tasks.

    Returns:
        [T, Q, N] distances > 0.
    """
    with torch.autocast(q.device.type, enabled=False):
        p, s = classes.mean, classes.inverse_variance.expand_as(classes.mean)
        # the origin moves to the mean, so that no digits cancel when all embeddings are far from it
        middle = p.mean(1, keepdim=True).detach()
        q, p = q - middle, p - middle
        squares = q.square() @ s.mT - 2 * q @ (s * p).mT + (s * p.square()).sum(-1).unsqueeze(1)
        return (squares.clamp_min(0) + 1e-12).sqrt()


def gaussian_encoder(in_channels: int = 1, channels: int = 64, outputs: int = 65) -> nn.Sequential:
    """The paper's encoder: four blocks of 3×3 convolution, ReLU, batch norm, 2×2 max-pool.

    Batch norm comes after ReLU, so that the raw output for the variance may be negative.

    Args:
        in_channels: Channels of an image.
        channels: Channels of the first three convolutions.
        outputs: Channels of the last convolution: D + 1 (radius) or 2 D (diagonal).

    Returns:
        A module from [B, C, H, W] to [B, outputs] for images of 16×16 to 31×31 pixels, such as 28×28.
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

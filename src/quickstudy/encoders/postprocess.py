"""Embedding transforms (whitening, AS-norm) that are fitted after training."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.blueprint import rebuildable

PEOPLE = 5
"""Items of different classes and sources in a center of the cohort of `CohortNorm`."""
NEAREST = 10
"""Size of a cohort divided by the number of its nearest members that `CohortNorm` averages over."""


class EmbeddingTransform(nn.Module, ABC):
    """A transform of embeddings, fitted after training to embeddings of known classes.

    It holds no encoder; `Embedding` applies it after one. Fitted values are buffers, so they are saved with
    the weights.
    """

    @abstractmethod
    def fit(self, z: Tensor, y: Tensor, sources: Tensor | None = None) -> None:
        """Fit the transform.

        Args:
            z: [I, D] embeddings of I items, of the kind that `transform` will get.
            y: [I] class of each embedding.
            sources: [I] source of each embedding, such as its speaker; None where they are not known.
        """

    @abstractmethod
    def transform(self, z: Tensor) -> Tensor:
        """Embeddings [B, D] → transformed embeddings [B, D′].

        Args:
            z: [B, D] embeddings.
        """

    def forward(self, z: Tensor) -> Tensor:
        """`transform`, in both training and evaluation."""
        return self.transform(z)


@rebuildable
class Embedding(nn.Module):
    r"""An encoder followed by embedding transforms, for use after training.

    $$x \mapsto t_n(\dots t_1(f(x)))$$

    It is the same function in training and evaluation mode. The encoder is trained without the transforms,
    which `fit_transforms` fits afterwards.

    Args:
        encoder: Encoder f, any module from [B, ...] to [B, D].
        transforms: Transforms t₁ … tₙ in the order in which they are applied.
    """

    def __init__(self, encoder: nn.Module, transforms: Iterable[EmbeddingTransform] = ()) -> None:
        super().__init__()
        self.encoder, self.transforms = encoder, nn.ModuleList(transforms)

    def forward(self, x: Tensor) -> Tensor:
        """Items [B, ...] → transformed embeddings [B, D′]."""
        z: Tensor = self.encoder(x)
        for transform in self.transforms:
            z = transform(z)
        return z


@rebuildable
class WCCN(EmbeddingTransform):
    r"""Within-class covariance normalisation (WCCN), a whitening of the variation within classes.

    Variation within a class, such as the speaker of a word, is larger in some directions than in others.
    These are scaled down, so that embeddings vary equally in all directions within classes:

    $$z \mapsto (z - \mu)\,L, \qquad
      L L^\top = \Big(W + \alpha\,\tfrac{\operatorname{tr} W}{D}\,I\Big)^{-1}, \qquad
      W = \frac{1}{n}\sum_i (z_i - \mu_{y_i})(z_i - \mu_{y_i})^\top, \qquad \alpha = \alpha_0 + \frac{D}{n}$$

    for I items of K classes with means $\mu_k$, and $n = I - K$. The fewer items there are, the stronger is
    the shrinkage α towards no whitening. μ is 0 or, if `centered`, the mean of all items.

    Args:
        dimensions: Number D of elements that are whitened; elements beyond D pass unchanged.
        shrinkage: Shrinkage α₀ ≥ 0 of the covariance towards a multiple of the identity.
        centered: Whether the mean is moved to 0: better for unseen words, worse for unseen speakers.
        unit: Whether embeddings are first normalized to length 1: better if they were trained by a
            contrastive loss of cosines, worse if by the supervised contrastive loss.

    Raises:
        ValueError: If the shrinkage is negative.

    Reference: Hatch, Kajarekar, Stolcke 2006, "Within-class covariance normalization for SVM-based speaker
    recognition".

    Departures: in the paper, shrinkage is $(1 - \alpha) W + \alpha I$, and no mean is subtracted. Here α was
    chosen on words that are not in the test: with fewer than a few hundred items, a fixed α made results
    worse.
    """

    def __init__(
        self,
        dimensions: int,
        shrinkage: float = 0.5,
        centered: bool = False,
        unit: bool = False,
    ) -> None:
        super().__init__()
        if shrinkage < 0:
            raise ValueError(f"shrinkage is {shrinkage}: it must be at least 0")
        self.shrinkage, self.centered, self.unit = shrinkage, centered, unit
        self.mean, self.whitening = nn.Buffer(torch.zeros(dimensions)), nn.Buffer(torch.eye(dimensions))

    def transform(self, z: Tensor) -> Tensor:
        """Embeddings [B, ≥ D] → embeddings of the same shape, with the first D elements whitened.

        Args:
            z: [B, ≥ D] embeddings.
        """
        d = len(self.mean)
        return torch.cat([(self._scaled(z[:, :d]) - self.mean) @ self.whitening, z[:, d:]], 1)

    def _scaled(self, z: Tensor) -> Tensor:
        return F.normalize(z, dim=1) if self.unit else z

    @torch.no_grad()
    def fit(self, z: Tensor, y: Tensor, sources: Tensor | None = None) -> None:
        """Fit the whitening to the variation within classes; if there is none, nothing is whitened.

        Args:
            z: [I, ≥ D] embeddings of I items.
            y: [I] class of each embedding.
            sources: [I] source of each embedding, which is not used.
        """
        _, numbers, counts = torch.unique(y, return_inverse=True, return_counts=True)
        z, numbers, counts = z.cpu(), numbers.cpu(), counts.cpu()  # not every accelerator has float64
        dimensions = len(self.mean)
        z = self._scaled(z[:, :dimensions].double())
        means = z.new_zeros(len(counts), dimensions).index_add_(0, numbers, z) / counts[:, None]
        apart, n = z - means[numbers], max(len(z) - len(counts), 1)
        within = apart.T @ apart / n
        spread = within.diagonal().mean()
        one = torch.eye(dimensions, dtype=z.dtype)
        within += (self.shrinkage + dimensions / n) * spread * one if spread else one
        inverse = torch.linalg.solve_triangular(torch.linalg.cholesky(within), one, upper=False)
        self.whitening.copy_(inverse.T)
        if self.centered:
            self.mean.copy_(z.mean(0))


@rebuildable
class ConcatFeatures(EmbeddingTransform):
    r"""Concatenation of an embedding and its features; its cosines are the mean of the cosines of both.

    The last layer of an encoder keeps what distinguishes the training classes. What it discards may
    distinguish other classes. For an embedding z and the features f from which it is computed,

    $$[z, f] \mapsto \frac1{\sqrt2}\Big[\frac{z}{\|z\|}, \frac{f - \mu}{\|f - \mu\|}\Big]$$

    with μ the mean of the features.

    Args:
        dimensions: Number D of elements of the embedding z.
        features: Number F of features f; widths[-1] · rows · columns for a `ResNet`.

    Raises:
        ValueError: In `transform` and `fit`, if embeddings do not have D + F elements.

    Reference: Khosla et al. 2020, where the last layer is the projection head, and embeddings are the
    features.

    Departures: in the paper, the head is dropped. Here embedding and features do equally well by themselves,
    and better together.
    """

    def __init__(self, dimensions: int, features: int) -> None:
        super().__init__()
        self.dimensions, self.mean = dimensions, nn.Buffer(torch.zeros(features))

    def transform(self, z: Tensor) -> Tensor:
        """Embeddings with features [B, D + F] → vectors [B, D + F] of length 1.

        Args:
            z: [B, D + F] embeddings, followed by their features.
        """
        z, f = self._parted(z)
        return torch.cat([F.normalize(z, dim=1), F.normalize(f - self.mean, dim=1)], 1) / math.sqrt(2)

    @torch.no_grad()
    def fit(self, z: Tensor, y: Tensor, sources: Tensor | None = None) -> None:
        """Fit the mean of the features.

        Args:
            z: [I, D + F] embeddings of I items, followed by their features.
            y: [I] class of each embedding, which is not used.
            sources: [I] source of each embedding, which is not used.
        """
        self.mean.copy_(self._parted(z)[1].mean(0))

    def _parted(self, z: Tensor) -> tuple[Tensor, Tensor]:
        d, features = self.dimensions, len(self.mean)
        if z.shape[1] != d + features:
            raise ValueError(
                f"an embedding has {z.shape[1]} numbers, not {d} + {features}: "
                "let the encoder return its features too, as WithFeatures(ResNet()) does, or set features"
            )
        return z[:, :d], z[:, d:]


@rebuildable
class CohortNorm(EmbeddingTransform):
    r"""Score normalisation by a cohort (AS-norm), as one more coordinate of the embedding.

    Some items, such as a short clip or a dark picture, are near to very many others. Their scores are high
    with everybody, so no threshold suits both them and clearer items. The coordinate lowers their cosines
    with all others. How near they are is measured on a cohort of centers of other items:

    $$z \mapsto [\,u, \gamma(u)\,], \qquad u = \frac{z}{\|z\|}, \qquad
      \gamma(u) = 1 - k\,(m(u) - \bar m), \qquad k = \min\Big(\frac{\kappa}{\sigma}, \frac1{1 - \bar m}\Big)$$

    where m(u) is the mean cosine of u with the nearest tenth of the cohort, and $\bar m$ and σ are the mean
    and standard deviation of m over the items that it is fitted to, each of which is compared only with
    centers that hold no item of its class.

    A center is the mean of an item drawn at random and of the four nearest to it, all five of different
    classes, and of different sources where these are known: so no center is a person's, a speaker's or an
    item's embedding, and none can be taken from the weights. Fitted to fewer than six classes, or fewer than
    five sources, it does nothing.

    The cosine of two items becomes, to first order in γ − 1,

    $$\tfrac12\Big(1 + u \cdot v - \tfrac k2\,(1 - u \cdot v)\,(m(u) + m(v) - 2 \bar m)\Big),$$

    so before it is fitted, or if m does not vary, the order of all cosines is unchanged. γ is never negative.

    Args:
        dimensions: Number D of elements of an embedding; the result has D + 1.
        size: Number C of centers in the cohort, at least ten; if fitted to fewer items, centers are repeated.
        strength: Strength κ ≥ 0 of the normalisation.

    Raises:
        ValueError: If the cohort is smaller than ten, or the strength is negative.

    Reference: Matějka et al. 2017, "Analysis of score normalization in multilingual speaker recognition"
    (adaptive symmetric normalisation, AS-norm); Conneau et al. 2018, "Word translation without parallel data"
    (cross-domain similarity local scaling).

    Departures: in the papers, the cohort is of items, and scores are normalised, by
    $u \cdot v - \frac12 (m(u) + m(v))$ or with division by deviations, so every search has to do it. Here the
    embedding is normalised, so cosines, centroids and nearest neighbours are computed as usual; at
    $k = 1 / (1 - u \cdot v)$ the two agree. κ was chosen on words and speakers that are not in the test.
    """

    def __init__(self, dimensions: int, size: int = 600, strength: float = 0.12) -> None:
        super().__init__()
        if size < NEAREST or strength < 0:
            raise ValueError(
                f"size is {size} and strength {strength}: they must be at least {NEAREST} and at least 0"
            )
        self.size, self.strength = size, strength
        self.cohort = nn.Buffer(torch.zeros(size, dimensions))
        self.mean, self.slope = nn.Buffer(torch.zeros(())), nn.Buffer(torch.zeros(()))

    def transform(self, z: Tensor) -> Tensor:
        """Embeddings [B, D] → embeddings [B, D + 1] with the coordinate γ.

        Args:
            z: [B, D] embeddings.
        """
        u = F.normalize(z, dim=1)
        m = (u @ self.cohort.T).topk(self.size // NEAREST, dim=1, sorted=False).values.mean(1, keepdim=True)
        return torch.cat([u, 1 - self.slope * (m - self.mean)], 1)

    @torch.no_grad()
    def fit(self, z: Tensor, y: Tensor, sources: Tensor | None = None) -> None:
        """Draw the cohort, and fit mean and strength of the normalisation to it.

        Args:
            z: [I, D] embeddings of I items.
            y: [I] class of each embedding.
            sources: [I] source of each embedding, such as its speaker; None where they are not known.
        """
        self.cohort.zero_()
        self.mean.zero_()
        self.slope.zero_()
        u = F.normalize(z, dim=1)
        order = torch.randperm(len(z), generator=torch.Generator().manual_seed(0)).to(z.device)
        drawn = order[torch.arange(self.size, device=z.device) % len(z)]
        near, members = u[drawn] @ u.T, [drawn]
        for _ in range(PEOPLE - 1):
            for of in (y,) if sources is None else (y, sources):
                near = near.masked_fill(of[members[-1], None] == of, -torch.inf)
            highest, found = near.max(1)
            if not highest.isfinite().all():
                return  # too few classes or sources for centers of five
            members.append(found)
        index = torch.stack(members, 1)
        cohort = F.normalize(u[index].mean(1), dim=1)
        own = (y[:, None, None] == y[index]).any(2)
        nearest = (u @ cohort.T).masked_fill(own, -torch.inf).topk(self.size // NEAREST, dim=1).values
        # without the items of which too few centers are free
        m = nearest[nearest.isfinite().all(1)].cpu().double().mean(1)
        mean, spread = (float(m.mean()), float(m.std())) if len(m) > 1 else (0.0, 0.0)
        self.cohort.copy_(cohort)
        self.mean.fill_(mean)
        # with few items σ may be almost 0
        self.slope.fill_(min(self.strength / spread, 1 / (1 - mean)) if spread > 0 and mean < 1 else 0.0)

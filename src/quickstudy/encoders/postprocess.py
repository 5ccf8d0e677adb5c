"""From the embeddings that an encoder makes to those that are used after training: fitted transforms."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.blueprint import rebuildable

NEAREST = 10
"""The nearest of a cohort are one in so many."""


class EmbeddingTransform(nn.Module, ABC):
    """What is done to embeddings after training, as fitted on embeddings of known classes.

    It holds no encoder: `Embedding` puts it behind one. What is fitted is kept in buffers, which travel with
    the weights.
    """

    @abstractmethod
    def fit(self, z: Tensor, y: Tensor) -> None:
        """Fit what `transform` does.

        Args:
            z: [I, D] embeddings, as `transform` will get them.
            y: [I] their classes.
        """

    @abstractmethod
    def transform(self, z: Tensor) -> Tensor:
        """[B, D] → [B, D′] embeddings."""

    def forward(self, z: Tensor) -> Tensor:
        """`transform`, whatever the mode."""
        return self.transform(z)


@rebuildable
class Embedding(nn.Module):
    r"""An encoder and the transforms behind it: an encoder as it is used after training.

    $$x \mapsto t_n(\dots t_1(f(x)))$$

    It means the same in training and evaluation; what is trained is the encoder by itself. `fit_transforms`
    fits the transforms.

    Args:
        encoder: f, any module from [B, ...] to [B, D].
        transforms: t₁ … tₙ, in the order they are applied; each takes what the one before it makes.
    """

    def __init__(self, encoder: nn.Module, transforms: Iterable[EmbeddingTransform] = ()) -> None:
        super().__init__()
        self.encoder, self.transforms = encoder, nn.ModuleList(transforms)

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] items → [B, D′] embeddings."""
        z: Tensor = self.encoder(x)
        for transform in self.transforms:
            z = transform(z)
        return z


@rebuildable
class WCCN(EmbeddingTransform):
    r"""Within-class covariance normalisation: embeddings that vary alike in every direction within classes.

    What makes items of one class differ, such as who says a word, takes up some directions more than others.
    These are shrunk, so that every direction varies alike within classes:

    $$z \mapsto (z - \mu)\,L, \qquad
      L L^\top = \Big(W + \alpha\,\tfrac{\operatorname{tr} W}{D}\,I\Big)^{-1}, \qquad
      W = \frac{1}{n}\sum_i (z_i - \mu_{y_i})(z_i - \mu_{y_i})^\top, \qquad \alpha = \alpha_0 + \frac{D}{n}$$

    for I items of K classes with means $\mu_k$, and $n = I - K$: of few items little is known, and less is
    done. μ is 0 or, if `centered`, the mean of all items.

    Args:
        dimensions: D; of embeddings of more numbers, those beyond D are left alone.
        shrinkage: α₀ ≥ 0, towards all directions alike.
        centered: Whether the mean is moved to 0: better for unseen words, worse for unseen speakers.
        unit: Whether embeddings are brought to length 1 before all this: better where a contrastive loss of
            cosines trained them, worse where the supervised contrastive loss did.

    Raises:
        ValueError: if the shrinkage is negative.

    Reference: Hatch, Kajarekar, Stolcke 2006, "Within-class covariance normalization for SVM-based speaker
    recognition".

    Departures: there shrinkage is $(1 - \alpha) W + \alpha I$, and no mean is moved. Here α was chosen on
    words that are none of the test's: with fewer than some hundred items a fixed one did harm.
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
        """[B, D] → [B, D], or of more numbers as many."""
        d = len(self.mean)
        return torch.cat([(self._scaled(z[:, :d]) - self.mean) @ self.whitening, z[:, d:]], 1)

    def _scaled(self, z: Tensor) -> Tensor:
        return F.normalize(z, dim=1) if self.unit else z

    @torch.no_grad()
    def fit(self, z: Tensor, y: Tensor) -> None:
        """Whiten within these classes [I] of z [I, D] from now on, or not if nothing differs within any."""
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
    r"""An embedding and the features that it is made of, joined: cosines are the mean of both cosines.

    The last layer of an encoder keeps what tells the classes that it is trained on apart. What it throws away
    may tell others apart. Of an embedding z and features f,

    $$[z, f] \mapsto \frac1{\sqrt2}\Big[\frac{z}{\|z\|}, \frac{f - \mu}{\|f - \mu\|}\Big]$$

    with μ the mean of the features.

    Args:
        dimensions: D of the embedding z.
        features: F, the widths[-1] · rows · columns of a `ResNet`.

    Raises:
        ValueError: in `transform` and `fit`, if it gets embeddings of another number of numbers than D + F.

    Reference: Khosla et al. 2020, where the last layer is the projection head, and embeddings are the
    features.

    Departures: there the head is dropped. Either by itself does as well here, and both do better.
    """

    def __init__(self, dimensions: int, features: int) -> None:
        super().__init__()
        self.dimensions, self.mean = dimensions, nn.Buffer(torch.zeros(features))

    def transform(self, z: Tensor) -> Tensor:
        """[B, D + F] → as many, of length 1."""
        z, f = self._parted(z)
        return torch.cat([F.normalize(z, dim=1), F.normalize(f - self.mean, dim=1)], 1) / math.sqrt(2)

    @torch.no_grad()
    def fit(self, z: Tensor, y: Tensor) -> None:
        """Take the mean of the features from now on: z [I, D + F]."""
        self.mean.copy_(self._parted(z)[1].mean(0))

    def _parted(self, z: Tensor) -> tuple[Tensor, Tensor]:
        d, features = self.dimensions, len(self.mean)
        if z.shape[1] != d + features:
            raise ValueError(
                f"an embedding has {z.shape[1]} numbers, not {d} + {features}: "
                "let the encoder give its features too, as WithFeatures(ResNet()) does, or state how many"
            )
        return z[:, :d], z[:, d:]


@rebuildable
class CohortNorm(EmbeddingTransform):
    r"""One more coordinate, by which an item that resembles everybody has lower cosines with all others.

    Some items are near to a great many others: a short clip, a dark picture. Their scores are high whoever is
    compared, so no threshold suits them and clearer items alike. How high is known from a cohort of others:

    $$z \mapsto [\,u, \gamma(u)\,], \qquad u = \frac{z}{\|z\|}, \qquad
      \gamma(u) = 1 - k\,(m(u) - \bar m), \qquad k = \min\Big(\frac{\kappa}{\sigma}, \frac1{1 - \bar m}\Big)$$

    where m(u) is the mean of the cosines of u with the tenth of the cohort that is nearest to it, and
    $\bar m$, σ are its mean and standard deviation over the cohort, of each member with those of other
    classes. The cosine of two items becomes, to first order in γ − 1,

    $$\tfrac12\Big(1 + u \cdot v - \tfrac k2\,(1 - u \cdot v)\,(m(u) + m(v) - 2 \bar m)\Big),$$

    so where nothing is fitted, or nothing differs, all cosines are in the order they were in. γ is never
    negative.

    Args:
        dimensions: D; it makes D + 1 numbers of D.
        size: C, items of the cohort; of fewer, some are there twice.
        strength: κ ≥ 0.

    Raises:
        ValueError: if the cohort is smaller than ten, or the strength negative.

    Reference: Matějka et al. 2017, "Analysis of score normalization in multilingual speaker recognition"
    (adaptive symmetric normalisation, AS-norm); Conneau et al. 2018, "Word translation without parallel data"
    (cross-domain similarity local scaling).

    Departures: there it is scores that are normalised, by $u \cdot v - \frac12 (m(u) + m(v))$ or divided by
    deviations, and whoever searches has to know of it. Here it is the embedding, so cosines, centroids and
    nearest neighbours are had as ever; at $k = 1 / (1 - u \cdot v)$ it comes to the same. κ was chosen on
    words and speakers that are none of the test's.
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
        """[B, D] → [B, D + 1]."""
        u = F.normalize(z, dim=1)
        m = (u @ self.cohort.T).topk(self.size // NEAREST, dim=1, sorted=False).values.mean(1, keepdim=True)
        return torch.cat([u, 1 - self.slope * (m - self.mean)], 1)

    @torch.no_grad()
    def fit(self, z: Tensor, y: Tensor) -> None:
        """Have a cohort drawn of these items from now on: z [I, D] of classes y [I]."""
        order = torch.randperm(len(z), generator=torch.Generator().manual_seed(0)).to(z.device)
        drawn = order[torch.arange(self.size, device=z.device) % len(z)]
        self.cohort.copy_(F.normalize(z[drawn], dim=1))
        cosines = self.cohort @ self.cohort.T
        own = y[drawn, None] == y[drawn]
        nearest = cosines.masked_fill(own, -torch.inf).topk(self.size // NEAREST, dim=1).values
        m = nearest[nearest.isfinite().all(1)].cpu().double().mean(1)  # a class may be almost all there is
        mean, spread = (float(m.mean()), float(m.std())) if len(m) > 1 else (0.0, 0.0)
        self.mean.fill_(mean)
        # of a few items σ may be next to nothing
        self.slope.fill_(min(self.strength / spread, 1 / (1 - mean)) if spread > 0 and mean < 1 else 0.0)

"""Within-class covariance normalisation: embeddings in which every direction varies alike within classes."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from quickstudy.data.episodes import floats
from quickstudy.data.pool import ClassPool
from quickstudy.learner import Learner, embed
from quickstudy.train import evaluation

MEASURED = 3000
"""Items, at least, that are taken to measure what varies within classes, where there are so many."""


class WCCN(nn.Module):
    r"""An encoder that, once trained, has its embeddings whitened within classes.

    What makes items of one class differ, such as who says a word, takes up some directions more than others.
    These are shrunk, so that every direction varies alike within classes:

    $$z \mapsto (z - \mu)\,L, \qquad
      L L^\top = \Big(W + \alpha\,\tfrac{\operatorname{tr} W}{D}\,I\Big)^{-1}, \qquad
      W = \frac{1}{n}\sum_i (z_i - \mu_{y_i})(z_i - \mu_{y_i})^\top, \qquad \alpha = \alpha_0 + \frac{D}{n}$$

    for I items of K classes with means $\mu_k$, and $n = I - K$: of few items little is known, and less is
    done. μ is 0 or, if `centred`, the mean of all items. Training sees nothing of all this: `measure` is
    called afterwards, or before each validation, on classes that were trained on.

    Args:
        encoder: any module from [B, ...] to [B, D].
        dimensions: D.
        shrinkage: α₀ ≥ 0, towards all directions alike.
        centred: whether the mean is moved to 0: better for unseen words, worse for unseen speakers.

    Raises:
        ValueError: if the shrinkage is negative.

    Reference: Hatch, Kajarekar, Stolcke 2006, "Within-class covariance normalization for SVM-based speaker
    recognition".

    Departures: there shrinkage is $(1 - \alpha) W + \alpha I$, and no mean is moved. Here α was chosen on
    words that are none of the test's: with fewer than some hundred items a fixed one did harm.
    """

    def __init__(
        self, encoder: nn.Module, dimensions: int, shrinkage: float = 0.5, centred: bool = False
    ) -> None:
        super().__init__()
        if shrinkage < 0:
            raise ValueError(f"shrinkage is {shrinkage}: it must be at least 0")
        self.encoder, self.shrinkage, self.centred = encoder, shrinkage, centred
        self.mean, self.whitening = nn.Buffer(torch.zeros(dimensions)), nn.Buffer(torch.eye(dimensions))

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] items → [B, D] embeddings."""
        z = self.encoder(x)
        return z if self.training else (z - self.mean) @ self.whitening

    @torch.no_grad()
    def measure(self, z: Tensor, y: Tensor) -> None:
        """Whiten within these classes from now on; not at all if nothing differs within a class.

        Args:
            z: [I, D] embeddings of the encoder alone, as it is once trained.
            y: [I] classes.
        """
        _, numbers, counts = torch.unique(y, return_inverse=True, return_counts=True)
        z, dimensions = z.double(), z.shape[1]
        means = z.new_zeros(len(counts), dimensions).index_add_(0, numbers, z) / counts[:, None]
        apart, n = z - means[numbers], max(len(z) - len(counts), 1)
        within = apart.T @ apart / n
        spread = within.diagonal().mean()
        one = torch.eye(dimensions, dtype=z.dtype, device=z.device)
        within += (self.shrinkage + dimensions / n) * spread * one if spread else one
        inverse = torch.linalg.solve_triangular(torch.linalg.cholesky(within), one, upper=False)
        self.whitening.copy_(inverse.T)
        if self.centred:
            self.mean.copy_(z.mean(0))


@torch.no_grad()
def whiten(learner: Learner, pool: ClassPool, seed: int = 0) -> None:
    """Measure what varies within classes, if the learner's encoder has a `WCCN`.

    Args:
        learner: its weights stay as they are, and it in the state (training or not) it was in.
        pool: classes that were trained on; of many, so many are drawn as have 3,000 items.
        seed: of that draw.
    """
    parts = [module for module in learner.modules() if isinstance(module, WCCN)]
    if not parts:
        return
    order = np.random.default_rng(seed).permutation(len(pool))
    few = pool.subset(order[: np.searchsorted(np.cumsum(pool.counts[order]), MEASURED) + 1])
    index = few.indices
    y = torch.from_numpy(np.repeat(np.arange(len(few)), few.counts)).to(learner.device)
    for module in parts:
        with evaluation(learner, 1, "inductive"):
            z = [
                embed(module.encoder, floats(torch.from_numpy(few.items[i])).to(learner.device)[None])[0]
                for i in np.array_split(index, math.ceil(len(index) / 512))
            ]
        module.measure(torch.cat(z), y)

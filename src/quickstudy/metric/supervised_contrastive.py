"""Supervised contrastive learning.

Prannay Khosla, Piotr Teterwak, Chen Wang, Aaron Sarna, Yonglong Tian, Phillip Isola, Aaron Maschinot, Ce Liu,
Dilip Krishnan: "Supervised Contrastive Learning", NeurIPS 2020.
"""

import torch
from torch import Tensor, nn

from quickstudy.core.blueprint import rebuildable
from quickstudy.core.episode import Episode
from quickstudy.core.learner import embed
from quickstudy.metric.distances import cosine, cosines
from quickstudy.metric.pairs import labelled_items
from quickstudy.metric.siamese import Siamese


def supervised_contrastive_loss(z: Tensor, y: Tensor, temperature: float = 0.1) -> Tensor:
    r"""Mean supervised contrastive loss of the items of T tasks, in nats.

    $$\mathcal L = \frac1B\sum_i \frac{-1}{|P(i)|}\sum_{p\in P(i)}
    \log\frac{\exp(\cos(z_i, z_p)/\tau)}{\sum_{a\ne i}\exp(\cos(z_i, z_a)/\tau)} \tag{2}$$

    where P(i) are the other items of i's class.

    Args:
        z: [T, B, D] embeddings.
        y: [T, B] their classes.
        temperature: τ > 0.

    Returns:
        A scalar.

    Raises:
        ValueError: if an item is alone in its class.

    Reference: Khosla et al. 2020, equation 2 ($\mathcal L_{out}^{sup}$).
    """
    itself = torch.eye(z.shape[1], dtype=torch.bool, device=z.device)
    positive = (y.unsqueeze(2) == y.unsqueeze(1)) & ~itself
    count = positive.sum(2)
    if not count.all():
        raise ValueError(
            "an item is alone in its class, so it has no genuine pair: ask for more shots or queries"
        )
    # not −∞ where an item meets itself: 0 · ∞ would be NaN in the sum over positives
    similarity = (cosines(z, z) / temperature).masked_fill(itself, torch.finfo(z.dtype).min)
    log_p = similarity - similarity.logsumexp(2, keepdim=True)
    return -((log_p * positive).sum(2) / count).mean()


@rebuildable
class SupervisedContrastive(Siamese):
    """A Siamese network with cosine energy whose towers are trained on whole tasks rather than on pairs.

    Every item of a task is asked which of the others are of its class, as in `supervised_contrastive_loss`.
    Hard impostors count most, by themselves.

    Args:
        encoder: any module from [B, ...] to [B, D].
        temperature: τ > 0; small values look at the hardest pairs only.

    Raises:
        ValueError: if the temperature is not positive; in `forward`, if a class of a task has one item only.

    Reference: Khosla et al. 2020.

    Departures: there a projection head follows the encoder in training and is dropped afterwards, and each
    item comes in two augmented copies; here energies are of the very embeddings trained, and a task's own
    items of a class are the positives.
    """

    def __init__(self, encoder: nn.Module, temperature: float = 0.1) -> None:
        super().__init__(encoder, energy=cosine)
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}: it must be positive")
        self.temperature = temperature

    def forward(self, episode: Episode) -> Tensor:
        """The meta-loss, a scalar in nats."""
        x, y = labelled_items(episode)
        return supervised_contrastive_loss(embed(self.encoder, x), y, self.temperature)

"""Supervised contrastive learning.

Prannay Khosla, Piotr Teterwak, Chen Wang, Aaron Sarna, Yonglong Tian, Phillip Isola, Aaron Maschinot, Ce Liu,
Dilip Krishnan: "Supervised Contrastive Learning", NeurIPS 2020.
"""

import torch
from torch import Tensor, nn

from quickstudy.core.blueprint import rebuildable
from quickstudy.core.episode import Episode
from quickstudy.core.learner import embed
from quickstudy.metric.distances import cosine_distance, cosines
from quickstudy.metric.pairs import labelled_items
from quickstudy.metric.siamese import Siamese


def supervised_contrastive_loss(z: Tensor, y: Tensor, temperature: float = 0.1) -> Tensor:
    r"""Mean supervised contrastive loss of the items of T tasks.

    $$\mathcal L = \frac1B\sum_i \frac{-1}{|P(i)|}\sum_{p\in P(i)}
    \log\frac{\exp(\cos(z_i, z_p)/\tau)}{\sum_{a\ne i}\exp(\cos(z_i, z_a)/\tau)} \tag{2}$$

    where P(i) are the other items of the class of item i.

    Args:
        z: [T, B, D] embeddings.
        y: [T, B] class labels of the embeddings.
        temperature: Temperature τ > 0 of the softmax.

    Returns:
        The mean loss in nats, a scalar.

    Raises:
        ValueError: If an item is alone in its class.

    Reference: Khosla et al. 2020, equation 2 ($\mathcal L_{out}^{sup}$).
    """
    itself = torch.eye(z.shape[1], dtype=torch.bool, device=z.device)
    positive = (y.unsqueeze(2) == y.unsqueeze(1)) & ~itself
    count = positive.sum(2)
    if not count.all():
        raise ValueError(
            "an item is alone in its class, so it has no genuine pair: ask for more shots or queries"
        )
    # an item's similarity to itself is not −∞: 0 · ∞ would be NaN in the sum over positives
    similarity = (cosines(z, z) / temperature).masked_fill(itself, torch.finfo(z.dtype).min)
    log_p = similarity - similarity.logsumexp(2, keepdim=True)
    return -((log_p * positive).sum(2) / count).mean()


@rebuildable
class SupervisedContrastive(Siamese):
    """A Siamese network with cosine energy, trained on whole tasks rather than on pairs.

    The meta-loss is `supervised_contrastive_loss`: each item is contrasted with all others of its task, so
    that the hardest impostor pairs have the largest gradients.

    Args:
        encoder: Any module from [B, ...] to [B, D].
        temperature: Temperature τ > 0 of the softmax; small values concentrate on the hardest pairs.

    Raises:
        ValueError: If the temperature is not positive; in `forward`, if a class of a task has one item only.

    Reference: Khosla et al. 2020.

    Departures: in the paper a projection head follows the encoder in training and is dropped afterwards, and
    each item comes in two augmented copies. Here the loss is on the embeddings themselves, and the positives
    are the other items of the class in the task.
    """

    def __init__(self, encoder: nn.Module, temperature: float = 0.1) -> None:
        super().__init__(encoder, energy=cosine_distance)
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}: it must be positive")
        self.temperature = temperature

    def forward(self, episode: Episode) -> Tensor:
        """Meta-loss of a batch of tasks.

        Args:
            episode: Labelled items of T tasks.

        Returns:
            The mean supervised contrastive loss in nats, a scalar.

        Raises:
            ValueError: If a class of a task has one item only.
        """
        x, y = labelled_items(episode)
        return supervised_contrastive_loss(embed(self.encoder, x), y, self.temperature)

"""MAML on a text classifier, with a loss of one's own in both loops."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import quickstudy as qs

WORDS, LENGTH = 50, 12


class Texts(nn.Module):
    """The user's own: numbers of words [B, LENGTH] to scores of two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(WORDS, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words(x.long()).mean(1))


def task(i: int) -> qs.Episode:
    """The user's own: four tasks, in each of which class 1 likes other words."""
    liked, y = torch.rand(4, 1, WORDS).topk(8).indices, torch.arange(2).repeat(4, 10)
    x = torch.randint(WORDS, (4, 20, LENGTH))
    some = liked.expand(-1, 20, -1).gather(2, torch.randint(8, (4, 20, LENGTH)))
    x = torch.where((torch.rand(x.shape) < 0.5) & (y == 1).unsqueeze(2), some, x).float()
    return qs.Episode(qs.Support(x[:, :10], y[:, :10], 2), x[:, 10:], y[:, 10:])


def smoothed(scores: Tensor, y: Tensor) -> Tensor:
    """The user's own loss of a task."""
    return F.cross_entropy(scores, y, label_smoothing=0.1)


learner = qs.MAML(Texts(), lr=1.0, steps=2, loss=smoothed)
qs.fit(learner, task, 30)
print(qs.evaluate(learner, task, 40))

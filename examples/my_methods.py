"""A method of one's own, and what takes it to the command line: quickstudy train my_methods.py:cosine."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.core import embed
from quickstudy.recipes import RECIPES, Recipe


class Cosines(qs.Learner):
    """The user's own: cosines to class means."""

    def __init__(self, encoder: nn.Module, scale: float = 10.0) -> None:
        super().__init__()
        self.encoder, self.scale = encoder, scale

    def predict(self, support: qs.Support, query_x: Tensor) -> Tensor:
        z = F.normalize(embed(self.encoder, torch.cat([support.x, query_x], 1)), dim=-1)
        shots, queries = z.split([support.x.shape[1], query_x.shape[1]], 1)
        means = F.one_hot(support.y, support.ways).to(z.dtype).mT @ shots
        return self.scale * queries @ F.normalize(means, dim=-1).mT


def cosine(scale: float = 10.0) -> Recipe:
    """Cosines to class means, on glyphs."""
    stated = RECIPES["prototypical-glyphs"]()
    assert isinstance(stated, Recipe)
    return replace(stated, summary="cosines", learner=lambda: Cosines(qs.Conv4(), scale))

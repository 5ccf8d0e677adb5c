"""What is used by models and figures that ship runs here as well, at a small size."""

import torch

from quickstudy.core import embed
from quickstudy.recipes.catalogue import RECIPES
from quickstudy.recipes.recipe import Recipe


def test_the_encoder_of_unseen_alphabets_embeds_and_learns() -> None:
    """Characters brought to one place and size: one that is moved and larger has the same embedding."""
    stated = RECIPES["siamese-omniglot-lake"]()
    assert isinstance(stated, Recipe)
    torch.manual_seed(0)
    learner = stated.learner()
    encoder = learner.encoder
    assert isinstance(encoder, torch.nn.Module)
    x = torch.zeros(1, 2, 1, 56, 56)
    x[0, 0, 0, 10:30, 10:14] = x[0, 0, 0, 26:30, 10:26] = 1  # an L
    x[0, 1, 0, 14:34, 20:24] = x[0, 1, 0, 30:34, 20:36] = 1  # elsewhere
    encoder.eval()
    with torch.no_grad():
        z = embed(encoder, x)[0]
    assert z.isfinite().all()
    torch.testing.assert_close(z[0], z[1], rtol=1e-3, atol=1e-3)
    encoder.train()
    embed(encoder, torch.rand(1, 4, 1, 56, 56)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())

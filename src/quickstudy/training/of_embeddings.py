"""A learner as one of embeddings, so that each item is encoded once however often it is asked for."""

import numpy as np
import torch
from torch import Tensor, nn

from quickstudy.core.episode import Support
from quickstudy.core.kernels.torch_private import BatchNorm
from quickstudy.core.learner import Learner, embed, evaluation_mode, with_embedding
from quickstudy.data.formats.items import Items, floats

HELD = 256
"""Most items that are held as floats, which take four times their memory."""


@torch.no_grad()
def embeddings(encoder: nn.Module, items: Items, device: torch.device) -> Tensor:
    """Embeddings [B, D] of items, of which a few at a time are held as floats.

    Args:
        encoder: Any module from [B, ...] to [B, D], of which one item's embedding depends on no other.
        items: Items [B, ...] of a pool.
        device: Device of the encoder.
    """
    parts = (torch.from_numpy(items[i : i + HELD]).to(device) for i in range(0, len(items), HELD))
    with evaluation_mode(encoder):
        return torch.cat([embed(encoder, floats(part)[None])[0] for part in parts])


@torch.no_grad()
def of_embeddings(learner: Learner, support: Support) -> tuple[Learner, Support] | None:
    """The learner as one of embeddings, and a support of those; None where it isn't one.

    It is not where an embedding depends on the others of its batch, or where the learner, which may be
    anybody's, does more with the items than embed them. To see that, it is asked for the items of the support
    both ways; their embeddings are those that are there already.

    Args:
        learner: Trained learner.
        support: Labelled items of one task.
    """
    encoder = getattr(learner, "encoder", None)
    if not isinstance(encoder, nn.Module):
        return None
    if any(isinstance(m, BatchNorm) and m.running_mean is None for m in encoder.modules()):
        return None
    try:
        with evaluation_mode(learner):
            z = embed(encoder, support.x)
        direct, recalled = (
            with_embedding(learner, lambda _, made=made: made).eval()
            for made in (nn.Identity(), _Recalled(support.x[0], z[0]))
        )
        direct.item_format = None  # embeddings aren't such items
        of = Support(z, support.y, support.ways, names=support.names)
        expected, found = recalled.predict(support, support.x), direct.predict(of, z)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError):
        return None  # also where something is wrong: the learner itself says so when it is asked
    scale = 1e-3 * (1 + float(expected.abs().max()))
    return (direct, of) if torch.allclose(found, expected, rtol=0, atol=scale) else None


class _Recalled(nn.Module):
    """An encoder of items whose embeddings are known; a KeyError says that another was asked for."""

    def __init__(self, x: Tensor, z: Tensor) -> None:
        super().__init__()
        self.z, self.place = z, {key: i for i, key in enumerate(_keys(x))}

    def forward(self, x: Tensor) -> Tensor:
        """Items [B, ...] → their embeddings [B, D]."""
        return self.z[[self.place[key] for key in _keys(x)]]


def _keys(x: Tensor) -> list[bytes]:
    return [np.ascontiguousarray(item).tobytes() for item in x.cpu().numpy()]

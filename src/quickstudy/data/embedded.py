"""`ClassPool.embedded`: the items of a pool as an encoder sees them, encoded once and kept."""

import hashlib
import inspect
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quickstudy.core.arrays import IntArray
from quickstudy.core.learner import embed, evaluation_mode
from quickstudy.core.progress import ProgressCallback, Terminal, somebody_watches
from quickstudy.core.seeds import generators_kept
from quickstudy.data.cache import cached_pool
from quickstudy.data.formats.features import FeatureFormat
from quickstudy.data.formats.items import Items, floats
from quickstudy.data.mapped import give_back
from quickstudy.data.pool import ClassPool

TRIED = 16
"""Number of items whose embeddings are part of the fingerprint of an encoder."""


@torch.no_grad()
def embedded_pool(
    pool: ClassPool, encoder: nn.Module, batch_size: int = 256, progress: ProgressCallback | None = None
) -> ClassPool:
    """Encode every item of a pool once; see `ClassPool.embedded`.

    Args:
        pool: Data set.
        encoder: Any module from items [B, ...] to embeddings [B, D].
        batch_size: Number of items that are encoded at a time.
        progress: Function that is called with (done, total).
    """
    with generators_kept(0), evaluation_mode(encoder):
        index = pool.indices
        tried = _encoded(encoder, pool, index[:: max(1, len(index) // TRIED)][:TRIED])
        form = FeatureFormat(tried.shape[1])
        splits = {name: of.tolist() for name, of in pool.splits.items()}

        def build(allocate: Any) -> dict[str, Any]:
            out: Items = allocate(len(index))
            if progress:
                _fill(out, encoder, pool, index, batch_size, progress)
            else:
                with Terminal(quiet=not somebody_watches()).counting(f"embedding {pool.name}") as shown:
                    _fill(out, encoder, pool, index, batch_size, shown)
            parts: dict[str, Any] = {
                "classes": list(pool.classes),
                "counts": pool.counts.tolist(),
                "splits": splits,
            }
            if pool.sources is not None:
                parts |= {"sources": pool.sources[index].tolist(), "source_names": list(pool.source_names)}
            if pool.recorded is not None:
                parts["recorded"] = pool.recorded.tolist()
            return parts

        which = [] if pool.sources is None else [pool.sources[index].tolist(), pool.source_names]
        key = [pool.content_digest(), splits, which, fingerprint(encoder, tried)]
        name = f"embedded {pool.name}".replace("/", "-")
        return cached_pool(name, key, build, form, private=True)


def fingerprint(encoder: nn.Module, tried: Tensor) -> str:
    """Hash of an encoder: its weights, its structure, its own code, and what it makes of a few items.

    Args:
        encoder: Any module.
        tried: [B, D] embeddings of a few items.
    """
    hashed = hashlib.blake2b(repr(encoder).encode(), digest_size=8)
    for kind in sorted({type(m) for m in encoder.modules()}, key=lambda k: k.__qualname__):
        hashed.update(f"{kind.__module__}.{kind.__qualname__}".encode())
        if not kind.__module__.startswith("torch."):
            with suppress(OSError, TypeError):  # written where no file is
                hashed.update(inspect.getsource(kind).encode())
    for name, tensor in encoder.state_dict().items():
        hashed.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        hashed.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    # what none of these tells, such as a number that a forward takes from an attribute
    largest = tried.abs().max().clamp_min(1e-30)
    hashed.update(f"{largest.item():.3g}".encode())
    hashed.update((tried / largest).mul(1000).round().to(torch.int16).numpy().data)
    return hashed.hexdigest()


def _fill(
    out: Items,
    encoder: nn.Module,
    pool: ClassPool,
    index: IntArray,
    batch_size: int,
    progress: ProgressCallback,
) -> None:
    for i in range(0, len(index), batch_size):
        of = index[i : i + batch_size]
        out[i : i + len(of)] = _encoded(encoder, pool, of).numpy()
        give_back(pool.items)
        progress(i + len(of), len(index))


def _encoded(encoder: nn.Module, pool: ClassPool, index: IntArray) -> Tensor:
    """Embeddings [B, D] of some items, in float32 on the CPU."""
    device = next((t.device for t in (*encoder.parameters(), *encoder.buffers())), torch.device("cpu"))
    x = floats(torch.from_numpy(np.ascontiguousarray(pool.items[index])).to(device))
    z = embed(encoder, x.unsqueeze(0))[0].float().cpu()
    if not z.isfinite().all():
        raise ValueError(
            f"the {type(encoder).__name__} makes embeddings of {pool.name} that aren't finite: mend its "
            "weights"
        )
    return z

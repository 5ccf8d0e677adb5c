"""No file that ships or is exported holds the embedding of a person or an item, unless it is a gallery."""

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core import checkpoint
from quickstudy.data.formats.items import floats
from quickstudy.data.pool import ClassPool
from quickstudy.encoders.postprocess import WCCN, CohortNorm, Embedding
from quickstudy.metric.siamese import Siamese
from quickstudy.recipes import weights
from quickstudy.training.evaluate import fit_transforms

SHIPPED = sorted(Path(str(resources.files("quickstudy"))).rglob("*.safetensors"))
NOT_OF_ITEMS = ("filters", "whitening", "second")
"""Buffers with several rows that are no embeddings: bands of sound, directions, and what Adam keeps."""


def rows_like(tensors: dict[str, Tensor], embeddings: Tensor) -> list[str]:
    """Names of the tensors with a row that is one of the embeddings, up to length."""
    found: list[str] = []
    for name, tensor in tensors.items():
        if tensor.ndim == 2 and tensor.shape[1] == embeddings.shape[1]:
            cosines = F.normalize(tensor.double(), dim=1) @ F.normalize(embeddings.double(), dim=1).T
            if cosines.max() > 1 - 1e-6:
                found.append(name)
    return found


def fitted() -> tuple[Embedding, Tensor]:
    """An embedding with a cohort, and the embeddings of all items and people that it was fitted to."""
    torch.manual_seed(0)
    items = np.random.default_rng(0).integers(0, 256, (60, 1, 6, 6)).astype(np.uint8)
    pool = ClassPool.from_grouped(items, [str(i) for i in range(12)], [5] * 12)
    encoder = Embedding(nn.Sequential(nn.Flatten(), nn.Linear(36, 16)), [WCCN(16), CohortNorm(16, size=60)])
    fit_transforms(encoder, pool)
    with torch.no_grad():
        z = encoder.transforms[0](encoder.encoder(floats(torch.from_numpy(items))))
    u = F.normalize(z, dim=1)
    people = [each.reshape(12, 5, 16).mean(1) for each in (z, u)]
    return encoder, torch.cat([z, *people])


def test_a_checkpoint_and_an_exported_encoder_hold_nobodys_embedding(tmp_path: Path) -> None:
    encoder, embeddings = fitted()
    path = tmp_path / "best.safetensors"
    checkpoint.save(path, Siamese(encoder).state_dict(), {})
    tensors = checkpoint.load(path)[0]
    assert tensors["encoder.transforms.1.cohort"].any(), "a cohort was fitted"
    assert not rows_like(tensors, embeddings)
    exported = torch.export.export(encoder.eval(), (torch.rand(2, 1, 6, 6),))
    assert not rows_like(dict(exported.state_dict), embeddings)
    cohort = encoder.transforms[1].cohort
    cohort[0] = F.normalize(embeddings[3], dim=0)
    assert rows_like(encoder.state_dict(), embeddings) == ["transforms.1.cohort"], "the test can see them"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_no_shipped_file_has_rows_of_items(path: Path) -> None:
    assert not [name for name in safetensors.torch.load_file(path) if "cohort" in name]
    if path.stem in weights.models():
        learner, _ = weights.load_learner(path.stem)
        several = [name for name, buffer in learner.named_buffers() if buffer.ndim > 1 and len(buffer) > 1]
        assert not [name for name in several if name.split(".")[-1].rstrip("0123456789") not in NOT_OF_ITEMS]

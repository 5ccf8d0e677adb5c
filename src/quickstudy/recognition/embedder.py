"""Embeddings of files: decoding, refusal of unusable files, and the fingerprint of the encoder."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from quickstudy.core.kernels.sizes import sizes_on
from quickstudy.core.learner import Learner, embed
from quickstudy.core.progress import ProgressCallback
from quickstudy.data.formats.archives import File
from quickstudy.data.formats.audio import AudioFormat, Place, is_silent
from quickstudy.data.formats.content import Watched
from quickstudy.data.formats.items import ItemFormat, Items, decode_items, floats, with_place
from quickstudy.data.formats.originals import original_of, used_of
from quickstudy.metric.distances import embeds
from quickstudy.recipes import weights
from quickstudy.recipes.pretrained import is_pretrained
from quickstudy.recognition.gallery.pooling import Energy
from quickstudy.training.card import card_of, hints_of, how_far

Vectors = npt.NDArray[np.float32]

BLANK = 2.0
"""Standard deviation of the pixels (0 … 255) below which a picture counts as blank."""


@dataclass(frozen=True)
class Refusal:
    """A file that can't be used.

    Args:
        file: Path of the file, or the member of an archive.
        reason: Reason in a few words.
    """

    file: File
    reason: str


@dataclass(frozen=True)
class Embedded:
    """Embeddings of some files, and the files that were refused.

    Args:
        files: Files that could be used, [B], in the order given.
        embeddings: Embeddings [B, D], float32; unit vectors if the energy is the cosine.
        digests: Digests of the files' contents, [B].
        refused: Files that could not be used, with reasons.
        outside: What is unlike the items that the model knows in each file, [B]; None where nothing is.
        hints: What may be why a file isn't recognized, such as that it is blurred, [B]; None where there is
            nothing to say.
        used: How much of each file is used, [B]; None where there is nothing to say.
    """

    files: list[File]
    embeddings: Vectors
    digests: list[str]
    refused: list[Refusal]
    outside: list[str | None]
    hints: list[str | None]
    used: list[str | None]

    @property
    def reasons(self) -> list[str | None]:
        """All that may be why a file isn't recognized, [B]; None where there is nothing to say."""
        told = zip(self.hints, self.outside, self.used, strict=True)
        return ["; ".join(part for part in (hint or far, used) if part) or None for hint, far, used in told]


class Embedder:
    """A trained encoder that embeds files.

    Args:
        model: Name that `quickstudy models` lists or of a pretrained network (see `pretrained`), or path of a
            checkpoint file or of a training's folder.
        place: Which window of a recording is taken, see `AudioFormat`; by default that of the training.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the checkpoint is damaged, its learner has no encoder with a named distance, or a place
            is given for pictures.
    """

    def __init__(self, model: str | Path, place: Place | None = None) -> None:
        learner, self.manifest = weights.load_learner(model)
        named = is_pretrained(model)
        self.path = Path(model) if named else weights.find(model)
        of_name = named or str(model) in weights.models()
        self.name = str(model) if of_name else str(self.path.resolve())
        self.encoder: nn.Module
        self.energy: Energy
        try:
            self.encoder, self.energy = encoder_of(learner)
        except ValueError as error:
            raise ValueError(f"{model} can't be used here: {error}") from None
        self.format: ItemFormat = with_place(weights.item_format_of(self.manifest, self.path), place)
        self.card = card_of(self.manifest)
        # for people to read; a training by `fit` has no recipe
        self.recipe: str = self.manifest.get("recipe") or "python"
        self.fingerprint = f"{self.recipe}-{_digest(self.encoder, self.manifest, self.energy)}"

    @torch.no_grad()
    def embed(self, items: Items) -> Vectors:
        """Embed decoded items.

        Args:
            items: Items [B, ...] in the encoder's own format, as a `ClassPool` holds them.

        Returns:
            Embeddings [B, D], float32; unit vectors if the energy is the cosine.

        Raises:
            ValueError: If an embedding isn't finite.
        """
        x = floats(torch.from_numpy(items)).unsqueeze(0)
        z = embed(self.encoder.eval(), x)[0]
        if self.energy == "cosine":
            z = F.normalize(z, dim=1)
        if not torch.isfinite(z).all():
            raise ValueError(f"{self.path} makes embeddings that aren't finite: train it anew")
        return z.numpy()

    def embed_files(self, files: Sequence[File], progress: ProgressCallback | None = None) -> Embedded:
        """Embed files; those that can't be used are refused, with the reason.

        Args:
            files: Paths of the files, or members of archives.
            progress: Function called with (files done, files in total) after each batch.

        Returns:
            The embeddings, in the order of the files, and the refused files.
        """
        batches = list(self.batches([list(files)], progress))
        used = [b.embeddings for b in batches if b.files]
        return Embedded(
            [f for b in batches for f in b.files],
            np.concatenate(used) if used else np.empty((0, 0), np.float32),
            [d for b in batches for d in b.digests],
            [r for b in batches for r in b.refused],
            [o for b in batches for o in b.outside],
            [h for b in batches for h in b.hints],
            [u for b in batches for u in b.used],
        )

    def batches(
        self, groups: Sequence[Sequence[File]], progress: ProgressCallback | None = None
    ) -> Iterator[Embedded]:
        """Embed groups of files, such as the files of each name, in batches of about 512.

        A batch holds whole groups; only a group of more than 512 files is split. The next batch is decoded
        while one is encoded.

        Args:
            groups: Paths of the files of each group, or members of archives.
            progress: Function called with (files done, files in total) after each batch.

        Yields:
            The embeddings and refused files of a batch.
        """
        parts = _cut(groups)
        total, done = sum(len(part) for part in parts), 0
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(self.decode, parts[0]) if parts else None
            for i in range(len(parts)):
                assert coming is not None
                files, digests, items, refused, used = coming.result()
                coming = ahead.submit(self.decode, parts[i + 1]) if i + 1 < len(parts) else None
                # not every encoder takes an empty batch
                z = self.embed(items) if files else np.empty((0, 0), np.float32)
                yield Embedded(files, z, digests, refused, *self._unlike(items, z), used)
                done += len(parts[i])
                if progress:
                    progress(done, total)

    def _unlike(self, items: Items, z: Vectors) -> tuple[list[str | None], list[str | None]]:
        """What is outside of what the model knows in each item, and what may be wrong with it."""
        if not len(items):
            return [], []
        if not self.card:
            return [None] * len(items), hints_of(items, self.format)
        far = how_far(self.card, items, self.format, z)
        return far.reasons, far.hints

    def decode(
        self, files: Sequence[File]
    ) -> tuple[list[File], list[str], Items, list[Refusal], list[str | None]]:
        """Read and decode files.

        Args:
            files: Paths of the files, or members of archives.

        Returns:
            The usable files [B], digests of their contents [B], their items [B, ...]; the refused files; and
            how much of each usable file its item holds [B], None where there is nothing to say.
        """
        items: Any = np.empty((len(files), *self.format.shape), self.format.dtype)
        digests = [""] * len(files)
        used: list[str | None] = [None] * len(files)
        size = self.card.size if self.card else None

        def note(i: int, content: bytes) -> None:
            digests[i] = hashlib.blake2b(content, digest_size=16).hexdigest()
            used[i] = used_of(original_of(lambda: content, self.format), self.format, size)

        sources = [Watched(file, partial(note, i)) for i, file in enumerate(files)]
        bad = decode_items(sources, self.format, items)
        for i in range(len(files)):
            if i not in bad and (reason := _empty(items[i], self.format)):
                bad[i] = reason
        good = [i for i in range(len(files)) if i not in bad]
        refused = [Refusal(files[i], reason) for i, reason in sorted(bad.items())]
        kept = [files[i] for i in good], [digests[i] for i in good]
        return *kept, items[good], refused, [used[i] for i in good]


def encoder_of(learner: Learner) -> tuple[nn.Module, Energy]:
    """Encoder and distance of a learner.

    Args:
        learner: Learner that has an encoder and a named distance, see `quickstudy.metric.distances.Embeds`.

    Returns:
        The encoder, and the name of the distance that it compares embeddings by.

    Raises:
        ValueError: If the learner has neither, or its distance is neither cosine nor Euclidean.
    """
    if embeds(learner) and learner.distance:
        name = learner.distance.name
        if name in ("cosine", "euclidean"):
            return learner.encoder, name
    raise ValueError(
        "recognition takes prototypical networks, and Siamese ones with a Euclidean or cosine energy, not "
        f"{type(learner).__name__}: train one, such as with quickstudy train siamese --set images=DIR"
    )


def _digest(encoder: nn.Module, manifest: dict[str, Any], energy: Energy) -> str:
    """Digest of item format, distance and weights; embeddings can be compared only if it is the same."""
    digest = hashlib.blake2b(f"{sorted(manifest['items'].items())} {energy}".encode(), digest_size=8)
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _empty(item: npt.NDArray[Any], item_format: ItemFormat) -> str | None:
    if isinstance(item_format, AudioFormat):
        return "silent: there is no sound in it" if is_silent(item) else None
    return "blank: the picture shows nothing" if item.std() < BLANK else None


def _cut(groups: Sequence[Sequence[File]]) -> list[list[File]]:
    """Batches of whole groups, of at most 512 files; a group of more is split."""
    parts: list[list[File]] = []
    size = sizes_on().embedded_files
    for group in groups:
        for i in range(0, len(group), size):
            piece = list(group[i : i + size])
            if parts and len(parts[-1]) + len(piece) <= size:
                parts[-1] += piece
            else:
                parts.append(piece)
    return parts

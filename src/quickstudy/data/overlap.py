"""Whether a model has met what it is tried on: digests of items and names of classes in its manifest."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from quickstudy.core.wording import plural
from quickstudy.data.mapped import give_back
from quickstudy.data.pool import ClassPool

SAMPLE = 1024
"""Number of digests that are kept of a split: the smallest, which are a sample that two pools agree on."""
DIGITS = 12
"""Hexadecimal digits of a digest: two different items have the same in one of 10¹⁴ cases."""
WHAT = {"train": "trained on", "validation": "validated on", "calibration": "calibrated on"}
"""What a model does with the classes of a split."""


def item_digests(pool: ClassPool) -> list[str]:
    """Digest of each item of a pool, which depends on its content only, class after class.

    Args:
        pool: Pool of items.
    """
    found: list[str] = []
    for i in pool.indices.tolist():
        one = np.ascontiguousarray(pool.items[i])
        found.append(hashlib.blake2b(one.data, digest_size=DIGITS // 2).hexdigest())
        if len(found) % 1024 == 0:
            give_back(pool.items)
    return found


def items_record(pool: ClassPool) -> dict[str, Any]:
    """What a manifest keeps of a pool's items: how many there are, and the smallest of their digests.

    Args:
        pool: Pool that something is done with.
    """
    found = sorted(set(item_digests(pool)))
    return {"items": len(found), "digests": "".join(found[:SAMPLE])}


@dataclass(frozen=True)
class Overlap:
    """What a pool shares with one split that a model has met.

    Args:
        split: Name of the split: "train", "validation" or "calibration".
        checked: Whether the manifest says what the split held.
        items: Number of items of the pool that the split holds too; an estimate if `exact` is False.
        of: Number of items of the pool.
        exact: Whether the digests of all items of the split are known.
        names: Names of classes that the split has too.
    """

    split: str
    checked: bool
    items: int = 0
    of: int = 0
    exact: bool = True
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One sentence; empty where nothing is shared."""
        did = WHAT[self.split]
        if not self.checked:
            return f"not checked whether these are classes that were {did}: the checkpoint doesn't say"
        parts: list[str] = []
        if self.items:
            about = "" if self.exact else "about "
            parts.append(f"{about}{self.items} of the {plural(self.of, 'item')} were {did}")
        if self.names:
            few = ", ".join(map(repr, self.names[:3])) + (", …" if len(self.names) > 3 else "")
            names = f"{plural(len(self.names), 'name')} of classes here"
            parts.append(f"{names} {'is' if len(self.names) == 1 else 'are'} of classes {did}: {few}")
        return "; ".join(parts)

    @property
    def disjoint(self) -> bool:
        """Whether it was checked that nothing is shared."""
        return self.checked and not self.items and not self.names


def overlaps(manifest: Mapping[str, Any], pool: ClassPool, splits: Sequence[str]) -> list[Overlap]:
    """What a pool shares with the splits that a model has met.

    Splits of one data set share nothing; other pools are compared with what the manifest keeps.

    Args:
        manifest: Manifest of the model's checkpoint.
        pool: Pool that the model is tried on.
        splits: Names of the splits to compare with: "train", "validation", "calibration".
    """
    classes, items = manifest.get("classes", {}), manifest.get("seen", {})
    own: set[str] = set()
    found: list[Overlap] = []
    for split in splits:
        if split in classes and split in items:
            own = own or set(item_digests(pool))
            sample = items[split]["digests"]
            known = {sample[i : i + DIGITS] for i in range(0, len(sample), DIGITS)}
            exact = items[split]["items"] <= len(known)
            shared = len(own & known)
            if not exact:
                comparable = sum(digest <= max(known) for digest in own)
                shared = round(len(own) * shared / max(comparable, 1)) if shared else 0
            names = tuple(name for name in pool.classes if name in classes[split])
            found.append(Overlap(split, True, shared, len(own), exact, names))
        else:
            found.append(Overlap(split, _split_of_one(manifest, pool, split)))
    return found


def _split_of_one(manifest: Mapping[str, Any], pool: ClassPool, split: str) -> bool:
    """Whether pool and split are different splits of one data set."""
    of = manifest.get("calibration", {}) if split == "calibration" else manifest
    data = of.get("data") or {}
    name, digest = data.get("name", ""), data.get("digest")
    apart = not set(name.rpartition(".")[2].split("+")) & set(pool.name.rpartition(".")[2].split("+"))
    return bool(digest) and digest == pool.digest and "." in name and "." in pool.name and apart

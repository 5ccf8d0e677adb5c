"""Checkpoints: tensors in safetensors, everything else in a readable JSON manifest. Never pickle.

A checkpoint is one file, `NAME.safetensors`, with the manifest inside its header. So it is written whole or
not at all, and weights and manifest cannot be separated. `NAME.json` beside it is a copy for people to read.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor, nn

from quickstudy.core.files import write_whole

MANIFEST = "quickstudy"
"""Key of the manifest in the safetensors header."""

Manifest = dict[str, Any]
"""Facts about a checkpoint, such as its recipe and its data, by name; they can be written as JSON."""


def save(path: Path, tensors: Mapping[str, Tensor], manifest: Manifest) -> None:
    """Write a checkpoint and the readable copy of its manifest.

    Args:
        path: Path of the checkpoint, ending in `.safetensors`.
        tensors: Tensors by name.
        manifest: Facts about the tensors, as values that JSON can hold.

    Raises:
        OSError: If a file can't be written; an existing checkpoint is then unchanged.
    """
    blob = safetensors.torch.save(
        # clones, because safetensors refuses tensors that share memory, as tied weights do
        {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()},
        {MANIFEST: json.dumps(manifest)},
    )
    write_whole(path, blob)
    write_whole(path.with_suffix(".json"), (json.dumps(_readable(manifest), indent=2) + "\n").encode())


def _readable(manifest: Manifest) -> Manifest:
    """The manifest with numbers in place of the names and digests of classes and items, which fill pages."""
    classes, seen = manifest.get("classes"), manifest.get("seen")
    if isinstance(classes, dict):
        numbers = {split: len(of) for split, of in cast(dict[str, dict[str, str]], classes).items()}
        manifest = manifest | {"classes": numbers}
    if isinstance(seen, dict):
        items = {split: of["items"] for split, of in cast(dict[str, dict[str, int]], seen).items()}
        manifest = manifest | {"seen": items}
    return manifest


def load(path: Path) -> tuple[dict[str, Tensor], Manifest]:
    """Read the tensors and the manifest of a checkpoint.

    Args:
        path: Path of the checkpoint, ending in `.safetensors`.

    Returns:
        Tensors by name, on the CPU, and the manifest.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, or was not written by quickstudy.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no checkpoint at {path}: training writes best.safetensors into its --out folder"
        )
    try:
        with safetensors.safe_open(path, framework="pt") as f:  # pyright: ignore[reportUnknownMemberType]
            manifest = json.loads((f.metadata() or {})[MANIFEST])
            return {k: f.get_tensor(k) for k in f.keys()}, manifest  # noqa: SIM118 (not a mapping)
    except KeyError:
        raise ValueError(f"{path} carries no quickstudy manifest: it was not written by quickstudy") from None
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged or not a safetensors file ({error}): restore it or train again"
        ) from None


def load_weights(learner: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Load weights into a learner, converted to the learner's dtype.

    Args:
        learner: Module that gets the weights.
        weights: Weights by their names in the learner's `state_dict`.
        origin: Name of the source of the weights, such as a path, for error messages.

    Raises:
        ValueError: If names or shapes don't fit; the message says which, and what the learner expects.
    """
    own = learner.state_dict()
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or extra:
        parts = [f"it lacks {name}" for name in missing[:3]] + [f"it also has {name}" for name in extra[:3]]
        raise ValueError(
            f"{origin} belongs to another encoder or learner: {'; '.join(parts)}; "
            "build the one it was trained with"
        )
    for name, tensor in own.items():
        if weights[name].shape != tensor.shape:
            raise ValueError(
                f"{origin} belongs to another encoder: {name} is {list(weights[name].shape)} there and "
                f"{list(tensor.shape)} here; build the encoder with the same sizes"
            )
    learner.load_state_dict(dict(weights))


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """An optimizer's state as tensors, and its parameter groups as values that JSON can hold.

    Args:
        optimizer: Optimizer whose `state_dict` is packed.

    Returns:
        The state as tensors named `INDEX.KEY`, where INDEX counts the parameters, and the parameter groups.
    """
    state = optimizer.state_dict()
    tensors = {
        f"{i}.{k}": torch.as_tensor(v) for i, entry in state["state"].items() for k, v in entry.items()
    }
    return tensors, state["param_groups"]


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]
) -> None:
    """Restore an optimizer's state: the inverse of `pack_optimizer`.

    Args:
        optimizer: Optimizer that gets the state.
        tensors: State as tensors named `INDEX.KEY`.
        groups: Parameter groups, as in `state_dict`.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        i, key = name.split(".", 1)
        state.setdefault(int(i), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with `prefix` added in front of every name."""
    return {f"{prefix}{k}": v for k, v in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with names that begin with `prefix`, which is removed from the names."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

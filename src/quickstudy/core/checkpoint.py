"""Checkpoints: tensors in safetensors, everything else in a readable JSON manifest. Never pickle.

A checkpoint is one file, `NAME.safetensors`, with the manifest inside its header. So it is written whole or
not at all, and weights and manifest cannot be separated. `NAME.json` beside it is a copy for people to read.
The header also has a digest of tensors and manifest, by which damage is noticed; older files have none.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import safetensors.torch
import torch
from torch import Tensor, nn

from quickstudy.core.files import write_whole
from quickstudy.core.foreign import json_of
from quickstudy.core.wording import one_line, shown

MANIFEST = "quickstudy"
"""Key of the manifest in the safetensors header."""
DIGEST = "quickstudy.digest"
"""Key of the digest there."""

Manifest = dict[str, Any]
"""Facts about a checkpoint, such as its recipe and its data, by name; they can be written as JSON."""


@runtime_checkable
class Adjusts(Protocol):
    """A module that computes as its weights were trained; those of an earlier version lack some."""

    def adjust_to(self, weights: Mapping[str, Tensor]) -> None:
        """Become the module that weights were trained with, before they are loaded.

        Args:
            weights: Weights by their names in the module's `state_dict`.
        """
        ...


def save(path: str | Path, tensors: Mapping[str, Tensor], manifest: Manifest, readable: bool = True) -> None:
    """Write a checkpoint and the readable copy of its manifest.

    Args:
        path: Path of the checkpoint, ending in `.safetensors`.
        tensors: Tensors by name.
        manifest: Facts about the tensors, as values that JSON can hold.
        readable: Whether to write the readable copy beside it as well.

    Raises:
        OSError: If a file can't be written; an existing checkpoint is then unchanged.
    """
    path = Path(path)
    text = json.dumps(manifest)
    # clones, because safetensors refuses tensors that share memory, as tied weights do
    clones = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
    blob = safetensors.torch.save(clones, {MANIFEST: text, DIGEST: digest_of(clones, text)})
    write_whole(path, blob)
    if readable:
        write_whole(path.with_suffix(".json"), (json.dumps(_readable(manifest), indent=2) + "\n").encode())


def has_copy(path: Path, manifest: Manifest) -> bool:
    """Whether the readable copy of a manifest lies beside a checkpoint, and not another file of that name.

    Args:
        path: Path of the checkpoint.
        manifest: Manifest that the checkpoint has.
    """
    try:
        return json.loads(path.with_suffix(".json").read_bytes()) == json.loads(
            json.dumps(_readable(manifest))
        )
    except (OSError, ValueError):
        return False


def digest_of(tensors: Mapping[str, Tensor], manifest: str) -> str:
    """Digest of what a checkpoint holds, by which it is noticed if a single bit has changed.

    Args:
        tensors: Contiguous tensors by name, on the CPU.
        manifest: The manifest as JSON.
    """
    digest = hashlib.blake2b(manifest.encode(errors="surrogatepass"), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        stated = f"\n{name} {tensor.dtype} {list(tensor.shape)}\n"
        digest.update(stated.encode(errors="surrogatepass"))
        if tensor.numel():  # a view as bytes takes an axis
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _readable(manifest: Manifest) -> Manifest:
    """The manifest with numbers in place of the names and digests of classes and items, which fill pages."""
    classes, seen = manifest.get("classes"), manifest.get("seen")
    if isinstance(classes, dict):
        numbers = {
            split: len(of) if isinstance(of, dict | list) else of
            for split, of in cast(dict[str, Any], classes).items()
        }
        manifest = manifest | {"classes": numbers}
    if isinstance(seen, dict):
        items = {
            split: of.get("items") if isinstance(of, dict) else of
            for split, of in cast(dict[str, Any], seen).items()
        }
        manifest = manifest | {"seen": items}
    return manifest


def load(path: str | Path) -> tuple[dict[str, Tensor], Manifest]:
    """Read the tensors and the manifest of a checkpoint.

    Args:
        path: Path of the checkpoint, ending in `.safetensors`.

    Returns:
        Tensors by name, on the CPU, and the manifest.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, or was not written by quickstudy.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no checkpoint at {path}: training writes best.safetensors into its --out folder"
        )
    try:
        with safetensors.safe_open(path, framework="pt") as f:  # pyright: ignore[reportUnknownMemberType]
            header: dict[str, str] = f.metadata() or {}
            stated = header.get(MANIFEST)
            manifest = json_of(stated) if stated is not None else None
            tensors = {k: f.get_tensor(k) for k in f.keys()} if stated is not None else {}  # noqa: SIM118
    except OSError:
        raise
    except Exception as error:  # whatever the parsers of foreign files throw
        raise _damaged(path, one_line(error) or type(error).__name__) from None
    if stated is None:
        raise ValueError(f"{path} carries no quickstudy manifest: it was not written by quickstudy")
    if not isinstance(manifest, dict):
        raise _damaged(path, f"its manifest is a {type(manifest).__name__}, not an object")
    if header.keys() - {MANIFEST, DIGEST} or (
        DIGEST in header and header[DIGEST] != digest_of(tensors, stated)
    ):
        raise _damaged(path, "it isn't what was written: its digest is another")
    _check_kinds(path, cast(Manifest, manifest))
    return tensors, cast(Manifest, manifest)


KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("arguments", "items", "data", "fit", "training", "calibration", "progress"), (dict,)),
    **dict.fromkeys(("recipe", "kind", "rule"), (str,)),
    **dict.fromkeys(("figures", "classes"), (dict, list)),
    "optimizer": (str, list, dict),
}
"""What the parts of a manifest are that others read; each may be absent or null."""


def _check_kinds(path: Path, manifest: Manifest) -> None:
    for key, kinds in KINDS.items():
        value = manifest.get(key)
        if value is not None and not isinstance(value, kinds):
            raise _damaged(path, f"{key} in its manifest is a {type(value).__name__}")


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(f"{path} is damaged or not a safetensors file ({why}): restore it or train again")


def load_weights(learner: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Load weights into a learner, converted to the learner's dtype.

    Args:
        learner: Module that gets the weights.
        weights: Weights by their names in the learner's `state_dict`.
        origin: Name of the source of the weights, such as a path, for error messages.

    Raises:
        ValueError: If names or shapes don't fit, or weights aren't finite; the message says which, and what
            the learner expects.
    """
    check_fit(learner, weights, origin)
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(
                f"{origin} holds weights that aren't finite, in {shown(name)}: restore it or train again"
            )
    learner.load_state_dict(dict(weights))


def check_fit(learner: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Check that weights fit a learner, which becomes one of their version first.

    Args:
        learner: Module for the weights; it may be on the device "meta", where it takes no memory.
        weights: Weights by their names in the learner's `state_dict`.
        origin: Name of the source of the weights, such as a path, for error messages.

    Raises:
        ValueError: If names or shapes don't fit; the message says which, and what the learner expects.
    """
    for name, module in learner.named_modules():
        if isinstance(module, Adjusts):
            module.adjust_to(without_prefix(f"{name}." if name else "", weights))
    own = learner.state_dict()
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or extra:
        parts = [f"it lacks {name}" for name in missing[:3]]
        parts += [f"it also has {shown(name)}" for name in extra[:3]]
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

"""Trained learners, found again by name, file or folder."""

import os
from importlib import resources
from pathlib import Path

from torch import nn

from quickstudy.core import checkpoint
from quickstudy.core.learner import Learner
from quickstudy.core.seeds import generators_kept
from quickstudy.data.formats.audio import AudioFormat
from quickstudy.data.formats.images import ImageFormat
from quickstudy.data.formats.items import item_format
from quickstudy.recipes.catalogue import RECIPES
from quickstudy.recipes.recipe import Recipe


def start_from(learner: nn.Module, name_or_path: str | os.PathLike[str]) -> checkpoint.Manifest:
    """Give a learner the encoder of a trained one, which must be made alike, without what is put around it.

    Returns:
        The manifest of the trained one.

    Raises:
        ValueError: if one of them has no encoder, or they differ.
    """
    trained, _, manifest = _load(name_or_path)
    mine, other = (getattr(part, "encoder", None) for part in (learner, trained))
    if not isinstance(mine, nn.Module) or not isinstance(other, nn.Module):
        raise ValueError(
            f"{type(learner).__name__} can't start from {name_or_path}, a {type(trained).__name__}: "
            "both must be learners of a metric; leave out --start"
        )
    checkpoint.load_weights(mine, other.state_dict(), str(name_or_path))
    return manifest


def load_learner(name_or_path: str | os.PathLike[str]) -> tuple[Learner, checkpoint.Manifest]:
    """A trained learner, ready to predict, from a checkpoint or a model that ships with the library.

    Args:
        name_or_path: a name that `quickstudy models` lists, a checkpoint file, or a training's folder.

    Returns:
        The learner as it is used after training (see `Recipe.used`), in evaluation mode, and its manifest.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if it isn't whole, or its recipe is unknown here.
    """
    _, used, manifest = _load(name_or_path)
    return used, manifest


def _load(name_or_path: str | os.PathLike[str]) -> tuple[Learner, Learner, checkpoint.Manifest]:
    """A trained learner as it was trained and as it is used, and its manifest."""
    path = find(name_or_path)
    weights, manifest = checkpoint.load(path)
    if manifest.get("kind") == "rule":
        raise ValueError(
            f"{path} holds an update rule, not a model: race it with quickstudy optimize --rule, or take its "
            "steps with quickstudy.LearnedOptimizer"
        )
    if manifest.get("recipe") not in RECIPES:
        raise ValueError(
            f"{path} was trained by recipe {manifest.get('recipe')!r}, which this version lacks: build "
            "its learner in Python and use checkpoint.load and checkpoint.load_weights"
        )
    recipe = recipe_of(manifest)
    with generators_kept():
        learner = recipe.learner()
    used = recipe.used(learner)
    checkpoint.load_weights(used, weights, str(path))
    return learner.eval(), used.eval(), manifest


def recipe_of(manifest: checkpoint.Manifest) -> Recipe:
    """The recipe that a checkpoint was trained by."""
    return RECIPES[manifest["recipe"]](**manifest["arguments"])


def item_format_of(manifest: checkpoint.Manifest) -> ImageFormat | AudioFormat:
    """What pictures or clips must become for the encoder of a checkpoint."""
    return item_format(manifest["items"])


def find(name_or_path: str | os.PathLike[str]) -> Path:
    """The checkpoint file that a name, file or folder stands for; what lies here goes before what ships."""
    shipped, path = models(), Path(name_or_path)
    if str(name_or_path) in shipped and not path.exists():
        return shipped[str(name_or_path)]
    if path.is_dir():
        if (path / "last.safetensors").exists() and not (path / "best.safetensors").exists():
            raise FileNotFoundError(f"{path} has not come to its first validation: go on with train --resume")
        return path / "best.safetensors"
    if not path.exists() and not path.suffix:
        raise FileNotFoundError(
            f"there is no checkpoint or model {str(name_or_path)!r}: "
            f"shipped models are {', '.join(shipped) or 'none'}"
        )
    return path


def models() -> dict[str, Path]:
    """The trained models that ship with the library, by name."""
    folder = Path(str(resources.files("quickstudy") / "recipes" / "shipped"))
    return {p.stem: p for p in sorted(folder.glob("*.safetensors"))}

"""Trained learners, found again by name, file or folder."""

import difflib
import os
import re
from collections.abc import Mapping
from importlib import resources
from inspect import signature
from pathlib import Path

import torch
from torch import Tensor, nn

from quickstudy.core import checkpoint
from quickstudy.core.foreign import naming
from quickstudy.core.learner import Learner
from quickstudy.core.seeds import generators_kept
from quickstudy.data.datasets.catalogue import SOURCES
from quickstudy.data.formats.audio import AudioFormat
from quickstudy.data.formats.features import FeatureFormat
from quickstudy.data.formats.images import ImageFormat
from quickstudy.data.formats.items import item_format
from quickstudy.encoders.pretrained import PHOTOS
from quickstudy.recipes.catalogue import RECIPES
from quickstudy.recipes.pretrained import is_pretrained, pretrained_learner
from quickstudy.recipes.recipe import Recipe
from quickstudy.recipes.sources import recipe_source
from quickstudy.recipes.without import recipe_of_facts

_TINY_IMAGES = (
    "trained on pictures of CIFAR-100, which was drawn from 80 Million Tiny Images, a collection that its "
    "authors have withdrawn because it holds derogatory labels and offensive pictures"
)
NOTICES = {"cifar-fs": _TINY_IMAGES, "fc100": _TINY_IMAGES}
"""What is to be said of models that were trained on a data set, by the name of its pool."""


def purpose(manifest: checkpoint.Manifest) -> str:
    """What a model is for, and what it takes.

    Args:
        manifest: Manifest of its checkpoint.
    """
    name = str((manifest.get("data") or {}).get("name", ""))
    made_for = next(
        (s.what.split(";")[0] for s in SOURCES if s.classes and re.match(rf"{s.name}\b", name)),
        "items like its own",
    )
    if not manifest.get("items"):
        return made_for
    form = item_format(manifest["items"])
    if isinstance(form, AudioFormat):
        return f"{made_for}; takes sounds of {form.seconds:g} s at {form.rate:,} Hz"
    if isinstance(form, FeatureFormat):
        return f"{made_for}; takes vectors of {form.dimensions:,} numbers"
    kind = "grey" if form.channels == 1 else "colour"
    ink = ", dark ink on light paper" if form.invert else ""
    return f"{made_for}; takes pictures of any size{ink}, looks at {form.size}×{form.size} {kind} pixels"


def notice(manifest: checkpoint.Manifest) -> str | None:
    """What is to be said of the data that a model was trained on; None where there is nothing.

    Args:
        manifest: Manifest of its checkpoint.
    """
    name = (manifest.get("data") or {}).get("name")
    return NOTICES.get(name.split(".")[0]) if isinstance(name, str) else None


def start_from(learner: nn.Module, name_or_path: str | os.PathLike[str]) -> checkpoint.Manifest:
    """Give a learner the encoder of a trained one, which must be made alike, without what is put around it.

    Args:
        learner: Learner whose encoder gets the weights.
        name_or_path: A name that `quickstudy models` lists, a checkpoint file, or a training's folder.

    Returns:
        The manifest of the trained one.

    Raises:
        ValueError: If one of them has no encoder, or they differ.
    """
    if is_pretrained(name_or_path):
        raise ValueError(
            f"{name_or_path} is a network of another kind than this recipe's: train prototypical-images with "
            f"--set encoder={name_or_path}"
        )
    trained, _, manifest = _load(name_or_path, None)
    mine, other = getattr(learner, "encoder", None), getattr(trained, "encoder", None)
    if not isinstance(mine, nn.Module) or not isinstance(other, nn.Module):
        raise ValueError(
            f"{type(learner).__name__} can't start from {name_or_path}, a {type(trained).__name__}: "
            "both must be learners of a metric; leave start out"
        )
    checkpoint.load_weights(mine, other.state_dict(), str(name_or_path))
    return manifest


def trained_before(recipe: str, out: str | os.PathLike[str]) -> Path | str:
    """The training of a recipe that another training begins with.

    Args:
        recipe: Name of the recipe.
        out: Folder of the training that begins; the other one is looked for beside it, then among the models
            that ship.

    Raises:
        ValueError: If there is none.
    """
    beside = Path(out).parent / recipe
    if beside.is_dir():
        return beside
    if recipe in models():
        return recipe
    raise ValueError(
        f"this training begins with the encoder of {recipe}, and there is none at {beside}: train it by "
        f"quickstudy train {recipe}, or name a checkpoint that is made alike by --set start=CHECKPOINT"
    )


def load_learner(
    name_or_path: str | os.PathLike[str], *, recipe: str | None = None, learner: Learner | None = None
) -> tuple[Learner, checkpoint.Manifest]:
    """A trained learner, ready to predict, from a checkpoint or a model that ships with the library.

    Code that a checkpoint names is never imported: you name a recipe, or give a learner, of your own.

    Args:
        name_or_path: A name that `quickstudy models` lists, a checkpoint file, or the folder of a training by
            `quickstudy train` or `fit`; or the name of a pretrained network, such as "photos", see
            `pretrained`.
        recipe: The recipe that it was trained by, where that is one of your own: `FILE.py:FUNCTION` or
            `PACKAGE.MODULE:FUNCTION`.
        learner: A learner built like the trained one, which gets its weights: for a class of your own.

    Returns:
        The learner as it is used after training (see `Recipe.used`), in evaluation mode, and its manifest.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it isn't whole, or how to build its learner is not known here.
    """
    if learner is not None:
        path = find(name_or_path)
        weights, manifest = checkpoint.load(path)
        checkpoint.load_weights(learner, weights, str(path))
        learner.eval()
        used = learner
    else:
        _, used, manifest = _load(name_or_path, recipe)
    with naming(str(name_or_path)):
        used.item_format = item_format(manifest["items"]) if "items" in manifest else None
    return used, manifest


def _load(
    name_or_path: str | os.PathLike[str], recipe: str | None
) -> tuple[Learner, Learner, checkpoint.Manifest]:
    """A trained learner as it was trained and as it is used, and its manifest."""
    if not recipe and is_pretrained(name_or_path):
        learner, manifest = pretrained_learner(str(name_or_path))
        return learner, learner, manifest
    path = find(name_or_path)
    weights, manifest = checkpoint.load(path)
    if manifest.get("kind") == "rule":
        raise ValueError(
            f"{path} holds an update rule, not a model: race it with quickstudy optimize --rule, or take its "
            "steps with quickstudy.LearnedOptimizer"
        )
    with naming(path), generators_kept():
        try:
            stated = recipe_of(manifest, recipe)
            if not recipe:
                _check_size(stated, weights, path)
            learner = stated.learner()
        except ValueError as error:
            raise ValueError(error if str(path) in str(error) else f"{path} {error}") from None
        used = stated.used(learner)
        checkpoint.load_weights(used, weights, str(path))
    return learner.eval(), used.eval(), manifest


def _check_size(stated: Recipe, weights: Mapping[str, Tensor], path: Path) -> None:
    """Check that a manifest speaks of the weights that are there, before what it speaks of takes memory."""
    try:
        with torch.device("meta"):
            shaped = stated.used(stated.learner())
    except (NotImplementedError, RuntimeError):  # not everything can be built without memory
        return
    checkpoint.check_fit(shaped, weights, str(path))


def recipe_of(manifest: checkpoint.Manifest, recipe: str | None = None) -> Recipe:
    """The recipe that a checkpoint was trained by, or what stands for it after a training in Python.

    Args:
        manifest: Manifest of the checkpoint.
        recipe: The recipe's name, where it is one of your own.

    Raises:
        ValueError: If it is not known here; the message goes on from the checkpoint's name.
    """
    name = manifest.get("recipe")
    if recipe:
        source = recipe_source(recipe)
        given = {k: v for k, v in manifest.get("arguments", {}).items() if k in source.arguments()}
        stated = source.state(given)
        if not isinstance(stated, Recipe):
            raise ValueError(f"is no update rule, which {recipe} states: name the recipe of the learner")
        return stated
    if name is None and "fit" in manifest:
        return recipe_of_facts(manifest)
    if name is not None and ":" in name:
        raise ValueError(
            f"was trained by a recipe of your own, {name}: name it by --recipe {name} (recipe=…)"
        )
    if name not in RECIPES:
        raise ValueError(
            f"was trained by recipe {name!r}, which this version lacks: build its learner in Python, "
            "load_learner(path, learner=…)"
        )
    arguments = manifest["arguments"]
    if (network := arguments.get("encoder")) not in (None, PHOTOS):
        raise ValueError(
            f"was trained with {network}, and no file should have a network fetched: where you trust it, "
            f"name its recipe, --recipe {name} (recipe=…)"
        )
    items = manifest.get("items", {})
    if "rate" in items and "version" in signature(RECIPES[name]).parameters:
        arguments = arguments | {"version": item_format(items).as_dict()["version"]}  # its own, not today's
    if "dimensions" in items:
        arguments = arguments | {"dimensions": items["dimensions"]}  # the file may be gone
    stated = RECIPES[name](**arguments)
    assert isinstance(stated, Recipe)  # a rule's checkpoint says so, and is refused before
    return stated


def item_format_of(
    manifest: checkpoint.Manifest, origin: str | os.PathLike[str] = "this checkpoint"
) -> ImageFormat | AudioFormat | FeatureFormat:
    """What pictures or clips must become for the encoder of a checkpoint.

    Args:
        manifest: Manifest of the checkpoint.
        origin: Name or path of the checkpoint, for error messages.

    Raises:
        ValueError: If the checkpoint doesn't say.
    """
    if not manifest.get("items"):
        raise ValueError(
            f"{origin} doesn't say what its encoder takes, as its training was given arrays: name a "
            "recipe that says it, by --recipe FILE.py:FUNCTION"
        )
    with naming(str(origin)):
        return item_format(manifest["items"])


def data_root_of(manifest: checkpoint.Manifest, asked: str | os.PathLike[str] | None) -> Path | None:
    """Folder of the data sets: the one asked for, else that which the training was given, if it is there.

    Args:
        manifest: Manifest of the checkpoint.
        asked: Folder that is asked for now.
    """
    if asked:
        return Path(asked)
    stated = manifest.get("data_root")
    return Path(stated) if isinstance(stated, str) and Path(stated).is_dir() else None


def find(name_or_path: str | os.PathLike[str]) -> Path:
    """The checkpoint file that a name, file or folder stands for; what lies here goes before what ships.

    Args:
        name_or_path: A name that `quickstudy models` lists, a checkpoint file, or a training's folder.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is the name of a pretrained network, which is no file.
    """
    shipped, path = models(), Path(name_or_path)
    if is_pretrained(name_or_path):
        raise ValueError(
            f"{name_or_path} is a pretrained network and no checkpoint that could be written to or read"
        )
    if str(name_or_path) in shipped and not path.exists():
        return shipped[str(name_or_path)]
    if path.is_dir():
        if (path / "last.safetensors").exists() and not (path / "best.safetensors").exists():
            raise FileNotFoundError(f"{path} has not come to its first validation: go on with train --resume")
        return path / "best.safetensors"
    if not path.exists() and not path.suffix:
        raise FileNotFoundError(_unknown(str(name_or_path), shipped))
    return path


def ships(path: Path) -> bool:
    """Whether a file is one of the models that ship with the library, by whatever path.

    Args:
        path: Path of a checkpoint.
    """
    return path.exists() and any(path.samefile(shipped) for shipped in models().values())


def _unknown(name: str, shipped: Mapping[str, Path]) -> str:
    """Why there is no model of a name, and what was meant."""
    from quickstudy.optimizer.weights import shipped_rules  # slow to load, and seldom needed

    if name in shipped_rules():
        return (
            f"{name} is an update rule, not a model: race it with quickstudy optimize --rule {name}, or take "
            "its steps with quickstudy.LearnedOptimizer"
        )
    if name in RECIPES:
        return (
            f"{name} is a recipe, and no trained model of it ships: train it, which may take hours (see "
            f"--minutes), with quickstudy train {name}, then name its folder, runs/{name}"
        )
    near = difflib.get_close_matches(name, [*shipped, *RECIPES], 3, 0.6)
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    return f"there is no checkpoint or model {name!r}: {meant}quickstudy models lists those that ship"


def models() -> dict[str, Path]:
    """The trained models that ship with the library, by name."""
    folder = Path(str(resources.files("quickstudy") / "recipes" / "shipped"))
    return {p.stem: p for p in sorted(folder.glob("*.safetensors"))}

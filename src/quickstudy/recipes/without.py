"""What stands for the recipe of a training that `fit` did in Python, without one."""

from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from quickstudy import encoders, initialization, metric, optimizer
from quickstudy.core.blueprint import rebuilt
from quickstudy.core.checkpoint import Manifest
from quickstudy.core.learner import Learner
from quickstudy.core.progress import ProgressCallback
from quickstudy.data.datasets.cifar import cifar_fs, fc100
from quickstudy.data.datasets.imagenets import cub, mini_imagenet, tiered_imagenet
from quickstudy.data.datasets.omniglot import omniglot
from quickstudy.data.formats.items import item_format
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting
from quickstudy.recipes.recipe import MakePool, Recipe, glyph_pool

LOADERS: dict[str, MakePool] = {
    "glyphs": glyph_pool,
    "omniglot-vinyals": omniglot,
    "omniglot-random": partial(omniglot, split="random"),
    "cifar-fs": cifar_fs,
    "fc100": fc100,
    "mini-imagenet": mini_imagenet,
    "tiered-imagenet": tiered_imagenet,
    "cub": cub,
}
"""Data sets that are made again by the name of the pool that was trained on."""


def loader(name: str) -> MakePool:
    """What loads a data set, by its name.

    Args:
        name: Name in `LOADERS`.

    Raises:
        ValueError: If there is none.
    """
    if name not in LOADERS:
        raise ValueError(f"there is no data set {name!r} to test on: name one of {', '.join(LOADERS)}")
    return LOADERS[name]


def recipe_of_facts(manifest: Manifest) -> Recipe:
    """A recipe of what `fit` has noted: its learner, and the test classes of the data it was trained on.

    Args:
        manifest: Manifest of a checkpoint that `fit` wrote, in Python.

    Raises:
        ValueError: When its learner is made, if that is not of this library; the message goes on from the
            checkpoint's name.
    """
    facts, plan = manifest["fit"], manifest["fit"]["learner"]

    def learner() -> Learner:
        if "arguments" not in plan:
            raise ValueError(
                f"was trained in Python and holds a {plan['class']} that is not of quickstudy alone: build "
                "one like it and give it, load_learner(path, learner=…), or name a recipe of your own by "
                "--recipe FILE.py:FUNCTION"
            )
        made: Learner = rebuilt(plan, _ours)
        return made

    stated: Any = facts["validation"] if isinstance(facts["validation"], dict) else facts["train"]
    tested = (
        Setting.from_dict(stated["setting"]) if isinstance(stated.get("setting"), dict) else Setting(5, 1)
    )
    form: Any = item_format(manifest["items"]) if "items" in manifest else None
    return Recipe(
        summary=f"{plan['class']}, trained in Python",
        paper="your own",
        pool=_pool_like(facts["train"].get("pool")),
        item_format=form,
        learner=learner,
        train=tested,
        steps=facts["steps"],
        schedule=lambda steps: lambda step: 1.0,
        validation=tested,
        tests=(tested,),
        mode=facts.get("validation_mode", "inductive"),
    )


def _ours(name: str) -> Any:
    """The class or function of a name, from the faces of the packages and from nowhere else."""
    faces: tuple[ModuleType, ...] = (metric, initialization, optimizer, encoders)
    for face in faces:
        if name in vars(face)["__all__"]:
            return getattr(face, name)
    raise KeyError(name)


def _pool_like(stated: dict[str, Any] | None) -> MakePool:
    """Loads the data set that a training's pool was a split of."""
    whole, _, split = (stated or {}).get("name", "").rpartition(".")

    def load(*, root: str | Path | None = None, progress: ProgressCallback | None = None) -> ClassPool:
        if stated is None or whole not in LOADERS:
            raise ValueError(
                "this checkpoint was trained in Python, on data that only your program can load: name the "
                "classes to test on by --images DIR, or a recipe that loads them by --recipe FILE.py:FUNCTION"
            )
        pool = LOADERS[whole](root=root, progress=progress)
        if pool.split(*split.split("+")).content_digest() != stated["digest"]:
            raise ValueError(
                f"this checkpoint was trained in Python on another {stated['name']} than quickstudy makes by "
                "default: name a recipe that makes it by --recipe FILE.py:FUNCTION"
            )
        return pool

    return load

"""Running a recipe by its name, as `quickstudy train` does."""

from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from quickstudy.recipes.catalogue import RECIPES
from quickstudy.training.launch import Display


def train(
    name: str, arguments: dict[str, Any], out: Path, *, display: Display, fabric: Fabric, **options: Any
) -> Any:
    """What was trained, and how it went."""
    stated: Any = RECIPES[name](**arguments)
    return stated.run(out, name=name, arguments=arguments, options=options, display=display, fabric=fabric)

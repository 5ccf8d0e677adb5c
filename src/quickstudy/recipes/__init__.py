"""Recipes: one published experiment each, in full.

`RECIPES` maps the names used on the command line to the functions that state them.
"""

from collections.abc import Callable

from quickstudy.recipes.prototypical_glyphs import prototypical_glyphs
from quickstudy.recipes.prototypical_images import prototypical_images
from quickstudy.recipes.prototypical_omniglot import prototypical_omniglot_1shot, prototypical_omniglot_5shot
from quickstudy.recipes.recipe import Recipe

RECIPES: dict[str, Callable[..., Recipe]] = {
    "prototypical-glyphs": prototypical_glyphs,
    "prototypical-omniglot-1shot": prototypical_omniglot_1shot,
    "prototypical-omniglot-5shot": prototypical_omniglot_5shot,
    "prototypical-images": prototypical_images,
}

__all__ = ["RECIPES", "Recipe"]

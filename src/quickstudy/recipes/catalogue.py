"""Recipes: one published experiment each, in full.

`RECIPES` maps the names used on the command line to the functions that state them.
"""

from collections.abc import Callable

from quickstudy.recipes.initialization import (
    anil_omniglot,
    fomaml_omniglot,
    fomaml_omniglot_20way,
    maml_glyphs,
    maml_omniglot,
    maml_omniglot_20way,
    meta_sgd_omniglot,
    meta_sgd_omniglot_20way,
    reptile_omniglot,
    reptile_omniglot_20way,
)
from quickstudy.recipes.metric import (
    cluster_omniglot_distractors,
    gaussian_omniglot,
    masked_omniglot_distractors,
    matching_omniglot,
    prototypical_glyphs,
    prototypical_omniglot_1shot,
    prototypical_omniglot_5shot,
    relation_omniglot_1shot,
    relation_omniglot_5shot,
    siamese_omniglot,
    siamese_omniglot_lake,
    soft_omniglot,
    soft_omniglot_distractors,
    tenth_omniglot,
)
from quickstudy.recipes.optimizer import (
    fixed_gates_omniglot_1shot,
    lstm_omniglot_1shot,
    lstm_omniglot_5shot,
    scalar_gates_omniglot_1shot,
)
from quickstudy.recipes.own_pictures import maml_images, prototypical_images
from quickstudy.recipes.recipe import Recipe
from quickstudy.recipes.recognition import (
    digits_fsdd,
    faces_lfw,
    faces_orl,
    siamese,
    speakers_arabic,
    words_arabic,
)

RECIPES: dict[str, Callable[..., Recipe]] = {
    "prototypical-glyphs": prototypical_glyphs,
    "prototypical-omniglot-1shot": prototypical_omniglot_1shot,
    "prototypical-omniglot-5shot": prototypical_omniglot_5shot,
    "prototypical-images": prototypical_images,
    "matching-omniglot": matching_omniglot,
    "relation-omniglot-1shot": relation_omniglot_1shot,
    "relation-omniglot-5shot": relation_omniglot_5shot,
    "siamese-omniglot": siamese_omniglot,
    "siamese-omniglot-lake": siamese_omniglot_lake,
    "gaussian-omniglot": gaussian_omniglot,
    "tenth-omniglot": tenth_omniglot,
    "soft-omniglot": soft_omniglot,
    "soft-omniglot-distractors": soft_omniglot_distractors,
    "cluster-omniglot-distractors": cluster_omniglot_distractors,
    "masked-omniglot-distractors": masked_omniglot_distractors,
    "maml-glyphs": maml_glyphs,
    "maml-images": maml_images,
    "maml-omniglot": maml_omniglot,
    "maml-omniglot-20way": maml_omniglot_20way,
    "fomaml-omniglot": fomaml_omniglot,
    "fomaml-omniglot-20way": fomaml_omniglot_20way,
    "anil-omniglot": anil_omniglot,
    "reptile-omniglot": reptile_omniglot,
    "reptile-omniglot-20way": reptile_omniglot_20way,
    "meta-sgd-omniglot": meta_sgd_omniglot,
    "meta-sgd-omniglot-20way": meta_sgd_omniglot_20way,
    "lstm-meta-learner-omniglot-1shot": lstm_omniglot_1shot,
    "lstm-meta-learner-omniglot-5shot": lstm_omniglot_5shot,
    "scalar-gates-omniglot-1shot": scalar_gates_omniglot_1shot,
    "fixed-gates-omniglot-1shot": fixed_gates_omniglot_1shot,
    "faces-orl": faces_orl,
    "faces-lfw": faces_lfw,
    "words-arabic": words_arabic,
    "speakers-arabic": speakers_arabic,
    "digits-fsdd": digits_fsdd,
    "siamese": siamese,
}

__all__ = ["RECIPES", "Recipe"]

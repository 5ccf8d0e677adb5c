"""quickstudy: learning to learn.

The names below are the library's front; they are imported when first used, so that importing the package,
as the command line does, costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__: str  # of the installed package; looked up when first asked for

if TYPE_CHECKING:
    from quickstudy.data.alphabets import WithinAlphabets
    from quickstudy.data.episodes import Episodes, Labels, Setting
    from quickstudy.data.folders import image_folders
    from quickstudy.data.glyphs import glyphs
    from quickstudy.data.images import ImageFormat
    from quickstudy.data.omniglot import omniglot
    from quickstudy.data.pool import ClassPool
    from quickstudy.encoders import MLP, Classifier, Conv4
    from quickstudy.episode import Episode, Support
    from quickstudy.evaluation import evaluate
    from quickstudy.experiment import load_learner
    from quickstudy.learner import Learner
    from quickstudy.learners.anil import ANIL
    from quickstudy.learners.gaussian import GaussianPrototypical
    from quickstudy.learners.lstm_meta_learner import LSTMMetaLearner
    from quickstudy.learners.maml import FOMAML, MAML
    from quickstudy.learners.matching import Matching
    from quickstudy.learners.meta_sgd import MetaSGD
    from quickstudy.learners.prototypical import Prototypical
    from quickstudy.learners.relation import Relation
    from quickstudy.learners.reptile import Reptile
    from quickstudy.learners.semi_supervised import SemiPrototypical
    from quickstudy.learners.siamese import Siamese, draw_pairs
    from quickstudy.metrics import Score
    from quickstudy.optimizer import LearnedOptimizer, load_rule
    from quickstudy.predict import predict_folders
    from quickstudy.roc import Verification, verification, verify
    from quickstudy.schedules import cosine, halve_every
    from quickstudy.train import fit

_HOMES = {
    "ANIL": "learners.anil",
    "ClassPool": "data.pool",
    "Classifier": "encoders",
    "Conv4": "encoders",
    "Episode": "episode",
    "Episodes": "data.episodes",
    "FOMAML": "learners.maml",
    "GaussianPrototypical": "learners.gaussian",
    "ImageFormat": "data.images",
    "LSTMMetaLearner": "learners.lstm_meta_learner",
    "Labels": "data.episodes",
    "LearnedOptimizer": "optimizer",
    "Learner": "learner",
    "MAML": "learners.maml",
    "MLP": "encoders",
    "Matching": "learners.matching",
    "MetaSGD": "learners.meta_sgd",
    "Prototypical": "learners.prototypical",
    "Relation": "learners.relation",
    "Reptile": "learners.reptile",
    "Score": "metrics",
    "SemiPrototypical": "learners.semi_supervised",
    "Setting": "data.episodes",
    "Siamese": "learners.siamese",
    "Support": "episode",
    "Verification": "roc",
    "WithinAlphabets": "data.alphabets",
    "cosine": "schedules",
    "draw_pairs": "learners.siamese",
    "evaluate": "evaluation",
    "fit": "train",
    "glyphs": "data.glyphs",
    "halve_every": "schedules",
    "image_folders": "data.folders",
    "load_learner": "experiment",
    "load_rule": "optimizer",
    "omniglot": "data.omniglot",
    "predict_folders": "predict",
    "verification": "roc",
    "verify": "roc",
}

__all__ = [
    "ANIL",
    "FOMAML",
    "MAML",
    "MLP",
    "ClassPool",
    "Classifier",
    "Conv4",
    "Episode",
    "Episodes",
    "GaussianPrototypical",
    "ImageFormat",
    "LSTMMetaLearner",
    "Labels",
    "LearnedOptimizer",
    "Learner",
    "Matching",
    "MetaSGD",
    "Prototypical",
    "Relation",
    "Reptile",
    "Score",
    "SemiPrototypical",
    "Setting",
    "Siamese",
    "Support",
    "Verification",
    "WithinAlphabets",
    "cosine",
    "draw_pairs",
    "evaluate",
    "fit",
    "glyphs",
    "halve_every",
    "image_folders",
    "load_learner",
    "load_rule",
    "omniglot",
    "predict_folders",
    "verification",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("quickstudy")
    if name not in _HOMES:
        raise AttributeError(f"module 'quickstudy' has no attribute {name!r}")
    return getattr(importlib.import_module(f"quickstudy.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

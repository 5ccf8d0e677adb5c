"""quickstudy: learning to learn.

The names below are the library's front; they are imported when first used, so that importing the package,
as the command line does, costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__: str  # of the installed package; looked up when first asked for

if TYPE_CHECKING:
    from quickstudy.core.episode import Episode, Support
    from quickstudy.core.learner import Learner
    from quickstudy.core.scores import Score
    from quickstudy.data.datasets.alphabets import WithinAlphabets
    from quickstudy.data.datasets.folders import image_folders
    from quickstudy.data.datasets.glyphs import glyphs
    from quickstudy.data.datasets.omniglot import omniglot
    from quickstudy.data.episodes import Episodes
    from quickstudy.data.formats.images import ImageFormat
    from quickstudy.data.pool import ClassPool
    from quickstudy.data.setting import Labels, Setting
    from quickstudy.encoders.classifier import MLP, Classifier
    from quickstudy.encoders.conv4 import Conv4
    from quickstudy.initialization.anil import ANIL
    from quickstudy.initialization.maml import FOMAML, MAML
    from quickstudy.initialization.meta_sgd import MetaSGD
    from quickstudy.initialization.reptile import Reptile
    from quickstudy.metric.gaussian import GaussianPrototypical
    from quickstudy.metric.matching import Matching
    from quickstudy.metric.pairs import draw_pairs
    from quickstudy.metric.prototypical import Prototypical
    from quickstudy.metric.relation import Relation
    from quickstudy.metric.semi_supervised import SemiPrototypical
    from quickstudy.metric.siamese import Siamese
    from quickstudy.metric.verification import Verification, verification, verify
    from quickstudy.optimizer.lstm_meta_learner import LSTMMetaLearner
    from quickstudy.optimizer.torch_optimizer import LearnedOptimizer
    from quickstudy.optimizer.weights import load_rule
    from quickstudy.recipes.weights import load_learner
    from quickstudy.training.evaluate import evaluate
    from quickstudy.training.fit import fit
    from quickstudy.training.predict import predict_folders
    from quickstudy.training.schedules import cosine, halve_every

_HOMES = {
    "ANIL": "initialization.anil",
    "ClassPool": "data.pool",
    "Classifier": "encoders.classifier",
    "Conv4": "encoders.conv4",
    "Episode": "core.episode",
    "Episodes": "data.episodes",
    "FOMAML": "initialization.maml",
    "GaussianPrototypical": "metric.gaussian",
    "ImageFormat": "data.formats.images",
    "LSTMMetaLearner": "optimizer.lstm_meta_learner",
    "Labels": "data.setting",
    "LearnedOptimizer": "optimizer.torch_optimizer",
    "Learner": "core.learner",
    "MAML": "initialization.maml",
    "MLP": "encoders.classifier",
    "Matching": "metric.matching",
    "MetaSGD": "initialization.meta_sgd",
    "Prototypical": "metric.prototypical",
    "Relation": "metric.relation",
    "Reptile": "initialization.reptile",
    "Score": "core.scores",
    "SemiPrototypical": "metric.semi_supervised",
    "Setting": "data.setting",
    "Siamese": "metric.siamese",
    "Support": "core.episode",
    "Verification": "metric.verification",
    "WithinAlphabets": "data.datasets.alphabets",
    "cosine": "training.schedules",
    "draw_pairs": "metric.pairs",
    "evaluate": "training.evaluate",
    "fit": "training.fit",
    "glyphs": "data.datasets.glyphs",
    "halve_every": "training.schedules",
    "image_folders": "data.datasets.folders",
    "load_learner": "recipes.weights",
    "load_rule": "optimizer.weights",
    "omniglot": "data.datasets.omniglot",
    "predict_folders": "training.predict",
    "verification": "metric.verification",
    "verify": "metric.verification",
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

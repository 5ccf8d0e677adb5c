"""A checkpoint builds again what is of this library, and nothing else."""

import json
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

import quickstudy as qs
from quickstudy import encoders, metric
from quickstudy.core.blueprint import NotRebuildableError, blueprint, rebuilt
from quickstudy.core.learner import Learner
from quickstudy.optimizer import CellStateRule, LSTMMetaLearner
from quickstudy.recipes.without import _ours


def head(ways: int = 3) -> nn.Module:
    return qs.Classifier(qs.Conv4(1, 4, running_statistics=False), ways, dimensions=4)


MODULES: dict[str, Callable[[], nn.Module]] = {
    "Prototypical": lambda: qs.Prototypical(qs.Conv4(1, channels=8, outputs=5)),
    "Matching": lambda: qs.Matching(qs.Conv4(1, 4), metric.FullContext(4), 3.0),
    "Relation": lambda: metric.Relation(qs.Conv4(1, 4), metric.Comparison(4, 4)),
    "Siamese": lambda: metric.Siamese(
        encoders.ResNet(1, (4, 8), 6, grid=(2, 1)), metric.WeightedL1(6), metric.cross_entropy, "mean"
    ),
    "Siamese, margin": lambda: metric.Siamese(
        qs.Conv4(1, 4), loss=partial(metric.contrastive_loss, margin=0.5)
    ),
    "SupervisedContrastive": lambda: metric.SupervisedContrastive(
        nn.Sequential(encoders.LogMel(8000), encoders.SpecAugment(), encoders.TDNN(40, 8, 2)), 0.2
    ),
    "GaussianPrototypical": lambda: metric.GaussianPrototypical(
        qs.Conv4(1, 4, outputs=5), inverse_variance=metric.LearnedSoftplus()
    ),
    "GaussianPrototypical, sigmoid": lambda: metric.GaussianPrototypical(
        qs.Conv4(1, 4, outputs=5), inverse_variance=metric.one_plus_sigmoid
    ),
    "SemiPrototypical": lambda: metric.SemiPrototypical(qs.Conv4(1, 4), "masked"),
    "MAML": lambda: qs.MAML(head(), lr=0.3, steps=2, test_steps=5, first_order=True),
    "ANIL": lambda: qs.ANIL(head(4), lr=0.3, steps=2),
    "MetaSGD": lambda: qs.MetaSGD(head(), init=(0.1, 0.2)),
    "Reptile": lambda: qs.Reptile(qs.MLP(9, (4,), 3), 0.1, 2, 3),
    "LSTMMetaLearner": lambda: LSTMMetaLearner(head(), CellStateRule("scalar"), 3),
    "Embedding": lambda: encoders.Embedding(
        encoders.FlipTTA(encoders.RotateTTA(encoders.WithFeatures(encoders.ResNet(1, (4, 8), 6)))),
        [
            encoders.WCCN(6, shrinkage=0.1),
            encoders.ConcatFeatures(6, 8 * 16),
            encoders.CohortNorm(6 + 8 * 16, 20),
        ],
    ),
    "ShiftSpeedTTA": lambda: encoders.ShiftSpeedTTA(
        nn.Sequential(encoders.LogMel(8000), encoders.MomentNorm(0.4)), 0.1, 0.1
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_what_is_built_again_is_the_same(name: str) -> None:
    made = MODULES[name]()
    plan = json.loads(json.dumps(blueprint(made)))
    again = rebuilt(plan, _ours)
    assert type(again) is type(made)
    assert blueprint(again) == plan
    shapes = {k: v.shape for k, v in made.state_dict().items()}
    assert {k: v.shape for k, v in again.state_dict().items()} == shapes
    own = {k: v for k, v in vars(made).items() if isinstance(v, bool | int | float | str)}
    assert {k: v for k, v in vars(again).items() if isinstance(v, bool | int | float | str)} == own
    if isinstance(made, metric.Siamese):
        assert repr(again.loss).split(" at ")[0] == repr(made.loss).split(" at ")[0]


class Mine(Learner):
    def predict(self, support: qs.Support, query_x: torch.Tensor) -> torch.Tensor:
        return query_x


class Derived(qs.Prototypical):
    """Has arguments of its own, which nobody remembers."""

    def __init__(self) -> None:
        super().__init__(qs.Conv4())


@pytest.mark.parametrize(
    "value",
    [
        Mine(),
        Derived(),
        qs.Prototypical(nn.Sequential(nn.Flatten(), nn.Linear(4, 2))),
        metric.Siamese(qs.Conv4(), loss=lambda energy, genuine: energy.sum()),
        metric.Siamese(qs.Conv4(), loss=nn.functional.mse_loss),
        torch.zeros(2),
    ],
    ids=["mine", "derived", "torch's layers", "lambda", "torch's function", "tensor"],
)
def test_what_is_of_others_is_not(value: object) -> None:
    with pytest.raises(NotRebuildableError, match="not of quickstudy"):
        blueprint(value)


@pytest.mark.parametrize(
    "plan",
    [
        {"class": "os.system", "arguments": {"command": "true"}},
        {"class": "Embedder", "arguments": {}},
        {"function": "eval"},
        {"class": "Conv4", "arguments": {"colour": 1}},
    ],
)
def test_a_plan_names_what_the_faces_have_or_nothing(plan: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="does not fit this version"):
        rebuilt(plan, _ours)

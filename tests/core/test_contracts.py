"""What goes into learners and comes out of them, and what functions take: refused with the fix."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.core import checkpoint
from quickstudy.core.episode import Episode, LabelledBatch, Support
from quickstudy.core.kernels.switch import kernels
from quickstudy.core.learner import Learner
from quickstudy.core.scores import ErrorScore
from quickstudy.core.update_rules import adam, heavy_ball, rmsprop, sgd
from quickstudy.data.batches import LabelledBatches
from quickstudy.data.episodes import Episodes
from quickstudy.data.formats.images import ImageFormat
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import BatchSize, LabelFraction, Setting
from quickstudy.encoders import MLP, TDNN, Classifier, Conv4, ResNet
from quickstudy.initialization import ANIL, MAML, MetaSGD, Reptile
from quickstudy.metric import FullContext, Matching, PlainClassifier, Prototypical, Siamese
from quickstudy.optimizer import LSTMMetaLearner, LSTMRule
from quickstudy.training.evaluate import evaluate
from quickstudy.training.fit import fit
from quickstudy.training.schedules import cosine_schedule, halve_every, linear_decay


class Returns(Learner):
    """Returns what it is told, of the support, the queries and one number."""

    def __init__(self, made: Callable[[Support, Tensor], Any]) -> None:
        super().__init__()
        self.made, self.bias = made, nn.Parameter(torch.zeros(()))

    def predict(self, support: Support, query_x: Tensor) -> Tensor:
        return self.made(support, query_x)


def asked(**changes: Any) -> tuple[Support, Tensor]:
    x, query = torch.rand(2, 6, 1, 8, 8), torch.rand(2, 5, 1, 8, 8)
    y = torch.tensor([[0, 1, 2, 0, 1, 2]] * 2)
    return Support(changes.get("x", x), changes.get("y", y), 3), changes.get("query", query)


def model() -> Classifier:
    return Classifier(Conv4(1, 2, running_statistics=False), 3, 2)


@pytest.fixture
def tasks(pool: ClassPool) -> Episodes:
    return Episodes(pool, Setting(3, 1, 2), tasks=2)


# ---- what comes out


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        pytest.param(
            lambda s, q: torch.zeros(2, 5, 4), ValueError, r"gave \[2, 5, 4\].*return \[2, 5, 3\]", id="N+1"
        ),
        pytest.param(lambda s, q: torch.zeros(2, 3, 5), ValueError, r"such as by scores\.mT", id="turned"),
        pytest.param(lambda s, q: torch.zeros(10, 3), ValueError, r"return \[2, 5, 3\]", id="flat"),
        pytest.param(lambda s, q: {"logits": 1}, TypeError, "gave a dict: return a tensor", id="dict"),
        pytest.param(
            lambda s, q: torch.full((2, 5, 3), math.nan), FloatingPointError, "aren't finite", id="nan"
        ),
        pytest.param(
            lambda s, q: torch.full((2, 5, 3), math.inf), FloatingPointError, "aren't finite", id="inf"
        ),
    ],
)
def test_scores_that_are_none(made: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Returns(made).eval().predict(*asked())


def test_a_class_derived_from_ours_is_checked_too() -> None:
    class More(Prototypical):
        def predict(self, support: Support, query_x: Tensor) -> Tensor:
            return torch.cat([super().predict(support, query_x)] * 2, -1)

    with pytest.raises(ValueError, match=r"More\.predict gave \[2, 5, 6\]"):
        More(nn.Flatten()).predict(*asked())


def test_weights_that_are_not_finite(tasks: Episodes) -> None:
    for learner in (Prototypical(Conv4(1, 2)), MAML(model())):
        next(learner.parameters()).data.fill_(math.nan)
        with pytest.raises(FloatingPointError, match=r"its weights .*convs.0.weight aren't: train it anew"):
            learner.eval().predict(*asked(x=torch.rand(2, 6, 1, 16, 16), query=torch.rand(2, 5, 1, 16, 16)))
        with pytest.raises(FloatingPointError, match=r"the weights .*convs.0.weight aren't finite"):
            evaluate(learner, tasks, 2)
    learner = Prototypical(Conv4(1, 2))
    learner.encoder.norms[0].running_var.fill_(math.inf)  # pyright: ignore
    with pytest.raises(FloatingPointError, match=r"running_var aren't finite"):
        evaluate(learner, tasks, 2)


# ---- what goes in


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        pytest.param({"query": torch.rand(2, 5, 1, 16, 16)}, ValueError, "second dimension only", id="size"),
        pytest.param({"query": torch.rand(3, 5, 1, 8, 8)}, ValueError, "second dimension only", id="tasks"),
        pytest.param({"query": torch.rand(5)}, ValueError, "second dimension only", id="dimensions"),
        pytest.param({"query": np.zeros((2, 5, 1, 8, 8))}, TypeError, r"torch\.from_numpy", id="numpy"),
        pytest.param({"query": [1]}, TypeError, "query items are a list: give a tensor", id="list"),
        pytest.param(
            {"query": torch.zeros(2, 5, 1, 8, 8, dtype=torch.uint8)},
            ValueError,
            r"x\.float\(\) / 255",
            id="bytes",
        ),
        pytest.param(
            {"query": torch.full((2, 5, 1, 8, 8), math.nan)},
            ValueError,
            "query items is not finite",
            id="nan",
        ),
        pytest.param(
            {"x": torch.full((2, 6, 1, 8, 8), math.inf)}, ValueError, "support items is not finite", id="inf"
        ),
    ],
)
def test_items_that_do_not_fit(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    for learner in (Prototypical(nn.Flatten()), Siamese(nn.Flatten())):
        with pytest.raises(error, match=message):
            learner.eval().predict(*asked(**changes))


def test_precisions_that_differ_and_channels_that_come_last() -> None:
    wide = {"x": torch.rand(2, 6, 16, 16, 1), "query": torch.rand(2, 5, 16, 16, 1)}
    own = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    for learner in (Prototypical(own), MAML(Classifier(own, 3, 392))):
        with pytest.raises(ValueError, match=r"\[16, 16, 1\], height × width × channels.*movedim\(-1, -3\)"):
            learner.eval().predict(*asked(**wide))
    double = {k: torch.rand(2, 5 + (k == "x"), 1, 16, 16).double() for k in ("x", "query")}
    with pytest.raises(ValueError, match=r"items are torch.float64 and the weights torch.float32: convert"):
        Prototypical(own).predict(*asked(**double))


@pytest.mark.parametrize("which", ["support", "query", "batch"])
def test_labels_of_numpy_and_items_that_are_none(which: str) -> None:
    x, y = torch.rand(1, 2, 3), torch.tensor([[0, 1]])
    support = Support(x, y, 2)
    make: dict[str, Callable[[Any, Any], object]] = {
        "support": lambda x, y: Support(x, y, 2),
        "query": lambda x, y: Episode(support, x, y),
        "batch": lambda x, y: LabelledBatch(x, y, 2),
    }
    with pytest.raises(TypeError, match=rf"{which} labels are an array of numpy: .*torch\.from_numpy"):
        make[which](x, y.numpy())
    with pytest.raises(TypeError, match=rf"{which} items are an array of numpy: .*torch\.from_numpy"):
        make[which](x.numpy(), y)
    with pytest.raises(TypeError, match=rf"{which} labels are a list: give a tensor"):
        make[which](x, [[0, 1]])


class Named(dict[str, Tensor]):
    """As a model of Hugging Face returns."""


class HuggingFace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Any:
        z = self.line(x.flatten(1))
        return Named(last_hidden_state=z, pooler_output=z)


@pytest.mark.parametrize("on", [True, False])
def test_an_encoder_that_returns_outputs_by_name(on: bool) -> None:
    for learner in (Prototypical(HuggingFace()), MAML(HuggingFace()), ANIL(Classifier(HuggingFace(), 3, 3))):
        with (
            kernels(enabled=on),
            pytest.raises(TypeError, match=r'gave a Named .*self\.inner\(x\)\["pooler_output"\]'),
        ):
            learner.eval().predict(*asked())


def test_items_of_another_format_than_a_loaded_learner_was_trained_on(tmp_path: Path) -> None:
    learner = Prototypical(Conv4(1, 2))
    path = tmp_path / "a.safetensors"
    checkpoint.save(str(path), learner.state_dict(), {"items": ImageFormat(16, 1, invert=True).as_dict()})
    weights, manifest = checkpoint.load(str(path))
    assert manifest["items"]["size"] == 16
    assert weights
    loaded, _ = qs.load_learner(path, learner=Prototypical(Conv4(1, 2)))
    right = torch.rand(2, 6, 1, 16, 16), torch.rand(2, 5, 1, 16, 16)
    loaded.predict(*asked(x=right[0], query=right[1]))
    with pytest.raises(ValueError, match=r"items are \[1, 32, 32\] .*trained on \[1, 16, 16\]"):
        loaded.predict(*asked(x=torch.rand(2, 6, 1, 32, 32), query=torch.rand(2, 5, 1, 32, 32)))
    items = np.random.default_rng(0).integers(0, 255, (20, 1, 16, 16), dtype=np.uint8)
    for form, message in (
        (ImageFormat(16, 1, invert=True), None),
        (None, None),
        (ImageFormat(16, 1), "have invert False, and the learner was trained on invert True"),
        (ImageFormat(64, 1, invert=True), "have size 64, and the learner was trained on size 16"),
    ):
        pool = ClassPool.from_grouped(items, list("abcde"), [4] * 5, item_format=form)
        of = Episodes(pool, Setting(3, 1, 2))
        if message is None:
            evaluate(loaded, of, 2)
        else:
            with pytest.raises(ValueError, match=message):
                evaluate(loaded, of, 2)
    fit(loaded, Episodes(ClassPool.from_grouped(items, list("abcde"), [4] * 5), Setting(3, 1, 2)), 1)
    assert loaded.item_format is None  # it has learned other items


# ---- what functions take


class OwnTasks(torch.utils.data.Dataset[int]):
    def __len__(self) -> int:
        return 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.utils.data.DataLoader(OwnTasks()), "is a DataLoader: bring it into a pool"),
        (OwnTasks(), "is an OwnTasks: bring it into a pool"),
        ({1}, r"is a set: give Episodes\(pool, Setting\(5, 1\)\), or for tasks of your own a function"),
        ([1, 2], "meta-batch 0 of the tasks is a int: give an Episode, "),
        ((i for i in range(3)), "meta-batch 0 of the tasks is a int: give an Episode, "),
        (torch.float32, "is a dtype: give Episodes"),
    ],
)
def test_something_else_than_episodes(given: Any, message: str) -> None:
    for do in (
        lambda: fit(Prototypical(nn.Linear(2, 2)), given, 1),
        lambda: evaluate(Prototypical(nn.Linear(2, 2)), given, 1),
    ):
        with pytest.raises(TypeError, match=message):
            do()


def test_a_pool_or_one_meta_batch_in_place_of_episodes(pool: ClassPool, tasks: Episodes) -> None:
    with pytest.raises(TypeError, match=r"is a ClassPool: draw tasks of it: Episodes\(pool, Setting"):
        fit(Prototypical(Conv4(1, 2)), pool, 1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"is an Episode: it is one meta-batch"):
        evaluate(Prototypical(Conv4(1, 2)), tasks[0], 1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"validation is a ClassPool"):
        fit(Prototypical(Conv4(1, 2)), tasks, 1, validation=pool)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"the pool is a list: bring items and labels into a pool"):
        Episodes([1], Setting(5, 1))  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"the setting is \(5, 1\): give Setting\(ways, shots"):
        Episodes(pool, (5, 1))  # pyright: ignore[reportArgumentType]


def test_something_else_than_a_learner(tasks: Episodes) -> None:
    given: Any
    for given in (Conv4(1, 2), nn.Linear(1, 1)):
        with pytest.raises(TypeError, match=r"takes a learner, such as quickstudy\.Prototypical"):
            evaluate(given, tasks, 1)
        with pytest.raises(TypeError, match=r"takes a learner, such as quickstudy\.Prototypical"):
            fit(given, tasks, 1)
    for given in ("prototypical", Prototypical, None):
        for do in (evaluate, fit):
            with pytest.raises(TypeError, match=r"^learner is "):
                do(given, tasks, 1)
    for make in (Prototypical, Matching, Siamese):
        with pytest.raises(TypeError, match=r"encoder is the class Conv4: make one of it, Conv4\("):
            make(Conv4)  # pyright: ignore[reportArgumentType]
        with pytest.raises(TypeError, match=r"encoder is a str: it must be a module of torch"):
            make("conv4")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"the model is a Prototypical: give a network"):
        MAML(Prototypical(Conv4(1, 2)))


def test_optimizers_and_schedules_of_torch(tasks: Episodes) -> None:
    learner = Prototypical(Conv4(1, 2))
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.25)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    given: Any
    for given, message in (
        (optimizer, r"is an Adam that is made already: .*torch\.optim\.Adam\(parameters, lr=0\.25\)"),
        ("adam", r"is a str: give a function from the parameters"),
        (lambda parameters: None, "optimizer makes a NoneType"),  # type: ignore[misc]
    ):
        with pytest.raises(TypeError, match=message):
            fit(learner, tasks, 1, optimizer=given)
    for given in (scheduler, torch.optim.lr_scheduler.StepLR, 0.1):
        with pytest.raises(TypeError, match=r"schedule is .*: give a function from the number of a step"):
            fit(learner, tasks, 1, schedule=given)


def test_nothing_to_train(tasks: Episodes) -> None:
    with pytest.raises(ValueError, match=r"no parameter of the Prototypical requires a gradient"):
        fit(Prototypical(Conv4(1, 2).requires_grad_(False)), tasks, 1)


def test_a_forward_that_gives_no_loss(tasks: Episodes) -> None:
    class Scores(Prototypical):
        def forward(self, episode: Episode) -> Tensor:
            return self.predict(episode.support, episode.query_x)

    with pytest.raises(TypeError, match=r"forward of Scores gave a tensor \[2, 6, 3\]: fit takes"):
        fit(Scores(nn.Sequential(nn.Flatten(), nn.LazyLinear(2))), tasks, 1)


def test_regressions_have_an_error() -> None:
    class Lines:
        tasks, seed, setting = 1, 0, "lines"

        def on(self, device: Any) -> "Lines":
            return self

        def part(self, i: int, rank: int = 0, world: int = 1) -> Episode:
            return Episode(
                Support(torch.rand(1, 4, 1), torch.rand(1, 4, 1), 0), torch.rand(1, 3, 1), torch.rand(1, 3, 1)
            )

    assert isinstance(evaluate(MAML(MLP(1, (4,), 1)), Lines(), 3), ErrorScore)


def test_pools_with_few_classes() -> None:
    items = np.zeros((4, 1, 4, 4), np.uint8)
    one = ClassPool.from_grouped(items, ["a"], [4], name="mine")
    with pytest.raises(ValueError, match=r"^2 ways, but mine has 1 class: bring more classes$"):
        Episodes(one, Setting(2, 1, 1))
    two = ClassPool.from_grouped(items, ["a", "b"], [2, 2], name="mine")
    with pytest.raises(ValueError, match=r"^5 ways, but mine has 2 classes: ask for at most 2 ways or"):
        Episodes(two, Setting(5, 1, 1))
    with pytest.raises(ValueError, match=r"1 shot \+ 2 queries"):
        Episodes(two, Setting(2, 1, 2))
    with pytest.raises(ValueError, match=r"2 ways and 1 distractor, but mine has 2 classes: bring more"):
        Episodes(two, Setting(2, 1, 1, unlabelled=1, distractors=1))


# ---- numbers

NUMBERS: dict[str, tuple[Callable[[], object], str]] = {
    "maml-lr": (lambda: MAML(model(), lr=-1), "lr is -1"),
    "maml-nan": (lambda: MAML(model(), lr=math.nan), "lr is nan"),
    "maml-text": (lambda: MAML(model(), lr="0.1"), "lr is '0.1'"),  # pyright: ignore
    "maml-steps": (lambda: MAML(model(), steps=1.5), "steps is 1.5: it must be a whole number"),  # pyright: ignore
    "maml-true": (lambda: MAML(model(), steps=True), "steps is True"),
    "maml-options": (lambda: MAML(model(), multi_step_until=1.5), "multi_step_until is 1.5"),  # pyright: ignore
    "anil": (lambda: ANIL(model(), lr=-0.1), "lr is -0.1"),
    "reptile": (lambda: Reptile(model(), steps=0), "steps is 0: it must be at least 1"),
    "reptile-lr": (lambda: Reptile(model(), lr=math.inf), "lr is inf"),
    "meta-sgd": (lambda: MetaSGD(model(), steps=0), "steps is 0: it must be at least 1"),
    "lstm-meta-learner": (lambda: LSTMMetaLearner(model(), steps=0), "steps is 0"),
    "context": (lambda: FullContext(64, steps=2.5), "steps is 2.5"),  # pyright: ignore
    "matching": (lambda: Matching(nn.Flatten(), scale=math.inf), "scale is inf"),
    "plain": (lambda: PlainClassifier(nn.Flatten(), 3, 0), "dimensions is 0"),
    "conv4": (lambda: Conv4(channels=6.0), "channels is 6.0"),  # pyright: ignore
    "mlp": (lambda: MLP(0, (3,), 2), "inputs is 0"),
    "mlp-widths": (lambda: MLP(1, (3.5,), 2), "a number of widths is 3.5"),  # pyright: ignore
    "mlp-width": (lambda: MLP(1, 3, 2), "widths is 3: it must be several"),  # pyright: ignore
    "classifier": (lambda: Classifier(nn.Flatten(), 0), "ways is 0"),
    "resnet": (lambda: ResNet(dropout=2.0), "dropout 2.0"),
    "tdnn": (lambda: TDNN(40, layers=0), "layers is 0"),
    "setting": (lambda: Setting(5, 1.5), "shots is 1.5"),  # pyright: ignore
    "setting-text": (lambda: Setting("5", 1), "ways is '5'"),  # pyright: ignore
    "batch": (lambda: BatchSize(2.5), "batch_size is 2.5"),  # pyright: ignore
    "fraction": (lambda: LabelFraction(math.nan), "fraction is nan"),
    "rule": (lambda: LSTMRule(hidden=2.5), "hidden is 2.5"),  # pyright: ignore
    "sgd": (lambda: sgd(math.nan), "lr is nan"),
    "momentum": (lambda: heavy_ball(0.1, 1.5), "momentum is 1.5"),
    "rmsprop": (lambda: rmsprop(0.1, eps=-1.0), "eps is -1.0"),
    "adam": (lambda: adam(0.1, beta2=-0.1), "beta2 is -0.1"),
    "halve": (lambda: halve_every(0), "steps is 0"),
    "cosine": (lambda: cosine_schedule(1.5), "steps is 1.5"),  # pyright: ignore
    "linear": (lambda: linear_decay(0), "steps is 0"),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_checked_where_they_are_given(name: str) -> None:
    make, message = NUMBERS[name]
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 1.5}, "steps is 1.5"),
        ({"steps": 0}, "steps is 0"),
        ({"every": 0}, "every is 0"),
        ({"patience": 0.5}, "patience is 0.5"),
        ({"validation_episodes": 0}, "validation_episodes is 0"),
        ({"minutes": -1}, "minutes is -1"),
        ({"clip": math.nan}, "clip is nan"),
        ({"ema_decay": math.nan}, "ema_decay is nan"),
        ({"keep": "first"}, "keep is 'first'"),
    ],
)
def test_numbers_of_fit(options: dict[str, Any], message: str, tasks: Episodes) -> None:
    with pytest.raises(ValueError, match=message):
        fit(Prototypical(Conv4(1, 2)), tasks, **{"steps": 1, **options})


def test_numbers_of_data_and_evaluation(pool: ClassPool, tasks: Episodes) -> None:
    for make, message in (
        (lambda: Episodes(pool, Setting(3, 1, 2), tasks=1.5), "tasks is 1.5"),  # pyright: ignore
        (lambda: Episodes(pool, Setting(3, 1, 2), seed="a"), "seed is 'a'"),  # pyright: ignore
        (lambda: LabelledBatches(pool, 2.5), "batch_size is 2.5"),  # pyright: ignore
        (lambda: tasks[-1], "i is -1: it must be at least 0"),
        (lambda: LabelledBatches(pool, 2)[1.5], "i is 1.5"),  # pyright: ignore
        (lambda: evaluate(Prototypical(Conv4(1, 2)), tasks, 1.5), "count is 1.5"),  # pyright: ignore
        (lambda: evaluate(Prototypical(Conv4(1, 2)), tasks, 0), "count is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_numbers_of_numpy_are_taken_and_become_pythons() -> None:
    encoder: Any = Conv4(channels=np.int64(3))  # pyright: ignore
    assert type(vars(encoder)["_made_with"]["channels"]) is int
    assert MAML(model(), lr=np.float32(0.5), steps=np.int64(2)).steps == 2  # pyright: ignore
    assert Setting(np.int32(5), 1).ways == 5  # pyright: ignore


def test_a_second_fit_sees_the_same_meta_batches_and_another_seed_others(pool: ClassPool) -> None:
    seen: list[Tensor] = []

    class Notes(Prototypical):
        def forward(self, episode: Episode) -> Tensor:
            seen.append(episode.query_x)
            return super().forward(episode)

    learner = Notes(nn.Sequential(nn.Flatten(), nn.Linear(pool.items[0].size, 2)))
    for seed in (0, 0, 1):
        fit(learner, Episodes(pool, Setting(3, 1, 2), seed=seed), 1)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])

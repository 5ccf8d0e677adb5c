"""What holds for every learner of an initialisation, and what each must survive."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from quickstudy.core.episode import Episode, Support
from quickstudy.core.inner_loop import InnerLoop
from quickstudy.core.kernels.task_groups import repeated
from quickstudy.core.learner import batch_statistics
from quickstudy.encoders.classifier import Classifier
from quickstudy.encoders.conv4 import Conv4
from quickstudy.initialization.anil import ANIL
from quickstudy.initialization.maml import MAML, fomaml
from quickstudy.initialization.meta_sgd import MetaSGD
from quickstudy.initialization.reptile import Reptile
from quickstudy.optimizer.lstm_meta_learner import LSTMMetaLearner
from tests.support.small_models import converted, distance, gradients_of, network, pictures

Make = Callable[..., InnerLoop]


def lstm(model: nn.Module, **arguments: int) -> LSTMMetaLearner:
    """Always the same rule, in the model's precision."""
    torch.manual_seed(1)
    return LSTMMetaLearner(model, steps=2, **arguments).to(next(model.parameters()).dtype)


LEARNERS: dict[str, Make] = {
    "maml": lambda model, **a: MAML(model, lr=0.4, steps=2, **a),
    "fomaml": lambda model, **a: fomaml(model, lr=0.4, steps=2, **a),
    "anil": lambda model, **a: ANIL(model, lr=0.4, steps=2, **a),
    "meta-sgd": lambda model, **a: MetaSGD(model, init=(0.3, 0.3), steps=2, **a),
    "lstm": lstm,
    "reptile": lambda model, **a: Reptile(model, lr=0.01, steps=2, batch=100, test_steps=2, **a),
}


@pytest.fixture(params=LEARNERS)
def make(request: pytest.FixtureRequest) -> Make:
    return LEARNERS[request.param]


def evaluated(learner: InnerLoop, support: Support, query_x: Tensor, mode: str = "transductive") -> Tensor:
    learner.eval()
    with torch.no_grad():
        if mode == "inductive":
            return learner.predict(support, query_x)
        with batch_statistics(learner):
            return learner.predict(support, query_x)


MODES = ["inductive", "transductive"]


@pytest.mark.parametrize("mode", MODES)
def test_the_order_of_the_support_does_not_matter(make: Make, mode: str) -> None:
    learner, e = make(network()), pictures()
    s = e.support
    order = torch.tensor([3, 0, 4, 2, 1])
    shuffled = Support(s.x[:, order], s.y[:, order], s.ways)
    torch.testing.assert_close(
        evaluated(learner, shuffled, e.query_x, mode),
        evaluated(learner, s, e.query_x, mode),
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize("mode", MODES)
def test_the_order_of_the_queries_permutes_the_scores(make: Make, mode: str) -> None:
    learner, e = make(network()), pictures()
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        evaluated(learner, e.support, e.query_x[:, order], mode),
        evaluated(learner, e.support, e.query_x, mode)[:, order],
        rtol=1e-9,
        atol=1e-9,
    )


def test_inductive_scores_of_a_query_do_not_depend_on_the_others(make: Make) -> None:
    learner, e = make(network()), pictures()
    together = evaluated(learner, e.support, e.query_x, "inductive")
    alone = evaluated(learner, e.support, e.query_x[:, 1:2], "inductive")
    torch.testing.assert_close(alone, together[:, 1:2], rtol=1e-9, atol=1e-9)
    others = evaluated(learner, e.support, e.query_x)
    assert not torch.allclose(evaluated(learner, e.support, e.query_x[:, 1:2]), others[:, 1:2], rtol=1e-2)


def test_renaming_the_classes_and_their_rows_of_the_head_permutes_the_scores(make: Make) -> None:
    e, model = pictures(), network()
    new_name = torch.tensor([2, 0, 1])
    renamed = Support(e.support.x, new_name[e.support.y], 3)
    moved = copy.deepcopy(model)
    assert isinstance(moved, Classifier)
    with torch.no_grad():
        for name in ("weight", "bias"):
            head = model.get_parameter(f"head.{name}")
            moved.head.get_parameter(name)[new_name] = head
    torch.testing.assert_close(
        evaluated(make(moved), renamed, e.query_x)[..., new_name],
        evaluated(make(model), e.support, e.query_x),
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize("mode", MODES)
def test_tasks_are_apart_from_each_other(make: Make, mode: str) -> None:
    learner, e = make(network(), chunk_size=3), pictures(tasks=3)
    together = evaluated(learner, e.support, e.query_x, mode)
    for t in range(3):
        alone = e[t : t + 1]
        torch.testing.assert_close(
            evaluated(learner, alone.support, alone.query_x, mode), together[t : t + 1], rtol=1e-9, atol=1e-9
        )


@pytest.mark.medium
def test_groups_of_tasks_change_nothing(make: Make) -> None:
    e = pictures(tasks=3)
    whole, parts = (make(network(), chunk_size=n) for n in (3, 2))
    near = 1e-6 if isinstance(whole, Reptile) else 1e-9  # Adam magnifies the rounding of small gradients
    torch.testing.assert_close(parts(e), whole(e), rtol=near, atol=1e-12)
    whole, parts = (make(network(), chunk_size=n) for n in (3, 2))  # Reptile has moved its moments
    assert distance(gradients_of(parts(e), parts), gradients_of(whole(e), whole)) < near


def test_the_loss_is_the_mean_over_tasks(make: Make) -> None:
    e = pictures(tasks=3)
    each = torch.stack([make(network())(e[t : t + 1]) for t in range(3)])
    torch.testing.assert_close(make(network())(e), each.mean(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ways", [1, 2])
def test_fewer_classes_use_the_first_outputs(make: Make, ways: int, mode: str) -> None:
    e = pictures(shots=(2,) * ways, queries=3)
    scores = evaluated(make(network()), e.support, e.query_x, mode)
    assert scores.shape == (2, 3, ways)
    assert scores.isfinite().all()


def test_more_classes_than_outputs_are_refused(make: Make) -> None:
    e = pictures(shots=(1, 1, 1, 1))
    learner = make(network())
    message = "the model distinguishes 3 classes but a task has 4: train one with at least 4 ways"
    with pytest.raises(ValueError, match=message):
        learner(e)
    with pytest.raises(ValueError, match=message):
        learner.predict(e.support, e.query_x)


@pytest.mark.parametrize("shots", [(1, 1, 1), (4, 1, 2)])
def test_unequal_shots_train(make: Make, shots: tuple[int, ...]) -> None:
    learner = make(network())
    loss = learner(pictures(shots=shots))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learner.parameters())


DEGENERATE = {
    "black": torch.zeros_like,
    "white": torch.ones_like,
    "alike": lambda x: x[:, :1].expand_as(x).clone(),
    "huge": lambda x: 1e4 * x,
    "tiny": lambda x: 1e-6 * x,
}


@pytest.mark.medium
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", DEGENERATE)
def test_degenerate_pictures_give_finite_losses_and_gradients(
    make: Make, kind: str, dtype: torch.dtype
) -> None:
    e = pictures(dtype=torch.float32)
    e = Episode(
        Support(DEGENERATE[kind](e.support.x), e.support.y, 3), DEGENERATE[kind](e.query_x), e.query_y
    )
    learner = make(network().float())
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = learner(e)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    for name, p in learner.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
    for mode in MODES:
        assert evaluated(learner, e.support, e.query_x, mode).isfinite().all()


@pytest.mark.medium
@pytest.mark.parametrize("items", [torch.float32, torch.bfloat16])
def test_mixed_precision_is_near_the_exact_gradient(make: Make, items: torch.dtype) -> None:
    """Lightning Fabric hands the items over in bfloat16."""
    e = pictures(queries=8, tasks=4)
    exact, mixed = make(network(channels=8)), make(network(channels=8).float())
    with torch.autocast("cpu", torch.bfloat16):
        loss = mixed(converted(e, items))
    assert all(p.dtype == torch.float32 for p in mixed.parameters())
    gradients = (gradients_of(loss, mixed.model), gradients_of(exact(e), exact.model))
    ours, theirs = (torch.cat([g.flatten().double() for g in of.values()]) for of in gradients)
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.85
    torch.testing.assert_close(loss.double(), exact(e), rtol=0.1, atol=0.05)


@pytest.mark.parametrize("own", [False, True])
def test_adapted_is_an_ordinary_module(make: Make, own: bool) -> None:
    """Its `state_dict` holds all of it: a plain model that loads it answers as inductive prediction does."""
    learner, e = make(network("own-encoder" if own else "conv4")).eval(), pictures(tasks=1)
    before = {k: v.clone() for k, v in learner.state_dict().items()}
    model = learner.adapted(e.support)
    assert not model.training
    assert all(torch.equal(v, learner.state_dict()[k]) for k, v in before.items())
    with torch.no_grad():
        alone = torch.cat([model(e.query_x[0, q : q + 1]) for q in range(4)])
        torch.testing.assert_close(model(e.query_x[0]), alone, rtol=1e-9, atol=1e-9)
        if not isinstance(learner, Reptile):  # its protocol puts the query among the support
            scores = learner.predict(e.support, e.query_x)[0]
            torch.testing.assert_close(alone, scores, rtol=1e-9, atol=1e-9)
    if not own:
        plain = Classifier(Conv4(1, 3, running_statistics=True), 3, 3).double()
        plain.load_state_dict(model.state_dict())
        torch.testing.assert_close(plain.eval()(e.query_x[0]), alone, rtol=1e-9, atol=1e-9)


def test_adapted_takes_the_steps_of_evaluation() -> None:
    learner, support = MAML(network(), steps=0, test_steps=2), pictures(tasks=1).support
    in_training = learner.train().adapted(support).state_dict()
    assert learner.training
    in_evaluation = learner.eval().adapted(support).state_dict()
    assert all(torch.equal(v, in_evaluation[k]) for k, v in in_training.items())
    assert not torch.equal(in_training["head.weight"], learner.model.state_dict()["head.weight"])


def test_a_head_of_another_size_is_refused_with_the_fix() -> None:
    learner, e = MAML(Classifier(Conv4(1, 3, running_statistics=False), 3, 64).double()), pictures()
    with pytest.raises(ValueError, match=r"encoder makes 3 numbers but the head takes 64: .*dimensions=3"):
        learner(e)


def test_adapted_is_of_one_task(make: Make) -> None:
    with pytest.raises(ValueError, match="the support holds 2 tasks: adapt to one at a time"):
        make(network()).adapted(pictures(tasks=2).support)


def test_running_statistics_are_refused_with_the_fix(make: Make) -> None:
    model = Classifier(Conv4(1, 3), 3, 3)
    with pytest.raises(ValueError, match="track_running_stats=False"):
        make(model)


@pytest.mark.medium
def test_training_goes_down_and_tasks_write_nothing(make: Make) -> None:
    torch.manual_seed(0)
    learner = make(network())
    buffers = [name for name, _ in learner.model.named_buffers()]
    assert not buffers
    e = pictures(tasks=4, queries=6)
    optimizer = torch.optim.SGD(learner.parameters(), 1.0 if isinstance(learner, Reptile) else 0.05)

    def error() -> float:
        scores = evaluated(learner, e.support, e.query_x)
        return nn.functional.cross_entropy(scores.flatten(0, 1), e.query_y.flatten()).item()

    before = error()
    learner.train()
    for _ in range(20):
        optimizer.zero_grad()
        learner(e).backward()
        optimizer.step()
    assert error() < 0.9 * before


@pytest.mark.parametrize("shape", [(), (5,), (4, 3, 2, 2), (4, 1, 3, 3), (3, 0)])
@pytest.mark.parametrize("channels_last", [True, False])
def test_parameters_are_repeated_as_by_expand(shape: tuple[int, ...], channels_last: bool) -> None:
    p = torch.randn(shape, dtype=torch.float64)
    if channels_last and len(shape) == 4:
        p = p.contiguous(memory_format=torch.channels_last)
    p.requires_grad_()
    many = repeated(p, 3)
    expected = p.unsqueeze(0).expand(3, *p.shape)
    assert torch.equal(many, expected)
    assert many.untyped_storage().data_ptr() == p.untyped_storage().data_ptr()
    g = torch.randn(3, *shape, dtype=torch.float64)
    found, literal = (torch.autograd.grad(y, p, g)[0] for y in (many, expected))
    torch.testing.assert_close(found, literal)
    assert found.stride() == p.stride()

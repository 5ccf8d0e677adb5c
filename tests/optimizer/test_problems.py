"""Problems that update rules are learned on: their formulas, and that a seed is all of their randomness."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from quickstudy.core.adapt import Tensors, adapt
from quickstudy.core.update_rules import sgd
from quickstudy.optimizer.problems.problem import Mixture, ProblemBatch, ProblemFamily, Reparametrized
from quickstudy.optimizer.problems.quadratics import Quadratics
from quickstudy.optimizer.problems.supervised import SPLIT_SHARES, Dataset, Supervised, digits, mlp, part_of
from quickstudy.optimizer.rule_learner import RuleLearner
from quickstudy.optimizer.rules.mlp import MLPRule
from quickstudy.optimizer.truncation import ProblemSeed, TruncationSchedule

# Quadratics


def w_and_y(problems: ProblemBatch, b: int, n: int) -> tuple[Tensor, Tensor]:
    """Told from values alone: f(0) = ‖y‖², and f's slopes and curvatures are 2Wᵀ(Wθ − y) and 2WᵀW."""
    count = len(problems.start["theta"])

    def f(theta: Tensor) -> Tensor:
        return problems.loss({"theta": theta.expand(count, n)}, 0)[b]

    nought = torch.zeros(n, dtype=torch.float64)
    return torch.autograd.functional.hessian(f, nought) / 2, -torch.autograd.functional.jacobian(
        f, nought
    ) / 2


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_loss_of_a_quadratic_is_the_papers(scale: float) -> None:
    """‖Wθ − y‖² for one W and one y, of which there is one a problem."""
    n, problems = 3, Quadratics(3, scale).sample(4, 5)
    theta = torch.randn(4, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    losses = problems.loss({"theta": theta}, 0)
    squares = problems.loss({"theta": torch.zeros(4, n, dtype=torch.float64)}, 7)
    for b in range(4):
        gram, towards = w_and_y(problems, b, n)
        value = theta[b] @ gram @ theta[b] - 2 * towards @ theta[b] + squares[b]
        assert losses[b].item() == pytest.approx(value.item(), rel=1e-10)
        best = torch.linalg.solve(gram, towards)  # W is invertible: the least is 0
        least = problems.loss({"theta": best.expand(4, n)}, 0)[b]
        assert least.item() == pytest.approx(0, abs=1e-9)
    assert len({round(x, 6) for x in losses.tolist()}) == 4


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_w_and_y_are_standard_gaussian(scale: float) -> None:
    """So E‖y‖² = n, Var‖y‖² = 2n, E‖We₁‖² = s²n, and θ₀ has the deviation that was asked for."""
    n, count = 10, 4000
    problems = Quadratics(n, scale, spread=0.5).sample(count, 0)
    at_0 = problems.loss({"theta": torch.zeros(count, n)}, 0)
    e1 = torch.zeros(count, n)
    e1[:, 0] = 1
    both = (problems.loss({"theta": e1}, 0) + problems.loss({"theta": -e1}, 0)) / 2 - at_0  # ‖We₁‖²
    assert at_0.mean().item() == pytest.approx(n, rel=0.03)
    assert at_0.var().item() == pytest.approx(2 * n, rel=0.1)
    assert both.mean().item() == pytest.approx(scale**2 * n, rel=0.03)
    assert both.var().item() == pytest.approx(scale**4 * 2 * n, rel=0.1)
    assert problems.start["theta"].std().item() == pytest.approx(0.5, rel=0.03)
    assert problems.start["theta"].mean().item() == pytest.approx(0, abs=0.02)


def test_quadratics_have_no_minibatches_and_nothing_held_out() -> None:
    problems = Quadratics(3).sample(2, 0)
    values = [f(problems.start, step).tolist() for f in (problems.loss, problems.held_out) for step in (0, 9)]
    assert all(v == values[0] for v in values)


# All families


def labelled(n: int = 40, dtype: torch.dtype = torch.float32) -> Dataset:
    rng = torch.Generator().manual_seed(0)
    return Dataset(torch.randn(n, 6, generator=rng).to(dtype), torch.arange(n) % 3)


def perceptrons(**how) -> Supervised:
    return Supervised(lambda: mlp(6, 4, classes=3), labelled(), labelled(30), batch=8, **how)


FAMILIES: dict[str, Callable[[], ProblemFamily]] = {
    "quadratics": lambda: Quadratics(3),
    "supervised": perceptrons,
    "reparametrised": lambda: Reparametrized(Quadratics(3), 1.0),
    "mixture": lambda: Mixture([Quadratics(3), Quadratics(4)]),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_drawn_is_a_function_of_the_seed(name: str) -> None:
    """And of nothing else: not of torch's own randomness, which is left as it was."""
    family = FAMILIES[name]()
    torch.manual_seed(1)
    first = family.sample(3, 7)
    expected = [f(first.start, step) for f in (first.loss, first.held_out) for step in (3, 0)]
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = FAMILIES[name]().sample(3, 7)
    _ = again.loss(again.start, 5)
    torch.testing.assert_close(again.start, first.start, rtol=0, atol=0)
    values = [f(first.start, step) for f in (again.loss, again.held_out) for step in (3, 0)]
    torch.testing.assert_close(values, expected, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), before)
    other = family.sample(3, 8)
    k = next(iter(first.start))
    assert other.start[k].shape != first.start[k].shape or not torch.equal(other.start[k], first.start[k])


@pytest.mark.parametrize("name", FAMILIES)
def test_problems_side_by_side_are_different_and_do_not_mix(name: str) -> None:
    problems = FAMILIES[name]().sample(3, 7)
    assert all(len(p) == 3 for p in problems.start.values())
    losses = problems.loss(problems.start, 0)
    assert losses.shape == (3,)
    assert len(set(losses.tolist())) == 3
    p = {k: t.clone().requires_grad_() for k, t in problems.start.items()}
    gradients = torch.autograd.grad(problems.loss(p, 0)[1], list(p.values()))
    for g in gradients:
        assert g[1].abs().max() > 0
        assert g[0].abs().max() == g[2].abs().max() == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_problems_go_where_their_parameters_are(name: str) -> None:
    problems = FAMILIES[name]().sample(3, 7)
    if name == "supervised":  # a stack of linear layers asks what autocast is, which "meta" doesn't know
        problems = Supervised(Line, labelled(), labelled()).sample(3, 7)
    there = {k: p.to("meta") for k, p in problems.start.items()}
    assert problems.loss(there, 0).device.type == problems.held_out(there, 0).device.type == "meta"


# Minibatches


class Line(nn.Module):
    """Six numbers to three, and not one of torch's own layers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 6))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


def chosen(n: int, batch: int, count: int, seed: int, step: int, held_out: bool = False) -> list[list[int]]:
    """The items of each problem's minibatch, with repeats.

    Labels are powers of 8, and the loss is their sum: its octal digits count the items.
    """
    y = 8.0 ** torch.arange(n, dtype=torch.float64)
    data = Dataset(torch.zeros(n, 1, dtype=torch.float64), y)
    family = Supervised(
        lambda: nn.Linear(1, 1).double(), data, data, lambda out, y: out.sum() * 0 + y.sum(), batch
    )
    problems = family.sample(count, seed)
    sums = (problems.held_out if held_out else problems.loss)(problems.start, step)
    return [[i for i in range(n) for _ in range(int(total) // 8**i % 8)] for total in sums.tolist()]


def test_items_of_a_minibatch_are_distinct_and_all_are_drawn() -> None:
    drawn: Counter[int] = Counter()
    for step in range(100):
        for items in chosen(12, 5, count=4, seed=3, step=step):
            assert len(items) == len(set(items)) == 5
            drawn.update(items)
    assert drawn.keys() == set(range(12))
    share = 400 * 5 / 12  # each item's; its standard deviation is about 10
    assert all(abs(n - share) < 50 for n in drawn.values())


def test_minibatches_differ_by_step_problem_seed_and_part() -> None:
    drawn = [
        tuple(items)
        for seed in (0, 1)
        for step in range(3)
        for held_out in (False, True)
        for items in chosen(16, 8, count=4, seed=seed, step=step, held_out=held_out)
    ]
    assert len(drawn) == 48
    assert len(set(drawn)) >= 46  # of 12,870
    assert chosen(16, 8, 4, seed=1, step=2) == chosen(16, 8, 4, seed=1, step=2)


def test_a_minibatch_is_all_there_is_where_there_is_less() -> None:
    assert chosen(6, 128, count=2, seed=0, step=0) == [[0, 1, 2, 3, 4, 5]] * 2


# Any model, any loss


class ConvRegression(nn.Module):
    """Of a user: pictures to two numbers, with a layer norm and a parameter that is no layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2)
        self.scale, self.out = nn.Parameter(torch.ones(2)), nn.Linear(2 * 9, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.silu(self.norm(self.conv(x))).flatten(1)) * self.scale


def relative_error(outputs: Tensor, y: Tensor) -> Tensor:
    return ((outputs - y) / (1 + y.abs())).abs().sum(1).mean()


def pictures(n: int) -> Dataset:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(n, 1, 5, 5, generator=rng, dtype=torch.float64)
    return Dataset(x, torch.stack([x.sum((1, 2, 3)), x.amax((1, 2, 3))], 1))


MODELS = {
    "mlp": (
        lambda: mlp(6, 5, layers=2, classes=3, activation=nn.Tanh).double(),
        F.cross_entropy,
        labelled(12, torch.float64),
    ),
    "own-module": (
        lambda: Line().double(),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        labelled(12, torch.float64),
    ),
    "conv": (lambda: ConvRegression().double(), relative_error, pictures(12)),
}


@pytest.mark.parametrize("part", ["train", "held_out"])
@pytest.mark.parametrize("name", MODELS)
def test_losses_side_by_side_are_those_of_the_model_alone(name: str, part: str) -> None:
    """On the same minibatch, gradients included."""
    model, criterion, data = MODELS[name]
    problems = Supervised(model, data, data, criterion, batch=5).sample(3, 17)
    f = problems.loss if part == "train" else problems.held_out
    p = {k: t.clone().requires_grad_() for k, t in problems.start.items()}
    losses = f(p, 4)
    gradients = torch.autograd.grad(losses.sum(), list(p.values()))
    for b, items in enumerate(chosen(12, 5, 3, 17, 4, held_out=part == "held_out")):
        own = {k: t[b].detach().requires_grad_() for k, t in problems.start.items()}
        alone = criterion(functional_call(model(), own, (data.x[items],)), data.y[items])
        assert losses[b].item() == pytest.approx(alone.item(), rel=1e-10)
        for ours, theirs in zip(gradients, torch.autograd.grad(alone, list(own.values())), strict=True):
            torch.testing.assert_close(ours[b], theirs, rtol=1e-9, atol=1e-12)


def test_initializations_are_the_models_own() -> None:
    """By its own distribution, anew for each problem, and under its own names."""
    problems = Supervised(lambda: mlp(64), digits("train"), digits("test")).sample(200, 0)
    assert {k: p.shape[1:] for k, p in problems.start.items()} == {
        k: p.shape for k, p in mlp(64).named_parameters()
    }
    weight = problems.start["0.weight"]
    assert weight.abs().max().item() <= 1 / 8  # uniform in ±1/√64
    assert weight.std().item() == pytest.approx(1 / 8 / 3**0.5, rel=0.01)
    assert len({w.tolist()[0][0] for w in weight}) == 200


def test_a_model_is_trained_by_its_problem() -> None:
    """The losses before any step are those of chance, and the ones after are of what was learned."""
    problems = Supervised(lambda: mlp(64, activation=nn.ReLU), digits("train"), digits("test")).sample(2, 0)
    end = adapt(problems.loss, problems.start, sgd(0.5), 60, first_order=True)
    assert end.losses[0].tolist() == pytest.approx([2.303, 2.303], abs=0.15)
    assert problems.held_out(end.parameters, 0).max().item() < 0.6


def test_rules_are_learned_on_a_network_of_ones_own() -> None:
    """At second order too: a batch of two learns what each alone would."""
    torch.manual_seed(0)
    model, criterion, data = MODELS["conv"]
    family = Supervised(model, data, data, criterion, batch=5)
    rule = MLPRule(hidden=4).double()
    learner = RuleLearner(rule, family, 2, 2, TruncationSchedule(2), first_order=False, objective="held_out")
    value = learner(ProblemSeed(0, 9))
    problems = family.sample(2, 9)
    p: Tensors = problems.start
    state, total = rule.init(p), torch.zeros(())
    for t in range(2):
        at = {k: v if v.requires_grad else v.requires_grad_() for k, v in p.items()}
        loss = problems.loss(at, t)
        g = torch.autograd.grad(loss.sum(), list(at.values()), create_graph=True)
        p, state = rule.update(dict(zip(at, g, strict=True)), state, at, loss)
        total = total + problems.held_out(p, t + 1).mean() / 2
    assert value.item() == pytest.approx(total.item(), rel=1e-10)
    ours, theirs = (torch.autograd.grad(x, list(rule.parameters())) for x in (value, total))
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)


# Digits


def test_splits_of_the_digits_share_no_item() -> None:
    """All 1,797 are in one of them, and held-out pictures are never trained on."""
    parts = {split: digits(split) for split in SPLIT_SHARES}
    assert [len(parts[split]) for split in SPLIT_SHARES] == [1078, 360, 359]
    pictures = {split: {tuple(row) for row in data.x.tolist()} for split, data in parts.items()}
    assert not pictures["train"] & pictures["validation"]
    assert not pictures["train"] & pictures["test"]
    assert not pictures["validation"] & pictures["test"]
    for data in parts.values():
        assert (data.x.min(), data.x.max()) == (0, 1)
        assert data.x.dtype == torch.float32
        counts = data.y.bincount()
        assert len(counts) == 10
        assert counts.min() > 0.07 * len(data)  # shuffled, not in order
    assert torch.equal(digits("test").x, parts["test"].x)


def test_pictures_keep_their_labels() -> None:
    """A picture is nearer to the mean of its own class than to the others', for most."""
    train, test = digits("train"), digits("test")
    means = torch.stack([train.x[train.y == c].mean(0) for c in range(10)])
    told = torch.cdist(test.x, means).argmin(1)
    assert (told == test.y).float().mean() > 0.8


def test_parts_of_any_data() -> None:
    data = Dataset(torch.arange(10), torch.arange(10) * 2)
    parts = [part_of(data, split) for split in SPLIT_SHARES]
    assert [len(p) for p in parts] == [6, 2, 2]
    assert sorted(torch.cat([p.x for p in parts]).tolist()) == list(range(10))
    assert all(torch.equal(p.y, 2 * p.x) for p in parts)
    with pytest.raises(ValueError, match="no split 'dev': choose one of train, validation, test"):
        part_of(data, "dev")


def test_perceptrons_have_the_layers_that_they_are_asked_for() -> None:
    kinds = [type(m).__name__ for m in mlp(7, 5, layers=2, classes=4, activation=nn.ReLU)]
    assert kinds == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    shapes = [tuple(p.shape) for p in mlp(7, 5, layers=2, classes=4).parameters()]
    assert shapes == [(5, 7), (5,), (5, 5), (5,), (4, 5), (4,)]
    assert [type(m).__name__ for m in mlp(64)] == ["Linear", "Sigmoid", "Linear"]


# Problems made of others


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("name", ["quadratics", "supervised"])
def test_in_other_units_it_is_the_same_function(name: str, held_out: bool) -> None:
    """f̃(θ) = f(cθ): equal values at corresponding points, and the gradient of f times c."""
    family = FAMILIES[name]()
    plain, other = family.sample(3, 4), Reparametrized(family, 2.0).sample(3, 4)
    f, g = (p.held_out if held_out else p.loss for p in (plain, other))
    assert other.start.keys() == plain.start.keys()
    c = {k: plain.start[k] / p for k, p in other.start.items()}
    for units in c.values():
        assert units.min() >= torch.e**-2.001
        assert units.max() <= torch.e**2.001
        assert units.flatten().unique().numel() > 0.9 * units.numel()  # each has its own
    rng = torch.Generator().manual_seed(0)
    at = {k: (p + torch.randn(p.shape, generator=rng)).requires_grad_() for k, p in plain.start.items()}
    there = {k: (p.detach() / c[k]).requires_grad_() for k, p in at.items()}
    ours, theirs = g(there, 3), f(at, 3)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(g(other.start, 1), f(plain.start, 1), rtol=1e-4, atol=1e-5)
    of_ours = torch.autograd.grad(ours.sum(), list(there.values()))
    of_theirs = torch.autograd.grad(theirs.sum(), list(at.values()))
    for k, a, b in zip(c, of_ours, of_theirs, strict=True):
        torch.testing.assert_close(a, c[k] * b, rtol=1e-3, atol=1e-4)


def test_units_are_uniform_in_the_logarithm() -> None:
    plain, other = (f.sample(2000, 1) for f in (Quadratics(5), Reparametrized(Quadratics(5), 3.0)))
    u = (plain.start["theta"] / other.start["theta"]).log().flatten()
    assert u.abs().max().item() == pytest.approx(3, rel=0.01)
    assert u.mean().item() == pytest.approx(0, abs=0.07)
    assert u.std().item() == pytest.approx(3 / 3**0.5, rel=0.02)


def test_a_spread_of_nought_changes_nothing() -> None:
    plain, other = (f.sample(2, 1) for f in (Quadratics(5), Reparametrized(Quadratics(5), 0.0)))
    assert torch.equal(plain.start["theta"], other.start["theta"])
    assert torch.equal(plain.loss(plain.start, 0), other.loss(plain.start, 0))


def test_a_mixture_draws_each_as_often() -> None:
    families = [Quadratics(n) for n in (2, 3, 5)]
    drawn = Counter(Mixture(families).sample(4, seed).start["theta"].shape for seed in range(600))
    assert drawn.keys() == {(4, 2), (4, 3), (4, 5)}
    assert all(abs(n - 200) < 60 for n in drawn.values())  # about five standard deviations
    assert Mixture(families[:1]).sample(2, 0).start["theta"].shape == (2, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Quadratics(0), r"dimensions is 0, "),
        (lambda: Quadratics(scale=0.0), r"scale 0\.0, .*above 0"),
        (lambda: Quadratics(spread=-1.0), r"spread -1\.0: "),
        (lambda: Reparametrized(Quadratics(), -0.5), r"spread is -0\.5: it must be at least 0"),
        (lambda: Mixture([]), "at least one family"),
        (lambda: Supervised(Line, labelled(), labelled(), batch=0), "batch is 0"),
        (lambda: Supervised(Line, labelled(0), labelled()), "train has 0 items and 0 labels"),
        (
            lambda: Supervised(Line, labelled(), Dataset(torch.zeros(3, 6), torch.zeros(2))),
            "held_out has 3 items and 2 labels",
        ),
        (lambda: digits("dev"), "no split 'dev'"),
    ],
)
def test_arguments_out_of_range_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

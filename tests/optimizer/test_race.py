"""Races of update rules, the recipes that rules are learned by, and the problems that bring data along."""

import gzip
import math
import struct
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from quickstudy.cli.terminal import Terminal
from quickstudy.core.adapt import FunctionalRule, Rule, Tensors, adapt
from quickstudy.core.scores import FinalLoss
from quickstudy.core.update_rules import adam, heavy_ball, sgd
from quickstudy.data.pool import ClassPool
from quickstudy.optimizer.plots import race_curves
from quickstudy.optimizer.problems.letters import SEEN, Letters
from quickstudy.optimizer.problems.mnist import mnist
from quickstudy.optimizer.problems.problem import Mixture
from quickstudy.optimizer.problems.quadratics import Quadratics
from quickstudy.optimizer.race import TUNED_BEFORE, adamw_cosine, baselines, race, tune, unroll
from quickstudy.optimizer.rule_learner import RuleLearner
from quickstudy.optimizer.weights import load_rule, shipped_rules
from quickstudy.recipes.catalogue import RECIPES
from quickstudy.recipes.optimizer import mlp_augmented
from quickstudy.recipes.problems import FAMILIES
from quickstudy.recipes.rule_recipe import RuleRecipe
from quickstudy.training.launch import launch
from quickstudy.training.run_folder import read_log
from tests.support.pools import coded_pool
from tests.support.recipes import train

FAMILY = Quadratics(3)


def test_a_curve_has_the_losses_before_and_after_each_step() -> None:
    problems = FAMILY.sample(4, 0)
    curve = unroll(sgd(0.01), problems, 3, "down", held_out=True)
    expected, p = [], problems.start
    for step in range(4):
        expected.append(problems.loss(p, step))
        p = adapt(problems.loss, p, sgd(0.01), 1).parameters
    torch.testing.assert_close(curve.losses, torch.stack(expected))
    torch.testing.assert_close(curve.held_out, curve.losses)  # quadratics hold nothing out
    torch.testing.assert_close(curve.final, expected[-1])
    assert not curve.losses.requires_grad
    assert 0 < curve.own_seconds < curve.seconds


def test_held_out_losses_are_taken_at_the_same_places_of_other_data() -> None:
    family = FAMILIES["digits"]("test", None)
    problems = family.sample(2, 0)
    curve = unroll(sgd(0.5), problems, 2, held_out=True)
    after = adapt(problems.loss, problems.start, sgd(0.5), 2, first_order=True).parameters
    torch.testing.assert_close(curve.held_out[-1], problems.held_out(after, 2))
    torch.testing.assert_close(curve.losses[-1], problems.loss(after, 2))
    assert not torch.equal(curve.losses, curve.held_out)


def test_what_diverges_counts_as_infinite_and_is_not_chosen() -> None:
    problems = FAMILY.sample(4, 0)
    assert (unroll(sgd(1e20), problems, 5).final == math.inf).all()
    assert tune(sgd, problems, 5, [1e-5, 1e-2, 1e20]) == 1e-2


def test_tuning_finds_the_rate_with_the_least_mean_loss() -> None:
    problems, rates = FAMILY.sample(16, 0), [1e-3, 1e-2, 5e-2, 1.0]
    means = {lr: unroll(heavy_ball(lr), problems, 20).final.mean().item() for lr in rates}
    assert tune(heavy_ball, problems, 20, rates) == min(means, key=means.__getitem__)


def test_baselines_are_tuned_on_other_problems_than_they_race_on() -> None:
    drawn: list[int] = []

    class Noting:
        def sample(self, count: int, seed: int) -> object:
            drawn.append(seed)
            return FAMILY.sample(count, seed)

    told: list[tuple[int, int]] = []
    curves = race(
        {"still": FunctionalRule(lambda p: (), lambda g, state, p, loss: (p, state))},
        Noting(),  # type: ignore[arg-type]
        10,
        problems=8,
        seed=5,
        against={"SGD": sgd, "Adam": adam},
        rates=[1e-3, 1e-2],
        report=lambda done, total: told.append((done, total)),
    )
    assert sorted(drawn) == [5, 5 + TUNED_BEFORE]
    assert [(c.name, c.lr is None) for c in curves] == [("still", True), ("SGD", False), ("Adam", False)]
    assert told == [(1, 3), (2, 3), (3, 3)]
    before, ours = FAMILY.sample(8, 5 + TUNED_BEFORE), FAMILY.sample(8, 5)
    lr = tune(sgd, before, 10, [1e-3, 1e-2])
    assert curves[1].lr == lr
    torch.testing.assert_close(curves[1].losses, unroll(sgd(lr), ours, 10).losses)
    assert torch.equal(curves[0].losses, curves[0].losses[:1].expand(11, -1))


def test_adamw_falls_along_a_cosine_to_nothing() -> None:
    problems = FAMILY.sample(2, 0)
    rule: Rule = adamw_cosine(4)(0.1)
    ends = [adapt(problems.loss, problems.start, rule, steps).parameters["theta"] for steps in range(6)]
    moves = [(b - a).abs().mean().item() for a, b in pairwise(ends)]
    assert moves[0] == pytest.approx(0.1, rel=1e-2)
    assert moves[0] > moves[2] > moves[3]
    assert moves[4] == 0


def test_every_baseline_of_the_race_learns() -> None:
    problems = FAMILY.sample(32, 0)
    for make in baselines(30).values():
        curve = unroll(make(tune(make, problems, 30, [1e-3, 1e-2, 0.1, 1.0])), problems, 30)
        assert curve.final.mean() < 0.5 * curve.losses[0].mean()


def test_a_race_without_steps_or_problems() -> None:
    with pytest.raises(ValueError, match="steps is 0"):
        race({}, FAMILY, 0)
    with pytest.raises(ValueError, match="problems 0"):
        race({}, FAMILY, 1, 0)


def test_the_picture_shows_every_curve_by_step_and_by_the_clock() -> None:
    curves = race({"mine": sgd(0.01)}, FAMILY, 5, 8, against={"Adam": adam}, rates=[1e-2])
    by_step, by_clock = race_curves(curves, "bowls").axes
    assert [line.get_label() for line in by_step.lines] == ["mine", "Adam (α = 0.01)"]
    for line, clock, curve in zip(by_step.lines, by_clock.lines, curves, strict=True):
        np.testing.assert_allclose(line.get_ydata(), curve.losses.mean(1), rtol=1e-6)
        np.testing.assert_allclose(line.get_xdata(), range(6))
        np.testing.assert_allclose(clock.get_xdata(), curve.seconds * np.arange(6))
    assert by_step.get_yscale() == "log"


def test_a_final_loss_says_how_it_came_about() -> None:
    final = FinalLoss.of(torch.tensor([1.0, 2.0, 6.0]), 7, "bowls", 50)
    assert (final.mean, final.median, final.objective) == (3.0, 2.0, -3.0)
    assert final.ci95 == pytest.approx(4.302653 * 7**0.5 / 3**0.5)
    assert str(final) == "3 ± 6.6, median 2 (bowls, step 50, 3 problems, seed 7)"
    assert final.short == "3 at step 50"
    assert final.to_log() == {"validation": 3.0, "ci95": final.ci95, "median": 2.0}


def test_kinds_of_problems_count_alike_whatever_the_size_of_their_losses() -> None:
    easy, hard = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([100.0, 400.0, 700.0])
    final = FinalLoss.of(torch.stack([easy, hard]), 0, "mixed", 50)
    assert final.mean == pytest.approx((3 * 400) ** 0.5)
    assert final.median == pytest.approx((2 * 400) ** 0.5)
    assert final.problems == 6
    halved = FinalLoss.of(torch.stack([easy / 2, hard]), 0, "mixed", 50)
    assert halved.mean == pytest.approx(FinalLoss.of(torch.stack([easy, hard / 2]), 0, "mixed", 50).mean)
    # of independent logarithms of means, to first order
    own = [FinalLoss.of(kind, 0, "", 50) for kind in (easy, hard)]
    relative = sum((f.ci95 / f.mean) ** 2 for f in own) ** 0.5 / 2
    assert final.ci95 == pytest.approx(final.mean * relative)


def test_a_rule_is_judged_on_every_family_of_a_mixture() -> None:
    recipe = replace(mlp_augmented(), race=2)
    family = Mixture([Quadratics(), Quadratics(scale=0.01)])
    learner = RuleLearner(recipe.rule(), family, 2)
    final = recipe.final_loss(learner, family, 8, seed=3)
    one, other = (recipe.final_loss(learner, part, 8, seed=3) for part in family.families)
    assert final.mean == pytest.approx((one.mean * other.mean) ** 0.5)
    assert final.problems == 16


@pytest.mark.medium
@pytest.mark.parametrize("name", [n for n in FAMILIES if n not in ("mnist", "letters")])
def test_families_give_problems_that_can_be_raced(name: str) -> None:
    for split in ("train", "validation", "test"):
        problems = FAMILIES[name](split, None).sample(2, 0)
        assert problems.loss(problems.start, 0).shape == problems.held_out(problems.start, 0).shape == (2,)


def test_recipes_name_families_and_make_rules() -> None:
    rules = [name for name in RECIPES if "-optimizer-" in name]
    assert len(rules) == 8
    for name in rules:
        recipe = RECIPES[name]()
        assert isinstance(recipe, RuleRecipe)
        assert recipe.family_name in FAMILIES
        assert isinstance(recipe.rule(), torch.nn.Module)
        assert recipe.summary
        assert recipe.horizon.longest >= recipe.race


@pytest.mark.medium
def test_a_recipe_is_trained_into_a_folder_and_resumed_bit_for_bit(tmp_path: Path) -> None:
    fabric, name = launch("cpu"), "lstm-optimizer-quadratics"

    def run(folder: str, resume: bool = False, minutes: float | None = None) -> Tensors:
        learner, _ = train(
            name, {}, tmp_path / folder, display=Terminal(quiet=True), fabric=fabric,
            steps=6, tasks=4, resume=resume, minutes=minutes,
        )  # fmt: skip
        return dict(learner.rule.state_dict())

    whole = run("whole")
    run("parts", minutes=1e-9)  # stops after its first step, in the middle of a horizon
    again = run("parts", resume=True)
    for k in whole:
        assert torch.equal(whole[k], again[k])
    assert [line["step"] for line in read_log(tmp_path / "whole" / "log.jsonl")] == [6]
    with pytest.raises(ValueError, match="--resume"):
        run("whole")


def idx(values: np.ndarray) -> bytes:
    """As the files of MNIST are."""
    return struct.pack(f">4B{values.ndim}i", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def digits_root(tmp_path: Path) -> Path:
    """A data root with twenty test digits of 28 × 28 pixels: digit i is all i."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    x = np.broadcast_to(np.arange(20, dtype=np.uint8)[:, None, None], (20, 28, 28))
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(np.ascontiguousarray(x))))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(np.arange(20, dtype=np.uint8) % 10))
    return tmp_path


def test_mnists_test_digits_are_dealt_out_where_the_others_are_missing(digits_root: Path) -> None:
    parts = [mnist(split, digits_root) for split in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [12, 4, 4]
    values = torch.cat([part.x[:, 0] * 255 for part in parts]).round().long()
    assert sorted(values.tolist()) == list(range(20))
    assert torch.equal(values % 10, torch.cat([part.y for part in parts]))
    assert parts[0].x.shape == (12, 784)
    problems = FAMILIES["mnist"]("test", digits_root).sample(2, 0)
    assert problems.loss(problems.start, 0).isfinite().all()


def test_all_of_mnist_keeps_its_own_test_set(digits_root: Path) -> None:
    many = np.zeros((60_000, 2, 2), np.uint8)
    (digits_root / "mnist" / "train-images-idx3-ubyte").write_bytes(idx(many))
    (digits_root / "mnist" / "train-labels-idx1-ubyte").write_bytes(idx(np.ones(60_000, np.uint8)))
    assert [len(mnist(split, digits_root)) for split in ("train", "validation", "test")] == [
        50_000,
        10_000,
        20,
    ]
    with pytest.raises(ValueError, match="'dev'"):
        mnist("dev", digits_root)


def test_missing_or_damaged_mnist_is_named(digits_root: Path, tmp_path: Path) -> None:
    path = digits_root / "mnist" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(OSError, match="t10k-images"):
        mnist("test", digits_root)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no MNIST in"):
        mnist("test", digits_root)


def test_letters_are_problems_of_a_few_classes_each() -> None:
    rng, each = np.random.default_rng(0), SEEN + 3
    patterns = rng.integers(0, 200, (6, 1, 8, 8), np.uint8).repeat(each, 0)
    items = patterns + rng.integers(0, 50, patterns.shape, np.uint8)
    pool = ClassPool.from_grouped(items, [f"pattern{i}" for i in range(6)], [each] * 6)
    family = Letters(pool, classes=3, channels=2)
    problems = family.sample(2, 0)
    assert problems.start["7.weight"].shape == (2, 3, 8)
    one, other = (problems.loss(problems.start, step) for step in (0, 0))
    assert torch.equal(one, other)
    assert one.shape == (2,)
    assert not torch.equal(one, problems.held_out(problems.start, 0))
    again = unroll(adam(0.03), problems, 60)
    assert again.final.mean() < 0.5 * again.losses[0].mean()
    with pytest.raises(ValueError, match="classes is 7"):
        Letters(pool, classes=7)
    with pytest.raises(ValueError, match="take more than 15"):
        Letters(coded_pool([15] * 6), classes=2)


def test_rules_that_ship_are_small_and_say_where_they_come_from_and_fail() -> None:
    shipped = shipped_rules()
    assert {"lstm-optimizer-quadratics", "rnnprop-optimizer-digits", "mlp-optimizer-digits"} <= set(shipped)
    for name, path in shipped.items():
        assert path.stat().st_size < 100_000
        rule, card = load_rule(name)
        assert set(card["families"]) <= set(FAMILIES)
        assert type(rule) is type(RECIPES[card["recipe"]]().rule())
        assert card["horizon"] >= 100
        assert card["cpu_seconds"] > 0
        lost = [race for race, f in card["figures"].items() if f["of tuned Adam's"] > 1]
        assert card["figures"]
        assert [failure.split(":")[0] for failure in card["known_failures"]] == lost


@pytest.mark.medium
def test_a_rule_that_ships_beats_adam_where_it_was_trained() -> None:
    problems = FAMILIES["digits"]("test", None).sample(8, 77)
    adams = unroll(adam(0.1), problems, 100).final.mean()  # the tuned rate
    for name in ("rnnprop-optimizer-digits", "mlp-optimizer-digits"):
        assert unroll(load_rule(name)[0], problems, 100).final.mean() < 0.9 * adams

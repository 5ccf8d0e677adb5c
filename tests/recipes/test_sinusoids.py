"""Sinusoid tasks, and the experiment on them."""

import math
from dataclasses import FrozenInstanceError

import pytest
import torch

from quickstudy.data.datasets.sinusoids import AMPLITUDES, INPUTS, PHASES, Sinusoids
from quickstudy.initialization import plots
from quickstudy.recipes import sinusoids
from quickstudy.training.fit import fit


def test_tasks_are_sinusoids_of_the_papers_ranges() -> None:
    tasks = Sinusoids(shots=40, queries=60, tasks=200, seed=3)
    episode = tasks[0]
    assert episode.ways == 0
    assert episode.support.x.shape == (200, 40, 1)
    assert episode.query_y.shape == (200, 60, 1)
    x, y = (
        torch.cat([episode.support.x, episode.query_x], 1),
        torch.cat([episode.support.y, episode.query_y], 1),
    )
    assert x.dtype == torch.float32
    assert INPUTS[0] <= x.min() < -4.9
    assert 4.9 < x.max() <= INPUTS[1]
    # a sin(x − p) = (a cos p) sin x − (a sin p) cos x: linear in what is unknown
    basis = torch.cat([x.sin(), x.cos()], -1).double()
    solved = torch.linalg.lstsq(basis, y.double())
    torch.testing.assert_close(basis @ solved.solution, y.double(), atol=1e-5, rtol=0)
    along, across = solved.solution[:, 0, 0], -solved.solution[:, 1, 0]
    amplitude, phase = (along**2 + across**2).sqrt(), torch.atan2(across, along)
    assert AMPLITUDES[0] <= amplitude.min() < 0.3
    assert 4.8 < amplitude.max() <= AMPLITUDES[1] + 1e-4
    assert PHASES[0] - 1e-4 <= phase.min() < 0.1
    assert 3.0 < phase.max() <= PHASES[1] + 1e-4
    # uniform: the mean of 200 draws within four standard errors
    assert abs(amplitude.mean().item() - 2.55) < 4 * 4.9 / math.sqrt(12 * 200)
    assert abs(phase.mean().item() - math.pi / 2) < 4 * math.pi / math.sqrt(12 * 200)


def test_meta_batches_are_repeatable_and_differ() -> None:
    one, again, other = Sinusoids(seed=1), Sinusoids(seed=1), Sinusoids(seed=2)
    assert torch.equal(one[5].support.x, again[5].support.x)
    assert torch.equal(one[5].query_y, again[5].query_y)
    assert not torch.equal(one[5].support.x, one[6].support.x)
    assert not torch.equal(one[5].support.x, other[5].support.x)
    assert torch.equal(one.on("cpu")[5].support.y, one[5].support.y)


def test_processes_share_the_tasks() -> None:
    tasks = Sinusoids(tasks=6)
    whole, parts = tasks[2], [tasks.part(2, rank, 3) for rank in range(3)]
    for rank, part in enumerate(parts):
        assert torch.equal(part.support.x, whole.support.x[rank::3])
        assert torch.equal(part.query_y, whole.query_y[rank::3])


def test_curves_pass_through_the_points() -> None:
    tasks = Sinusoids(shots=7, tasks=4)
    for t in range(4):
        at = tasks.curves(9, tasks[9].support.x[t, :, 0])[t]
        torch.testing.assert_close(at, tasks[9].support.y[t, :, 0])


@pytest.mark.parametrize("wrong", [{"shots": 0}, {"queries": 0}, {"tasks": 0}, {"seed": -1}])
def test_bad_numbers_are_named(wrong: dict[str, int]) -> None:
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=f"{name} (is )?{value}"):
        Sinusoids(**wrong)


def test_they_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Sinusoids().tasks = 3  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.slow
def test_maml_beats_pre_training() -> None:
    """The point of it all, small: after one step MAML is well ahead, pre-training is where it was."""
    errors = {
        name: sinusoids.errors(sinusoids.train(name, steps=400), tasks=100, steps=1).mean(1)
        for name in ("MAML", "pre-trained")
    }
    assert errors["MAML"][1] < 0.7 * errors["MAML"][0]
    assert errors["pre-trained"][1] > 0.75 * errors["pre-trained"][0]
    assert errors["MAML"][1] < 0.75 * errors["pre-trained"][1]


@pytest.mark.medium
@pytest.mark.parametrize("name", sinusoids.CONTESTANTS)
def test_every_contestant_learns(name: str) -> None:
    before = sinusoids.errors(sinusoids.CONTESTANTS[name].learner(), tasks=50, steps=0)
    learner = sinusoids.train(name, steps=60)
    after = sinusoids.errors(learner, tasks=50, steps=1)
    assert after.shape == (2, 50)
    assert after[1].mean() < before[0].mean()


def test_the_pre_trained_network_trains_without_inner_steps() -> None:
    """Its loss is that of the queries at θ, whatever the support."""
    learner = sinusoids.CONTESTANTS["pre-trained"].learner()
    task = Sinusoids(tasks=2)[0]
    with torch.no_grad():
        expected = (learner.model(task.query_x) - task.query_y).square().mean()
    torch.testing.assert_close(learner(task).detach(), expected)


def test_fits_are_those_of_adapted_weights_and_leave_the_learner_as_it_was() -> None:
    learner = sinusoids.CONTESTANTS["MAML"].learner()
    fit(learner, Sinusoids(), 5)
    learner.test_steps = 4
    task, x = Sinusoids(tasks=1, seed=9)[0], torch.linspace(-5, 5, 11)
    made = sinusoids.fits(learner, task, x, (0, 2))
    assert made.shape == (2, 1, 11, 1)
    assert learner.test_steps == 4
    with torch.no_grad():
        torch.testing.assert_close(made[0, 0], learner.model(x[:, None]))
        learner.test_steps = 2
        torch.testing.assert_close(made[1, 0], learner.adapted(task.support)(x[:, None]))


def test_pictures() -> None:
    tasks, x = Sinusoids(tasks=1), torch.linspace(-5, 5, 20)
    fits = {"one": torch.randn(2, 20), "two": torch.full((2, 20), torch.nan)}  # nan: it has diverged
    figure = plots.sinusoid_fits(tasks[0], tasks.curves(0, x)[0], x, fits, (0, 1))
    panels = figure.axes
    assert [axes.get_title() for axes in panels] == ["one", "two"]
    legend = panels[-1].get_legend()
    assert legend
    assert [text.get_text() for text in legend.get_texts()] == ["truth", "0 steps", "1 step", "support"]
    drawn = plots.sinusoid_errors({"one": torch.rand(3, 50), "two": torch.rand(3, 50)})
    assert len(drawn.axes[0].lines) == 2
    assert drawn.axes[0].get_yscale() == "log"
    figure.canvas.draw()  # pyright: ignore[reportUnknownMemberType]
    drawn.canvas.draw()  # pyright: ignore[reportUnknownMemberType]

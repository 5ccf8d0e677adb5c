"""Meta-Baseline against the oracle."""

import json
from functools import partial

import pytest
import torch

from quickstudy.core.blueprint import blueprint, rebuilt
from quickstudy.core.episode import Episode, Support
from quickstudy.encoders import Conv4
from quickstudy.metric import MetaBaseline
from tests.metric.oracle_meta_baseline import chen
from tests.support.episodes import of_one, random_episode, random_sizes, small_encoder

CASES = [
    pytest.param([1, 1], 1, 1, id="one-shot-one-query-one-task"),
    pytest.param([4, 1, 2], 4, 2, id="unequal-shots"),
    *(pytest.param(*random_sizes(s), id=f"random{s}") for s in range(4)),
]
same = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)


def made() -> MetaBaseline:
    torch.manual_seed(1)
    return MetaBaseline(small_encoder(), temperature=3.0).double()


def oracle(learner: MetaBaseline, e: Episode) -> tuple[torch.Tensor, torch.Tensor]:
    return chen(
        partial(of_one, learner.encoder),
        e.support.x, e.support.y, e.support.ways, e.query_x, e.query_y, learner.temperature,
    )  # fmt: skip


@pytest.mark.parametrize(("shots", "queries", "tasks"), CASES)
def test_scores_loss_and_gradients_are_the_papers(shots: list[int], queries: int, tasks: int) -> None:
    learner, e = made(), random_episode(shots, queries, tasks, seed=len(shots) + queries)
    scores, loss = oracle(learner, e)
    same(learner.predict(e.support, e.query_x), scores)
    same(learner(e), loss)
    parameters = list(learner.parameters())
    ours = torch.autograd.grad(learner(e), parameters)
    same(ours, torch.autograd.grad(loss, parameters))
    assert all(g.abs().max() > 1e-6 for g in ours)


def test_the_length_of_a_support_items_embedding_counts() -> None:
    """Means are of embeddings as they are: a long one draws the mean to itself."""
    learner = MetaBaseline(torch.nn.Flatten())
    z = torch.tensor([[[4.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]])
    scores = learner.predict(Support(z, torch.tensor([[0, 0, 1]]), 2), torch.tensor([[[1.0, 0.25]]]))
    assert scores[0, 0, 0].item() == pytest.approx(10, abs=1e-5)


def test_the_temperature_begins_at_ten_and_is_learned() -> None:
    learner = MetaBaseline(small_encoder().float())
    assert learner.temperature.item() == 10
    learner(random_episode([2, 1], 3, dtype=torch.float32)).backward()
    assert learner.temperature.grad is not None
    assert learner.temperature.grad != 0


def test_a_checkpoint_builds_it_again() -> None:
    learner = MetaBaseline(Conv4(1, 4), temperature=5.0)
    plan = json.loads(json.dumps(blueprint(learner)))
    again = rebuilt(plan, {"MetaBaseline": MetaBaseline, "Conv4": Conv4}.__getitem__)
    assert blueprint(again) == plan
    again.load_state_dict(learner.state_dict())

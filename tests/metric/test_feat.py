"""FEAT against the oracle, and what its transformer must not change."""

import json
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from quickstudy.core.blueprint import blueprint, rebuilt
from quickstudy.core.episode import Episode
from quickstudy.encoders import Conv4
from quickstudy.metric import FEAT, Prototypical
from quickstudy.metric.feat import SetTransformer
from tests.metric.oracle_feat import ye
from tests.support.episodes import of_one, random_episode, random_sizes, small_encoder

CASES = [
    pytest.param([1, 1], 1, 1, id="one-shot-one-query-one-task"),
    pytest.param([1, 1, 1, 1, 1], 5, 3, id="one-shot"),
    pytest.param([4, 1, 2], 4, 2, id="unequal-shots"),
    *(pytest.param(*random_sizes(s), id=f"random{s}") for s in range(4)),
]
same = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)


def made(seed: int = 1) -> FEAT:
    """In float64 and without dropout, with all weights other than their first values."""
    torch.manual_seed(seed)
    learner = FEAT(small_encoder(), 4, 1.5, 2.5, balance=0.7, dropout=0.0).double().eval()
    with torch.no_grad():
        for p in learner.transformer.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return learner


def oracle(learner: FEAT, e: Episode) -> tuple[Tensor, Tensor]:
    return ye(
        partial(of_one, learner.encoder), dict(learner.transformer.named_parameters()),
        e.support.x, e.support.y, e.support.ways, e.query_x, e.query_y,
        (learner.temperature, learner.auxiliary_temperature), learner.balance,
    )  # fmt: skip


@pytest.mark.parametrize(("shots", "queries", "tasks"), CASES)
def test_scores_loss_and_gradients_are_the_papers(shots: list[int], queries: int, tasks: int) -> None:
    learner = made()
    e = random_episode(shots, queries, tasks, seed=len(shots) + queries)
    scores, loss = oracle(learner, e)
    same(learner.predict(e.support, e.query_x), scores)
    same(learner(e), loss)
    parameters = list(learner.parameters())
    theirs = torch.autograd.grad(loss, parameters)
    ours = torch.autograd.grad(learner(e), parameters)
    same(ours, theirs)
    assert all(g.abs().max() > 1e-6 for g in ours)


def test_gradients_are_the_finite_differences_of_the_papers_loss() -> None:
    learner, e, step = made(2), random_episode([2, 1, 3], 4, 2), 1e-5
    learner(e).backward()
    for parameter in learner.parameters():
        assert parameter.grad is not None
        flat, gradient = parameter.detach().view(-1), parameter.grad.view(-1)
        for i in {0, len(flat) - 1}:
            start = flat[i].item()
            losses = []
            for shifted in (start + step, start - step):
                flat[i] = shifted
                losses.append(oracle(learner, e)[1].item())
            flat[i] = start
            assert gradient[i].item() == pytest.approx((losses[0] - losses[1]) / (2 * step), abs=1e-8)


def test_without_attention_and_norm_it_is_a_prototypical_network() -> None:
    learner, e = made(), random_episode([2, 3], 4, 2)
    with torch.no_grad():
        learner.transformer.output.weight.zero_()
        learner.transformer.output.bias.zero_()
    learner.transformer.norm = nn.Identity()
    expected = Prototypical(learner.encoder).predict(e.support, e.query_x)
    same(learner.predict(e.support, e.query_x), expected / learner.temperature)


def test_a_set_in_parts_is_as_each_part_alone() -> None:
    torch.manual_seed(3)
    transformer, z = SetTransformer(4).eval(), torch.randn(2, 5, 4)
    together = torch.zeros(2, 5, 5, dtype=torch.bool)
    together[:, :2, :2] = together[:, 2:, 2:] = True
    apart = torch.cat([transformer(z[:, :2]), transformer(z[:, 2:])], 1)
    torch.testing.assert_close(transformer(z, together), apart)
    assert not torch.allclose(transformer(z), apart)


def test_first_weights_are_the_authors() -> None:
    torch.manual_seed(0)
    transformer = SetTransformer(256)
    for layer in (transformer.query, transformer.key, transformer.value, transformer.output):
        assert layer.weight.std().item() == pytest.approx(256**-0.5, rel=0.02)
    assert (transformer.attention_dropout.p, transformer.dropout.p) == (0.1, 0.5)


def test_dropout_is_of_training_alone() -> None:
    learner, e = FEAT(small_encoder(), 4).double(), random_episode([2, 1], 3)
    torch.manual_seed(0)
    assert learner(e) != learner(e)
    learner.eval()
    assert learner(e) == learner(e)


def test_autocast_lowers_the_encoder_only() -> None:
    torch.manual_seed(5)
    learner = FEAT(small_encoder().float(), 4).eval()
    e = random_episode([2, 3, 1], 5, 2, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        scores, loss = learner.predict(e.support, e.query_x), learner(e)
    assert scores.dtype == loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in learner.parameters())


def test_a_checkpoint_builds_it_again() -> None:
    learner = FEAT(Conv4(1, 4), 4, 32.0, 16.0, balance=0.1, dropout=0.3)
    plan = json.loads(json.dumps(blueprint(learner)))
    again = rebuilt(plan, {"FEAT": FEAT, "Conv4": Conv4}.__getitem__)
    assert blueprint(again) == plan
    again.load_state_dict(learner.state_dict())
    assert (again.temperature, again.auxiliary_temperature, again.balance) == (32.0, 16.0, 0.1)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"temperature is 0.0, auxiliary_temperature 64.0 and balance 0.01:"):
        FEAT(nn.Flatten(), 6, temperature=0.0)
    with pytest.raises(ValueError, match=r"dropout is 1.0: it must be in 0 ≤ dropout < 1"):
        FEAT(nn.Flatten(), 6, dropout=1.0)
    e = random_episode([1, 1], 2, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"6 numbers an item and the transformer takes 5: FEAT\(…, dimens"):
        FEAT(nn.Flatten(), 5)(e)

"""Learner and embed: tasks apart from each other, whatever batch norm does."""

import copy
import inspect
from dataclasses import fields

import pytest
import torch
from torch import Tensor, nn

from quickstudy.core.episode import Episode, Support
from quickstudy.core.kernels.sizes import sizes
from quickstudy.core.learner import Learner, batch_statistics, embed, embed_together
from quickstudy.metric.prototypical import Prototypical

TASKS, ITEMS = 3, 6


def flat_encoder() -> nn.Module:
    """Two batch norms, the second of another momentum, which have seen something before."""
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3), nn.BatchNorm1d(3, momentum=0.3)
    ).double()
    encoder(torch.randn(20, 5, dtype=torch.float64) + 1)
    return encoder


def picture_encoder() -> nn.Module:
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Unflatten(1, (1, 1, 5)), nn.Conv2d(1, 2, (1, 3)), nn.BatchNorm2d(2), nn.Flatten()
    ).double()
    encoder(torch.randn(20, 5, dtype=torch.float64) + 1)
    return encoder


@pytest.fixture(params=[flat_encoder, picture_encoder])
def encoder(request: pytest.FixtureRequest) -> nn.Module:
    return request.param()


@pytest.fixture
def x() -> Tensor:
    """Tasks that differ in mean and spread, so that mixing them shows."""
    noise = torch.randn(TASKS, ITEMS, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    spread = torch.arange(1.0, TASKS + 1, dtype=torch.float64).view(-1, 1, 1)
    return noise * spread + 3 * spread


@pytest.fixture
def episode(x: Tensor) -> Episode:
    y = torch.tensor([[0, 1, 1]] * TASKS)
    return Episode(Support(x[:, :3], y, 2), x[:, 3:], torch.tensor([[0, 1, 1], [1, 1, 0], [0, 0, 1]]))


def state(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in module.named_buffers()}


def test_each_task_is_embedded_as_if_alone(encoder: nn.Module, x: Tensor) -> None:
    alone = [embed(copy.deepcopy(encoder), x[t : t + 1])[0] for t in range(TASKS)]
    torch.testing.assert_close(embed(encoder, x), torch.stack(alone), rtol=1e-12, atol=1e-12)
    plain = copy.deepcopy(encoder)(x[1])
    torch.testing.assert_close(alone[1], plain, rtol=1e-12, atol=1e-12)


def test_the_loss_is_the_mean_of_the_tasks_losses(encoder: nn.Module, episode: Episode) -> None:
    learner = Prototypical(encoder)
    alone = [copy.deepcopy(learner)(episode[t : t + 1]) for t in range(TASKS)]
    torch.testing.assert_close(learner(episode), torch.stack(alone).mean(), rtol=1e-12, atol=1e-12)


def test_the_gradient_is_the_mean_of_the_tasks_gradients(encoder: nn.Module, episode: Episode) -> None:
    learner = Prototypical(encoder)
    total = [torch.zeros_like(p) for p in learner.parameters()]
    for t in range(TASKS):
        single = copy.deepcopy(learner)
        gradients = torch.autograd.grad(single(episode[t : t + 1]), list(single.parameters()))
        for part, g in zip(total, gradients, strict=True):
            part += g / TASKS
    ours = torch.autograd.grad(learner(episode), list(learner.parameters()))
    torch.testing.assert_close(list(ours), total, rtol=1e-10, atol=1e-12)


def test_two_passes_before_one_backward(encoder: nn.Module, x: Tensor) -> None:
    """As in a method that embeds support and queries apart."""
    (embed(encoder, x).square().mean() + embed(encoder, x + 1).square().mean()).backward()


def test_running_statistics_move_by_the_mean_of_the_tasks_moves(encoder: nn.Module, x: Tensor) -> None:
    start = state(encoder)
    moves = {k: torch.zeros_like(v, dtype=torch.float64) for k, v in start.items()}
    for t in range(TASKS):
        single = copy.deepcopy(encoder)
        embed(single, x[t : t + 1])
        for k, v in single.named_buffers():
            moves[k] += (v - start[k]) / TASKS
    embed(encoder, x)
    for k, v in encoder.named_buffers():
        if v.is_floating_point():
            assert (v - start[k]).abs().max() > 0.01
            torch.testing.assert_close(v, start[k] + moves[k], rtol=1e-12, atol=1e-12)
        else:
            assert v.dtype == torch.int64
            assert 1 <= v - start[k] <= TASKS


def test_running_statistics_of_a_cumulative_average() -> None:
    torch.manual_seed(0)
    encoder = nn.BatchNorm1d(5, momentum=None).double()
    encoder(torch.randn(8, 5, dtype=torch.float64))
    x = torch.randn(TASKS, ITEMS, 5, dtype=torch.float64)
    start, after = state(encoder), []
    for t in range(TASKS):
        single = copy.deepcopy(encoder)
        embed(single, x[t : t + 1])
        after.append(single.running_mean)
    embed(encoder, x)
    expected = start["running_mean"] + torch.stack(after).sub(start["running_mean"]).mean(0)
    torch.testing.assert_close(encoder.running_mean, expected, rtol=1e-12, atol=1e-12)


def test_batch_norm_without_running_statistics_keeps_tasks_apart_in_eval(x: Tensor) -> None:
    encoder = nn.BatchNorm1d(5, track_running_stats=False).double().eval()
    alone = torch.cat([embed(encoder, x[t : t + 1]) for t in range(TASKS)])
    torch.testing.assert_close(embed(encoder, x), alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_an_encoder_without_batch_norm_sees_all_tasks_at_once(x: Tensor, training: bool) -> None:
    encoder = nn.Linear(5, 3).double().train(training)
    calls: list[int] = []
    encoder.register_forward_hook(lambda m, args, out: calls.append(len(args[0])))
    z = embed(encoder, x)
    assert calls == [TASKS * ITEMS]
    torch.testing.assert_close(z, encoder(x), rtol=1e-12, atol=1e-12)


def test_evaluation_changes_nothing(encoder: nn.Module, x: Tensor) -> None:
    encoder.eval()
    before = state(encoder)
    embed(encoder, x)
    assert all(torch.equal(v, before[k]) for k, v in encoder.named_buffers())


def test_batch_statistics_are_those_of_training_per_task(encoder: nn.Module, x: Tensor) -> None:
    expected = torch.stack([copy.deepcopy(encoder).train()(task) for task in x])
    encoder.eval()
    before = state(encoder)
    with batch_statistics(encoder):
        z = embed(encoder, x)
    torch.testing.assert_close(z, expected, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(v, before[k]) for k, v in encoder.named_buffers())
    assert not torch.allclose(embed(encoder, x), expected)


def modes(module: nn.Module) -> list[tuple[bool, bool | None]]:
    return [(m.training, getattr(m, "track_running_stats", None)) for m in module.modules()]


@pytest.mark.parametrize("training", [True, False])
def test_batch_statistics_restores_the_modes(training: bool) -> None:
    """Also of a norm that never tracked; one that is frozen is left alone."""
    encoder = nn.Sequential(
        nn.BatchNorm1d(5), nn.BatchNorm1d(5), nn.BatchNorm1d(5, track_running_stats=False)
    )
    encoder.train(training)
    encoder[0].eval()
    before = modes(encoder)
    with batch_statistics(encoder):
        assert all(m.training and not m.track_running_stats for m in encoder[1:])
        assert training == (not encoder[0].training)  # in evaluation mode within what is in training mode
    assert modes(encoder) == before


def test_batch_statistics_restores_the_modes_after_an_exception(encoder: nn.Module) -> None:
    encoder.eval()
    before = modes(encoder)
    with pytest.raises(KeyboardInterrupt), batch_statistics(encoder):
        raise KeyboardInterrupt
    assert modes(encoder) == before


def test_batch_statistics_leaves_dropout_off(x: Tensor) -> None:
    encoder = nn.Sequential(nn.BatchNorm1d(5, affine=False), nn.Dropout(0.5)).double().eval()
    with batch_statistics(encoder):
        z = embed(encoder, x)
    assert (z != 0).all()
    torch.testing.assert_close(z.mean(1), torch.zeros(TASKS, 5, dtype=torch.float64), rtol=0, atol=1e-12)


def test_inductive_scores_do_not_depend_on_the_other_queries(encoder: nn.Module, episode: Episode) -> None:
    learner = Prototypical(encoder).eval()
    others = episode.query_x.clone()
    others[:, 1:] = others[:, 1:].flip(1) * 7 - 2
    scores = learner.predict(episode.support, episode.query_x)
    torch.testing.assert_close(
        learner.predict(episode.support, others)[:, 0], scores[:, 0], rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(
        learner.predict(episode.support, episode.query_x[:, :1]), scores[:, :1], rtol=1e-12, atol=1e-12
    )
    with batch_statistics(learner):
        first = learner.predict(episode.support, episode.query_x)[:, 0]
        second = learner.predict(episode.support, others)[:, 0]
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("transductive", [True, False])
def test_scores_do_not_depend_on_the_other_tasks(
    encoder: nn.Module, episode: Episode, transductive: bool
) -> None:
    learner = Prototypical(encoder).eval()
    if transductive:
        with batch_statistics(learner):
            scores = learner.predict(episode.support, episode.query_x)
            alone = learner.predict(episode[1:2].support, episode[1:2].query_x)
    else:
        scores = learner.predict(episode.support, episode.query_x)
        alone = learner.predict(episode[1:2].support, episode[1:2].query_x)
    torch.testing.assert_close(alone, scores[1:2], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", [Learner.predict, Prototypical.predict])
def test_predict_cannot_see_query_labels(method: object) -> None:
    assert list(inspect.signature(method).parameters) == ["self", "support", "query_x"]
    assert [f.name for f in fields(Support)] == ["x", "y", "ways", "unlabelled", "names"]


def test_the_meta_loss_is_the_mean_cross_entropy(episode: Episode) -> None:
    scores = torch.randn(TASKS, 3, 2, generator=torch.Generator().manual_seed(0))

    class Fixed(Learner):
        def predict(self, support: Support, query_x: Tensor) -> Tensor:
            return scores

    probabilities = scores.exp() / scores.exp().sum(-1, keepdim=True)
    own = [probabilities[t, q, episode.query_y[t, q]].log() for t in range(TASKS) for q in range(3)]
    torch.testing.assert_close(Fixed()(episode), -torch.stack(own).mean())


def test_chunks_change_nothing(encoder: nn.Module, x: Tensor) -> None:
    encoder.eval()
    calls: list[int] = []
    with torch.no_grad():
        whole = embed(encoder, x)
        encoder[-1].register_forward_hook(lambda m, args, out: calls.append(len(args[0])))
        with sizes(encoded_items=7):
            torch.testing.assert_close(embed(encoder, x), whole, rtol=1e-12, atol=1e-12)
    assert calls == [7, 7, 4]


def test_batch_statistics_are_never_those_of_a_chunk(encoder: nn.Module, x: Tensor) -> None:
    encoder.eval()
    with torch.no_grad(), batch_statistics(encoder):
        for part in (x, x[:1]):
            whole = embed(encoder, part)
            with sizes(encoded_items=2):
                torch.testing.assert_close(embed(encoder, part), whole, rtol=1e-12, atol=1e-12)


def test_half_precision_embeddings_come_out_in_single() -> None:
    x = torch.ones(1, 2, 5)
    assert embed(nn.Linear(5, 3).bfloat16(), x.bfloat16()).dtype == torch.float32
    assert embed(nn.Linear(5, 3), x).dtype == torch.float32
    assert embed(nn.Linear(5, 3).double(), x.double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("encoder", "shape"),
    [
        pytest.param(nn.Identity(), (2, 3, 1, 4, 4), id="4-d"),
        pytest.param(nn.Flatten(0), (2, 3, 5), id="1-d"),
        pytest.param(nn.Unflatten(1, (1, 5)), (2, 3, 5), id="3-d"),
    ],
)
def test_a_wrong_output_shape_is_named_with_the_fix(encoder: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"the encoder made \[.*\] of \[6, .*end it with nn\.Flatten\(\)"):
        embed(encoder, torch.zeros(shape))


def test_features_that_are_embeddings_already_are_not_copied() -> None:
    shots, queries = torch.rand(2, 3, 5), torch.rand(2, 4, 5)
    found = embed_together(nn.Identity(), shots, queries)
    assert found[0] is shots
    assert found[1] is queries
    with pytest.raises(ValueError, match=r"it must give \[B, D\]"):
        embed_together(nn.Identity(), torch.rand(2, 3, 1, 4, 4))

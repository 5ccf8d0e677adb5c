"""Semi-supervised prototypical networks against the paper's equations and against figures by hand."""

from functools import partial
from itertools import product
from math import exp, log

import pytest
import torch
from torch import Tensor, nn

from quickstudy.core.episode import Episode, Support
from quickstudy.metric.prototypical import Prototypical
from quickstudy.metric.semi_supervised import SemiPrototypical
from tests.metric.oracle_semi_supervised import ren_cluster, ren_loss, ren_masked, ren_soft, ren_task
from tests.support.episodes import ITEM, assert_finite, of_one, random_episode, random_sizes, small_encoder
from tests.support.oracles import Weights

CASES = [
    pytest.param([1, 1], 1, 1, 1, id="one-of-everything"),
    pytest.param([1, 1], 1, 1, 5, id="one-shot-one-query-one-task"),
    pytest.param([4, 1, 2], 4, 2, 6, id="unequal-shots"),
    pytest.param([2, 1], 3, 3, 2, id="two-unlabelled"),
    pytest.param([2, 1, 1, 3], 3, 2, 1, id="one-unlabelled"),
    *(pytest.param(*random_sizes(s), 3 + s, id=f"random{s}") for s in range(3)),
]
of_each = pytest.mark.parametrize("refinement", ["soft", "cluster", "masked"])


def made(encoder: nn.Module, refinement: str, steps: int = 1) -> SemiPrototypical:
    """A learner whose radius takes some of the small encoder's embeddings, and whose mask masks some."""
    torch.manual_seed(1)
    learner = SemiPrototypical(encoder, refinement, steps=steps)
    with torch.no_grad():
        if learner.log_radius is not None:
            learner.log_radius.fill_(-0.3)
        if learner.mask is not None:
            for p in learner.mask.parameters():
                p.normal_(std=0.2)
    return learner


def own_parameters(learner: SemiPrototypical) -> dict[str, nn.Parameter]:
    """Those that are not the encoder's."""
    return {name: p for name, p in learner.named_parameters() if not name.startswith("encoder.")}


def oracle(learner: SemiPrototypical, refinement: str, steps: int, e: Episode) -> tuple[Tensor, Tensor]:
    shares = ren_soft
    if refinement == "cluster":
        shares = partial(ren_cluster, learner.log_radius)
    elif refinement == "masked":
        weights: Weights = dict(learner.mask.named_parameters())
        shares = partial(ren_masked, weights)
    s = e.support
    scores = torch.stack([
        ren_task(
            partial(of_one, learner.encoder), shares, steps,
            s.x[t], s.y[t], s.ways, s.unlabelled[t], e.query_x[t],
        )
        for t in range(e.tasks)
    ])  # fmt: skip
    return scores, ren_loss(scores, e.query_y)


@pytest.mark.medium
@of_each
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize(("shots", "queries", "tasks", "unlabelled"), CASES)
def test_scores_loss_and_gradients_are_the_papers(
    shots: list[int], queries: int, tasks: int, unlabelled: int, steps: int, refinement: str
) -> None:
    torch.manual_seed(2)
    learner = made(small_encoder(), refinement, steps).double()
    e = random_episode(shots, queries, tasks, seed=len(shots) + queries, unlabelled=unlabelled)
    expected, loss = oracle(learner, refinement, steps, e)
    scores = learner.predict(e.support, e.query_x)
    assert scores.shape == (tasks, queries, len(shots))
    torch.testing.assert_close(scores, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(learner(e), loss, rtol=1e-9, atol=1e-9)
    names, parameters = zip(*learner.named_parameters(), strict=True)
    ours = torch.autograd.grad(learner(e), parameters)
    torch.testing.assert_close(ours, torch.autograd.grad(loss, parameters), rtol=1e-7, atol=1e-9)
    for name, g in zip(names, ours, strict=True):
        # moving all embeddings changes no distance, but to the origin
        assert name == "encoder.3.bias" or g.abs().max() > 1e-6


@pytest.mark.parametrize("refinement", ["cluster", "masked"])
def test_the_radius_and_the_mask_learn_by_finite_differences(refinement: str) -> None:
    learner = made(small_encoder(), refinement).double()
    e = random_episode([2, 1, 3], 4, 2, unlabelled=5)
    learner(e).backward()
    step = 1e-5
    for p in own_parameters(learner).values():
        assert p.grad is not None
        flat, gradient = p.detach().view(-1), p.grad.view(-1)
        for i in (0, len(flat) // 2, len(flat) - 1):
            start = flat[i].item()
            losses = []
            for shifted in (start + step, start - step):
                flat[i] = shifted
                losses.append(learner(e).item())
            flat[i] = start
            assert gradient[i].item() == pytest.approx((losses[0] - losses[1]) / (2 * step), abs=1e-8)


def test_each_refinement_has_its_own_parameters_only() -> None:
    soft, cluster, masked = (SemiPrototypical(nn.Flatten(), r) for r in ("soft", "cluster", "masked"))
    assert own_parameters(soft) == {}
    assert soft.log_radius is None
    assert soft.mask is None
    assert list(own_parameters(cluster)) == ["log_radius"]
    assert cluster.log_radius is not None
    assert cluster.log_radius.item() == pytest.approx(log(100))
    assert cluster.mask is None
    assert masked.log_radius is None
    assert {name: list(p.shape) for name, p in own_parameters(masked).items()} == {
        "mask.0.weight": [20, 5],
        "mask.0.bias": [20],
        "mask.2.weight": [2, 20],
        "mask.2.bias": [2],
    }


@of_each
@pytest.mark.parametrize("steps", [1, 3])
def test_without_unlabelled_items_it_is_a_prototypical_network(refinement: str, steps: int) -> None:
    learner = made(small_encoder(), refinement, steps).double()
    plain = Prototypical(learner.encoder)
    e = random_episode([2, 3, 1], 4, 2)
    torch.testing.assert_close(learner.predict(e.support, e.query_x), plain.predict(e.support, e.query_x))
    learner(e).backward()
    expected = torch.autograd.grad(plain(e), list(plain.parameters()))
    torch.testing.assert_close(tuple(p.grad for p in learner.encoder.parameters()), expected)
    for p in own_parameters(learner).values():
        assert p.grad is None or not p.grad.any()


def by_hand(learner: SemiPrototypical, classes: Tensor, unlabelled: Tensor, prototypes: Tensor) -> Tensor:
    """Distances of expected prototypes to the learner's, one support item a class, encoder nn.Flatten()."""
    support = Support(classes[None], torch.arange(len(classes))[None], len(classes), unlabelled[None])
    return (-learner.predict(support, prototypes[None])[0].diagonal()).sqrt()


@pytest.mark.parametrize("steps", [1, 2])
def test_an_item_in_the_middle_counts_half_in_each_class(steps: int) -> None:
    """p = 0 and 4, item 2: z = ½, p̃ = (0 + ½·2) / (1 + ½) = 2/3 and (4 + ½·2) / (1 + ½) = 10/3; so again."""
    learner = SemiPrototypical(nn.Flatten(), "soft", steps=steps)
    x, u = torch.tensor([[0.0], [4.0]]), torch.tensor([[2.0]])
    assert by_hand(learner, x, u, torch.tensor([[2 / 3], [10 / 3]])).max() < 1e-3


def test_an_item_near_a_class_pulls_its_prototype() -> None:
    """p = 0 and 2, item 0.75: d² = 9/16 and 25/16, so z = 1/(1 + e⁻¹) and e⁻¹/(1 + e⁻¹)."""
    near, far = 1 / (1 + exp(-1)), exp(-1) / (1 + exp(-1))
    x, u = torch.tensor([[0.0], [2.0]]), torch.tensor([[0.75]])
    expected = torch.tensor([[0.75 * near / (1 + near)], [(2 + 0.75 * far) / (1 + far)]])
    assert by_hand(SemiPrototypical(nn.Flatten(), "soft"), x, u, expected).max() < 1e-3


def test_a_distractor_drags_the_prototypes_unless_a_cluster_or_the_mask_takes_it() -> None:
    """Classes at (10, 0) and (0, 10), an item of the first at (10, 1), a distractor at (30, 30).

    Soft: the distractor's d² to both classes is 1300, so it counts half in each, the other item one in the
    first (181 − 1 apart): p̃ = ((10, 0) + (10, 1) + (15, 15)) / 2.5 and ((0, 10) + (15, 15)) / 1.5.

    Cluster: with r = 100 the distractor's logit there is −1800/20000 − log r against −650, and the other
    item's −101/20000 − log r against −½. With r = 0.1 the origin is too far for both: as soft k-means.

    Masked: d̃ is 1/650.5 and 1300/650.5 in the first class, 181/740.5 and 1300/740.5 in the second. With b =
    0 and a = log 50 the mask is 1 where d̃ is below 1, and 0 where above.
    """
    x = torch.tensor([[10.0, 0.0], [0.0, 10.0]])
    u = torch.tensor([[10.0, 1.0], [30.0, 30.0]])
    dragged = torch.tensor([[35 / 2.5, 16 / 2.5], [15 / 1.5, 25 / 1.5]])
    soft, cluster, masked = (SemiPrototypical(nn.Flatten(), r) for r in ("soft", "cluster", "masked"))
    assert by_hand(soft, x, u, dragged).max() < 1e-2

    z = 1 / (1 + exp(0.5 - 101 / 20000 - log(100)))
    assert by_hand(cluster, x, u, torch.tensor([[10.0, z / (1 + z)], [0.0, 10.0]])).max() < 1e-2
    assert cluster.log_radius is not None
    assert masked.mask is not None
    with torch.no_grad():
        cluster.log_radius.fill_(log(0.1))
        masked.mask[2].weight.zero_()
        masked.mask[2].bias.copy_(torch.tensor([0.0, log(50)]))
    assert by_hand(cluster, x, u, dragged).max() < 1e-2
    assert by_hand(masked, x, u, torch.tensor([[10.0, 0.5], [0.0, 10.0]])).max() < 1e-2


def test_the_clusters_own_items_count_in_no_class() -> None:
    """At the origin, r = 1: the logit is 0 there, −50 in both classes; soft k-means has it half in each."""
    x, u = torch.tensor([[10.0, 0.0], [0.0, 10.0]]), torch.zeros(1, 2)
    assert by_hand(SemiPrototypical(nn.Flatten(), "soft"), x, u, x / 1.5).max() < 1e-2
    cluster = SemiPrototypical(nn.Flatten(), "cluster")
    assert cluster.log_radius is not None
    with torch.no_grad():
        cluster.log_radius.zero_()
    assert by_hand(cluster, x, u, x).max() < 1e-2


@of_each
def test_the_order_of_the_items_does_not_matter(refinement: str) -> None:
    learner, e = made(small_encoder(), refinement, 2).double(), random_episode([3, 1, 2], 4, 2, unlabelled=6)
    s, order = e.support, torch.randperm(6, generator=torch.Generator().manual_seed(1))
    expected = learner.predict(s, e.query_x)
    for shuffled in (
        Support(s.x, s.y, 3, s.unlabelled[:, order]),
        Support(s.x[:, order], s.y[:, order], 3, s.unlabelled),
    ):
        torch.testing.assert_close(learner.predict(shuffled, e.query_x), expected, rtol=1e-9, atol=1e-9)


@of_each
def test_renaming_the_classes_permutes_the_scores(refinement: str) -> None:
    learner = made(small_encoder(), refinement, 2).double()
    e = random_episode([3, 1, 2, 1], 5, 2, unlabelled=6)
    new_name = torch.tensor([2, 0, 3, 1])
    renamed = Support(e.support.x, new_name[e.support.y], 4, e.support.unlabelled)
    torch.testing.assert_close(
        learner.predict(renamed, e.query_x)[..., new_name],
        learner.predict(e.support, e.query_x),
        rtol=1e-9, atol=1e-9,
    )  # fmt: skip


@of_each
def test_a_task_does_not_see_the_unlabelled_items_of_another(refinement: str) -> None:
    learner, e = made(small_encoder(), refinement).double(), random_episode([2, 1], 3, 3, unlabelled=4)
    each = [learner.predict(e[t : t + 1].support, e[t : t + 1].query_x) for t in range(3)]
    torch.testing.assert_close(learner.predict(e.support, e.query_x), torch.cat(each), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(learner(e), sum(learner(e[t : t + 1]) for t in range(3)) / 3)


@of_each
def test_autocast_lowers_the_encoder_only(refinement: str) -> None:
    learner = made(nn.Flatten(), refinement)
    e = random_episode([2, 1, 2], 4, 2, dtype=torch.float32, unlabelled=5)
    exact = learner.predict(e.support, e.query_x)
    with torch.autocast("cpu", torch.bfloat16):
        scores = learner.predict(e.support, e.query_x)
    assert scores.dtype == torch.float32
    # bfloat16 arithmetic after the encoder would be off by up to a percent
    torch.testing.assert_close(scores, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@of_each
@pytest.mark.parametrize("low", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("fresh", [False, True], ids=["any-parameters", "first-parameters"])
def test_extremes_stay_finite(refinement: str, low: bool, fresh: bool) -> None:
    """All items equal, zero, or far away from the others."""
    constants = [0.0, 1.0, 1e-20, 1e4, -1e4]
    y = torch.tensor([[0, 0, 1, 2]])
    for labelled, others, queries, items in product(constants, constants, (0.0, 1e4), (1, 3)):
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 4))
        learner = SemiPrototypical(encoder, refinement, steps=2) if fresh else made(encoder, refinement, 2)
        support = Support(torch.full((1, 4, *ITEM), labelled), y, 3, torch.full((1, items, *ITEM), others))
        e = Episode(support, torch.full((1, 3, *ITEM), queries), torch.tensor([[0, 1, 2]]))
        assert_finite(learner, e, low)


@of_each
@pytest.mark.parametrize("low", [False, True], ids=["float32", "bfloat16"])
def test_zero_embeddings_and_one_item_far_from_the_rest_stay_finite(refinement: str, low: bool) -> None:
    for far in (0.0, 1e4):
        learner = made(nn.Sequential(nn.Flatten(), nn.Linear(6, 4, bias=False)), refinement)
        others = torch.zeros(1, 5, *ITEM)
        others[:, 2] = far
        support = Support(torch.zeros(1, 2, *ITEM), torch.tensor([[0, 1]]), 2, others)
        e = Episode(support, torch.zeros(1, 2, *ITEM), torch.tensor([[0, 1]]))
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss = learner(e)
        assert loss.item() == pytest.approx(log(2), abs=1e-3)
        loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in learner.parameters())


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ValueError, match="hard"):
        SemiPrototypical(nn.Flatten(), "hard")  # pyright: ignore[reportArgumentType]
    for steps in (0, -1):
        with pytest.raises(ValueError, match=str(steps)):
            SemiPrototypical(nn.Flatten(), "soft", steps=steps)

"""PlainClassifier and its heads, against the oracle, and where they are used."""

import time
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from quickstudy.core import checkpoint
from quickstudy.core.episode import LabelledBatch, Support
from quickstudy.core.learner import batch_statistics
from quickstudy.data.batches import LabelledBatches
from quickstudy.data.episodes import Episodes
from quickstudy.data.setting import Setting
from quickstudy.encoders.conv4 import Conv4
from quickstudy.metric.heads import logistic_regression, nearest_prototype
from quickstudy.metric.plain import PlainClassifier
from quickstudy.recipes.weights import load_learner
from quickstudy.training.evaluate import evaluate
from quickstudy.training.fit import fit
from tests.metric import oracle_plain
from tests.support.episodes import ITEM, random_episode, random_sizes, small_encoder
from tests.support.pools import noisy_pool
from tests.training.test_fit import same_result


def small(**options) -> PlainClassifier:
    torch.manual_seed(0)
    return PlainClassifier(small_encoder(), 7, 4, **options).double()


def random_batch(items: int = 9, classes: int = 7) -> LabelledBatch:
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(items, *ITEM, generator=rng, dtype=torch.float64)
    return LabelledBatch(x, torch.randint(classes, (items,), generator=rng), classes)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_oracles(smoothing: float) -> None:
    learner, batch = small(label_smoothing=smoothing), random_batch()
    loss = learner(batch)
    expected = oracle_plain.loss(learner.encoder, learner.linear, batch.x, batch.y, smoothing)
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    logits = learner.linear(learner.encoder(batch.x))
    torch.testing.assert_close(loss, F.cross_entropy(logits, batch.y, label_smoothing=smoothing))
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learner.parameters())


@pytest.mark.parametrize("seed", range(5))
def test_the_scores_are_the_oracles(seed: int) -> None:
    shots, queries, tasks = random_sizes(seed)
    e, learner = random_episode(shots, queries, tasks, seed), small()
    scores = learner.predict(e.support, e.query_x)
    for t in range(tasks):
        expected = oracle_plain.log_probabilities(
            learner.encoder, e.support.x[t], e.support.y[t], e.query_x[t]
        )
        torch.testing.assert_close(scores[t], expected, rtol=0, atol=1e-10)


def test_features_are_of_unit_length_for_any_head() -> None:
    given = []

    def head(shots, y, ways, queries):
        given.extend([shots, queries])
        return nearest_prototype(shots, y, ways, queries)

    e, learner = random_episode([2, 1, 3], 4, 2), small(head=head)
    scores = learner.predict(e.support, e.query_x)
    for z in given:
        torch.testing.assert_close(z.norm(dim=-1), torch.ones(z.shape[:2]).double())
    for t in range(2):
        for q in range(4):
            for k in range(3):
                mean = given[0][t][e.support.y[t] == k].mean(0)
                distance = (given[1][t, q] - mean).square().sum()
                torch.testing.assert_close(scores[t, q, k], -distance)


@pytest.mark.parametrize("ways", [2, 3])
def test_scores_are_finite_however_far_apart_the_classes_are(ways: int) -> None:
    z = 1e6 * torch.eye(ways).repeat(2, 1)[None]
    y = torch.arange(ways).repeat(2)[None]
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        scores = logistic_regression(z, y, ways, z, inverse_penalty=1e3)
    assert scores.isfinite().all()
    assert scores.dtype == z.dtype
    assert torch.equal(scores.argmax(-1), y)
    torch.testing.assert_close(scores.exp().sum(-1), torch.ones(1, 2 * ways))


def test_order_and_names_of_the_classes_do_not_matter() -> None:
    learner, e = small(), random_episode([3, 1, 2, 1], 5, 2)
    expected = learner.predict(e.support, e.query_x)
    order, names = torch.randperm(7, generator=torch.Generator().manual_seed(1)), torch.tensor([2, 0, 3, 1])
    shuffled = Support(e.support.x[:, order], names[e.support.y[:, order]], 4)
    scores = learner.predict(shuffled, e.query_x)[..., names]
    torch.testing.assert_close(scores, expected, rtol=0, atol=2e-3)  # as near as L-BFGS comes


def test_batch_norm_sees_a_task_as_the_mode_says() -> None:
    torch.manual_seed(0)
    learner = PlainClassifier(Conv4(1, 8), 5, 8).eval()
    e = Episodes(noisy_pool(), Setting(5, 1, 3), 2)[0]
    alone = learner.predict(e.support, e.query_x[:, :1])
    torch.testing.assert_close(alone, learner.predict(e.support, e.query_x)[:, :1], atol=1e-4, rtol=0)
    with batch_statistics(learner):
        together = learner.predict(e.support, e.query_x)
        each = [learner.predict(e[t : t + 1].support, e.query_x[t : t + 1]) for t in range(2)]
    torch.testing.assert_close(together, torch.cat(each))
    assert not torch.allclose(together[:, :1], alone)


def test_validation_is_fast_enough() -> None:
    rng = torch.Generator().manual_seed(0)
    z = F.normalize(torch.randn(20, 80, 64, generator=rng), dim=-1)
    y = torch.arange(5).expand(20, 5)
    began = time.perf_counter()
    logistic_regression(z[:, :5], y, 5, z[:, 5:])
    assert time.perf_counter() - began < 5


def image_learner(head=logistic_regression) -> PlainClassifier:
    torch.manual_seed(0)
    return PlainClassifier(nn.Sequential(Conv4(1, 8)), 12, 8, label_smoothing=0.1, head=head)


def image_fit(learner: PlainClassifier, out: Path, **options):
    pool = noisy_pool()
    return fit(
        learner,
        LabelledBatches(pool, 20, seed=4),
        8,
        optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        validation=Episodes(pool, Setting(5, 1, 3), 4, 1),
        validation_episodes=8,
        every=2,
        out=out,
        **options,
    )


def test_a_training_that_was_stopped_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    whole, parts = image_learner(), image_learner()
    image_fit(whole, tmp_path / "whole")

    class StopError(Exception):
        pass

    def stop(step, report):
        if step == 4:
            raise StopError

    with pytest.raises(StopError):
        image_fit(parts, tmp_path / "parts", report=stop)
    image_fit(parts, tmp_path / "parts", resume=True)
    same_result(tmp_path / "whole", tmp_path / "parts")
    manifest = checkpoint.load(tmp_path / "whole" / "best.safetensors")[1]
    assert manifest["fit"]["train"]["batch_size"] == 20
    assert len(manifest["classes"]["train"]) == 12
    with pytest.raises(ValueError, match=r"holds a training run with train.batch_size 20, not 21"):
        fit(
            image_learner(), LabelledBatches(noisy_pool(), 21, seed=4), 8, out=tmp_path / "parts", resume=True
        )


def test_it_learns_and_is_loaded_again_with_its_head(tmp_path: Path) -> None:
    head = partial(logistic_regression, inverse_penalty=10.0)
    learner, test = image_learner(head), Episodes(noisy_pool(seed=1), Setting(5, 1, 3), 4, 9)
    before = evaluate(learner, test, 40).accuracy
    pool = noisy_pool(12, seed=2)
    fit(learner, LabelledBatches(pool, 24), 40, optimizer=partial(torch.optim.Adam, lr=1e-2), out=tmp_path)
    after = evaluate(learner, test, 40)
    assert after.accuracy > before + 0.1
    loaded, _ = load_learner(tmp_path)
    assert isinstance(loaded, PlainClassifier)
    assert loaded.head.keywords == {"inverse_penalty": 10.0}
    assert evaluate(loaded, test, 40) == after


def test_what_does_not_fit_is_refused() -> None:
    learner, e = small(), random_episode([1, 1], 2)
    with pytest.raises(ValueError, match=r"can't learn from an Episode: train it on LabelledBatches"):
        learner(e)
    with pytest.raises(
        ValueError, match="tells 7 classes apart, but 9 are trained on: build it with classes=9"
    ):
        learner(random_batch(classes=9))
    with pytest.raises(ValueError, match=r"takes 3 numbers an item: PlainClassifier\(…, dimensions=4\)"):
        PlainClassifier(small_encoder(), 7, 3).double()(random_batch())
    with pytest.raises(ValueError, match=r"classes is 1 and label_smoothing 0.0: there must be two classes"):
        PlainClassifier(small_encoder(), 1, 4)
    with pytest.raises(ValueError, match=r"y must be \[B\] where x is \[B, ...\]"):
        LabelledBatch(torch.zeros(3, 2), torch.zeros(2).long(), 4)
    with pytest.raises(ValueError, match="batch label 4 is outside 0 … 3"):
        LabelledBatch(torch.zeros(2, 2), torch.tensor([0, 4]), 4)

"""The encoders of recognition; WCCN against a literal covariance."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from quickstudy.data.pool import ClassPool
from quickstudy.encoders import TDNN, Mirrored, ResNet
from quickstudy.learners.supervised_contrastive import SupervisedContrastive
from quickstudy.wccn import WCCN, whiten


@pytest.mark.parametrize("shape", [(2, 1, 64, 64), (3, 1, 40, 101), (2, 1, 17, 31)])
@pytest.mark.parametrize("grid", [(1, 1), (4, 4), (1, 6)])
def test_the_residual_network_takes_any_size(shape: tuple[int, ...], grid: tuple[int, int]) -> None:
    net = ResNet(1, (4, 8, 8), dimensions=5, grid=grid)
    z = net(torch.rand(shape))
    assert z.shape == (shape[0], 5)
    z.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_the_residual_network_names_a_wrong_shape() -> None:
    with pytest.raises(ValueError, match=r"ResNet takes \[B, 3, H, W\]"):
        ResNet(3, (4, 8))(torch.rand(2, 1, 32, 32))


def literal_tdnn(net: TDNN, x: np.ndarray) -> np.ndarray:
    """[B, bands, frames] → [B, D], frame by frame, with running statistics."""

    def normed(norm: nn.BatchNorm1d, y: np.ndarray) -> np.ndarray:
        mean, variance, weight, bias = (
            part.detach().numpy().reshape(-1, *[1] * (y.ndim - 2))
            for part in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        return (y - mean) / np.sqrt(variance + norm.eps) * weight + bias

    def convolved(conv: nn.Conv1d, y: np.ndarray) -> np.ndarray:
        weight, step = conv.weight.detach().numpy(), conv.dilation[0]
        out = np.zeros((len(y), len(weight), y.shape[2]))
        for t in range(y.shape[2]):
            for k in range(weight.shape[2]):
                at = t + (k - weight.shape[2] // 2) * step
                if 0 <= at < y.shape[2]:
                    out[:, :, t] += y[:, :, at] @ weight[:, :, k].T
        return out

    h = np.maximum(normed(net.norms[0], convolved(net.convs[0], normed(net.norm, x))), 0)
    for conv, norm in zip(net.convs[1:], net.norms[1:], strict=True):
        h = h + np.maximum(normed(norm, convolved(conv, h)), 0)
    h = np.maximum(normed(net.wide_norm, convolved(net.wide, h)), 0)
    low = np.sort(x, 2)[:, :, math.ceil(0.08 * x.shape[2]) - 1]
    deviation = [np.sqrt(y.var(2) + 1e-4) for y in (h, x)]
    z = np.concatenate([h.mean(2), deviation[0], x.mean(2), deviation[1], low], 1)
    return normed(net.last_norm, normed(net.statistics_norm, z) @ net.last.weight.detach().numpy().T)


@pytest.mark.parametrize(("layers", "frames"), [(1, 5), (3, 23), (4, 60)])
def test_the_time_delay_network_is_the_literal_one(layers: int, frames: int) -> None:
    torch.manual_seed(0)
    net = TDNN(6, 4, layers, 3).double()
    for _ in range(20):  # so that running statistics are some
        net(torch.randn(8, 1, 6, frames).double() * 3 + 1)
    x = torch.randn(5, 1, 6, frames).double()
    np.testing.assert_allclose(net.eval()(x).detach().numpy(), literal_tdnn(net, x[:, 0].numpy()))


def test_the_time_delay_network_learns_in_every_part_and_names_a_wrong_shape() -> None:
    net = TDNN(6, 4, dimensions=3)
    net(torch.randn(4, 1, 6, 20)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters() if p.ndim > 1)
    for shape in ((4, 1, 5, 20), (4, 2, 6, 20), (4, 6, 20)):
        with pytest.raises(ValueError, match=r"TDNN takes spectrograms \[B, 1, 6, frames\]"):
            net(torch.randn(shape))


def test_mirrored_embeds_a_picture_as_its_mirror_image_once_trained() -> None:
    torch.manual_seed(0)
    net, x = Mirrored(ResNet(1, (4, 8), dimensions=5)), torch.rand(6, 1, 32, 32)
    net.eval()
    torch.testing.assert_close(net(x), net(x.flip(3)))
    assert not torch.allclose(net.encoder(x), net.encoder(x.flip(3)))
    net.train()
    torch.testing.assert_close(net(x), net.encoder(x))


def literal_covariance(z: np.ndarray, y: np.ndarray, shrinkage: float) -> np.ndarray:
    """Within classes, item by item: what distances are to be measured by."""
    d, classes = z.shape[1], sorted({*y.tolist()})
    within = np.zeros((d, d))
    for k in classes:
        own = [row for row, of in zip(z, y, strict=True) if of == k]
        middle = sum(own) / len(own)
        for row in own:
            within += np.outer(row - middle, row - middle)
    n = len(z) - len(classes)
    within /= n
    return within + (shrinkage + d / n) * np.trace(within) / d * np.eye(d)


@pytest.mark.parametrize(("shrinkage", "centred"), [(0.0, False), (0.3, True), (5.0, False)])
def test_wccn_measures_by_the_covariance_within_classes(shrinkage: float, centred: bool) -> None:
    rng = np.random.default_rng(3)
    y = rng.permutation(np.repeat([7, 2, 40, 5], [9, 12, 1, 8]))
    z = rng.normal(size=(50, 4))[y] + rng.normal(size=(30, 4)) @ rng.normal(size=(4, 4))
    net = WCCN(nn.Identity(), 4, shrinkage, centred).double()
    probes = torch.from_numpy(rng.normal(size=(6, 4)))
    assert torch.equal(net.eval()(probes), probes), "nothing is measured yet"
    net.measure(torch.from_numpy(z), torch.from_numpy(y))
    inverse = np.linalg.inv(literal_covariance(z, y, shrinkage))
    made, mean = net(probes), z.mean(0) * centred
    for i in range(6):
        for j in range(6):
            a, b = (probes[k].numpy() - mean for k in (i, j))
            assert float(made[i] @ made[j]) == pytest.approx(a @ inverse @ b)
    net.train()
    assert torch.equal(net(probes), probes), "training sees nothing of it"


def test_of_many_items_every_direction_varies_alike_within_classes_and_of_few_little_is_done() -> None:
    rng = np.random.default_rng(0)

    def whitened(items: int) -> np.ndarray:
        y = np.arange(items) % 2
        z = rng.normal(size=(items, 3)) * [1, 10, 100] + 1000 * y[:, None]
        net = WCCN(nn.Identity(), 3, 0.0).eval()
        net.measure(torch.from_numpy(z), torch.from_numpy(y))
        fresh = torch.from_numpy(rng.normal(size=(4000, 3)) * [1, 10, 100]).float()
        return net(fresh).std(0).numpy()

    np.testing.assert_allclose(whitened(40_000), [0.89, 1, 1], atol=0.03)
    few = whitened(4)
    assert few[0] < 0.1 * few[2]


@pytest.mark.parametrize("z", [torch.arange(9.0).view(3, 3), torch.ones(3, 3)])
def test_where_nothing_differs_within_a_class_nothing_is_whitened(z: torch.Tensor) -> None:
    net = WCCN(nn.Identity(), 3).eval()
    net.measure(z, torch.arange(3))
    torch.testing.assert_close(net(z), z)


def test_wccn_takes_no_negative_shrinkage() -> None:
    with pytest.raises(ValueError, match="shrinkage is -1"):
        WCCN(nn.Identity(), 3, -1)


def test_a_learner_is_whitened_on_its_pool_and_left_as_it_was() -> None:
    torch.manual_seed(0)
    items = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8)).astype(np.uint8)
    pool = ClassPool.from_arrays(items, [str(i) for i in range(10)], [4] * 10)
    bare = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Dropout(0.5))
    learner = SupervisedContrastive(WCCN(bare, 3))
    weights = [p.clone() for p in learner.parameters()]
    learner.train()
    whiten(learner, pool)
    assert learner.training
    assert bare[2].training
    assert all(torch.equal(p, q) for p, q in zip(learner.parameters(), weights, strict=True))
    bare.eval()
    expected = WCCN(nn.Identity(), 3)
    expected.measure(bare(torch.from_numpy(items) / 255.0), torch.arange(10).repeat_interleave(4))
    made = learner.encoder
    assert isinstance(made, WCCN)
    torch.testing.assert_close(made.whitening, expected.whitening)


def test_of_many_classes_a_draw_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quickstudy.wccn.MEASURED", 11)
    items = np.random.default_rng(0).integers(0, 256, (40, 1, 2, 2)).astype(np.uint8)
    pool = ClassPool.from_arrays(items, [str(i) for i in range(10)], [4] * 10)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(WCCN, "measure", lambda _, z, y: seen.append(z))
    learner = SupervisedContrastive(WCCN(nn.Flatten(), 4))
    for seed in (0, 0, 1):
        whiten(learner, pool, seed)
    assert [len(z) for z in seen] == [12] * 3
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])

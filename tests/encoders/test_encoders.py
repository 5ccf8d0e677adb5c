"""The encoders of recognition."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from quickstudy.encoders.conv4 import Conv4
from quickstudy.encoders.resnet import ResNet, WithFeatures
from quickstudy.encoders.tdnn import TDNN
from quickstudy.encoders.test_time import FlipTTA


@pytest.mark.parametrize("shape", [(2, 1, 64, 64), (3, 1, 40, 101), (2, 1, 17, 31)])
@pytest.mark.parametrize("grid", [(1, 1), (4, 4), (1, 6)])
def test_the_residual_network_takes_any_size(shape: tuple[int, ...], grid: tuple[int, int]) -> None:
    net = ResNet(1, (4, 8, 8), dimensions=5, grid=grid)
    z = net(torch.rand(shape))
    assert z.shape == (shape[0], 5)
    z.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_conv4_gives_as_many_numbers_as_asked_for() -> None:
    assert Conv4(3, 8, outputs=5)(torch.rand(2, 3, 28, 28)).shape == (2, 5)
    with pytest.raises(ValueError, match="outputs 0: each must be at least 1"):
        Conv4(outputs=0)


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


def test_a_picture_is_embedded_as_its_mirror_image() -> None:
    torch.manual_seed(0)
    net, x = FlipTTA(ResNet(1, (4, 8), dimensions=5)), torch.rand(6, 1, 32, 32)
    net.eval()
    torch.testing.assert_close(net(x), net(x.flip(3)))
    torch.testing.assert_close(net(x), (net.encoder(x) + net.encoder(x.flip(3))) / 2)
    assert not torch.allclose(net.encoder(x), net.encoder(x.flip(3)))


def test_a_residual_network_gives_its_features_where_they_are_asked_for() -> None:
    torch.manual_seed(0)
    net, x = ResNet(1, (4, 6), dimensions=3, grid=(2, 2), dropout=0.5), torch.rand(8, 1, 16, 16)
    for training in (True, False):
        net.train(training)
        assert net(x).shape == (8, 3)
        assert net(x, return_features=True).shape == (8, 27)
    z, f = WithFeatures(net)(x).split([3, 24], 1)
    torch.testing.assert_close(z, net(x))
    torch.testing.assert_close(z, net.last_norm(net.last(f)), msg="f is what the last layer is given")

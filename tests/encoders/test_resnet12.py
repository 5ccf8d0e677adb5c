"""`ResNet12` against the literal network, and DropBlock against a loop."""

import json

import pytest
import torch
from torch import Tensor, nn

from quickstudy.core.blueprint import blueprint, rebuilt
from quickstudy.core.learner import embed
from quickstudy.encoders import ResNet12
from quickstudy.encoders.resnet12 import RISE, ResNet12Block, drop_block
from tests.encoders.oracle_resnet12 import LiteralResNet12, literal_drop_block

WIDTHS = (3, 4, 5, 6)


def literal(net: ResNet12, in_channels: int) -> LiteralResNet12:
    """The literal network with the same weights and statistics."""
    plain = LiteralResNet12(in_channels, *WIDTHS).double()
    for ours, theirs in zip(net.blocks, plain.children(), strict=False):
        assert isinstance(ours, ResNet12Block)
        pairs = [
            (ours.beside, theirs.shortcut[0]), (ours.beside_norm, theirs.shortcut[1]),  # pyright: ignore
            *zip(ours.convs, (theirs.conv1, theirs.conv2, theirs.conv3), strict=True),
            *zip(ours.norms, (theirs.bn1, theirs.bn2, theirs.bn3), strict=True),
        ]  # fmt: skip
        for a, b in pairs:
            b.load_state_dict(a.state_dict())
    return plain


def with_statistics(net: nn.Module, in_channels: int) -> None:
    """Weights and statistics of batch norm that are not their first values; some weights are negative."""
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.weight)
            nn.init.normal_(m.bias)
    for _ in range(3):
        net(torch.rand(4, in_channels, 32, 32).double())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("in_channels", "side"), [(3, 32), (1, 84), (2, 21)])
def test_it_is_the_literal_network(in_channels: int, side: int, training: bool) -> None:
    torch.manual_seed(side)
    net = ResNet12(in_channels, WIDTHS).double()
    with_statistics(net, in_channels)
    plain = literal(net, in_channels)
    net.train(training)
    plain.train(training)
    x = torch.rand(5, in_channels, side, side).double()
    z, expected = net(x), plain(x)
    assert z.shape == (5, 6)
    torch.testing.assert_close(z, expected, rtol=1e-10, atol=1e-10)
    weights = torch.randn(z.shape).double()
    ours = torch.autograd.grad((z * weights).sum(), net.blocks[0].convs[0].weight)
    theirs = torch.autograd.grad((expected * weights).sum(), plain.layer1.conv1.weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("shape", "size"), [((2, 3, 10, 10), 5), ((2, 3, 5, 5), 5), ((3, 2, 6, 9), 2)])
def test_drop_block_is_the_literal_loop(shape: tuple[int, ...], size: int) -> None:
    x = torch.rand(shape, dtype=torch.float64) + 1
    torch.manual_seed(1)
    y = drop_block(x, 0.2, size)
    torch.manual_seed(1)
    uniform = torch.rand(*shape[:2], shape[2] - size + 1, shape[3] - size + 1)
    torch.testing.assert_close(y, literal_drop_block(x, uniform, 0.2, size), rtol=1e-10, atol=1e-10)
    assert (y == 0).any()


def test_drop_block_cuts_squares_to_the_activations_and_keeps_the_mean() -> None:
    torch.manual_seed(2)
    x = torch.ones(8, 64, 2, 2)
    y = drop_block(x, 0.25, 5)
    whole = y.flatten(2).eq(0)
    assert (whole.all(2) == whole.any(2)).all()
    assert whole.float().mean().item() == pytest.approx(0.25, abs=0.06)
    assert y.mean().item() == pytest.approx(1, abs=1e-5)
    assert drop_block(x, 1.0, 2).eq(0).all(), "no division by zero where all is dropped"


def test_what_is_dropped_rises_with_the_steps_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []

    def seen(x: Tensor, p: Tensor, size: int) -> Tensor:
        assert size == 3
        rates.append(p.item())
        return x

    monkeypatch.setattr("quickstudy.encoders.resnet12.drop_block", seen)
    net, x = ResNet12(1, WIDTHS, drop_rate=0.1, dropblock_size=3), torch.rand(2, 1, 32, 32)
    net(x)
    net.eval()
    assert torch.equal(net(x), net(x)), "nothing is dropped in evaluation"
    net.train()
    net(x)
    again = ResNet12(1, WIDTHS, drop_rate=0.1, dropblock_size=3)
    again.load_state_dict(net.state_dict())  # a training that goes on counts on
    embed(again, torch.stack([x, x]))  # two tasks are one step
    again(x)
    assert rates == pytest.approx([n * 0.1 / RISE for n in (1, 1, 2, 2, 3, 3, 3, 3, 4, 4)])
    for b in again.buffers():
        if b.dtype == torch.int64:
            b.fill_(10 * RISE)
    rates.clear()
    again(x)
    assert rates == pytest.approx([0.1, 0.1])


def test_the_first_two_blocks_drop_single_activations() -> None:
    torch.manual_seed(3)
    block = ResNet12Block(2, 8, drop_rate=0.5)
    y = block(torch.randn(4, 2, 16, 16))
    assert y.eq(0).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_it_trains_in_bfloat16_with_all_that_drops() -> None:
    net = ResNet12(3, WIDTHS, drop_rate=0.1, dropblock_size=2)
    with torch.autocast("cpu", torch.bfloat16):
        z = net(torch.rand(4, 3, 32, 32))
    z.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_a_checkpoint_builds_it_again() -> None:
    net = ResNet12(1, WIDTHS, drop_rate=0.1, dropblock_size=2)
    plan = json.loads(json.dumps(blueprint(net)))
    again = rebuilt(plan, {"ResNet12": ResNet12}.__getitem__)
    again.load_state_dict(net.state_dict())
    assert blueprint(again) == plan


def test_it_names_what_does_not_fit() -> None:
    for wrong in ({"widths": (3, 4)}, {"drop_rate": 1.0}, {"dropblock_size": 0}, {"in_channels": 0}):
        with pytest.raises(ValueError, match="four widths, all sizes at least 1, and a rate in"):
            ResNet12(**wrong)
    for shape in ((2, 1, 32, 32), (2, 3, 15, 32), (3, 32, 32)):
        with pytest.raises(ValueError, match=r"ResNet12 takes pictures \[B, 3, H, W\] of at least 16×16"):
            ResNet12(3, WIDTHS)(torch.rand(shape))

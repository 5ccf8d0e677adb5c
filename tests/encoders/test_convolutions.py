"""`R2D2Encoder` and `AveragedConv4` against the literal networks."""

import json

import pytest
import torch
from torch import nn

from quickstudy.core.blueprint import blueprint, rebuilt
from quickstudy.encoders import AveragedConv4, R2D2Encoder
from tests.encoders.oracle_convolutions import LiteralConvNet4, LiteralR2D2

WIDTHS = (3, 4, 5, 6)


def same_weights(net: R2D2Encoder | AveragedConv4, plain: nn.Module) -> None:
    """Give both networks the same random weights and statistics; the literal one has biases, too."""
    for conv, norm, block in zip(net.convs, net.norms, plain.children(), strict=False):
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(block, nn.Sequential)
        assert isinstance(block[0], nn.Conv2d)
        for part in (norm.weight, norm.bias, norm.running_mean):
            assert part is not None
            nn.init.normal_(part)
        assert norm.running_var is not None
        nn.init.uniform_(norm.running_var, 0.5, 2)
        assert block[0].bias is not None
        block[0].load_state_dict(conv.state_dict() | {"bias": block[0].bias})
        block[1].load_state_dict(norm.state_dict())
        block[1].get_buffer("running_mean").add_(block[0].bias.detach())  # which batch norm subtracts


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("in_channels", "side"), [(3, 32), (1, 28), (2, 84)])
@pytest.mark.parametrize("kind", ["r2d2", "conv4"])
def test_they_are_the_literal_networks(kind: str, in_channels: int, side: int, training: bool) -> None:
    torch.manual_seed(side)
    if kind == "r2d2":
        net, plain = R2D2Encoder(in_channels, WIDTHS, dropout=0), LiteralR2D2(in_channels, *WIDTHS, 0)
    else:
        net, plain = AveragedConv4(in_channels, 5), LiteralConvNet4(in_channels, 5)
    net, plain = net.double().train(training), plain.double().train(training)
    same_weights(net, plain)
    x = torch.rand(4, in_channels, side, side).double()
    z, expected = net(x), plain(x)
    torch.testing.assert_close(z, expected, rtol=1e-10, atol=1e-10)
    weights = torch.randn(z.shape).double()
    ours = torch.autograd.grad((z * weights).sum(), net.convs[0].get_parameter("weight"))
    theirs = torch.autograd.grad((expected * weights).sum(), plain.get_parameter("block1.0.weight"))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_dropout_is_where_the_authors_have_it() -> None:
    torch.manual_seed(0)
    net, plain = R2D2Encoder(3, WIDTHS, 0.4).double(), LiteralR2D2(3, *WIDTHS, 0.4).double()
    same_weights(net, plain)
    x = torch.rand(4, 3, 32, 32).double().contiguous(memory_format=torch.channels_last)
    torch.manual_seed(1)
    z = net(x)
    torch.manual_seed(1)
    torch.testing.assert_close(z, plain.to(memory_format=torch.channels_last)(x), rtol=1e-10, atol=1e-10)  # pyright: ignore[reportCallIssue]
    assert z[:, -54:].eq(0).double().mean().item() == pytest.approx(0.4, abs=0.1)
    assert torch.equal(net.eval()(x), net(x))


@pytest.mark.parametrize("widths", [(64, 64, 64, 64), (96, 192, 384, 512)])
def test_the_authors_sizes(widths: tuple[int, ...]) -> None:
    with torch.device("meta"):
        net = R2D2Encoder(3, widths)
        assert net(torch.rand(2, 3, 32, 32)).shape == (2, 9 * (widths[2] + widths[3]))
        assert AveragedConv4()(torch.rand(2, 3, 84, 84)).shape == (2, 64)


def test_checkpoints_build_them_again() -> None:
    for net in (R2D2Encoder(1, WIDTHS, dropout=0.1), AveragedConv4(1, 5)):
        plan = json.loads(json.dumps(blueprint(net)))
        again = rebuilt(plan, {"R2D2Encoder": R2D2Encoder, "AveragedConv4": AveragedConv4}.__getitem__)
        again.load_state_dict(net.state_dict())
        assert blueprint(again) == plan


def test_they_name_what_does_not_fit() -> None:
    for wrong in ({"widths": (3, 4)}, {"dropout": 1.0}, {"in_channels": 0}):
        with pytest.raises(ValueError, match="four widths, all sizes at least 1, and a dropout in"):
            R2D2Encoder(**wrong)
    with pytest.raises(ValueError, match="channels 0: each must be at least 1"):
        AveragedConv4(3, 0)
    for net, least in ((R2D2Encoder(), 16), (AveragedConv4(), 8)):
        for shape in ((2, 1, 32, 32), (2, 3, least - 1, 32), (3, 32, 32)):
            message = rf"{type(net).__name__} takes pictures \[B, 3, H, W\] of at least {least}×{least}"
            with pytest.raises(ValueError, match=message):
                net(torch.rand(shape))

"""What is trained of a pretrained network: only what was asked for, from where the network stands."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from quickstudy.encoders.backbone import Backbone, Preprocessing
from quickstudy.encoders.tuning import low_rank, unfreeze


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.shortcut = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(self.conv(x)) + self.shortcut(x))


class Network(nn.Module):
    """A stem, two stages of two blocks, and an end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.stages = nn.ModuleList(nn.Sequential(Residual(), Residual()) for _ in range(2))
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.end = nn.Linear(8, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.end(self.depthwise(x).mean((2, 3)))


def backbone() -> Backbone:
    torch.manual_seed(0)
    plain = Preprocessing((8, 8), None, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return Backbone(Network(), plain, "mine")


def trained(encoder: nn.Module) -> set[str]:
    """The parameters that get gradients and move, in training mode."""
    encoder.train()
    wanted = [p for p in encoder.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(wanted, lr=0.1)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    for _ in range(2):  # of A and B, B alone has a gradient at first, as it is 0
        optimizer.zero_grad()
        encoder(torch.rand(4, 3, 8, 8)).square().sum().backward()
        optimizer.step()
    moved = {k for k, v in encoder.state_dict().items() if not torch.equal(v, before[k])}
    assert {k for k, p in encoder.named_parameters() if p.grad is not None} == {
        k for k, p in encoder.named_parameters() if p.requires_grad
    }
    return moved


def test_nothing_is_trained_by_default() -> None:
    encoder = backbone()
    assert not any(p.requires_grad for p in encoder.parameters())
    encoder.train()
    assert not any(m.training for m in encoder.modules())


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_the_last_blocks_are_trained_and_what_follows_them(blocks: int) -> None:
    encoder = backbone()
    unfreeze(encoder.network, blocks)
    moved = trained(encoder)
    ends = ["network.depthwise.", "network.end."]
    places = ["network.stages.1.1.", "network.stages.1.0.", "network.stages.0.1."][:blocks]
    assert moved
    assert all(k.startswith((*ends, *places)) for k in moved)  # batch norm of the others keeps its statistics
    for start in (*ends, *places):
        assert any(k.startswith(start) for k in moved)
    assert any("running_mean" in k for k in moved)


def test_all_of_it_is_trained() -> None:
    encoder = backbone()
    unfreeze(encoder.network)
    assert all(p.requires_grad for p in encoder.parameters())
    assert {k.split(".")[1] for k in trained(encoder)} == {"stem", "stages", "depthwise", "end"}


def test_low_rank_additions_alone_are_trained_from_the_frozen_network() -> None:
    encoder, x = backbone(), torch.rand(2, 3, 8, 8)
    before = encoder(x)
    low_rank(encoder.network, 2)
    encoder.eval()
    torch.testing.assert_close(encoder(x), before, rtol=0, atol=0)
    names = {k for k, p in encoder.named_parameters() if p.requires_grad}
    assert names
    assert all(k.endswith((".weight.0.up", ".weight.0.down")) for k in names)
    assert not any("depthwise" in k for k in names)
    assert trained(encoder) == names  # batch norm keeps its statistics, too
    encoder.eval()
    assert (encoder(x) - before).abs().max() > 1e-4
    layer = encoder.network.end
    change = layer.weight - layer.parametrizations.weight.original
    assert torch.linalg.matrix_rank(change).item() == 2


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda n: unfreeze(n, 5), "has 4 blocks, not 5"),
        (lambda n: unfreeze(n, 0), "blocks is 0"),
        (lambda n: low_rank(n, 0), "rank is 0"),
        (lambda n: low_rank(nn.Sequential(nn.BatchNorm2d(3)), 2), "no linear layer and no convolution"),
    ],
)
def test_what_cannot_be_trained_is_refused(ask: Callable[[nn.Module], nn.Module], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ask(Network())

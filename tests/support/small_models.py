"""What tests share, above all of the inner loops: small networks, meta-batches, how near gradients are."""

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.episode import Episode, Support
from quickstudy.encoders.classifier import Classifier
from quickstudy.encoders.conv4 import Conv4
from tests.initialization.oracle_maml import Finn, Net, finn, finn_conv4, finn_cross_entropy, finn_first_order
from tests.support.oracles import Weights


class Kept(nn.Module):
    """An encoder that keeps what it is given, and embeds it by its pixels or samples."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.items.append(x)
        return x.flatten(1)


class OwnEncoder(nn.Module):
    """Conv4 as a user would write it: no `forward_per_task`, the usual order of layers, the usual layout."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = [1] + [channels] * 4
        self.convs = nn.ModuleList(nn.Conv2d(widths[i], channels, 3, padding=1, bias=False) for i in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels, track_running_stats=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.max_pool2d(F.relu(norm(conv(x))), 2)
        return x.flatten(1)


class OwnClassifier(nn.Module):
    """`Classifier` as a user would write it."""

    def __init__(self, encoder: nn.Module, ways: int, dimensions: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(dimensions, ways)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))


NETWORKS = ["conv4", "own-encoder", "own-module"]
"""Ours, ours around an encoder of the user's, and the user's own: the same function of the same weights."""


def network(kind: str = "conv4", ways: int = 3, channels: int = 3, size: int = 16) -> nn.Module:
    """In float64, with batch norm whose γ have both signs and whose β are not 0."""
    torch.manual_seed(0)
    dimensions = channels * (size // 16) ** 2
    if kind == "conv4":
        model: nn.Module = Classifier(Conv4(1, channels, running_statistics=False), ways, dimensions)
    elif kind == "own-encoder":
        model = Classifier(OwnEncoder(channels), ways, dimensions)
    else:
        model = OwnClassifier(OwnEncoder(channels), ways, dimensions)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norms" in name and name.endswith("weight"):
                sign = torch.ones_like(p)
                sign[::2] = -1
                p.copy_(sign * (0.5 + torch.rand(p.shape)))
            elif "norms" in name:
                p.copy_(torch.rand(p.shape) - 0.3)
    return model.double()


def pictures(
    shots: Sequence[int] = (2, 1, 2),
    queries: int = 4,
    tasks: int = 2,
    size: int = 16,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Episode:
    """Every task in its own order of the support; a picture is noise and a bright row that tells its class.

    Tasks differ in brightness, so that mixing them shows.
    """
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(shots)).repeat_interleave(torch.tensor(shots))
    y = torch.stack([labels[torch.randperm(len(labels), generator=rng)] for _ in range(tasks)])
    query_y = torch.randint(len(shots), (tasks, queries), generator=rng)
    both = torch.cat([y, query_y], 1)
    x = torch.rand(*both.shape, 1, size, size, generator=rng)
    rows = size * (2 * both + 1) // (2 * len(shots))
    x[torch.arange(tasks)[:, None], torch.arange(both.shape[1]), 0, rows] += 1
    x = (x * torch.linspace(0.5, 1.5, tasks).view(-1, 1, 1, 1, 1)).to(dtype)
    s = y.shape[1]
    return Episode(Support(x[:, :s], y, len(shots)), x[:, s:], query_y)


def converted(e: Episode, dtype: torch.dtype) -> Episode:
    s = e.support
    y, query_y = (t if e.ways else t.to(dtype) for t in (s.y, e.query_y))
    return Episode(Support(s.x.to(dtype), y, s.ways), e.query_x.to(dtype), query_y)


def parts(e: Episode) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Support and query of an episode, as the oracles take them."""
    return (e.support.x, e.support.y), (e.query_x, e.query_y)


def weights_of(model: nn.Module) -> Weights:
    return dict(model.named_parameters())


def one_rate(names: Iterable[str], rate: float) -> Weights:
    return {name: torch.tensor(rate, dtype=torch.float64) for name in names}


def oracle(model: nn.Module, e: Episode, rates: Weights, steps: int, net: Net = finn_conv4) -> Finn:
    """Second order, for a classifier; its weights are the model's own, so gradients can be compared."""
    return finn(net, finn_cross_entropy, weights_of(model), rates, *parts(e), steps)


def oracle_first_order(
    model: nn.Module, e: Episode, rates: Weights, steps: int, net: Net = finn_conv4
) -> tuple[Weights, Weights]:
    return finn_first_order(net, finn_cross_entropy, weights_of(model), rates, *parts(e), steps)


def inductive(net: Net, adapted: Sequence[Weights], e: Episode) -> Tensor:
    """Scores with batch norm by the statistics of the support: `net` takes `first`."""
    s = e.support.x.shape[1]
    return torch.stack([
        net(own, torch.cat([e.support.x[t], e.query_x[t]]), s)[s:]  # pyright: ignore[reportCallIssue]
        for t, own in enumerate(adapted)
    ])  # fmt: skip


def gradients_of(loss: Tensor, module: nn.Module) -> Weights:
    """Of all its parameters, by name."""
    wanted = {k: p for k, p in module.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss, list(wanted.values()), retain_graph=True)
    return dict(zip(wanted, gradients, strict=True))


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors.values()])


def distance(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The greatest relative error ‖ours − theirs‖ / ‖theirs‖, of all together and of each tensor.

    Of each, unless it is negligible, so that no small one can hide behind a large one.
    """
    assert ours.keys() == theirs.keys()
    whole = flat(theirs).norm()
    assert whole > 1e-3
    errors = [(flat(ours) - flat(theirs)).norm() / whole]
    errors += [(ours[k] - t).norm() / t.norm() for k, t in theirs.items() if t.norm() > 1e-6 * whole]
    return max(error.item() for error in errors)


class SavedForBackward(torch.autograd.graph.saved_tensors_hooks):
    """Counts what autograd keeps for backward passes while it keeps it: tensors, bytes, most bytes ever."""

    def __init__(self) -> None:
        self.tensors, self.bytes, self.most = 0, 0, 0
        super().__init__(self._pack, lambda kept: kept.tensor)

    def _pack(self, tensor: Tensor) -> "_Kept":
        return _Kept(tensor, self)


class _Kept:
    def __init__(self, tensor: Tensor, counts: SavedForBackward) -> None:
        self.tensor, self.counts = tensor, counts
        self.size = tensor.numel() * tensor.element_size()
        counts.tensors, counts.bytes = counts.tensors + 1, counts.bytes + self.size
        counts.most = max(counts.most, counts.bytes)

    def __del__(self) -> None:
        self.counts.tensors, self.counts.bytes = self.counts.tensors - 1, self.counts.bytes - self.size


def central_difference(learner: nn.Module, e: Episode, seed: int, step: float = 1e-6) -> tuple[float, float]:
    """The loss's slope in a random direction: by its gradient, and by central differences."""
    wanted = {k: p for k, p in learner.named_parameters() if p.requires_grad}
    rng = torch.Generator().manual_seed(seed)
    direction = {k: torch.randn(p.shape, generator=rng, dtype=p.dtype) for k, p in wanted.items()}
    gradients = gradients_of(learner(e), learner)
    slope = sum((gradients[k] * v).sum().item() for k, v in direction.items())
    losses: list[float] = []
    with torch.no_grad():
        for to in (step, -step):
            for k, p in wanted.items():
                p.add_(direction[k], alpha=to)
            losses.append(learner(e).item())
            for k, p in wanted.items():
                p.sub_(direction[k], alpha=to)
    return slope, (losses[0] - losses[1]) / (2 * step)

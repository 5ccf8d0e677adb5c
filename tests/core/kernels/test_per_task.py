"""Tasks side by side, each with parameters of its own: as if each ran alone, whatever the module is."""

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from quickstudy.core.adapt import Tensors, adapt
from quickstudy.core.kernels.conv_pool_relu import conv_pool_relu, patches3x3
from quickstudy.core.kernels.convolution import (
    channels_last,
    conv3x3,
    convolution,
    per_task_linear,
    side_by_side,
)
from quickstudy.core.kernels.per_task import check_batch_norm, per_task
from quickstudy.core.kernels.pooling import pool2x2
from quickstudy.core.kernels.sizes import sizes
from quickstudy.core.kernels.task_norm import TaskNorm
from quickstudy.core.update_rules import sgd
from quickstudy.encoders.classifier import MLP, Classifier
from quickstudy.encoders.conv4 import Conv4
from tests.support.small_models import OwnClassifier, OwnEncoder, distance


def own_parameters(module: nn.Module, tasks: int) -> Tensors:
    """Other values for each task."""
    rng = torch.Generator().manual_seed(1)
    return {
        k: (p.detach() + 0.3 * torch.randn(tasks, *p.shape, generator=rng, dtype=p.dtype)).requires_grad_()
        for k, p in module.named_parameters()
    }


def one_by_one(module: nn.Module, parameters: Tensors, x: Tensor) -> Tensor:
    """What it must be: a plain call for each task."""
    return torch.stack([
        functional_call(copy.deepcopy(module), {k: p[t] for k, p in parameters.items()}, (x[t],))
        for t in range(len(x))
    ])  # fmt: skip


class LSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(2, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.view(len(x), -1, 2))[0][:, -1])


class ByValue(nn.Module):
    """Control flow by values, which vmap can't follow."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.layer(x)
        return z if z.sum() > 0 else 2 * z


class Viewing(nn.Module):
    """`.view` minds the strides."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False)
        self.head = nn.Linear(2 * 14 * 14, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).view(len(x), -1))


def stack(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), *layers, nn.Linear(5, 3))


def one_convolution(**how: Any) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3, **how), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten())


VECTORS, PICTURES = (6,), (1, 16, 16)
MODULES = {
    "mlp": (lambda: MLP(6, (5, 4), 3), VECTORS),
    "linear": (lambda: nn.Linear(6, 3, bias=False), VECTORS),
    "nested": (lambda: stack(nn.Sequential(nn.Tanh(), nn.Linear(5, 5, bias=False)), nn.Identity()), VECTORS),
    "activations": (
        lambda: stack(
            nn.ReLU(), nn.LeakyReLU(0.3), nn.ELU(), nn.GELU(), nn.SiLU(), nn.Softplus(), nn.Sigmoid()
        ),
        VECTORS,
    ),
    "dropout": (lambda: stack(nn.Dropout(0.5)).eval(), VECTORS),
    "layer-norm": (lambda: stack(nn.LayerNorm(5)), VECTORS),
    "group-norm": (lambda: stack(nn.GroupNorm(1, 5)), VECTORS),
    "batch-norm": (lambda: stack(nn.BatchNorm1d(5, track_running_stats=False)), VECTORS),
    "prelu": (lambda: stack(nn.PReLU(5)), VECTORS),
    "convolution-1d": (
        lambda: nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3)),
        VECTORS,
    ),
    "lstm": (LSTM, VECTORS),
    "by-value": (ByValue, VECTORS),
    "sequences": (lambda: stack(nn.Tanh()), (4, 6)),
    "conv4": (lambda: Conv4(1, 3, running_statistics=False), PICTURES),
    "conv4-colour": (lambda: Conv4(3, 2, running_statistics=False), (3, 16, 16)),
    "conv4-outputs": (lambda: Conv4(1, 2, running_statistics=False, outputs=3), (1, 16, 32)),
    "conv4-oblong": (lambda: Conv4(1, 2, running_statistics=False), (1, 16, 32)),
    "classifier": (lambda: Classifier(Conv4(1, 2, running_statistics=False), 3, 8), (1, 32, 32)),
    "own-encoder": (lambda: Classifier(OwnEncoder(3), 3, 3), PICTURES),
    "own-module": (lambda: OwnClassifier(OwnEncoder(3), 3, 3), PICTURES),
    "instance-norm": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.InstanceNorm2d(2, affine=True), nn.Flatten()), PICTURES
    ),
    "group-norm-of-pictures": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten()), PICTURES
    ),
    "layer-norm-of-pictures": (
        lambda: nn.Sequential(nn.LayerNorm((16, 16)), nn.Conv2d(1, 2, 3, bias=False), nn.Flatten()), PICTURES
    ),
    "plain-batch-norm": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, affine=False, track_running_stats=False), nn.MaxPool2d(2)
        ),
        PICTURES,
    ),
    "view": (Viewing, PICTURES),
    "strided": (lambda: one_convolution(stride=(2, 1), padding=(0, 1)), (2, 9, 8)),
    "dilated": (lambda: one_convolution(dilation=2, padding=1, bias=False), (2, 9, 8)),
    "groups": (lambda: one_convolution(groups=2), (2, 9, 8)),
    "same": (lambda: one_convolution(padding="same"), (2, 9, 8)),
    "reflected": (lambda: one_convolution(padding=1, padding_mode="reflect"), (2, 9, 8)),
}  # fmt: skip


def case(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(0)
    make, item = MODULES[name]
    return make().double(), item


@pytest.mark.medium
@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("name", MODULES)
def test_each_task_runs_as_if_alone(name: str, tasks: int) -> None:
    module, item = case(name)
    parameters = own_parameters(module, tasks)
    x = torch.randn(tasks, 4, *item, dtype=torch.float64)
    with TaskNorm():
        ours = per_task(module, parameters, x)
    theirs = one_by_one(module, parameters, x)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    cotangent = torch.randn_like(theirs)
    for t in range(tasks):  # of each task by itself: nothing may come from the others
        at = torch.zeros_like(cotangent)
        at[t] = cotangent[t]
        g = torch.autograd.grad(ours, list(parameters.values()), at, retain_graph=True)
        expected = torch.autograd.grad(theirs, list(parameters.values()), at, retain_graph=True)
        torch.testing.assert_close(g, expected, rtol=1e-9, atol=1e-10)
        assert all(
            (part == 0).all() for other in range(tasks) if other != t for part in (p[other] for p in g)
        )


@pytest.mark.parametrize("name", [n for n in MODULES if "conv4" not in n and n != "classifier"])
def test_meta_gradients_are_those_of_plain_calls(name: str) -> None:
    """Second order, where a layer's rule for vmap, or ours, might take something for a constant."""
    module, item = case(name)
    x = torch.randn(2, 4, *item, dtype=torch.float64)
    with torch.no_grad():
        y = torch.randn_like(one_by_one(module, own_parameters(module, 2), x))
    first = own_parameters(module, 2)

    def meta_gradient(run: Callable[[nn.Module, Tensors, Tensor], Tensor]) -> Tensors:
        def loss(p: Tensors, step: int = 0) -> Tensor:
            return (run(module, p, x) - y).square().flatten(1).mean(1)

        last = loss(adapt(loss, first, sgd(0.02), 2).parameters)
        return dict(zip(first, torch.autograd.grad(last.sum(), list(first.values())), strict=True))

    with TaskNorm():
        ours = meta_gradient(per_task)
    assert distance(ours, meta_gradient(one_by_one)) < 1e-10


def test_dropout_drops_for_each_task_anew() -> None:
    module = nn.Sequential(nn.Linear(4, 500), nn.Dropout(0.5))
    ones = {"0.weight": torch.ones(2, 500, 4), "0.bias": torch.ones(2, 500)}
    kept = per_task(module, ones, torch.ones(2, 3, 4)) != 0
    assert 0.4 < kept.float().mean() < 0.6
    assert not torch.equal(kept[0], kept[1])
    general = nn.Sequential(nn.Linear(4, 500), nn.Dropout(0.5), nn.LayerNorm(500, elementwise_affine=False))
    assert not torch.equal(*per_task(general, ones, torch.ones(2, 3, 4)))


class Counting(nn.Module):
    """Writes its buffers in the forward pass, in place or by binding them anew, and uses what it wrote."""

    def __init__(self, rebind: bool) -> None:
        super().__init__()
        self.layer, self.rebind = nn.Linear(6, 3), rebind
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        z = self.layer(x)
        if self.rebind:
            self.calls = self.calls + 1
            self.mean = 0.9 * self.mean + 0.1 * z.mean(0)
        else:
            self.calls += 1
            self.mean.mul_(0.9).add_(0.1 * z.detach().mean(0))
        return z * self.calls - self.mean


@pytest.mark.parametrize("rebind", [True, False], ids=["rebind", "in-place"])
def test_buffers_that_a_module_writes_leak_nowhere(rebind: bool) -> None:
    module = Counting(rebind)
    before = {k: (b, b.clone()) for k, b in module.named_buffers()}
    x = torch.randn(3, 4, 6)
    parameters = own_parameters(module, 3)
    ours = per_task(module, parameters, x)
    alone = [
        per_task(module, {k: p[t : t + 1] for k, p in parameters.items()}, x[t : t + 1]) for t in range(3)
    ]
    assert torch.equal(ours, torch.cat(alone))
    assert torch.equal(ours, one_by_one(module, parameters, x))
    for k, (b, value) in before.items():
        assert module.get_buffer(k) is b
        assert torch.equal(b, value)
        assert not b.requires_grad


def test_the_module_keeps_its_own_parameters() -> None:
    for name in ("own-module", "conv4", "mlp", "layer-norm", "lstm"):
        module, item = case(name)
        before = {k: (p, p.detach().clone()) for k, p in module.named_parameters()}
        with TaskNorm():
            per_task(module, own_parameters(module, 2), torch.randn(2, 4, *item).double())
        for k, (p, value) in before.items():
            assert module.get_parameter(k) is p
            assert torch.equal(p, value)


@pytest.mark.parametrize(
    ("layers", "calls"),
    [
        pytest.param([nn.BatchNorm2d(2, track_running_stats=False)], 1, id="batch-norm"),
        pytest.param([nn.ReLU(), nn.MaxPool2d(2)], 1, id="pool"),
        pytest.param([nn.MaxPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(2)], 1, id="other-pools"),
        pytest.param([nn.InstanceNorm2d(2)], 4, id="instance-norm"),
        pytest.param([nn.Dropout(0.5)], 4, id="dropout"),
    ],
)
def test_small_tasks_run_side_by_side_where_that_is_right(layers: list[nn.Module], calls: int) -> None:
    """Once for all three tasks; or once in vain, and then for each of them."""
    module = nn.Sequential(nn.Conv2d(1, 2, 3), *layers).double()
    counted = 0

    def count(*_: object) -> None:
        nonlocal counted
        counted += 1

    module.register_forward_pre_hook(count)
    parameters = own_parameters(module, 3)
    with TaskNorm():
        per_task(module, parameters, torch.randn(3, 2, 1, 8, 8, dtype=torch.float64))
        assert counted == calls
        per_task(module, parameters, torch.randn(3, 300, 1, 8, 8, dtype=torch.float64))
        assert counted == calls + 3


def test_pictures_go_in_in_the_fast_layout_unless_the_module_minds() -> None:
    seen: list[tuple[int, ...]] = []

    class Looking(nn.Module):
        def __init__(self, minds: bool) -> None:
            super().__init__()
            self.minds, self.scale = minds, nn.Parameter(torch.ones(()))
            self.register_buffer("none", torch.zeros(()))  # so that it runs task by task

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.stride())
            return self.scale * (x.view(len(x), -1) if self.minds else x.flatten(1))

    x = torch.randn(1, 2, 3, 4, 5)
    for minds in (False, True):
        ours = per_task(Looking(minds), {"scale": torch.ones(1)}, x)
        assert torch.equal(ours[0], x[0].flatten(1))
    assert seen == [(60, 1, 15, 3), (60, 1, 15, 3), (60, 20, 5, 1)]


def test_errors_of_the_module_are_its_own() -> None:
    module = nn.Sequential(nn.Conv2d(2, 1, 3), nn.Flatten())
    with pytest.raises(RuntimeError, match="to have 2 channels"):
        per_task(module, own_parameters(module, 1), torch.zeros(1, 2, 1, 8, 8))
    vectors = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        per_task(vectors, own_parameters(vectors, 2), torch.zeros(2, 4, 5))


def test_conv4_names_the_pictures_that_it_takes() -> None:
    module = Conv4(3, 2, running_statistics=False)
    with pytest.raises(ValueError, match=r"takes pictures \[B, 3, H, W\].*not \[4, 1, 16, 16\]"):
        per_task(module, own_parameters(module, 2), torch.zeros(2, 4, 1, 16, 16))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        pytest.param(nn.BatchNorm1d(3), r"^the module keeps running statistics", id="itself"),
        pytest.param(
            nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Sequential(nn.BatchNorm2d(3))),
            r"^1\.0 keeps running statistics, which an inner loop can't adapt: build it with "
            r"track_running_stats=False \(Conv4\(running_statistics=False\)\)",
            id="nested",
        ),
        pytest.param(Classifier(Conv4(), 5), r"^encoder\.norms\.0 keeps", id="conv4"),
    ],
)
def test_running_statistics_are_refused(module: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_batch_norm(module)


def test_other_norms_are_not_refused() -> None:
    check_batch_norm(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.LayerNorm(3)))


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 1, 4, 5), (1, 1, 1, 3)])
def test_channels_last_changes_strides_only(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape).transpose(2, 3)
    c, h, w = x.shape[1:]
    y = channels_last(x)
    assert torch.equal(x, y)
    assert y.stride() == (c * h * w, 1, w * c, c)


def grouped(tasks: int, items: int = 2, into: int = 2, out: int = 3) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(tasks, items, into, 5, 4, generator=rng, dtype=torch.float64)
    return x, torch.randn(tasks, out, into, 3, 3, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("into", [1, 2])
@pytest.mark.parametrize("tasks", [1, 3])
def test_convolutions_of_tasks_are_torchs(tasks: int, into: int) -> None:
    x, weight = grouped(tasks, into=into)
    y = conv3x3(side_by_side(x), weight).unflatten(1, (tasks, -1)).transpose(0, 1)
    expected = torch.stack([F.conv2d(x[t], weight[t], padding=1) for t in range(tasks)])
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.medium
@pytest.mark.parametrize(("pictures", "filters"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize(("tasks", "into"), [(1, 2), (2, 2), (2, 1)])
def test_convolutions_differentiate_twice(tasks: int, into: int, pictures: bool, filters: bool) -> None:
    x, weight = grouped(tasks, 1, into, 2)
    at = side_by_side(x)[:, :, :3, :3].clone().requires_grad_(pictures), weight.requires_grad_(filters)
    assert torch.autograd.gradcheck(conv3x3, at)
    assert torch.autograd.gradgradcheck(conv3x3, at)


def test_convolutions_differentiate_thrice() -> None:
    x, weight = grouped(2, 1, 1, 1)
    at = side_by_side(x)[:, :, :3, :3].clone().requires_grad_(), weight.requires_grad_()

    def second(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(conv3x3(x, weight).sin().sum(), (x, weight), create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), (x, weight), create_graph=True)

    assert torch.autograd.gradcheck(second, at)


HOW = {
    "stride": {"stride": (2, 1)},
    "padding": {"padding": (0, 2)},
    "dilation": {"dilation": (1, 2), "padding": (1, 1)},
    "groups": {"groups": 2},
}


@pytest.mark.parametrize("name", HOW)
def test_any_convolution_is_torchs_and_differentiates_twice(name: str) -> None:
    how: dict[str, Any] = HOW[name]
    rng = torch.Generator().manual_seed(0)
    shapes = (1, 2, 4, 5), (2, 2 // how.get("groups", 1), 3, 2), (2,)
    at = [torch.randn(s, generator=rng, dtype=torch.float64, requires_grad=True) for s in shapes]
    torch.testing.assert_close(convolution(*at, **how), F.conv2d(*at, **how))
    assert torch.autograd.gradcheck(lambda *at: convolution(*at, **how), at)
    assert torch.autograd.gradgradcheck(lambda *at: convolution(*at, **how), at)


def test_one_picture_without_a_batch_goes_to_torch() -> None:
    """What our convolution does not do."""
    module = nn.Conv2d(1, 2, 3)
    x = torch.randn(2, 1, 1, 5, 5)

    class OneByOne(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = module

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([self.conv(item) for item in x])

    parameters = {f"conv.{k}": p.expand(2, *p.shape) for k, p in module.named_parameters()}
    torch.testing.assert_close(per_task(OneByOne(), parameters, x)[:, 0], module(x[:, 0]))


@pytest.mark.medium
@pytest.mark.parametrize(("side", "channels"), [(6, 1), (5, 2)])
def test_conv_pool_relu_is_the_three_one_after_the_other(side: int, channels: int) -> None:
    """Also where the pool leaves an edge out, in parts of unequal size, and with a second derivative."""
    with sizes(first_block_numbers=9 * channels * side**2):  # three of each task, then the fourth
        check_conv_pool_relu(side, channels)


def check_conv_pool_relu(side: int, channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, channels, side, side, generator=generator, dtype=torch.float64)
    weight = torch.randn(3, 5, channels, 3, 3, generator=generator, dtype=torch.float64).requires_grad_()
    shift = torch.randn(3, 5, generator=generator, dtype=torch.float64).requires_grad_()
    function = partial(conv_pool_relu, x, patches3x3(x))
    y = function(weight, shift)
    expected = F.relu(pool2x2(conv3x3(side_by_side(x), weight)) + shift.flatten()[:, None, None])
    torch.testing.assert_close(y, expected)
    assert (y == 0).any()
    assert torch.autograd.gradcheck(function, (weight, shift))
    assert torch.autograd.gradgradcheck(function, (weight, shift))


@pytest.mark.medium
@pytest.mark.parametrize("size", [(4, 4), (5, 4), (2, 3)])
def test_the_pool_is_torchs_and_differentiates_thrice(size: tuple[int, int]) -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *size, generator=rng, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    torch.testing.assert_close(pool2x2(x), F.max_pool2d(x, 2))
    assert torch.autograd.gradcheck(pool2x2, x)
    assert torch.autograd.gradgradcheck(pool2x2, x)

    def third(y: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(pool2x2(y).pow(3).sum(), y, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), y, create_graph=True)
        return second

    assert torch.autograd.gradcheck(third, x)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 4, 6), (2, 3, 4, 6), (1, 1, 6)])
def test_linear_layers_of_tasks_are_torchs(shape: tuple[int, ...], bias: bool) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    weight = torch.randn(shape[0], 3, 6, dtype=torch.float64)
    biases = torch.randn(shape[0], 3, dtype=torch.float64) if bias else None
    expected = [F.linear(x[t], weight[t], None if biases is None else biases[t]) for t in range(len(x))]
    torch.testing.assert_close(
        per_task_linear(x, weight, biases), torch.stack(expected), rtol=1e-12, atol=1e-12
    )


def test_autocast_lowers_what_it_lowers_in_torch() -> None:
    x, weight = (t.float() for t in grouped(2))
    with torch.autocast("cpu", torch.bfloat16):
        assert conv3x3(side_by_side(x), weight).dtype == torch.bfloat16
        assert (
            per_task_linear(torch.ones(2, 3, 4), torch.ones(2, 5, 4), torch.ones(2, 5)).dtype
            == torch.bfloat16
        )
    assert conv3x3(side_by_side(x), weight).dtype == torch.float32
    assert per_task_linear(torch.ones(2, 3, 4), torch.ones(2, 5, 4), None).dtype == torch.float32


# Bugs that this file has found


def shared_activation() -> nn.Module:
    act = nn.ReLU()
    return nn.Sequential(nn.Linear(6, 5), act, nn.Linear(5, 5), act, nn.Linear(5, 3))


def shared_layer() -> nn.Module:
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(6, 3))


def tied_weights() -> nn.Module:
    module = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Tanh(), nn.Linear(6, 6, bias=False))
    module[2].weight = module[0].weight
    return module


@pytest.mark.parametrize("make", [shared_activation, shared_layer, tied_weights])
def test_a_layer_that_stands_twice_is_applied_twice(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    module = make().double()
    parameters, x = own_parameters(module, 2), torch.randn(2, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(per_task(module, parameters, x), one_by_one(module, parameters, x))


@pytest.mark.parametrize("base", [lambda: Conv4, lambda: MLP], ids=["Conv4", "MLP"])
def test_a_subclass_with_a_forward_of_its_own(base: Callable[[], type[nn.Module]]) -> None:
    class Normalized(base()):
        def forward(self, x: Tensor) -> Tensor:
            return F.normalize(super().forward(x), dim=1)

    pictures = base() is Conv4
    module = Normalized(1, 3, running_statistics=False) if pictures else Normalized(6, (5,), 3)
    x = torch.randn(2, 4, *(PICTURES if pictures else VECTORS))
    parameters = own_parameters(module, 2)
    torch.testing.assert_close(per_task(module, parameters, x), one_by_one(module, parameters, x))


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(2, 1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(len(x), 3, 2)
        return self.attention(x, x, x, need_weights=False)[0].flatten(1)


@pytest.mark.parametrize(
    "make",
    [
        Attending,
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 3)),
    ],
    ids=["attention", "weight-norm"],
)
def test_nothing_is_said_of_vmap(make: Callable[[], nn.Module]) -> None:
    module = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        per_task(module, own_parameters(module, 2), torch.randn(2, 4, 6))

"""Checkpoints: whole or absent, readable, and exact enough to go on from."""

import copy
import errno
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from quickstudy.core import checkpoint, files
from quickstudy.metric.prototypical import Prototypical

MANIFEST = {
    "learner": "prototypical",
    "sizes": [5, 4],
    "score": {"accuracy": 0.5, "note": "½ – é"},
    "none": None,
}


def learner(width: int = 4, seed: int = 0) -> Prototypical:
    torch.manual_seed(seed)
    return Prototypical(nn.Sequential(nn.Linear(5, width), nn.BatchNorm1d(width)))


def test_round_trip(tmp_path: Path) -> None:
    tensors = {
        "float": torch.randn(3, 4),
        "double": torch.randn(2, dtype=torch.float64),
        "half": torch.randn(2, 2).bfloat16(),
        "count": torch.tensor(7),
        "empty": torch.empty(0, 3),
        "transposed": torch.randn(3, 4).T,
        "parameter": nn.Parameter(torch.ones(2)),
    }
    checkpoint.save(tmp_path / "new" / "x.safetensors", tensors, MANIFEST)
    loaded, manifest = checkpoint.load(tmp_path / "new" / "x.safetensors")
    assert manifest == MANIFEST
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_the_manifest_is_in_the_header_and_beside_the_file(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "x.safetensors", {"a": torch.ones(2)}, MANIFEST)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.json", "x.safetensors"]
    assert json.loads((tmp_path / "x.json").read_text()) == MANIFEST
    raw = (tmp_path / "x.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert json.loads(header["__metadata__"]["quickstudy"]) == MANIFEST
    (tmp_path / "x.json").unlink()
    assert checkpoint.load(tmp_path / "x.safetensors")[1] == MANIFEST


def test_saving_again_replaces(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        checkpoint.save(tmp_path / "x.safetensors", {"a": torch.tensor(value)}, {"value": value})
    tensors, manifest = checkpoint.load(tmp_path / "x.safetensors")
    assert tensors["a"].item() == manifest["value"] == 2.0


def test_loaded_tensors_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, {"a": torch.ones(1000)}, {})
    tensors, _ = checkpoint.load(path)
    checkpoint.save(path, {"a": torch.zeros(1000)}, {})
    path.unlink()
    assert tensors["a"].sum() == 1000


def test_a_manifest_that_is_not_json_leaves_the_old_file(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "x.safetensors", {"a": torch.ones(2)}, MANIFEST)
    with pytest.raises(TypeError):
        checkpoint.save(tmp_path / "x.safetensors", {"a": torch.zeros(2)}, {"bad": object()})
    assert checkpoint.load(tmp_path / "x.safetensors")[1] == MANIFEST


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*x\.safetensors: training writes"):
        checkpoint.load(tmp_path / "x.safetensors")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        checkpoint.load(tmp_path)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda raw: b"",
    "truncated-header": lambda raw: raw[:40],
    "truncated-tensors": lambda raw: raw[:-4],
    "text": lambda raw: b"hello world, I am no checkpoint\n",
    "pickle": lambda raw: b"\x80\x04\x95" + raw,
    "header-length": lambda raw: b"\xff" * 8 + raw[8:],
    "header-braces": lambda raw: raw[:8] + b"[" + raw[9:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, {"a": torch.ones(20)}, MANIFEST)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(ValueError, match=r"x\.safetensors is damaged or not a safetensors file .*restore it"):
        checkpoint.load(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_foreign_file(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors", metadata)
    with pytest.raises(ValueError, match="carries no quickstudy manifest: it was not written by quickstudy"):
        checkpoint.load(tmp_path / "x.safetensors")


# Weights of another learner


def test_weights_go_into_a_learner_of_its_own_precision() -> None:
    source, target = learner(seed=1), learner(seed=2).double()
    checkpoint.load_weights(target, source.state_dict(), "x")
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name].to(tensor.dtype))
    assert target.encoder[0].weight.dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda w: w.pop("encoder.0.bias"),
            r"it lacks encoder\.0\.bias;",
            id="one-missing",
        ),
        pytest.param(
            lambda w: (w.pop("encoder.0.bias"), w.pop("encoder.0.weight")),
            r"it lacks encoder\.0\.bias; it lacks encoder\.0\.weight;",
            id="two-missing",
        ),
        pytest.param(
            lambda w: w.update({"encoder.9.bias": torch.ones(1)}),
            r"it also has encoder\.9\.bias",
            id="extra",
        ),
        pytest.param(
            lambda w: w.update({"encoder.9.bias": w.pop("encoder.0.bias")}),
            r"it lacks encoder\.0\.bias; it also has encoder\.9\.bias",
            id="renamed",
        ),
        pytest.param(
            lambda w: w.update({"encoder.0.weight": torch.ones(7, 5)}),
            r"encoder\.0\.weight is \[7, 5\] there and \[4, 5\] here",
            id="shape",
        ),
        pytest.param(
            # load_state_dict would take it for a scalar
            lambda w: w.update({"encoder.1.num_batches_tracked": torch.ones(1)}),
            r"encoder\.1\.num_batches_tracked is \[1\] there and \[\] here",
            id="dimension",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(change: Callable[[dict[str, Tensor]], Any], message: str) -> None:
    target = learner()
    before = copy.deepcopy(target.state_dict())
    weights = dict(learner(seed=1).state_dict())
    change(weights)
    with pytest.raises(
        ValueError, match=r"my\.safetensors belongs to another encoder.*" + message + ".*build the"
    ):
        checkpoint.load_weights(target, weights, "my.safetensors")
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items()), "nothing half loaded"


def test_tied_weights_are_saved(tmp_path: Path) -> None:
    encoder = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5))
    encoder[2].weight = encoder[0].weight
    checkpoint.save(tmp_path / "x.safetensors", encoder.state_dict(), {})
    checkpoint.load_weights(encoder, checkpoint.load(tmp_path / "x.safetensors")[0], "x")


# Optimizers

Parameters = Iterable[nn.Parameter]
OPTIMIZERS: dict[str, Callable[[Parameters], torch.optim.Optimizer]] = {
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "amsgrad": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01),
    "sgd": lambda p: torch.optim.SGD(p, 0.01),
    "momentum": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.5, centered=True),
}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_training_goes_on_bit_for_bit(tmp_path: Path, name: str) -> None:
    """Through a file, with two groups of parameters and a learning rate that was changed on the way."""

    def start(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
        optimizer = OPTIMIZERS[name](model[0].parameters())
        optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 0.005})
        return model, optimizer

    model, optimizer = start(0)
    train(model, optimizer, range(3))
    optimizer.param_groups[0]["lr"] /= 2
    state, groups = checkpoint.pack_optimizer(optimizer)
    path = tmp_path / "last.safetensors"
    checkpoint.save(
        path,
        checkpoint.prefixed("m.", model.state_dict()) | checkpoint.prefixed("o.", state),
        {"groups": groups},
    )
    train(model, optimizer, range(3, 7))

    resumed, other = start(1)
    tensors, manifest = checkpoint.load(path)
    checkpoint.load_weights(resumed, checkpoint.without_prefix("m.", tensors), "x")
    checkpoint.unpack_optimizer(other, checkpoint.without_prefix("o.", tensors), manifest["groups"])
    train(resumed, other, range(3, 7))
    for ours, theirs in zip(resumed.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert [g["lr"] for g in other.param_groups] == [0.005, 0.005]


def test_an_optimizer_that_has_not_stepped() -> None:
    source, target = (torch.optim.Adam(nn.Linear(2, 2).parameters(), lr) for lr in (0.1, 0.2))
    state, groups = checkpoint.pack_optimizer(source)
    assert state == {}
    checkpoint.unpack_optimizer(target, state, groups)
    assert target.param_groups[0]["lr"] == 0.1


def test_prefixes() -> None:
    tensors = {"a": torch.ones(1), "b.a": torch.zeros(1)}
    both = checkpoint.prefixed("a.", tensors) | checkpoint.prefixed("b.", tensors)
    assert both.keys() == {"a.a", "a.b.a", "b.a", "b.b.a"}
    assert checkpoint.without_prefix("b.", both) == tensors


# Writing


def no_space(*args: Any, **kwargs: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "x.bin"
    files.write_whole(path, b"old")
    monkeypatch.setattr(os, call, no_space)
    with pytest.raises(OSError, match=r"can't write .*x\.bin \(No space left on device\): free some space"):
        files.write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(handle: int) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "x.bin"
    files.write_whole(path, b"old")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, n=name, f=original: (calls.append(n), f(*a)))
    files.write_whole(tmp_path / "x.bin", b"new")
    assert calls == ["fsync", "replace"]


def test_a_checkpoint_survives_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, {"a": torch.ones(2)}, MANIFEST)
    with monkeypatch.context() as m:
        m.setattr(os, "fsync", no_space)
        with pytest.raises(OSError, match="No space left on device"):
            checkpoint.save(path, {"a": torch.zeros(2)}, {})
    tensors, manifest = checkpoint.load(path)
    assert tensors["a"].sum() == 2
    assert manifest == MANIFEST
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"can't write .*x\.bin \(.+\): .*name another folder"):
        files.write_whole(tmp_path / "file" / "x.bin", b"")

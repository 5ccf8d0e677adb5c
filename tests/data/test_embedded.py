"""Features as items: a pool encoded once, and embeddings that somebody else has made."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import quickstudy as qs
from quickstudy.core.learner import evaluation_mode
from quickstudy.data import FeatureFormat, feature_file
from quickstudy.data.cache import cached_pools
from quickstudy.data.formats.items import item_format
from tests.support.pools import coded_pool, noisy_pool


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(tmp_path / "cache"))
    return tmp_path


class Counting(nn.Module):
    """An encoder with dropout, batch norm and a number that no weight tells; counts the items it sees."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(256), nn.Linear(256, 6), nn.Dropout(0.5))
        self.scale, self.seen = scale, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        self.seen += len(x)
        return self.scale * self.layers(x)


def encoder(scale: float = 1.0) -> Counting:
    torch.manual_seed(0)
    return Counting(scale)


def test_every_item_is_encoded_once_and_kept() -> None:
    pool, made = noisy_pool(), encoder()
    said: list[tuple[int, int]] = []
    state = torch.get_rng_state()
    found = pool.embedded(made, batch_size=40, progress=lambda done, of: said.append((done, of)))
    assert torch.equal(torch.get_rng_state(), state)
    assert made.training
    assert made.seen == 96 + 16
    assert said == [(40, 96), (80, 96), (96, 96)]
    with torch.no_grad(), evaluation_mode(made):
        expected = made(torch.from_numpy(pool.items).float() / 255)
    np.testing.assert_allclose(found.items, expected.numpy(), rtol=1e-5, atol=1e-6)
    assert found.classes == pool.classes
    assert found.counts.tolist() == pool.counts.tolist()
    assert found.item_format == FeatureFormat(6)
    assert found.name == "embedded pool"
    made.seen = 0
    again = pool.embedded(made)
    assert made.seen == 16, "those that its fingerprint takes"
    assert again.content_digest() == found.content_digest()
    assert len(cached_pools()) == 1


def test_another_encoder_or_pool_is_encoded_anew() -> None:
    pool = noisy_pool()
    digests = {
        of.embedded(made).digest
        for of, made in (
            (pool, encoder()),
            (pool, encoder(scale=2.0)),
            (pool, nn.Sequential(nn.Flatten(), nn.Linear(256, 6))),
            (pool, nn.Flatten()),
            (noisy_pool(seed=1), encoder()),
            (pool.subset(range(5)), encoder()),
        )
    }
    assert len(digests) == 6
    assert pool.embedded(encoder()).digest in digests


def test_splits_and_sources_go_with_the_vectors() -> None:
    x = np.random.default_rng(0).normal(size=(12, 2, 3)).astype(np.float32)
    y, who = ["a", "b", "c"] * 4, ["p", "q", "q", "p"] * 3
    pool = qs.ClassPool.from_arrays(x, y, sources=who, split={"train": ["a"], "test": ["c", "b"]})
    found = pool.embedded(nn.Flatten())
    assert found.sources is not None
    assert pool.sources is not None
    assert [found.source_names[i] for i in found.sources] == [pool.source_names[i] for i in pool.sources]
    assert {k: v.tolist() for k, v in found.splits.items()} == {"train": [0], "test": [2, 1]}
    np.testing.assert_array_equal(found.split("test").of_class("c"), x[2::3].reshape(4, 6))
    assert np.array_equal(pool.split("test").embedded(nn.Flatten()).of_class("b"), x[1::3].reshape(4, 6))


def test_identity_is_an_encoder_of_vectors_and_gives_what_the_encoder_gave() -> None:
    pool, made = noisy_pool(), nn.Sequential(nn.Flatten(), nn.Linear(256, 6))
    setting = qs.Setting(4, 2, 3)
    slow = qs.evaluate(qs.Prototypical(made), qs.Episodes(pool, setting, 10), 50)
    fast = qs.evaluate(qs.Prototypical(nn.Identity()), qs.Episodes(pool.embedded(made), setting, 10), 50)
    assert fast.accuracies == slow.accuracies
    assert fast.data95


def test_wrong_encoders() -> None:
    pool = noisy_pool()
    with pytest.raises(ValueError, match=r"^the encoder made \[1?\d, 1, 16, 16\] of .*it must give \[B, D\]"):
        pool.embedded(nn.Identity())
    bad = nn.Sequential(nn.Flatten(), nn.Linear(256, 2))
    nn.init.constant_(bad[1].weight, float("nan"))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"^the Sequential makes embeddings of pool that aren't finite"):
        pool.embedded(bad)
    assert not cached_pools()


X = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
Y = np.asarray([f"c{i % 8}" for i in range(40)])


def assert_is(pool: qs.ClassPool) -> None:
    assert len(pool) == 8
    assert pool.item_format == FeatureFormat(5)
    assert pool.digest
    for name in pool.classes:
        np.testing.assert_array_equal(pool.of_class(name), X[name == Y])


def test_files_of_numpy(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", features=X, labels=Y)
    np.savez(
        tmp_path / "b.npz", z=X.astype(np.float64), other=X, who=Y, part=np.where(Y < "c4", "train", "test")
    )
    np.save(tmp_path / "c.npy", X)
    np.save(tmp_path / "y.npy", Y)
    (tmp_path / "y.txt").write_text("\n".join(Y.tolist()) + "\n")
    assert_is(feature_file(tmp_path / "a.npz"))
    assert set(feature_file(tmp_path / "a.npz").splits) == {"train", "validation", "test"}
    pool = feature_file(tmp_path / "b.npz", labels="who", features="z", split="part")
    assert_is(pool)
    assert pool.split("test").classes == ("c4", "c5", "c6", "c7")
    assert_is(feature_file(tmp_path / "c.npy", labels=tmp_path / "y.npy"))
    assert_is(feature_file(str(tmp_path / "c.npy"), labels=str(tmp_path / "y.txt"), split=None))


def test_parquet(tmp_path: Path) -> None:
    arrow: Any = pytest.importorskip("pyarrow", reason="parquet takes pyarrow")
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    of_lists = arrow.table({"embedding": list(X), "class_name": Y.tolist(), "index": list(range(40))})
    parquet.write_table(of_lists, tmp_path / "a.parquet")
    of_columns = arrow.table({**{f"f{i}": X[:, i] for i in range(5)}, "label": Y.tolist()})
    parquet.write_table(of_columns, tmp_path / "b.parquet")
    assert_is(feature_file(tmp_path / "a.parquet"))
    assert_is(feature_file(tmp_path / "b.parquet"))
    uneven = arrow.table({"embedding": [[1.0], [1.0, 2.0, 3.0]], "label": [0, 1]})
    parquet.write_table(uneven, tmp_path / "c.parquet")
    with pytest.raises(ValueError, match=r"lists of column embedding have unequal lengths"):
        feature_file(tmp_path / "c.parquet")
    (tmp_path / "d.parquet").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"d.parquet can't be read \(.*\): save it again as parquet"):
        feature_file(tmp_path / "d.parquet")


def test_without_pyarrow_parquet_is_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(ModuleNotFoundError, match=r"takes pyarrow: pip install 'quickstudy\[parquet\]'$"):
        feature_file(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("arrays", "arguments", "message"),
    [
        ({"x": X}, {}, r"has no labels: it has x; say which are the labels, labels=NAME"),
        ({"x": X, "y": Y}, {"labels": "z"}, "has no labels z: it has x, y; say which"),
        (
            {"x": X, "z": X, "y": Y},
            {},
            r"holds x \[40, 5\], z \[40, 5\], y \[40\]: say which are the features",
        ),
        ({"x": X, "y": Y}, {"features": "z"}, "has no z: it has x, y"),
        (
            {"x": X[:, :, None], "y": Y},
            {"features": "x"},
            r"features are float32 \[40, 5, 1\]: give an array",
        ),
        ({"x": X[:9], "y": Y}, {}, "x has 9 items and y 40 labels"),
        ({"x": np.full((40, 2), np.nan), "y": Y}, {}, r"x\[0\] holds numbers that aren't finite"),
        ({"x": np.asarray([[{}]] * 40), "y": Y}, {}, "can't be read .*: save plain arrays by numpy.savez"),
    ],
)
def test_wrong_files(tmp_path: Path, arrays: Any, arguments: Any, message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message) as told:
        feature_file(tmp_path / "a.npz", **arguments)
    assert "\n" not in str(told.value)


def test_wrong_names_of_files(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "z.csv").write_text("1,2")
    (tmp_path / "b.npz").write_bytes(b"nothing")
    with pytest.raises(FileNotFoundError, match=r"there is no file"):
        feature_file(tmp_path / "no.npz")
    with pytest.raises(ValueError, match=r"holds no labels: name their file by labels=FILE, or save both"):
        feature_file(tmp_path / "x.npy")
    with pytest.raises(FileNotFoundError, match=r"there is no file y.npy of labels"):
        feature_file(tmp_path / "x.npy", labels="y.npy")
    with pytest.raises(ValueError, match=r"is no file of features: give .npy, .npz or .parquet"):
        feature_file(tmp_path / "z.csv")
    with pytest.raises(ValueError, match=r"b.npz can't be read"):
        feature_file(tmp_path / "b.npz")


def test_format_of_features(tmp_path: Path) -> None:
    form = FeatureFormat(5)
    assert item_format(form.as_dict()) == form
    np.save(tmp_path / "one.npy", X[0])
    assert np.array_equal(form.decode(tmp_path / "one.npy"), X[0])
    for wrong in (X, X[0, :3], np.full(5, np.inf)):
        np.save(tmp_path / "wrong.npy", wrong)
        with pytest.raises(OSError, match=r"it holds|not finite"):
            form.decode(tmp_path / "wrong.npy")
    (tmp_path / "wrong.npy").write_bytes(b"nothing")
    with pytest.raises(OSError, match=r"no array of numpy"):
        form.decode(tmp_path / "wrong.npy")
    with pytest.raises(ValueError, match=r"dimensions is 0"):
        FeatureFormat(0)


def test_a_fit_on_features_is_loaded_again(tmp_path: Path) -> None:
    pool = coded_pool([9] * 6).embedded(nn.Flatten())
    learner = qs.Prototypical(nn.Linear(4, 3))
    qs.fit(learner, qs.Episodes(pool, qs.Setting(3, 1, 2)), 3, out=tmp_path / "run")
    loaded, _ = qs.load_learner(tmp_path / "run", learner=qs.Prototypical(nn.Linear(4, 3)))
    assert loaded.item_format == FeatureFormat(4)
    assert torch.equal(loaded.encoder.weight, learner.encoder.weight)  # pyright: ignore

"""The benchmark of heads: its rows, its table, and that ours are put together as easyfsl's are."""

import pytest
import torch
from torch import Tensor

from benchmarks import heads
from benchmarks.rows import Row
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting
from tools.tables import section


def test_accuracies_of_heads_on_a_model_that_ships() -> None:
    rows = heads.accuracies_on("prototypical-glyphs", 4, 0, ["knn", "pt-map"])
    assert len(rows) == 2 * 4 * 2
    assert {row.method for row in rows} == {"prototypical-glyphs, knn", "prototypical-glyphs, pt-map"}
    assert {row.mode for row in rows if "pt-map" in row.method} == {"transductive"}
    assert {row.setting for row in rows} == {"5w1s", "5w5s", "5w1s Dirichlet(2)", "5w5s Dirichlet(2)"}
    text = "\n".join(section("heads", rows))
    assert "**prototypical-glyphs, glyphs**" in text
    assert "| head | mode | 5w1s | 5w5s | 5w1s Dirichlet(2) | 5w5s Dirichlet(2) | ms a task |" in text
    assert text.index("| knn | inductive |") < text.index("| pt-map | transductive |")


def test_rows_beside_easyfsl(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ours in the place of theirs, which is not here."""
    x = torch.rand(200, 6, generator=torch.Generator().manual_seed(0))
    pool = ClassPool.from_arrays(x, torch.arange(10).repeat(20))
    monkeypatch.setattr(heads, "theirs", heads.ours)
    monkeypatch.setattr(heads, "SETTINGS", (Setting(5, 1, 4),))
    rows = heads.beside_easyfsl(pool, 2, 1, 0)
    assert len(rows) == 4 * len(heads.PEERS)
    assert all(row.value == 0 for row in rows if row.metric == "largest difference")
    assert "| quickstudy, tim | made-up | 5w1s |" in "\n".join(section("heads", rows))

    def wrong(peer: heads.Peer, tasks: list[heads.Episode]) -> Tensor:
        return heads.ours(peer, tasks) + 1e-3

    monkeypatch.setattr(heads, "theirs", wrong)
    with pytest.raises(SystemExit, match=r"scores differ by 0\.001: no comparison"):
        heads.beside_easyfsl(pool, 2, 1, 0)


def test_a_table_shows_small_differences() -> None:
    row = Row(benchmark="heads", method="quickstudy, tim", metric="largest difference", value=2e-7)
    assert "2e-07" in "\n".join(section("heads", [row]))

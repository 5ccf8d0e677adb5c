"""The scripts of a researcher's first day run as they are."""

import runpy
import sys
import types
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("own_dataset", "over classes and items (4w1s of "),
        ("own_backbone", "(5w1s of glyphs.test"),
        ("maml_on_text", "% over draws (own tasks, inductive, 40 episodes, seed 2)"),
        ("own_tasks", "mean squared error "),
        ("five_seeds", " over 5 seeds"),
    ],
)
def test_example(name: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert says in capsys.readouterr().out


@pytest.mark.medium
def test_tensorboard_gets_loss_and_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[str, list[int]] = {}

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            pass

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.setdefault(name, []).append(step)
            assert value == float(value)

        def close(self) -> None:
            pass

    stand_in = types.ModuleType("torch.utils.tensorboard")
    vars(stand_in)["SummaryWriter"] = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stand_in)
    runpy.run_path(str(EXAMPLES / "tensorboard.py"), run_name="__main__")
    assert written["loss"] == list(range(1, 21))
    assert written["validation"] == written["ci95"] == [10, 20]


@pytest.mark.slow
def test_own_method_on_the_command_line(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from quickstudy.cli.app import app

    source = f"{EXAMPLES / 'my_methods.py'}:cosine"
    steps = ["--steps", "2", "--test-episodes", "4", "--out", str(tmp_path / "run")]
    told = CliRunner().invoke(app, ["train", source, "--set", "scale=20", *steps])
    assert told.exit_code == 0, told.output

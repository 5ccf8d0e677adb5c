"""The queue of long trainings goes on where it stopped, and tells how far it is."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import trainings
from benchmarks.trainings import GROUPS, Queue, Training, chosen, listing, state
from quickstudy.core import checkpoint
from quickstudy.core.files import folder_taken

TINY = '''
import numpy as np
from quickstudy.data.formats.images import ImageFormat
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting
from quickstudy.encoders.conv4 import Conv4
from quickstudy.metric.prototypical import Prototypical
from quickstudy.recipes.recipe import Recipe

def pool(*, root=None, progress=None):
    items = np.random.default_rng(0).integers(0, 256, (12 * 6, 1, 16, 16)).astype(np.uint8)
    splits = dict(zip(("train", "validation", "test"), np.split(np.arange(12), 3)))
    return ClassPool.from_grouped(items, [f"c{i}" for i in range(12)], [6] * 12, splits=splits, name="tiny")

def tiny(steps: int = 4) -> Recipe:
    """Tiny."""
    return Recipe(
        summary="tiny", paper="none", pool=pool, item_format=ImageFormat(16, 1),
        learner=lambda: Prototypical(Conv4(1, 2)), train=Setting(3, 1, 2), tasks=1, steps=steps,
        schedule=lambda steps: lambda step: 1.0, validation=Setting(3, 1, 2), validation_episodes=4, every=2,
        tests=(Setting(3, 1, 2),),
    )
'''


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(TINY)
    return f"{tmp_path / 'own.py'}:tiny"


def test_the_list_holds_each_folder_once_and_is_80_columns_wide(tmp_path: Path) -> None:
    every = chosen(list(GROUPS), ())
    assert len({training.name for training in every}) == len(every)
    lines = listing(list(GROUPS), (), tmp_path)
    assert len(lines) == len(every) + 1
    assert max(map(len, lines)) <= 80
    assert [t.name for t in chosen(["A", "B"], ["maml-omniglot-20way"])] == ["maml-omniglot-20way"]


def test_what_is_not_in_the_catalogue_is_told_and_left_out(tmp_path: Path) -> None:
    unknown = Training("no-such-recipe", 1.0)
    assert state(unknown, tmp_path).word == "no recipe"
    assert Queue(tmp_path).run_all([unknown]) == 0
    assert not list(tmp_path.iterdir())


def test_one_that_somebody_else_trains_is_left_alone(recipe: str, tmp_path: Path) -> None:
    training = Training(recipe, 1.0, folder="one")
    with folder_taken(tmp_path / "one"):
        assert state(training, tmp_path).word == "running"
        assert Queue(tmp_path).run(training) == "running"
    assert state(training, tmp_path).word == "open"
    assert not list((tmp_path / "one").iterdir())


@pytest.mark.slow
def test_it_goes_on_where_it_stopped(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    long = Training(recipe, 1.0, settings=("steps=100000",), seed=3, folder="long")
    short = Training(recipe, 0.5, folder="short")
    failing = Training(recipe, 0.5, settings=("stops=1",), folder="failing")
    (tmp_path / "short").mkdir()  # without a checkpoint yet
    assert Queue(tmp_path).run_all([failing, short]) == 1
    assert "failing: failed with exit code 1 (open, – steps" in capsys.readouterr().out
    assert "no argument 'stops'" in (tmp_path / "failing" / "train.log").read_text()
    assert state(short, tmp_path).steps == "4/4"
    assert state(short, tmp_path).word == "done"
    before = (tmp_path / "short" / "train.log").read_text()

    with monkeypatch.context() as patch:  # time runs out for the second one only
        patch.setitem(GROUPS, "A", (short, long))
        for arguments in (["--minutes", "0.25"], ["--list"]):
            patch.setattr(sys, "argv", ["trainings", "--group", "A", "--out", str(tmp_path), *arguments])
            if "--list" in arguments:
                trainings.main()
            else:
                with pytest.raises(SystemExit) as ended:
                    trainings.main()
                assert ended.value.code == 0
    told = capsys.readouterr().out.splitlines()
    assert told[1] == "short: done"
    assert (tmp_path / "short" / "train.log").read_text() == before, "what is finished is not begun again"
    manifest = checkpoint.load(tmp_path / "long" / "last.safetensors")[1]
    done = manifest["progress"]["step"]
    assert manifest["seed"] == 3
    assert 0 < done < 100_000
    assert [line.split()[2] for line in told[-2:]] == ["done", "stopped"]
    assert f"{done}/100000" in told[-1]


@pytest.mark.slow
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_stops(recipe: str, tmp_path: Path, which: signal.Signals) -> None:
    long = Training(recipe, 1.0, settings=("steps=100000",), folder="long")
    program = (
        "from pathlib import Path; from benchmarks.trainings import Queue, Training; "
        f"Queue(Path({str(tmp_path)!r})).run_all([{long!r}, Training({recipe!r}, 1.0, folder='next')])"
    )
    with queue([sys.executable, "-c", program]) as parent:
        deadline = time.monotonic() + 1800
        while not (tmp_path / "long" / "last.safetensors").exists():
            assert time.monotonic() < deadline
            assert parent.poll() is None
            time.sleep(0.05)
        assert state(long, tmp_path).word == "running"
        assert Queue(tmp_path).run(long) == "running", "no two processes train in one folder"
        parent.send_signal(which)
        out, _ = parent.communicate(timeout=1800)
    assert parent.returncode == 0
    assert "long: stopped, " in out
    assert not (tmp_path / "next").exists()
    log = (tmp_path / "long" / "train.log").read_text()
    assert "stopped; go on with: " in log
    assert "Traceback" not in log


def queue(command: Sequence[str]) -> subprocess.Popen[str]:
    """As begun in the background by a script, where SIGINT is ignored at first."""
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=dict(os.environ) | {"PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )

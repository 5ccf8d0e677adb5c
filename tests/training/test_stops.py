"""However a training is stopped, it goes on where it was, bit for bit."""

import contextlib
import errno
import itertools
import os
import pty
import random
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from quickstudy.core import checkpoint
from quickstudy.core.scores import Score
from quickstudy.core.stopping import Stopped
from tests.benchmarks.test_trainings import TINY
from tests.training.test_fit import ROOT, same_result, small_fit, small_learner

TEN = [pytest.param(k, marks=pytest.mark.slow) if k else k for k in range(10)]
STEPS = 12


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    small_fit(small_learner(), folder, STEPS)
    return folder


def goes_on(cut: Path, whole: Path) -> None:
    small_fit(small_learner(0 if not (cut / "last.safetensors").exists() else 1), cut, STEPS, resume=True)
    same_result(whole, cut)
    assert not [p for p in cut.iterdir() if p.name.startswith(".") and p.name != ".lock"]


@pytest.mark.parametrize("draw", TEN)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_saves(tmp_path: Path, whole: Path, number: signal.Signals, draw: int) -> None:
    at = random.Random(draw).randrange(1, STEPS)

    def stop(step: int, report: object) -> None:
        if step == at:
            signal.raise_signal(number)

    with pytest.raises(Stopped) as stopped:
        small_fit(small_learner(), tmp_path, STEPS, report=stop)
    assert stopped.value.number == number
    assert checkpoint.load(tmp_path / "last.safetensors")[1]["progress"]["step"] == at + 1
    goes_on(tmp_path, whole)


@pytest.mark.parametrize("draw", TEN)
def test_a_second_ctrl_c_anywhere_keeps_what_was_saved(
    tmp_path: Path, whole: Path, draw: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a step, and in the middle of saving."""
    rng = random.Random(draw)
    at, syncs, sync = rng.randrange(1, STEPS), itertools.count(), os.fsync
    twice_in_saving = draw % 2 and rng.randrange(8)

    def stop(step: int, report: object) -> None:
        if step == at:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    def fsync(descriptor: int) -> None:
        sync(descriptor)
        if next(syncs) == twice_in_saving:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        if twice_in_saving:
            patch.setattr(os, "fsync", fsync)
        with pytest.raises(Stopped):
            small_fit(small_learner(), tmp_path, STEPS, report=stop)
    goes_on(tmp_path, whole)


@pytest.mark.parametrize("draw", TEN)
def test_a_full_disk_leaves_the_last_good_checkpoint(
    tmp_path: Path, whole: Path, draw: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the log's first, then best, its copy, last, its copy, at each validation
    syncs, sync, lines, log = itertools.count(), os.fsync, itertools.count(), Path.open
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fsync(descriptor: int) -> None:
        if next(syncs) > draw:
            raise full
        sync(descriptor)

    def appended(path: Path, mode: str = "r", **rest: Any) -> Any:
        if mode == "a" and path.name == "log.jsonl" and next(lines) >= draw - 7:
            raise full
        return log(path, mode, **rest)

    with monkeypatch.context() as patch:
        if draw < 8:
            patch.setattr(os, "fsync", fsync)
        else:
            patch.setattr(Path, "open", appended)
        with pytest.raises(OSError, match=r"^can't write .*No space left.*free some"):
            small_fit(small_learner(), tmp_path, STEPS)
    for saved in tmp_path.glob("*.safetensors"):
        checkpoint.load(saved)
    goes_on(tmp_path, whole)


def words(folder: Path, out: str) -> list[str]:
    """A training of a second or two, by the command line."""
    (folder / "own.py").write_text(TINY.replace("every=2", "every=50"))
    line = f"train {folder / 'own.py'}:tiny --set steps=600 --test-episodes 0 --out {folder / out}"
    return shlex.split(f"{line} --accelerator cpu --set keep_memory=false")


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm"}


@pytest.fixture(scope="module")
def whole_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    again = [sys.executable, "-m", "quickstudy", *words(folder, "whole")]
    subprocess.run(again, check=True, env=environment(), cwd=ROOT, capture_output=True)
    return folder / "whole"


@pytest.mark.slow
@pytest.mark.parametrize("draw", range(10))
@pytest.mark.parametrize("how", ["SIGTERM", "twice", "hangup", "disowned"])
def test_a_program_that_is_stopped_goes_on(tmp_path: Path, whole_program: Path, how: str, draw: int) -> None:
    """`quickstudy train` in a terminal of its own, at a time that the clock chooses.

    A program that is not told of its terminal's end, as below nohup or disown, goes on without it.
    """
    own = "import fcntl, signal, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    own += f"signal.signal(signal.SIGHUP, signal.SIG_{'IGN' if how == 'disowned' else 'DFL'}); "
    own += "import quickstudy.__main__ as q; q.main()"
    terminal, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", own, *words(tmp_path, "cut")],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        env=environment(),
        cwd=ROOT,
    ) as child:
        os.close(slave)
        told = b""
        while b"training" not in told:
            told += os.read(terminal, 10_000)
        deadline = time.monotonic() + 0.2 * draw
        while time.monotonic() < deadline and child.poll() is None:
            if select.select([terminal], [], [], 0.01)[0]:  # what is written must be read, or it waits
                with contextlib.suppress(OSError):
                    told += os.read(terminal, 10_000)
        if how in ("hangup", "disowned"):
            os.close(terminal)
        else:
            child.send_signal(signal.SIGTERM if how == "SIGTERM" else signal.SIGINT)
            if how == "twice":
                child.send_signal(signal.SIGINT)
            with contextlib.suppress(OSError):  # the end of it
                while part := os.read(terminal, 10_000):
                    told += part
            os.close(terminal)
    assert b"Traceback" not in told
    ended = child.returncode
    codes = {"SIGTERM": 143, "twice": 130, "hangup": 129, "disowned": 0}
    assert ended in (0, codes[how]), told.decode()
    assert how in ("hangup", "disowned") or (b"go on with: quickstudy" in told) == bool(ended)
    again = [sys.executable, "-m", "quickstudy", *words(tmp_path, "cut"), "--resume"]
    subprocess.run(again, check=True, env=environment(), cwd=ROOT, capture_output=True)
    same_result(whole_program, tmp_path / "cut")


def test_what_minutes_end_with_is_validated_and_the_rest_goes_on_as_if_it_had_not_been(
    tmp_path: Path, whole: Path
) -> None:
    """Before the first regular validation, and after it, where the weights are better or not."""
    minutes = {"minutes": 1e-9}
    learner = small_learner()
    first = small_fit(learner, tmp_path, STEPS, **minutes)
    assert (first.step, first.best_step, first.stopped) == (1, 1, "minutes")
    weights, manifest = checkpoint.load(tmp_path / "best.safetensors")
    assert manifest["training"]["validation"]["accuracy"] == first.best
    assert all(learner.state_dict()[k].equal(v) for k, v in weights.items())
    for _ in range(6):
        small_fit(small_learner(1), tmp_path, STEPS, resume=True, **minutes)
    manifest = checkpoint.load(tmp_path / "last.safetensors")[1]
    assert (manifest["progress"]["step"], manifest["progress"]["best_step"]) == (7, 4)
    goes_on(tmp_path, whole)


@pytest.mark.parametrize("better", [True, False])
def test_the_weights_of_regular_validations_come_back(tmp_path: Path, better: bool) -> None:
    """The last regular one is the best of all, or the one that the time ended with is."""
    figures = {"regular": 0.5, "ends": 0.9 if better else 0.1}
    how = "regular"

    def validation() -> Score:
        return Score(figures[how], 0.1, 8, 1, "5w1s", "inductive")

    small_fit(small_learner(), tmp_path / "whole", 5, validation=validation)
    small_fit(small_learner(), tmp_path / "cut", 5, validation=validation, **{"every": 4, "minutes": 1e-9})
    for _ in range(3):
        small_fit(small_learner(), tmp_path / "cut", 5, validation=validation, minutes=1e-9, resume=True)
    assert checkpoint.load(tmp_path / "cut" / "best.safetensors")[1]["training"]["steps"] == 4
    small_fit(small_learner(), tmp_path / "cut", 5, validation=validation, resume=True)
    same_result(tmp_path / "whole", tmp_path / "cut")
    # and where the time ends between two of them
    out = tmp_path / "between"
    for _ in range(4):
        small_fit(small_learner(), out, 8, validation=validation, minutes=1e-9, resume=True)
    how = "ends"
    ended = small_fit(small_learner(), out, 8, validation=validation, minutes=1e-9, resume=True)
    assert (ended.best, ended.best_step) == ((0.9, 5) if better else (0.5, 4))
    assert checkpoint.load(out / "best.safetensors")[1]["training"]["steps"] == ended.best_step
    how = "regular"
    rest = small_fit(small_learner(), out, 8, validation=validation, resume=True)
    assert (rest.best, rest.best_step) == (0.5, 4)
    assert checkpoint.load(out / "best.safetensors")[1]["training"]["steps"] == 4


def test_two_trainings_do_not_write_into_one_folder(tmp_path: Path) -> None:
    """The second is refused in a line, and what died leaves nothing that refuses."""

    def second(step: int, report: object) -> None:
        with pytest.raises(
            ValueError, match=rf"is being written to by another training \(process {os.getpid()}\)"
        ):
            small_fit(small_learner(), tmp_path, 2, resume=True)

    small_fit(small_learner(), tmp_path, 1, report=second)
    assert not (tmp_path / ".lock").exists()
    (tmp_path / ".lock").write_text("1")  # of one that was killed
    small_fit(small_learner(), tmp_path, 1, resume=True)


def test_a_lock_is_freed_by_a_dead_process(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from quickstudy.core.files import folder_taken\n"
        "with folder_taken(Path(sys.argv[1])):\n    print('taken', flush=True)\n    time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "r")], stdout=subprocess.PIPE, env=environment()
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(ValueError, match=f"another training .process {child.pid}.: wait until it ends"):
            small_fit(small_learner(), tmp_path / "r", 1)
        child.kill()
        child.wait()
    assert small_fit(small_learner(), tmp_path / "r", 1).stopped == "finished"


def test_fit_shows_progress_where_it_is_asked_to(capsys: pytest.CaptureFixture[str]) -> None:
    small_fit(small_learner(), None, 2)
    assert capsys.readouterr().err == "", "nobody watches"
    small_fit(small_learner(), None, 2, show_progress=True)
    assert "step 2 of 2: loss " in capsys.readouterr().err
    small_fit(small_learner(), None, 2, show_progress=False, report=lambda *_: None)
    assert capsys.readouterr().err == ""

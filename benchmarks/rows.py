"""What a benchmark writes: rows, each with all it takes to repeat and to judge it."""

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """Processor, cores, system and versions; no name of the machine."""
    processor, cpuinfo = platform.processor(), Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            processor = line.split(":", 1)[1].strip()
            break
    return (
        f"{processor or platform.machine()}, {os.cpu_count()} cores, {platform.system()}, "
        f"Python {platform.python_version()}, torch {importlib.metadata.version('torch')}"
    )


def commit() -> str | None:
    """The commit that is checked out, with a + where the code differs from it; None outside of git."""
    git = ["git", "-C", str(ROOT)]
    try:
        head, changed = (
            subprocess.run([*git, *command], capture_output=True, text=True, check=True).stdout.strip()
            for command in (
                ["rev-parse", "--short", "HEAD"],
                ["status", "--porcelain", "--", "src", "benchmarks/*.py"],
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + "+" * bool(changed)


COMMIT = commit()
"""Taken when the benchmark starts: the files may change while it runs."""


def command() -> str:
    """How this program was called, after the environment variables that change its speed.

    Of absolute paths the last part, as the others are of this machine only.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["-m", spec.name] if spec else [Path(sys.argv[0]).name]
    settings = [
        f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(("OMP_", "MKL_", "MALLOC_"))
    ]
    arguments = [Path(a).name if Path(a).is_absolute() else a for a in sys.argv[1:]]
    return shlex.join([*settings, "python", *program, *arguments])


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured figure; None where a field does not apply.

    Args:
        benchmark: name of the benchmark, and of its file.
        method: what was measured: a model, or ours or a peer's way of doing it.
        dataset: name of the data set: that of its pool, such as omniglot-vinyals.
        split: of the data set.
        setting: such as 5w1s.
        mode: "inductive", "transductive" or "authors", or which phase of the work.
        metric: what `value` is, with its unit.
        value: the figure; None where the goal was not reached.
        ci95: half-width of its 95 % interval, for a mean over episodes.
        n: how many measurements `value` is the mean (accuracy) or median (time) of.
        seed: as given to the benchmark.
        paper: the paper's figure, in the unit of `value`.
        peer: whom `value` stands beside, and their figure from the same run in the same unit: "NAME FIGURE".
        command: how the benchmark was called.
        minutes: of training that went into it.
        machine: what it ran on.
        commit: of the code.
    """

    benchmark: str
    method: str
    dataset: str | None = None
    split: str | None = None
    setting: str | None = None
    mode: str | None = None
    metric: str
    value: float | None
    ci95: float | None = None
    n: int | None = None
    seed: int | None = None
    paper: float | None = None
    peer: str | None = None
    command: str = field(default_factory=command)
    minutes: float | None = None
    machine: str = field(default_factory=machine)
    commit: str | None = COMMIT


def write(name: str, rows: Iterable[Row]) -> Path:
    """Write the results of a benchmark, one row a line, in place of those of its last run."""
    # late, because it brings torch along: a parent must hold less than the child it measures (children.py)
    from quickstudy.core.files import write_whole

    lines = [json.dumps(_rounded(asdict(row)), ensure_ascii=False, allow_nan=False) for row in rows]
    path = RESULTS / f"{name}.json"
    write_whole(path, ("[\n" + ",\n".join(lines) + "\n]\n").encode())
    print(f"{len(lines)} rows in {path.relative_to(RESULTS.parent.parent)}")
    return path


def read(name: str) -> list[Row]:
    """The rows of a benchmark; none if it has not run."""
    path = RESULTS / f"{name}.json"
    return [Row(**row) for row in json.loads(path.read_text())] if path.exists() else []


def kept(name: str, rows: Iterable[Row]) -> list[Row]:
    """The rows of the last run of another method, dataset or setting than any of these: not measured anew."""
    again = {(row.method, row.dataset, row.setting) for row in rows}
    return [row for row in read(name) if (row.method, row.dataset, row.setting) not in again]


def read_all() -> list[Row]:
    """All rows, benchmark by benchmark."""
    return [row for path in sorted(RESULTS.glob("*.json")) for row in read(path.stem)]


def _rounded(row: dict[str, object]) -> dict[str, object]:
    """Six significant digits: more are noise that hides what has changed."""
    return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()}

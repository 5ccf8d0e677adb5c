"""A gallery of a million embeddings in SQLite: enrolling, searching, memory; and one whose writer is killed.

Embeddings are random, which makes no difference to an exact search. Searches are measured in a process of
their own: the first, which reads the gallery, then warm ones, the median of some rounds. Memory is what the
process holds beyond what it held before, pooling after pooling, and its peak.

`--kills 20` kills a program that enrolls and removes so many times at random, and counts what is lost or
half-written.
"""

import argparse
import contextlib
import json
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import numpy as np

from benchmarks.children import run
from benchmarks.rows import Row, write

DIMENSIONS = 128
SIZES = ((1_000_000, 1), (100_000, 10))
BATCH = 100
EACH = 40
"""Samples of a name in the gallery whose writer is killed."""


def samples(names: int, each: int) -> Iterator[tuple[str, np.ndarray, str]]:
    """Random embeddings, name after name."""
    rng = np.random.default_rng(0)
    for i in range(names):
        for j, embedding in enumerate(rng.standard_normal((each, DIMENSIONS), dtype=np.float32)):
            yield f"name {i}", embedding, f"{i * each + j:064x}"


def resident() -> float:
    """MiB that this process holds, on Linux."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def enroll(path: Path, names: int, each: int) -> dict[str, float]:
    """Make a gallery."""
    from quickstudy.recognition.gallery.gallery import Gallery

    with Gallery(path, encoder="benchmark", dimensions=DIMENSIONS) as gallery:
        rows = list(samples(names, each))
        took = seconds(lambda: gallery.enroll_many(rows))
    return {"samples enrolled a s": names * each / took, "MB on the disk": path.stat().st_size / 1e6}


def search(path: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Search it, by each pooling, and change it."""
    from quickstudy.recognition.gallery.gallery import Gallery
    from quickstudy.recognition.gallery.pooling import Pooling

    probes = np.random.default_rng(1).standard_normal((BATCH, DIMENSIONS), dtype=np.float32)
    with Gallery(path) as gallery:
        before, found = resident(), dict[str, dict[str, float]]()
        for pooling in get_args(Pooling):

            def once(count: int, pooling: Pooling = pooling) -> float:
                return seconds(lambda: gallery.search(probes[:count], 5, pooling))

            first = once(1)
            one, many = ([once(count) for _ in range(rounds)] for count in (1, BATCH))
            found[pooling] = {
                "s of the first search": first,
                "ms a probe, alone": 1e3 * statistics.median(one),
                f"s a batch of {BATCH} probes": statistics.median(many),
                "MiB held for this and those above": resident() - before,
            }
        changes = {"s to enroll one sample": seconds(lambda: gallery.enroll("name 7", probes[:1], ["new"]))}
        changes["s of a search after that"] = seconds(lambda: gallery.search(probes[:1], 5))
        changes["s to remove a name for good"] = seconds(lambda: gallery.remove("name 7"))
    return found | {"changes": changes}


def be_killed(path: Path, first: int) -> None:
    """Enroll number after number and remove every third, saying so."""
    from quickstudy.recognition.gallery.gallery import Gallery

    with Gallery(path, encoder="benchmark") as gallery:
        for i in range(first, 10**9):
            gallery.enroll(f"{i}", np.full((EACH, 256), i, np.float32), [f"{j}" for j in range(EACH)])
            print("+", i, flush=True)
            if i % 3 == 2:
                gallery.remove(f"{i - 1}")
                print("-", i - 1, flush=True)


def kill(path: Path, times: int) -> dict[str, int]:
    """Names told to be enrolled that are lost, names with some of their samples, damaged files."""
    from quickstudy.recognition.gallery.gallery import Gallery

    rng, first, gone = random.Random(0), 0, set[int]()
    found = {"lost": 0, "half-written": 0, "not removed": 0, "damaged": 0}
    for _ in range(times):
        command = [sys.executable, "-m", "benchmarks.gallery", "--path", str(path), "--victim", str(first)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as victim:
            assert victim.stdout
            lines = [victim.stdout.readline()]
            time.sleep(rng.uniform(0, 0.5))
            victim.kill()
            lines += victim.stdout.read().splitlines()
        told = [line.split() for line in lines]
        enrolled, removed = ({int(i) for sign, i in told if sign == which} for which in "+-")
        with Gallery(path) as gallery:
            entries = {int(e.name): e.samples for e in gallery.names()}
        with contextlib.closing(sqlite3.connect(path)) as c:
            found["damaged"] += c.execute("PRAGMA integrity_check").fetchall() != [("ok",)]
        gone |= removed
        untold = {max(enrolled) - 1} - entries.keys()  # removed, and killed before it could say so
        first, earlier = max(enrolled | entries.keys()) + 1, set(range(first)) if first else set[int]()
        found["lost"] += len((earlier | enrolled) - gone - untold - entries.keys())
        found["half-written"] += sum(count != EACH for count in entries.values())
        found["not removed"] += len(gone & entries.keys())
        gone |= untold
        print(f"{len(enrolled)} enrolled, {len(removed)} removed, killed; so far {found}", file=sys.stderr)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="for the galleries, 2 GB; by default the system's")
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--enroll", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--search", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--victim", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.enroll:
        print(json.dumps(enroll(options.path, *options.enroll)))
    elif options.search:
        print(json.dumps(search(options.path, options.rounds)))
    elif options.victim is not None:
        be_killed(options.path, options.victim)
    else:
        measure(options.rounds, options.kills, options.folder)


def measure(rounds: int, kills: int, folder: Path | None) -> None:
    """All of it, each part in a process of its own."""
    rows: list[Row] = []

    def add(setting: str, mode: str, metric: str, value: float, n: int) -> None:
        print(f"{setting}, {mode}: {value:,.4g} {metric}", flush=True)
        rows.append(
            Row(
                benchmark="gallery",
                method="SQLite gallery",
                setting=setting,
                mode=mode,
                metric=metric,
                value=value,
                n=n,
            )
        )

    with tempfile.TemporaryDirectory(dir=folder) as place:
        for names, each in SIZES:
            setting = f"{names:,} names × {each}, {DIMENSIONS}-d"
            program = ["-m", "benchmarks.gallery", "--path", str(Path(place) / f"{names}.db")]
            enrolled = run(*program, "--enroll", str(names), str(each))
            for metric, value in enrolled.report.items():
                add(setting, "enroll", metric, value, 1)
            searched = run(*program, "--search", "--rounds", str(rounds))
            for mode, figures in searched.report.items():
                for metric, value in figures.items():
                    warm = "alone" in metric or "batch" in metric
                    add(setting, mode, metric, value, rounds if warm else 1)
            add(setting, "all poolings and changes", "peak MiB", searched.peak, 1)
        for metric, value in kill(Path(place) / "killed.db", kills).items() if kills else ():
            add(f"killed {kills} times while it enrolled and removed", "faults", metric, value, kills)
    write("gallery", rows)


if __name__ == "__main__":
    main()

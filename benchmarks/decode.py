"""Loading Omniglot the first time, when its 32,460 pictures are decoded, and again from the cache.

The whole call `omniglot()` is timed, each time in a new process. The first time has an empty cache folder;
the archives themselves are in the system's file cache from the second round on.
"""

import argparse
import json
import statistics
import tempfile
import time
from functools import partial

from benchmarks.children import Child, run
from benchmarks.rows import Row, write
from quickstudy.data.datasets.omniglot import omniglot

PICTURES = 32_460


def load() -> float:
    """Seconds that the call takes."""
    started = time.perf_counter()
    pool = omniglot()
    seconds = time.perf_counter() - started
    assert int(pool.counts.sum()) == 4 * PICTURES  # in four rotations
    return seconds


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(load()))
        return

    done: dict[str, list[Child]] = {"first time": [], "from the cache": []}
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as cache:
            for children in done.values():
                environment = {"QUICKSTUDY_CACHE": cache}
                children.append(run("-m", "benchmarks.decode", "--child", environment=environment))
    row = partial(Row, benchmark="decode", dataset="omniglot", n=options.rounds)
    rows = [
        row(method=f"omniglot(), {when}", metric=metric, value=value)
        for when, children in done.items()
        for metric, value in (
            ("s", statistics.median(c.report for c in children)),
            ("s with Python's start", statistics.median(c.seconds for c in children)),
            ("peak MiB", statistics.median(c.peak for c in children)),
        )
    ]
    for r in rows:
        print(f"{r.method}: {r.value:,.4g} {r.metric}")
    write("decode", rows)


if __name__ == "__main__":
    main()

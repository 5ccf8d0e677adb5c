"""Start of the command line, and memory of a training.

`quickstudy --help` is timed after one start that fills the file cache. The peak memory is that of the whole
process `quickstudy train prototypical-omniglot-1shot`, validation included; it does not grow with the steps.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from benchmarks.children import run
from benchmarks.rows import Row, write

RECIPE = "prototypical-omniglot-1shot"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="of training")
    options = parser.parse_args()
    starts = [run("-m", "quickstudy", "--help").seconds for _ in range(options.starts + 1)][1:]
    train = ["-m", "quickstudy", "train", RECIPE, "--steps", str(options.steps), "--test-episodes", "0"]
    with tempfile.TemporaryDirectory() as folder:
        training = run(*train, "--out", str(Path(folder) / "run"))
    rows = [
        Row(
            benchmark="footprint",
            method="quickstudy --help",
            metric="s",
            value=statistics.median(starts),
            n=options.starts,
        ),
        Row(
            benchmark="footprint",
            method=f"quickstudy train {RECIPE}",
            dataset="omniglot",
            metric="peak MiB",
            value=training.peak,
            n=1,
            seed=0,
        ),
    ]
    for r in rows:
        print(f"{r.method}: {r.value:,.4g} {r.metric}")
    write("footprint", rows)


if __name__ == "__main__":
    main()

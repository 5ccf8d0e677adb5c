"""Render benchmarks/results into docs/results.md and the README.

With --check nothing is written: exit code 1 and one line that names the file where what is written there
is not what the results say.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

from benchmarks.rows import ROOT, Row, read_all
from quickstudy.core.files import write_whole
from quickstudy.recipes import weights
from quickstudy.recipes.catalogue import RECIPES

DOCS, README = ROOT / "docs" / "results.md", ROOT / "README.md"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"

TITLES = {  # in this order
    "accuracy": (
        "Accuracy",
        "Ours ± its 95 % interval | the paper's, in % of the queries of test classes; minutes of training on "
        "one or two cores of a shared machine; numbers that were learned. The mode says what batch norm "
        "sees: *inductive*, each query by itself; *transductive*, a task's support and queries together; "
        "*authors*, the same with one query a class, as the authors of MAML and of what followed it measure. "
        "The paper's figure stands beside the mode in which the paper measured.",
    ),
    "photos": (
        "Photographs",
        "`photos`, a network pretrained on ImageNet and not trained any further, on the test classes of "
        "CIFAR-FS, beside raw pixels and a model of letters on the very same tasks. ImageNet has classes "
        "like these, so these figures stand by themselves, not beside those of models trained from scratch. "
        "Then, over draws of 12 classes with 5 labelled pictures each: what leave-one-out promises beside "
        "200 fresh pictures a class, and how the stated probabilities stand to the answers.",
    ),
    "photos_speed": ("Photographs, how fast", "The whole of `predict` without imports; the median round."),
    "across_domains": (
        "Across domains",
        "Models on classes of other data than they were trained on; inductive.",
    ),
    "time_to_accuracy": ("Time to accuracy", "Median over the seeds; one training after the other."),
    "label_splits": (
        "A tenth labelled",
        "Semi-supervised learning: mean over draws of which tenth bears labels, ± the interval over draws "
        "| the paper's.",
    ),
    "verification": (
        "Pairs, and trials within alphabets",
        "Siamese networks; intervals over parts of the tasks.",
    ),
    "recognition": (
        "Recognition",
        "People, words and speakers that neither training nor calibration has met; pairs are all pairs of "
        "different test items. Several samples of a name are taken together in the way that is marked as "
        "chosen, by the validation identities. Intervals of accuracies are over random enrollments or pairs, "
        "those of FAR and FRR over identities; of several seeds, the mean and its interval over them.",
    ),
    "gallery": ("The gallery", "Exact search of 128 numbers a sample in SQLite; the least of some rounds."),
    "enrollment": (
        "Enrolling",
        "All of LFW from files into a SQLite gallery, with the network of faces-lfw.",
    ),
    "training_step": ("A training step", "Median step of the prototypical network, saving by saving."),
    "resnet12_step": (
        "A training step of ResNet-12",
        "A plain classifier's step beside that of a plain module in channels last, in rounds of one step "
        "each; the median of their ratios.",
    ),
    "sampling": ("Sampling tasks", "Meta-batches of 32 tasks; median."),
    "metric_speed": (
        "Metric learners",
        "Float32, freed memory kept; median. Peak memory of processes that do nothing else.",
    ),
    "peer_easyfsl": (
        "Beside easyfsl 1.5.0",
        "Same weights, same tasks; median. Well set up: with our encoder, in the precision of the recipe, "
        "freed memory kept. Prototypical networks train in bfloat16 where the processor has it, all else is "
        "in float32.",
    ),
    "peer_maml": (
        "MAML's meta-step",
        "Beside learn2learn 0.2.0, higher 0.2.1 and TorchOpt 0.7.3: same weights, tasks and meta-gradients; "
        "median. Times as fast as the row's fastest peer.",
    ),
    "sinusoids": ("Sinusoids", "Mean over 600 unseen sinusoids, 100 points each; not reached: it diverges."),
    "learned_optimizers": (
        "Learned optimizers",
        "Mean loss of unseen problems after the last step ± its 95 % interval, and the median; how the mean "
        "stands to that of Adam and of the best baseline, each with its rate tuned on other problems.",
    ),
    "optimizer_step": (
        "A step of a learned optimizer",
        "The least of some rounds, two threads; compiled, the bare rule on all parameters at once.",
    ),
    "confidence": (
        "The confidence of Gaussian prototypical networks",
        "Inductive; items of the support damaged, the queries never. Two networks trained on damaged tasks, "
        "in the same few steps (two of the kinds of damage: squares and noise), and two shipped ones that "
        "never saw damage. The variance 1/s that the network gives the damaged items, over that of the clean "
        "ones, which it would have to exceed; points of accuracy lost to the damage; points gained over the "
        "same network with all s alike. Means over tasks, variances of the undamaged items and their spread "
        "(standard deviation over mean) included; where the spread is 0, s is a constant.",
    ),
    "sound_conditions": (
        "Words under other conditions",
        "Clips of each test speaker, told by the nearest mean of those of the others, as they were recorded; "
        "points lost against the same clips as recorded. Beside another word, either of the two is right.",
    ),
    "lstm_meta_learner": (
        "The LSTM meta-learner",
        "5-way tasks, Conv4 with 32 filters, ten minutes of training each on one core of a busy machine. "
        "Learners of an initialisation spend the first of them on telling all classes apart, as the "
        "baselines do: the LSTM meta-learner nine, the others four.",
    ),
    "full_schedule": ("The papers' schedule", "Accuracy after the papers' number of meta-batches."),
    "decode": ("Loading Omniglot", "32,460 pictures, rotations added; median."),
    "footprint": ("Start and memory", "Whole processes."),
    "features": (
        "Tasks on cached features",
        "10,000 tasks 5w1s of 640 numbers, from vectors in memory to the mean accuracy of prototypes; "
        "tasks a second, the median of the turns.",
    ),
    "heads": (
        "Heads on one backbone, time beside accuracy",
        "Heads on the features of one network's test classes, all on the same tasks: with 15 queries of each "
        "class, and with 75 whose shares are drawn from a Dirichlet distribution (Veilleux et al. 2021). "
        "*Transductive* heads see all queries of a task together. Milliseconds are those of a task 5w1s. "
        "Then, beside easyfsl 1.5.0: the same method put together as it is there, on the same tasks; scores "
        "agree to the difference stated.",
    ),
    "own_data": (
        "Memory of data sets of one's own",
        "`ClassPool.from_dataset` on pictures that are drawn when they are asked for; peaks are beyond what "
        "the process held before. 200 meta-batches of four tasks are drawn, and everything is hashed.",
    ),
}
RATIO = "times as fast"
UNFAIR = ("easyfsl, plain encoder", "the paper's schedule, plain")
"""Peers as most code has them, not as a good user would set them up: no headlines of the README."""

Cell = Callable[[Row], str]


def number(value: float | None) -> str:
    """Three significant digits; whole numbers and those from 100 up without decimals."""
    if value is None:
        return "not reached"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:#.3g}"


def accuracy(row: Row) -> str:
    """`98.71 ± 0.10 | 98.8`, the paper's figure where there is one."""
    ours = f"{row.value:.2f}" + (f" ± {row.ci95:.2f}" if row.ci95 is not None else "")
    return ours if row.paper is None else f"{ours} \\| {row.paper:g}"


def figure(row: Row) -> str:
    """As `accuracy` where it is one, else three digits; with the interval where there is one."""
    if row.metric.startswith("accuracy"):
        return accuracy(row)
    return number(row.value) + (f" ± {number(row.ci95)}" if row.ci95 is not None else "")


def family(row: Row) -> str:
    """`omniglot` of any split of it, else the data set."""
    return "omniglot" if str(row.dataset).startswith("omniglot-") else str(row.dataset)


def pivot(rows: Sequence[Row], lines: Sequence[str], columns: str, cell: Cell) -> list[str]:
    """A Markdown table.

    Args:
        rows: what it shows.
        lines: fields that tell the table's lines apart.
        columns: the field that tells its columns apart.
        cell: what is shown of a row.
    """
    cells = {(tuple(getattr(r, k) or "–" for k in lines), getattr(r, columns)): cell(r) for r in rows}
    heads = list(dict.fromkeys(column for _, column in cells))
    table = ["| " + " | ".join([*lines, *heads]) + " |", "|" + "---|" * len(lines) + "--:|" * len(heads)]
    for line in dict.fromkeys(line for line, _ in cells):
        table.append("| " + " | ".join([*line, *(cells.get((line, head), "") for head in heads)]) + " |")
    return table


def accuracy_table(rows: Sequence[Row]) -> list[str]:
    """All methods and settings, with the minutes of training and the numbers that were learned."""
    settings = sorted(
        {str(row.setting) for row in rows}, key=lambda s: [int(n) for n in re.findall(r"\d+", s)]
    )
    cells = {(r.method, r.mode, str(r.setting)): accuracy(r) for r in rows}
    minutes, order = {r.method: r.minutes for r in rows}, list(RECIPES)
    methods = sorted(minutes, key=lambda m: order.index(m) if m in order else len(order))
    table = [
        "| " + " | ".join(["method", "mode", *settings, "minutes", "parameters"]) + " |",
        "|---|---|" + "--:|" * (len(settings) + 2),
    ]
    for method in methods:
        learned = parameters(method)
        ends = [number(minutes[method]) if minutes[method] else "–", f"{learned:,}" if learned else "–"]
        for mode in dict.fromkeys(r.mode for r in rows if r.method == method):
            figures = [cells.get((method, mode, setting), "") for setting in settings]
            table.append("| " + " | ".join([method, mode or "–", *figures, *ends]) + " |")
    return table


@cache
def parameters(method: str) -> int | None:
    """Of a model that ships, the numbers that were learned."""
    if method not in weights.models():
        return None
    return sum(p.numel() for p in weights.load_learner(method)[0].parameters())


def provenance(rows: Iterable[Row]) -> list[str]:
    """How and on what the rows were measured, a line for each way."""
    ways: dict[tuple[str, str, str | None], list[Row]] = {}
    for row in rows:
        ways.setdefault((row.command, row.machine, row.commit), []).append(row)
    return [
        " · ".join(
            [f"`{command}`", machine, f"commit {commit or 'unknown'}"]
            + [f"n = {n}" for n in _common(row.n for row in of)]
        )
        + "  "  # Markdown's line break
        for (command, machine, commit), of in ways.items()
    ]


def _common(values: Iterable[object]) -> list[object]:
    """The value that all share, if they do."""
    distinct = set(values)
    return list(distinct) if len(distinct) == 1 and distinct != {None} else []


def heads_tables(rows: Sequence[Row]) -> list[str]:
    """For each network a table of its heads, those of the features of one item first; then the speeds."""
    lines: list[str] = []
    accuracies = [row for row in rows if row.metric == "accuracy %"]
    times = {(r.method, r.dataset, r.setting): number(r.value) for r in rows if r.metric == "ms a task"}
    networks = dict.fromkeys((row.method.rsplit(", ", 1)[0], str(row.dataset)) for row in accuracies)
    for network, dataset in networks:
        of = [r for r in accuracies if (r.method.rsplit(", ", 1)[0], str(r.dataset)) == (network, dataset)]
        settings = list(dict.fromkeys(str(row.setting) for row in of))
        cells = {(row.method, row.setting): accuracy(row) for row in of}
        lines += [f"**{network}, {dataset}**", ""]
        lines.append("| " + " | ".join(["head", "mode", *settings, "ms a task"]) + " |")
        lines.append("|---|---|" + "--:|" * (len(settings) + 1))
        for method, mode in dict.fromkeys((r.method, r.mode) for r in sorted(of, key=lambda r: str(r.mode))):
            figures = [cells.get((method, setting), "") for setting in settings]
            took = times.get((method, dataset, settings[0]), "")
            head = method.rsplit(", ", 1)[1]
            lines.append("| " + " | ".join([head, mode or "–", *figures, took]) + " |")
        lines.append("")
    speeds = [row for row in rows if row.metric not in ("accuracy %", "ms a task")]
    if speeds:
        lines += [*pivot(speeds, ("method", "dataset", "setting"), "metric", tiny), ""]
    return lines


def tiny(row: Row) -> str:
    """As `figure`, with powers of ten for what is small."""
    return f"{row.value:.0e}" if row.value is not None and 0 < row.value < 1e-3 else figure(row)


def section(name: str, rows: Sequence[Row]) -> list[str]:
    """A benchmark's heading, tables, and how they came about."""
    title, text = TITLES.get(name, (name, ""))
    lines = [f"## {title}", "", text, ""]
    if name == "accuracy":
        for dataset in dict.fromkeys(family(row) for row in rows):
            of = [row for row in rows if family(row) == dataset]
            lines += [f"**{dataset}**", "", *accuracy_table(of), ""]
    elif name == "heads":
        lines += heads_tables(rows)
    elif name == "recognition":
        lines += [*pivot(rows, ("method", "setting", "metric"), "split", figure), ""]
    else:
        kinds = ("dataset", "split", "setting")
        told = [k for k in (*kinds, "mode") if len({getattr(row, k) for row in rows}) > 1]
        same = [str(v) for k in kinds if k not in told for v in _common(getattr(row, k) for row in rows)]
        lines += [f"On {', '.join(same)}.", ""] * bool(same)
        lines += [*pivot(rows, ("method", *told), "metric", figure), ""]
    return [*lines, *provenance(rows), ""]


def by_benchmark(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each benchmark, in the order of `TITLES`."""
    present = dict.fromkeys(row.benchmark for row in rows)
    names = sorted(present, key=[*TITLES, *present].index)
    return {name: [row for row in rows if row.benchmark == name] for name in names}


def docs(rows: Sequence[Row]) -> str:
    """The whole of docs/results.md."""
    lines = [
        "<!-- Written by python -m tools.tables; changes are lost. -->",
        "# Results",
        "",
        "Every figure is measured, by the command under its table. Ratios are to a peer of the same run.",
        "",
    ]
    for name, of in by_benchmark(rows).items():
        lines += section(name, of)
    return "\n".join(lines).rstrip() + "\n"


def readme_block(rows: Sequence[Row]) -> str:
    """What stands between the markers of the README: Omniglot's accuracy, and who is how much faster."""
    lines: list[str] = []
    omniglot = [row for row in by_benchmark(rows).get("accuracy", []) if family(row) == "omniglot"]
    if omniglot:
        lines += ["Accuracy on Omniglot in %, ours ± its 95 % interval | the paper's:", ""]
        lines += [*accuracy_table(omniglot), ""]
    ratios = [r for of in by_benchmark(rows).values() for r in of if r.metric == RATIO and r.peer]
    ratios = [r for r in ratios if not str(r.peer).startswith(UNFAIR)]
    if ratios:
        lines += ["| speed | ours | beside | times as fast |", "|---|--:|--:|--:|"]
        lines += [_speed(ratio, rows) for ratio in ratios] + [""]
    if lines:
        lines += [
            "*Well set up* is what a good user of torch writes: the same precision, memory layout and kept "
            "memory. How these were measured, what each saving brings by itself, and "
            "more: [docs/results.md](docs/results.md)."
        ]
    return "\n".join(lines)


def _speed(ratio: Row, rows: Sequence[Row]) -> str:
    """The line of a ratio: the two figures it is the ratio of come from the row with the same peer."""

    def key(row: Row) -> tuple[str | None, ...]:
        return row.benchmark, row.method, row.setting, row.mode

    figures = next(row for row in rows if row.peer and row.metric != RATIO and key(row) == key(ratio))
    peer, value = str(figures.peer).rsplit(" ", 1)
    what = ", ".join(
        filter(None, (TITLES.get(ratio.benchmark, (ratio.benchmark,))[0], ratio.setting, ratio.mode))
    )
    ours = f"{number(figures.value)} {figures.metric}"
    return f"| {what} | {ours} | {peer}: {number(float(value))} | {number(ratio.value)} |"


def rendered() -> dict[Path, str]:
    """What each file must hold.

    Raises:
        ValueError: if the README lacks the markers.
    """
    rows = read_all()
    text = README.read_text() if README.exists() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(
            f"{README.name} lacks the lines {BEGIN} and {END}, between which results are written"
        )
    return {DOCS: docs(rows), README: f"{before}{begin}\n{readme_block(rows)}\n{end}{after}"}


def stale() -> dict[Path, str]:
    """Files that don't hold what the results say, and what they must hold."""
    return {p: text for p, text in rendered().items() if not p.exists() or p.read_text() != text}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, say what is stale")
    options = parser.parse_args()
    try:
        old = stale()
        if options.check and old:
            names = " and ".join(str(p.relative_to(ROOT)) for p in old)
            sys.exit(f"stale: {names}; run python -m tools.tables")
        for path, text in old.items():
            write_whole(path, text.encode())
            print(f"wrote {path.relative_to(ROOT)}")
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

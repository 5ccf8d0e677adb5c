"""The command line. Torch is imported by the commands that need it, so that --help is quick."""

import csv
import json
import os
import shlex
import sys
import warnings
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quickstudy.recognition import commands

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from quickstudy.data.episodes import Setting
    from quickstudy.metrics import Score
    from quickstudy.recipes import Recipe

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Start with [bold]quickstudy demo[/bold]; [bold]quickstudy recipes[/bold] lists more.",
)

DataRoot = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the data sets; else QUICKSTUDY_DATA, else your cache folder.", show_default=False
    ),
]
SkipCorrupt = Annotated[bool, typer.Option("--skip-corrupt", help="Leave out pictures that can't be read.")]
Checkpoint = Annotated[
    str, typer.Argument(help="A checkpoint file, a training's folder, or a name from `quickstudy models`.")
]


_training = partial(typer.Option, rich_help_panel="Training")
_own = partial(
    typer.Option,
    rich_help_panel="Your own data (recipes siamese, prototypical-images, maml-images)",
    show_default=False,
)
_machine = partial(typer.Option, rich_help_panel="Machine")


class Mode(StrEnum):
    """What batch norm sees in evaluation."""

    inductive = "inductive"
    transductive = "transductive"
    both = "both"


class Demo(StrEnum):
    """What the demonstration shows: learning a metric or an initialisation, or recognition."""

    letters = "letters"
    sinusoids = "sinusoids"
    recognition = "recognition"
    faces = "faces"
    words = "words"


class Format(StrEnum):
    """How predictions are printed."""

    table = "table"
    json = "json"
    csv = "csv"


commands.add_to(app)


@app.callback()
def _quickstudy() -> None:
    """Learning to learn: train, evaluate and use meta-learning methods."""
    warnings.showwarning = _warn


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A name from `quickstudy recipes`.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to. (default: runs/RECIPE)", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training in --out.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and episodes.")] = 0,
    data_root: DataRoot = None,
    steps: Annotated[int | None, _training(min=1, help="Steps, instead of the recipe's.")] = None,
    tasks: Annotated[int | None, _training(min=1, help="Tasks a step, instead of the recipe's.")] = None,
    lr: Annotated[float | None, _training(min=1e-12, help="Learning rate, instead of the recipe's.")] = None,
    clip: Annotated[float | None, _training(min=1e-12, help="Largest norm of the gradient.")] = None,
    minutes: Annotated[
        float | None, _training(min=0, help="Stop after so long; --resume goes on, as long again.")
    ] = None,
    patience: Annotated[
        int | None, _training(min=1, help="Stop after so many validations without a better one.")
    ] = None,
    start: Annotated[
        str | None,
        _training(help="A checkpoint or model whose encoder to begin with (learners of a metric)."),
    ] = None,
    trainval: Annotated[
        bool,
        _training("--trainval", help="Train on the validation classes too; the last weights are kept."),
    ] = False,
    test_episodes: Annotated[int, _training(min=0, help="Test tasks in the end; 0 leaves it out.")] = 1000,
    images: Annotated[Path | None, _own(help="Folder of class folders.")] = None,
    size: Annotated[
        int | None, _own(min=16, help="Pixels of height and width. (default: 84; siamese: 64)")
    ] = None,
    grey: Annotated[bool, _own("--grey", help="Without colour.")] = False,
    split: Annotated[
        Path | None, _own(help="JSON file of the classes of train, validation and test.")
    ] = None,
    ways: Annotated[
        int | None, _own(min=2, help="Classes of a task. (default: 5; siamese: up to 16)")
    ] = None,
    shots: Annotated[int | None, _own(min=1, help="Support pictures a class. (default: 1)")] = None,
    queries: Annotated[
        int | None, _own(min=1, help="Query pictures a class. (default: 5; siamese: 3)")
    ] = None,
    skip_corrupt: Annotated[bool, _own("--skip-corrupt", help="Leave out files that can't be read.")] = False,
    audio: Annotated[Path | None, _own(help="Folder of class folders of clips (recipe siamese).")] = None,
    seconds: Annotated[float | None, _own(min=0.05, help="Length of the clips. (default: 1)")] = None,
    rate: Annotated[
        int | None, _own(min=1000, help="Samples a second of the clips. (default: 16000)")
    ] = None,
    pattern: Annotated[
        str | None, _own(help="How the clips are called, such as '{class}/{source}_{take}'.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            rich_help_panel="Recognition",
            help="siamese, euclidean, prototypical or supervised-contrastive (recipes of recognition).",
            show_default=False,
        ),
    ] = None,
    accelerator: Annotated[str, _machine(help="auto, cpu, cuda, mps.")] = "auto",
    devices: Annotated[int, _machine(min=1, help="Processes or cards that share the tasks of a step.")] = 1,
    precision: Annotated[str | None, _machine(help="32-true or bf16-mixed, instead of the recipe's.")] = None,
    keep_memory: Annotated[
        bool, _machine(help="Keep freed memory in the process: faster on a CPU, holds its peak to the end.")
    ] = True,
) -> None:
    """Train a recipe, then test it on classes never seen.

    Ctrl-C saves and says how to go on.

    The folder gets best.safetensors (to use), last.safetensors (to resume) and log.jsonl.
    """
    from quickstudy import checkpoint, experiment
    from quickstudy.display import console, messages
    from quickstudy.memory import keep_freed_memory
    from quickstudy.recipes import RECIPES
    from quickstudy.recipes.rules import RULE_RECIPES, RuleRecipe
    from quickstudy.rule_experiment import final_loss, train_rule

    if recipe not in (*RECIPES, *RULE_RECIPES):
        raise ValueError(
            f"there is no recipe {recipe!r}: choose one of {', '.join((*RECIPES, *RULE_RECIPES))}"
        )
    own = {
        "images": images and str(images.resolve()),
        "size": size,
        "grey": grey or None,
        "split": split and str(split.resolve()),
        "ways": ways,
        "shots": shots,
        "queries": queries,
        "skip_corrupt": skip_corrupt or None,
        "audio": audio and str(audio.resolve()),
        "seconds": seconds,
        "rate": rate,
        "pattern": pattern,
        "method": method,
    }
    arguments = {k: v for k, v in own.items() if v is not None}
    _check_arguments(recipe, arguments)
    if start and recipe in RULE_RECIPES:
        raise ValueError(f"{recipe} learns an update rule, which starts from none: leave out --start")
    if trainval and recipe in RULE_RECIPES:
        raise ValueError(f"{recipe} learns on problems, not classes: leave out --trainval")
    if devices > 1 and recipe in RULE_RECIPES:
        raise ValueError(
            f"{recipe} is learned by one process, its problems side by side: leave out --devices {devices}"
        )
    if trainval and patience:
        raise ValueError("--trainval leaves no classes for --patience to go by: leave one of them out")
    if keep_memory and accelerator in ("auto", "cpu"):
        keep_freed_memory()
    stated = RULE_RECIPES[recipe]() if recipe in RULE_RECIPES else RECIPES[recipe](**arguments)
    fabric = experiment.launch(accelerator, devices, precision or stated.precision)
    folder = out or Path("runs") / recipe
    display = _terminal(fabric)
    again = shlex.join(["quickstudy", *(a for a in sys.argv[1:] if a != "--resume"), "--resume"])
    say = messages.print if fabric.global_rank == 0 else _silent
    options: experiment.Options = {
        "steps": steps,
        "lr": lr,
        "seed": seed,
        "tasks": tasks,
        "minutes": minutes,
        "patience": patience,
        "clip": clip,
        "resume": resume,
        "start": start,
        "trainval": trainval,
        "data_root": data_root,
    }
    learner: Any
    scores: list[Any]
    try:
        if isinstance(stated, RuleRecipe):
            learner, progress = train_rule(recipe, folder, display=display, fabric=fabric, **options)
        else:
            learner, progress = experiment.train(
                recipe, arguments, folder, display=display, fabric=fabric, **options
            )
    except KeyboardInterrupt:
        say(f"stopped; go on with: {again}", highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None
    best = f"{'last' if trainval else 'best'} validation {progress.headline} at step {progress.best_step}"
    if trainval:
        best += ", of classes trained on"
    say(
        f"{'out of time' if progress.stopped == 'minutes' else progress.stopped} after {progress.step} steps "
        f"in {progress.seconds / 60:.1f} minutes; {best if progress.best_step else 'no validation yet'}; "
        f"{folder / 'best.safetensors'}",
        highlight=False,
        soft_wrap=True,
    )
    if progress.stopped == "minutes":
        say(f"go on with: {again}", highlight=False, soft_wrap=True)
        return
    if test_episodes:
        try:
            if isinstance(stated, RuleRecipe):
                scores = [final_loss(stated, learner, test_episodes, data_root)]
            else:
                scores = experiment.measure(
                    stated,
                    learner,
                    display=display,
                    episodes=test_episodes,
                    modes=("inductive",) if stated.mode == "inductive" else ("inductive", stated.mode),
                    seed=seed,
                    data_root=data_root,
                    fabric=fabric,
                )
        except KeyboardInterrupt:
            if isinstance(stated, RuleRecipe):
                command = ["optimize", stated.family_name, "--rule", str(folder)]
            else:
                command = ["evaluate", str(folder), "--mode", "both"]
            test = shlex.join(["quickstudy", *command])
            say(
                f"stopped in the test; the training is kept. Test with: {test}",
                highlight=False,
                soft_wrap=True,
            )
            raise typer.Exit(130) from None
        if fabric.global_rank == 0:
            weights, manifest = checkpoint.load(folder / "best.safetensors")
            manifest["figures"] = [s.as_dict() for s in scores]
            checkpoint.save(folder / "best.safetensors", weights, manifest)
            if isinstance(stated, RuleRecipe):
                console.print(f"test: {scores[0]}", highlight=False, soft_wrap=True)
            else:
                console.print(_score_table(scores, stated))


@app.command()
def evaluate(
    checkpoint: Checkpoint,
    setting: Annotated[
        list[str] | None,
        typer.Option(help="Such as 5w1s; repeatable. (default: the recipe's)", show_default=False),
    ] = None,
    queries: Annotated[int, typer.Option(min=1, help="Query items a class.")] = 15,
    episodes: Annotated[int, typer.Option(min=2, help="Test tasks.")] = 1000,
    mode: Annotated[Mode, typer.Option(help="What batch norm sees.")] = Mode.inductive,
    seed: Annotated[int, typer.Option(min=0, help="Of the episodes.")] = 0,
    images: Annotated[Path | None, typer.Option(help="Test on the classes of this folder instead.")] = None,
    skip_corrupt: SkipCorrupt = False,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "auto",
    devices: Annotated[int, typer.Option(min=1)] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    data_root: DataRoot = None,
) -> None:
    """Measure a checkpoint on test classes: mean accuracy with its 95 % interval.

    Of a Siamese network also how well it tells pairs: EER, AUC, TAR at FAR.
    """
    from dataclasses import replace

    from quickstudy import experiment
    from quickstudy.data.folders import folder_pool
    from quickstudy.display import console
    from quickstudy.learners.siamese import Siamese
    from quickstudy.memory import keep_freed_memory

    settings = tuple(_setting(s, queries) for s in setting or [])
    learner, manifest = experiment.load_learner(checkpoint)
    recipe = experiment.recipe_of(manifest)
    if images:
        fractions = (0.0, 0.0, 1.0)  # every class is a test class
        pool = folder_pool(images, experiment.item_format_of(manifest), fractions, skip_corrupt)
        recipe = replace(recipe, pool=pool, published={})
    if accelerator in ("auto", "cpu"):
        keep_freed_memory()
    fabric = experiment.launch(accelerator, devices, "32-true")
    learner.to(fabric.device)
    modes: Any = ("inductive", "transductive") if mode is Mode.both else (mode.value,)
    asked: Any = {
        "display": _terminal(fabric),
        "settings": settings,
        "episodes": episodes,
        "modes": modes,
        "seed": seed,
        "data_root": data_root,
    }
    scores = experiment.measure(recipe, learner, fabric=fabric, **asked)
    if fabric.global_rank == 0:
        pairs = experiment.measure_pairs(recipe, learner, **asked) if isinstance(learner, Siamese) else []
        if as_json:
            print(json.dumps([s.as_dict() for s in (*scores, *pairs)], indent=2))
        else:
            console.print(_score_table(scores, recipe))
            for verification in pairs:
                console.print(f"pairs: {verification}", highlight=False, soft_wrap=True)


@app.command()
def predict(
    checkpoint: Checkpoint,
    support: Annotated[
        Path, typer.Option(help="Folder whose folders name the classes and hold a few pictures of each.")
    ],
    query: Annotated[Path, typer.Option(help="A picture or a folder of pictures to tell.")],
    output: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.table,
    skip_corrupt: SkipCorrupt = False,
    save: Annotated[
        Path | None,
        typer.Option(
            help="Write the weights as adapted to the support, as safetensors (MAML and its kin).",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Tell your own pictures apart, from a handful of labelled ones. No training."""
    from quickstudy import experiment
    from quickstudy.display import Terminal, console, table
    from quickstudy.predict import predict_folders

    learner, manifest = experiment.load_learner(checkpoint)
    with Terminal().counting("decoding") as progress:
        predictions = predict_folders(
            learner,
            experiment.item_format_of(manifest),
            support,
            query,
            skip_corrupt=skip_corrupt,
            save=save,
            progress=progress,
        )
    classes = list(predictions[0].probabilities)
    if output is Format.json:
        rows = [
            {"file": str(p.file), "label": p.label, "probabilities": p.probabilities} for p in predictions
        ]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    elif output is Format.csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(["file", "label", *classes])
        writer.writerows(
            [p.file, p.label, *(f"{v:.6f}" for v in p.probabilities.values())] for p in predictions
        )
    else:
        rows = table("picture", "class", "probability", "next", wraps=("picture", "class", "next"))
        for p in predictions:
            first, second = sorted(p.probabilities.items(), key=lambda kv: -kv[1])[:2]
            rows.add_row(p.file.name, first[0], f"{first[1]:.1%}", f"{second[0]} {second[1]:.1%}")
        console.print(rows)


@app.command()
def recipes() -> None:
    """List what can be trained, with the paper's figures and ours."""
    from quickstudy import checkpoint, experiment
    from quickstudy.display import console, table
    from quickstudy.metrics import percent
    from quickstudy.recipes import RECIPES
    from quickstudy.recipes.rules import RULE_RECIPES

    rows = table("recipe", "what", "setting", "paper %", "ours %", wraps=("what",))
    manifests = {path.stem: checkpoint.load(path)[1] for path in experiment.models().values()}
    for name in RECIPES:
        recipe = _example(name)
        figures = manifests.get(name, {}).get("figures", [])
        ours = {f["setting"]: percent(f["accuracy"], f["ci95"]) for f in figures if f["mode"] == recipe.mode}
        paper = {setting: f"{value:.1f}" for setting, value in recipe.published.items()}
        settings = [str(setting) for setting in recipe.tests]
        rows.add_row(
            name,
            f"{recipe.summary} ({recipe.paper})",
            "\n".join(settings),
            "\n".join(paper.get(s, "–") for s in settings),
            "\n".join(ours.get(s, "–") for s in settings),
        )
    console.print(rows)
    rules = table("update rule", "what", "problems", "horizon", wraps=("what",))
    for name, make in RULE_RECIPES.items():
        rule = make()
        rules.add_row(name, f"{rule.summary} ({rule.paper})", rule.family_name, str(rule.horizon.longest))
    console.print(rules)


@app.command()
def models() -> None:
    """List the trained models and update rules that ship with the library."""
    from quickstudy import checkpoint, experiment
    from quickstudy.display import console, table
    from quickstudy.metrics import percent
    from quickstudy.optimizer import shipped_rules

    rows = table("model", "minutes", "setting", "batch norm", "accuracy %")
    for name, path in experiment.models().items():
        manifest = checkpoint.load(path)[1]
        for i, f in enumerate(manifest["figures"]):
            minutes = f"{manifest['training']['minutes']:.0f}"
            figure = (f["setting"], f["mode"], percent(f["accuracy"], f["ci95"]))
            rows.add_row(*(("", "") if i else (name, minutes)), *figure)
    console.print(rows)
    rules = table("update rule", "race", "× Adam", "× best", wraps=("race",))
    for name, path in shipped_rules().items():
        races = checkpoint.load(path)[1]["figures"]
        for i, (race, f) in enumerate(races.items()):
            ratios = (f"{f[key]:.2f}" for key in ("of tuned Adam's", "of the best baseline's"))
            rules.add_row("" if i else name, race, *ratios)
    console.print(rules)
    console.print("×: the mean loss over that of tuned Adam, and over that of the best tuned baseline")


@app.command()
def data(data_root: DataRoot = None) -> None:
    """List the data sources: what is present, its classes, items and licence."""
    from quickstudy.data.pool import data_root as find_root
    from quickstudy.data.sources import SOURCES
    from quickstudy.display import console, table

    root = find_root(data_root)
    rows = table(
        "source", "present", "classes", "items", "licence", "what", wraps=("present", "licence", "what")
    )
    for source in SOURCES:
        rows.add_row(
            source.name,
            source.where(root),
            str(source.classes or "–"),
            str(source.items or "–"),
            source.licence,
            source.what,
        )
    console.print(rows)
    console.print(f"data root: {root}", highlight=False)


@app.command()
def plot(
    checkpoint: Annotated[str, typer.Argument(help="A training's folder, a checkpoint, or a model's name.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("plots"),
    setting: Annotated[str, typer.Option(help="Of the episode that is drawn.")] = "5w1s",
    seed: Annotated[int, typer.Option(min=0, help="Of the episode.")] = 0,
    data_root: DataRoot = None,
) -> None:
    """Draw the learning curve, an episode with right and wrong predictions, and the embedding."""
    from quickstudy import experiment, plots
    from quickstudy.display import Terminal, console

    learner, manifest = experiment.load_learner(checkpoint)
    with Terminal().counting("decoding") as progress:
        pool = experiment.recipe_of(manifest).pool(root=data_root, progress=progress)
    log = experiment.find(checkpoint).with_name("log.jsonl")
    wanted = _setting(setting, 1)
    spare = int(pool.split("test").counts.min(initial=wanted.items)) - wanted.shots
    classes, size = experiment.fitting(pool.split("test"), _setting(setting, max(1, min(5, spare))))
    inverted = getattr(experiment.item_format_of(manifest), "invert", False)
    kept = manifest.get("training", {}).get("steps")
    for path in plots.draw_all(learner, classes, size, log, out, seed, inverted, kept):
        console.print(str(path), highlight=False, soft_wrap=True)


@app.command()
def optimize(
    family: Annotated[str, typer.Argument(help="Of problems: quadratics, digits, mnist, letters, …")],
    rule: Annotated[
        list[str] | None,
        typer.Option(
            help="A rule that ships, or a training's folder; repeatable. (default: all that ship)",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of the race.")] = 100,
    problems: Annotated[int, typer.Option(min=2, help="Test problems, and as many to tune on.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of the problems.")] = 0,
    held_out: Annotated[bool, typer.Option("--held-out", help="Judge by data not trained on.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for the picture.")] = Path("plots"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    data_root: DataRoot = None,
) -> None:
    """Race learned update rules against SGD, heavy ball, NAG, RMSprop, Adam and AdamW with cosine.

    The baselines' learning rates are tuned on other problems of the family.
    """
    from quickstudy.display import Terminal, console, table
    from quickstudy.metrics import FinalLoss
    from quickstudy.optimizer import load_rule, shipped_rules
    from quickstudy.plots import race_curves
    from quickstudy.race import race
    from quickstudy.recipes.rules import FAMILIES

    if family not in FAMILIES:
        raise ValueError(f"there is no family {family!r}: choose one of {', '.join(FAMILIES)}")
    learned = {Path(name).name: load_rule(name)[0] for name in rule or shipped_rules()}
    test = FAMILIES[family]("test", data_root)
    with Terminal().counting("racing") as report:
        curves = race(learned, test, steps, problems, seed, held_out=held_out, report=report)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"race-{family}-{steps}{'-held-out' * held_out}.png"
    race_curves(curves, f"{family}: {problems} unseen problems", held_out).savefig(path, dpi=150)
    finals = [FinalLoss.of(c.judged(held_out)[-1], seed, family, steps) for c in curves]
    if as_json:
        rows = [
            {"rule": c.name, "lr": c.lr, "ms": 1e3 * c.own_seconds, **f.as_dict()}
            for c, f in zip(curves, finals, strict=True)
        ]
        print(json.dumps(rows, indent=2))
        return
    lines = table("rule", "rate", f"loss at {steps}", "median", "own ms", wraps=("rule",))
    for c, f in sorted(zip(curves, finals, strict=True), key=lambda cf: cf[1].mean):
        lines.add_row(
            c.name,
            "learned" if c.lr is None else f"{c.lr:.3g}",
            f"{f.mean:.4g} ± {f.ci95:.2g}",
            f"{f.median:.4g}",
            f"{1e3 * c.own_seconds:.2f}",
        )
    console.print(lines)
    console.print(str(path), highlight=False, soft_wrap=True)


@app.command()
def demo(
    what: Annotated[Demo, typer.Argument(help="What to learn.")] = Demo.letters,
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint and the pictures.")] = Path("demo"),
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Training steps. (default: 600, sinusoids 4000, faces and words 200)",
            show_default=False,
        ),
    ] = None,
    data_root: DataRoot = None,
) -> None:
    """Watch a network learn to learn, in about two minutes and with nothing to download.

    recognition, faces and words enroll a few samples of some names, and tell others from strangers; faces and
    words need the data (ORL, Arabic Speech Commands).
    """
    from quickstudy import demo

    if what in (Demo.recognition, Demo.faces, Demo.words):
        from quickstudy.recognition import demo as recognition_demo

        recognition_demo.run(what.value, out, steps, data_root)
    elif what is Demo.letters:
        demo.run(out, steps or 600)
    else:
        demo.run_sinusoids(out, steps or 4000)


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":  # the first process says it for all
        print(f"warning: {message}", file=sys.stderr)


def _silent(*_: object, **__: object) -> None:
    """What processes other than the first say."""


def _terminal(fabric: "Fabric") -> Any:
    from quickstudy.display import Terminal

    return Terminal(quiet=fabric.global_rank > 0)


def _example(recipe: str) -> "Recipe":
    """A recipe to look at: of one's own data, with a folder that needn't be there."""
    from quickstudy.recipes import RECIPES

    return RECIPES[recipe](**({"images": "DIR"} if "images" in _arguments_of(recipe) else {}))


def _arguments_of(recipe: str) -> list[str]:
    import inspect

    from quickstudy.recipes import RECIPES

    return list(inspect.signature(RECIPES[recipe]).parameters) if recipe in RECIPES else []


def _check_arguments(recipe: str, arguments: dict[str, Any]) -> None:
    takes = _arguments_of(recipe)
    if "images" in takes and not {"images", "audio"} & set(arguments) & set(takes):
        kinds = "--images DIR or --audio DIR" if "audio" in takes else "--images DIR"
        raise ValueError(f"{recipe} needs {kinds}, a folder that holds a folder for each class")
    other = ", ".join(f"--{k.replace('_', '-')}" for k in arguments if k not in takes)
    if other:
        why = "leave it out" if "images" in takes else "it states its own data and tasks"
        raise ValueError(f"{recipe} takes no {other}: {why}")


def _setting(text: str, queries: int) -> "Setting":
    import re

    from quickstudy.data.episodes import Setting

    match = re.fullmatch(r"(\d+)w(\d+)s", text)
    if not match:
        raise ValueError(f"setting {text!r} is not of the form 5w1s (5-way 1-shot)")
    return Setting(int(match[1]), int(match[2]), queries)


def _score_table(scores: "list[Score]", recipe: "Recipe") -> Any:
    from quickstudy.display import table
    from quickstudy.metrics import percent

    wide = "accuracy %, 95 % interval"
    rows = table("setting", "batch norm", wide, "episodes", "seed", "paper %", wraps=(wide,))
    for s in scores:
        paper = recipe.published.get(s.setting) if s.mode == recipe.mode else None
        accuracy = percent(s.accuracy, s.ci95)
        rows.add_row(
            s.setting, s.mode, accuracy, str(s.episodes), str(s.seed), "–" if paper is None else f"{paper:g}"
        )
    return rows

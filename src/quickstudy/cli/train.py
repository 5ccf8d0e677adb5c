"""The command `train`."""

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quickstudy.cli.options import DataRoot, complete_recipe, complete_setting, results_table, terminal
from quickstudy.core.stopping import exit_code
from quickstudy.core.wording import plural

if TYPE_CHECKING:
    from quickstudy.recipes.experiment import Options
    from quickstudy.recipes.sources import Argument

_training = partial(typer.Option, rich_help_panel="Training")
_machine = partial(typer.Option, rich_help_panel="Machine")


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A name from `quickstudy recipes`, or one of your own: FILE.py:FUNCTION or "
            "PACKAGE.MODULE:FUNCTION.",
            metavar="RECIPE",
            autocompletion=complete_recipe,
        ),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="An argument of the recipe, such as ways=5; repeatable. `quickstudy recipes RECIPE` lists "
            "them. And of every training: clip, ema_decay, start, trainval, "
            "keep_memory.",
            autocompletion=complete_setting,
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to. (default: runs/RECIPE)", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training in --out.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and episodes.")] = 0,
    data_root: DataRoot = None,
    steps: Annotated[int | None, _training(min=1, help="Steps, instead of the recipe's.")] = None,
    tasks: Annotated[int | None, _training(min=1, help="Tasks a step, instead of the recipe's.")] = None,
    lr: Annotated[float | None, _training(min=1e-12, help="Learning rate, instead of the recipe's.")] = None,
    minutes: Annotated[
        float | None, _training(min=1e-12, help="Stop after so long; --resume goes on, as long again.")
    ] = None,
    patience: Annotated[
        int | None, _training(min=1, help="Stop after so many validations without a better one.")
    ] = None,
    test_episodes: Annotated[int, _training(min=0, help="Test tasks in the end; 0 leaves it out.")] = 1000,
    accelerator: Annotated[str, _machine(help="auto, cpu, cuda, mps.")] = "auto",
    devices: Annotated[int, _machine(min=1, help="Processes or cards that share the tasks of a step.")] = 1,
    precision: Annotated[str | None, _machine(help="32-true or bf16-mixed, instead of the recipe's.")] = None,
) -> None:
    """Train a recipe, then test it on classes never seen.

    Ctrl-C saves and says how to go on; so does SIGTERM.

    The folder gets best.safetensors (to use), last.safetensors (to resume) and log.jsonl.
    """
    from quickstudy.core import checkpoint
    from quickstudy.core.consoles import console, messages
    from quickstudy.core.kernels.memory import keep_freed_memory
    from quickstudy.recipes.sources import recipe_source
    from quickstudy.training.launch import launch
    from quickstudy.training.run_folder import read_log
    from quickstudy.training.verdict import verdict

    source, general = recipe_source(recipe), of_every_training()
    values = source.parse(settings or (), general)
    arguments = {k: v for k, v in values.items() if k in source.arguments()}
    rest = {k: v for k, v in values.items() if k not in arguments}
    stated = source.state(arguments)
    options: Options = {
        "steps": steps,
        "lr": lr,
        "seed": seed,
        "tasks": tasks,
        "minutes": minutes,
        "patience": patience,
        "clip": rest.get("clip"),
        "ema_decay": rest.get("ema_decay"),
        "resume": resume,
        "start": rest.get("start"),
        "trainval": rest.get("trainval", False),
        "data_root": data_root,
    }
    stated.check(options, devices)
    if rest.get("keep_memory", True) and accelerator in ("auto", "cpu"):
        keep_freed_memory()
    fabric = launch(accelerator, devices, precision or stated.precision)
    folder = out or Path("runs") / source.name.replace(":", "-").removesuffix(".py")
    display = terminal(fabric)
    again = shlex.join(["quickstudy", *(a for a in sys.argv[1:] if a != "--resume"), "--resume"])
    say = partial(messages.print, highlight=False, soft_wrap=True) if fabric.global_rank == 0 else _silent
    try:
        trained, progress = stated.run(
            folder, name=source.name, arguments=arguments, options=options, display=display, fabric=fabric
        )
    except KeyboardInterrupt as stop:
        say(f"stopped; go on with: {again}")
        raise typer.Exit(exit_code(stop)) from None
    # by trainval, or by that of the training it began with
    met = progress.best_step and checkpoint.load(folder / "best.safetensors")[1].get("trainval")
    best = f"{'last' if met else 'best'} validation {progress.headline} at step {progress.best_step}"
    if met:
        best += ", of classes trained on"
    why = "out of time" if progress.stopped == "minutes" else progress.stopped
    say(
        f"{why} after {plural(progress.step, 'step')} in {progress.seconds / 60:.1f} minutes; "
        f"{best if progress.best_step else 'no validation yet'}; "
        f"{folder / 'best.safetensors'}"
    )
    validated = [line for line in read_log(folder / "log.jsonl") if "validation" in line]
    if validated and progress.score:
        last = {"accuracy": validated[-1]["validation"], "ci95": validated[-1]["ci95"]}
        if told := verdict(validated[-1]["loss"], {**last, "setting": progress.score.get("setting", "")}):
            say(told)
    if progress.stopped == "minutes":
        say(f"go on with: {again}")
        return
    if not test_episodes:
        return
    try:
        figures = stated.test(
            trained, count=test_episodes, seed=seed, data_root=data_root, display=display, fabric=fabric
        )
    except KeyboardInterrupt as stop:
        test = shlex.join(["quickstudy", *stated.test_command(folder)])
        say(f"stopped in the test; the training is kept. Test with: {test}")
        raise typer.Exit(exit_code(stop)) from None
    if fabric.global_rank == 0:
        weights, manifest = checkpoint.load(folder / "best.safetensors")
        manifest["figures"] = [figure.as_dict() for figure in figures]
        checkpoint.save(folder / "best.safetensors", weights, manifest)
        console.print(results_table(stated.results(figures)))


def of_every_training() -> "dict[str, Argument]":
    """What `--set` takes with any recipe."""
    from quickstudy.recipes.sources import Argument

    every = (
        Argument("clip", float, None, "Largest norm of the gradient."),
        Argument(
            "ema_decay", float, None, "Decay of an average of the last weights, which is kept; 0: none."
        ),
        Argument("start", str, None, "A checkpoint or model whose encoder a metric's learner begins with."),
        Argument("trainval", bool, False, "Train on the validation classes too; the last weights are kept."),
        Argument(
            "keep_memory", bool, True, "Keep freed memory in the process: faster on a CPU, holds its peak."
        ),
    )
    return {argument.name: argument for argument in every}


def _silent(*_: Any) -> None:
    """What processes other than the first say."""

"""The command `train`."""

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from quickstudy.cli.options import DataRoot, arguments_of, score_table, terminal

_training = partial(typer.Option, rich_help_panel="Training")
_own = partial(
    typer.Option,
    rich_help_panel="Your own data (recipes siamese, prototypical-images, maml-images)",
    show_default=False,
)
_machine = partial(typer.Option, rich_help_panel="Machine")


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
        float | None, _training(min=1e-12, help="Stop after so long; --resume goes on, as long again.")
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
    from quickstudy.core import checkpoint
    from quickstudy.core.consoles import console, messages
    from quickstudy.core.kernels.memory import keep_freed_memory
    from quickstudy.recipes import run
    from quickstudy.recipes.catalogue import RECIPES
    from quickstudy.recipes.optimizer import RULE_RECIPES
    from quickstudy.recipes.recipe import RuleRecipe
    from quickstudy.recipes.run_rules import final_loss, train_rule
    from quickstudy.training.launch import launch

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
    fabric = launch(accelerator, devices, precision or stated.precision)
    folder = out or Path("runs") / recipe
    display = terminal(fabric)
    again = shlex.join(["quickstudy", *(a for a in sys.argv[1:] if a != "--resume"), "--resume"])
    say = messages.print if fabric.global_rank == 0 else _silent
    options: run.Options = {
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
            learner, progress = run.train(
                recipe, arguments, folder, display=display, fabric=fabric, **options
            )
    except KeyboardInterrupt:
        say(f"stopped; go on with: {again}", highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None
    # by --trainval, or by that of the training it began with
    met = progress.best_step and checkpoint.load(folder / "best.safetensors")[1].get("trainval")
    best = f"{'last' if met else 'best'} validation {progress.headline} at step {progress.best_step}"
    if met:
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
                scores = run.measure(
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
                console.print(score_table(scores, stated))


def _silent(*_: object, **__: object) -> None:
    """What processes other than the first say."""


def _check_arguments(recipe: str, arguments: dict[str, Any]) -> None:
    takes = arguments_of(recipe)
    if "images" in takes and not {"images", "audio"} & set(arguments) & set(takes):
        kinds = "--images DIR or --audio DIR" if "audio" in takes else "--images DIR"
        raise ValueError(f"{recipe} needs {kinds}, a folder that holds a folder for each class")
    other = ", ".join(f"--{k.replace('_', '-')}" for k in arguments if k not in takes)
    if other:
        why = "leave it out" if "images" in takes else "it states its own data and tasks"
        raise ValueError(f"{recipe} takes no {other}: {why}")

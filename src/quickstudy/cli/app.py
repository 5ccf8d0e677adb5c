"""The command line: the program, and its commands."""

import os
import sys
import warnings
from contextlib import suppress
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import quickstudy
from quickstudy.cli import recognition
from quickstudy.cli.demo import demo
from quickstudy.cli.evaluate import evaluate
from quickstudy.cli.lists import data, models, recipes
from quickstudy.cli.optimize import optimize
from quickstudy.cli.plot import plot
from quickstudy.cli.predict import predict
from quickstudy.cli.train import train
from quickstudy.core.stopping import exit_code
from quickstudy.core.wording import shown


class _Program(TyperGroup):
    """All commands; one that is stopped by a signal says so in a line."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            if isinstance(said := vars(error).get("message"), str):  # of an error of usage
                vars(error)["message"] = shown(said)  # which may name files, as in quickstudy enroll *
            raise
        except KeyboardInterrupt as stop:
            if os.environ.get("LOCAL_RANK", "0") == "0":  # the first process says it for all
                with suppress(OSError):  # its terminal may be gone
                    print("stopped", file=sys.stderr)
            raise typer.Exit(exit_code(stop)) from None


app = typer.Typer(
    cls=_Program,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Start with [bold]quickstudy demo[/bold]; [bold]quickstudy recipes[/bold] lists more.",
)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"quickstudy {quickstudy.__version__}")
        raise typer.Exit


@app.callback()
def _quickstudy(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Learning to learn: train, evaluate and use meta-learning methods."""
    warnings.showwarning = _warn


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":  # the first process says it for all
        print(f"warning: {shown(message)}", file=sys.stderr)


class _TakesSettings(TyperCommand):
    """`train`, which says how to give what a recipe takes to whoever gives it as an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            name: str | None = getattr(error, "option_name", None)  # of an option that there isn't
            if name:
                setting = f"--set {name.lstrip('-').replace('-', '_')}=…"
                vars(error)["message"] += f". If it is an argument of the recipe, write {setting}"
            raise


recognition.add_to(app)
app.command(cls=_TakesSettings)(train)
for command in (evaluate, predict, recipes, models, data, plot, optimize, demo):
    app.command()(command)

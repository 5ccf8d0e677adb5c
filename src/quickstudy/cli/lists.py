"""The commands that list what there is: `recipes`, `models` and `data`."""

import inspect
from typing import TYPE_CHECKING, Annotated

import typer

from quickstudy.cli.options import AsJson, DataRoot, complete_recipe
from quickstudy.core.wording import plural

if TYPE_CHECKING:
    from quickstudy.core.checkpoint import Manifest
    from quickstudy.recipes.sources import Source


def recipes(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="Tell all of this one, with its arguments.", metavar="RECIPE", autocompletion=complete_recipe
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List what can be trained, with the paper's figures and ours."""
    from quickstudy.cli.terminal import table
    from quickstudy.core.consoles import console, print_json
    from quickstudy.recipes.catalogue import RECIPES
    from quickstudy.recipes.sources import recipe_source

    if recipe and not as_json:
        _tell(recipe_source(recipe))
        return
    manifests = _shipped()
    examples = {name: recipe_source(name).example() for name in ([recipe] if recipe else RECIPES)}
    known = {name: stated for name, stated in examples.items() if stated}
    tests = {name: stated.describe(manifests.get(name)) for name, stated in known.items()}
    if as_json:
        print_json(
            [
                {"recipe": name, "what": stated.summary, "paper": stated.paper}
                | {"tests": [{"test": t.what, "paper": t.paper, "ours": t.ours} for t in tests[name]]}
                for name, stated in known.items()
            ]
        )
        return
    rows = table("recipe", "test", "paper", "ours", wraps=("recipe", "test"))
    for name, stated in known.items():
        columns = ("\n".join(c) for c in zip(*((t.what, t.paper, t.ours) for t in tests[name]), strict=True))
        rows.add_row(f"{name}\n{stated.summary} ({stated.paper})", *columns)
    console.print(rows)
    console.print("accuracy in %; ×: the mean loss over that of tuned Adam", highlight=False)


def models(as_json: AsJson = False) -> None:
    """List the trained models and update rules that ship with the library."""
    from quickstudy.cli.terminal import table
    from quickstudy.core import checkpoint
    from quickstudy.core.consoles import console, print_json
    from quickstudy.core.scores import percent
    from quickstudy.encoders.photos import MISSING, photos_installed
    from quickstudy.encoders.pretrained import FORMS, PHOTOS
    from quickstudy.optimizer.weights import shipped_rules
    from quickstudy.recipes import weights
    from quickstudy.recipes.pretrained import TRAINED_ON, WHAT

    if as_json:
        kinds = {"model": weights.models(), "update rule": shipped_rules()}
        stated = [
            (kind, name, checkpoint.load(path)[1]) for kind, of in kinds.items() for name, path in of.items()
        ]
        print_json(
            [
                {kind: name, "figures": manifest["figures"], "training": manifest.get("training")}
                | {"notice": weights.notice(manifest)}
                | ({"for": weights.purpose(manifest)} if kind == "model" else {})
                for kind, name, manifest in stated
            ]
            + [{"model": PHOTOS, "figures": [], "training": None, "notice": TRAINED_ON, "for": WHAT}]
        )
        return
    rows = table("model", "setting", "batch norm", "accuracy %", wraps=("model",))
    notices: dict[str, list[str]] = {}
    for name, path in weights.models().items():
        manifest = checkpoint.load(path)[1]
        if text := weights.notice(manifest):
            notices.setdefault(text, []).append(name)
        figures = [(f["setting"], f["mode"], percent(f["accuracy"], f["ci95"])) for f in manifest["figures"]]
        minutes = f"{manifest['training']['minutes']:.0f} min of training"
        what = f"{name}\n{weights.purpose(manifest)}; {minutes}"
        rows.add_row(what, *("\n".join(column) for column in zip(*figures, strict=True)))
    rows.add_row(f"{PHOTOS}\n{WHAT}; {TRAINED_ON}", "–", "–", "–")
    console.print(rows)
    if not photos_installed():
        console.print(f"{PHOTOS}: {MISSING}", highlight=False, soft_wrap=True)
    console.print(f"other networks by name: {FORMS}", highlight=False)
    for text, names in notices.items():
        console.print(f"{', '.join(names)}: {text}", highlight=False)
    rules = table("update rule", "race", "× Adam", "× best", wraps=("update rule", "race"))
    for name, path in shipped_rules().items():
        races = checkpoint.load(path)[1]["figures"]
        for i, (race, f) in enumerate(races.items()):
            ratios = (f"{f[key]:.2f}" for key in ("of tuned Adam's", "of the best baseline's"))
            rules.add_row("" if i else name, race, *ratios)
    console.print(rules)
    console.print("×: the mean loss over that of tuned Adam, and over that of the best tuned baseline")


def data(
    name: Annotated[
        str | None, typer.Argument(help="With --clear: the one data set to clear.", show_default=False)
    ] = None,
    clear: Annotated[
        bool,
        typer.Option(
            "--clear",
            help="Delete decoded pictures and clips from the cache; your own files stay as they are.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask for confirmation.")] = False,
    data_root: DataRoot = None,
    as_json: AsJson = False,
) -> None:
    """List the data sources: what is present, its classes, items and licence.

    What is decoded once stays in a cache, pictures and voices of people too, until --clear deletes it.
    """
    from quickstudy.cli.terminal import table
    from quickstudy.core.consoles import console, print_json
    from quickstudy.data.cache import data_root as find_root
    from quickstudy.data.datasets.catalogue import SOURCES

    if clear:
        _clear(name, yes)
        return
    if name:
        raise ValueError(f"data takes a name with --clear only: quickstudy data --clear {name}")
    root = find_root(data_root)
    if as_json:
        listed = (
            {"source": s.name, "present": s.where(root), "classes": s.classes, "items": s.items}
            | {"licence": s.licence, "what": s.what}
            for s in SOURCES
        )
        print_json(list(listed))
        return
    rows = table(
        "source", "present", "classes", "items", "what (licence)", wraps=("present", "what (licence)")
    )
    for source in SOURCES:
        rows.add_row(
            source.name,
            source.where(root),
            str(source.classes or "–"),
            str(source.items or "–"),
            f"{source.what} ({source.licence})",
        )
    console.print(rows)
    console.print(f"data root: {root}", highlight=False)


def _clear(name: str | None, yes: bool) -> None:
    """Delete decoded data sets, after a question."""
    from quickstudy.cli.options import say
    from quickstudy.core.wording import shown
    from quickstudy.data.cache import cache_root, cached_pools, clear_leftovers, clear_pool

    clear_leftovers()
    pools = cached_pools(name)
    if not pools:
        what = f"nothing decoded of {name}" if name else "nothing decoded"
        say(f"{what} in {cache_root() / 'pools'}")
        return
    for pool in pools:
        say(f"{shown(pool.name)}: {pool.size / 2**20:.1f} MiB in {shown(pool.folder)}")
    if not yes:
        typer.confirm(
            f"Delete {plural(len(pools), 'decoded data set')}? Your own files stay as they are.", abort=True
        )
    for pool in pools:
        clear_pool(pool)
    say(f"deleted {sum(pool.size for pool in pools) / 2**20:.1f} MiB; it is decoded again when it is used")


def _shipped() -> "dict[str, Manifest]":
    """Manifests of the models and rules that ship, by the name of their recipe."""
    from quickstudy.core import checkpoint
    from quickstudy.optimizer.weights import shipped_rules
    from quickstudy.recipes import weights

    return {name: checkpoint.load(path)[1] for name, path in (weights.models() | shipped_rules()).items()}


def _tell(source: "Source") -> None:
    """All of one recipe."""
    from quickstudy.cli.options import say
    from quickstudy.cli.terminal import table
    from quickstudy.cli.train import of_every_training
    from quickstudy.core.consoles import console

    stated = source.example()
    say(f"{source.name}: {stated.summary} ({stated.paper})" if stated else source.name)
    if text := inspect.getdoc(source.make):
        say(text.partition("\n\nArgs:")[0])
    if stated:
        tests = table("test", "paper", "ours", wraps=("test",))
        for t in stated.describe(_shipped().get(source.name)):
            tests.add_row(t.what, t.paper, t.ours)
        console.print(tests)
    rows = table("--set", "takes", "default", "what", wraps=("takes", "default", "what"))
    for a in (source.arguments() | of_every_training()).values():
        default = "–" if a.default is None else "needed" if a.needed else str(a.default)
        rows.add_row(a.name, a.takes, default, a.help)
    console.print(rows)

"""The commands that list what there is: `recipes`, `models` and `data`."""

from typing import TYPE_CHECKING

from quickstudy.cli.options import DataRoot, arguments_of

if TYPE_CHECKING:
    from quickstudy.recipes.recipe import Recipe


def recipes() -> None:
    """List what can be trained, with the paper's figures and ours."""
    from quickstudy.cli.terminal import table
    from quickstudy.core import checkpoint
    from quickstudy.core.consoles import console
    from quickstudy.core.scores import percent
    from quickstudy.recipes import weights
    from quickstudy.recipes.catalogue import RECIPES
    from quickstudy.recipes.optimizer import RULE_RECIPES

    rows = table("recipe", "what", "setting", "paper %", "ours %", wraps=("what",))
    manifests = {path.stem: checkpoint.load(path)[1] for path in weights.models().values()}
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


def models() -> None:
    """List the trained models and update rules that ship with the library."""
    from quickstudy.cli.terminal import table
    from quickstudy.core import checkpoint
    from quickstudy.core.consoles import console
    from quickstudy.core.scores import percent
    from quickstudy.optimizer.weights import shipped_rules
    from quickstudy.recipes import weights

    rows = table("model", "minutes", "setting", "batch norm", "accuracy %")
    for name, path in weights.models().items():
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


def data(data_root: DataRoot = None) -> None:
    """List the data sources: what is present, its classes, items and licence."""
    from quickstudy.cli.terminal import table
    from quickstudy.core.consoles import console
    from quickstudy.data.cache import data_root as find_root
    from quickstudy.data.datasets.catalogue import SOURCES

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


def _example(recipe: str) -> "Recipe":
    """A recipe to look at: of one's own data, with a folder that needn't be there."""
    from quickstudy.recipes.catalogue import RECIPES

    return RECIPES[recipe](**({"images": "DIR"} if "images" in arguments_of(recipe) else {}))

"""Put a card into the models that ship: `python -m tools.cards [NAME ...]`; all by default.

Each is measured on the validation classes of its recipe. Weights and the rest of the manifest stay.
"""

from typing import Annotated

import typer

from quickstudy.recipes import weights
from quickstudy.training.card import put_card

ITEMS = 2000


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Models that ship; all by default.")] = None,
) -> None:
    """Measure and write."""
    shipped = weights.models()
    for name in names or shipped:
        learner, manifest = weights.load_learner(shipped[name])
        recipe = weights.recipe_of(manifest)
        pool = recipe.pool().split("validation")
        card = put_card(shipped[name], learner, pool, ITEMS)
        print(
            name,
            "no card: too few items" if card is None else f"{card.items} items of {card.classes} classes",
        )


if __name__ == "__main__":
    typer.run(main)

"""Learning an update rule by a recipe, from problems to figures."""

import importlib.metadata
from dataclasses import asdict
from pathlib import Path
from typing import Unpack

import torch
from lightning_fabric import Fabric

from quickstudy.core.scores import FinalLoss
from quickstudy.core.seeds import generators_kept
from quickstudy.optimizer.problems.problem import Family, Mixture
from quickstudy.optimizer.race import follow
from quickstudy.optimizer.rule_learner import RuleLearner
from quickstudy.optimizer.truncation import Draws
from quickstudy.recipes.optimizer import RULE_RECIPES
from quickstudy.recipes.recipe import RuleRecipe
from quickstudy.recipes.run import Options, fit_stated
from quickstudy.training.launch import Display
from quickstudy.training.run_folder import Progress
from quickstudy.training.schedules import adam

VALIDATION_SEED, TEST_SEED = 1, 2
"""Of problems, beside the training's own."""


def train_rule(
    name: str, out: str | Path, *, display: Display, fabric: Fabric, **options: Unpack[Options]
) -> tuple[RuleLearner, Progress]:
    """Learn a rule by a recipe, into a folder; arguments as in `experiment.train`, `tasks` being problems."""
    recipe, seed = RULE_RECIPES[name](), options.get("seed", 0)
    steps, lr = options.get("steps") or recipe.steps, options.get("lr") or recipe.lr
    problems, clip = options.get("tasks") or recipe.problems, options.get("clip") or recipe.clip
    family, held_out = (recipe.family(split, options.get("data_root")) for split in ("train", "validation"))
    with generators_kept(seed):
        rule = recipe.rule()
    learner = RuleLearner(
        rule,
        family,
        problems,
        recipe.unroll,
        recipe.horizon,
        objective=recipe.objective,
        log=recipe.log,
    )
    manifest = {
        "kind": "rule",
        "recipe": name,
        "rule": type(rule).__name__,
        "arguments": rule.arguments,
        "family": recipe.family_name,
        "seed": seed,
        "horizon": recipe.horizon.longest,
        "train": {"problems": problems, "unroll": recipe.unroll, "steps": steps, "lr": lr, "clip": clip}
        | {"horizon": asdict(recipe.horizon), "objective": recipe.objective, "log": recipe.log},
        "version": importlib.metadata.version("quickstudy"),
    }
    progress = fit_stated(
        recipe,
        options,
        display,
        learner,
        Draws(problems, seed),
        steps,
        optimizer=adam(lr),
        validation=lambda: judge(learner, recipe, held_out, recipe.validation_problems, VALIDATION_SEED),
        clip=clip,
        fabric=fabric,
        out=out,
        manifest=manifest,
    )
    return learner, progress


def final_loss(
    recipe: RuleRecipe, learner: RuleLearner, problems: int, data_root: str | Path | None = None
) -> FinalLoss:
    """The losses of test problems, no more than are used in validation."""
    family = recipe.family("test", data_root)
    return judge(learner, recipe, family, min(problems, recipe.validation_problems), TEST_SEED)


def judge(learner: RuleLearner, recipe: RuleRecipe, family: Family, problems: int, seed: int) -> FinalLoss:
    """The losses of problems after the steps of the recipe's race: so many of each family of a mixture."""
    held_out = recipe.objective == "held_out"
    parts = family.families if isinstance(family, Mixture) else [family]
    curves = (
        follow(learner.as_rule, part.sample(problems, seed), recipe.race, held_out=held_out) for part in parts
    )
    losses = torch.stack([curve.judged(held_out)[-1] for curve in curves])
    return FinalLoss.of(losses, seed, recipe.family_name, recipe.race)

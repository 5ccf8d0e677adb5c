"""A recipe that learns an update rule: what it states, and how it is run and tested."""

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from quickstudy.core.checkpoint import Manifest
from quickstudy.core.scores import FinalLoss
from quickstudy.core.seeds import generators_kept
from quickstudy.optimizer.problems.problem import Mixture, ProblemBatch, ProblemFamily
from quickstudy.optimizer.race import unroll
from quickstudy.optimizer.rule_learner import Objective, RuleLearner
from quickstudy.optimizer.truncation import ProblemSeeds, TruncationSchedule
from quickstudy.recipes.experiment import Options, Results, Tested, asked_of_fit
from quickstudy.recipes.problems import FAMILIES
from quickstudy.training.fit import fit
from quickstudy.training.launch import Display
from quickstudy.training.run_folder import TrainingState, refuse_if_taken
from quickstudy.training.schedules import Schedule, cosine_schedule

VALIDATION_SEED, TEST_SEED = 1, 2
"""Seeds of the problems of validation and test, whatever the training's own."""

_COSINE = partial(cosine_schedule, warmup=20)


@dataclass(frozen=True, kw_only=True)
class RuleRecipe:
    """One experiment that learns an update rule: which, on what, how.

    Args:
        summary: What it is, in one line.
        paper: Where it was published.
        rule: Makes a fresh rule.
        family_name: Family of problems, as in `FAMILIES`; those of its test split are never seen in training.
        steps: Number of meta-steps.
        problems: Problems that are trained side by side.
        unroll: Steps of the optimizees in a meta-step, 20 in the paper. With 3 or 5 there are more meta-steps
            for the same work, which leads farther on quadratics and digits (measured).
        horizon: Steps after which a batch of problems gives way to the next.
        race: Steps after which rules are compared, and by which weights are selected.
        objective: Loss by which rules are judged: "train", whose gradients they see, or "held_out".
        log: Whether the logarithm of the loss is minimized.
        lr: Learning rate of Adam.
        clip: Largest norm of the meta-gradient.
        schedule: From the number of steps to the multiplier of the learning rate at each step.
        validation_problems: Number of validation problems, of each family of a mixture.
        every: Meta-steps between validations.
        precision: Precision of training, as Lightning Fabric names it.
    """

    summary: str
    paper: str
    rule: Callable[[], nn.Module]
    family_name: str
    steps: int
    problems: int = 64
    unroll: int = 5
    horizon: TruncationSchedule = field(default_factory=TruncationSchedule)
    race: int = 100
    objective: Objective = "train"
    log: bool = False
    lr: float = 1e-2
    clip: float = 1.0
    schedule: Callable[[int], Schedule] = _COSINE
    validation_problems: int = 256
    every: int = 250
    precision: str = "32-true"

    def family(self, split: str, root: str | Path | None = None) -> ProblemFamily:
        """The problems of a split: "train", "validation" or "test"."""
        return FAMILIES[self.family_name](split, root)

    def check(self, options: Options, devices: int) -> None:
        """Refuse what is for learners only.

        Raises:
            ValueError: If there is an encoder to start from, there are validation classes to train on, or
                several processes.
        """
        if options.get("start"):
            raise ValueError("an update rule starts from none: leave out --set start")
        if options.get("trainval"):
            raise ValueError("an update rule is learned on problems, not classes: leave out --set trainval")
        if devices > 1:
            raise ValueError(
                "an update rule is learned by one process, its problems side by side: "
                f"leave out --devices {devices}"
            )

    def run(
        self,
        out: str | Path,
        *,
        name: str,
        arguments: Mapping[str, Any],
        options: Options,
        display: Display,
        fabric: Fabric,
    ) -> tuple[RuleLearner, TrainingState]:
        """Learn the rule into a folder; as in `Experiment`."""
        self.check(options, fabric.world_size)
        refuse_if_taken(out, fabric)
        seed = options.get("seed", 0)
        steps, lr = options.get("steps") or self.steps, options.get("lr") or self.lr
        problems, clip = options.get("tasks") or self.problems, options.get("clip") or self.clip
        root = options.get("data_root")
        family, held_out = self.family("train", root), self.family("validation", root)
        with generators_kept(seed):
            made: Any = self.rule()
        learner = RuleLearner(
            made, family, problems, self.unroll, self.horizon, objective=self.objective, log=self.log
        )
        manifest = {
            "kind": "rule",
            "recipe": name,
            "rule": type(made).__name__,
            # those of the rule, as `load_rule` needs them; the recipe's own are beside them
            "arguments": made.arguments,
            "recipe_arguments": dict(arguments),
            "family": self.family_name,
            "seed": seed,
            "horizon": self.horizon.longest,
            "train": {"problems": problems, "unroll": self.unroll, "steps": steps, "lr": lr, "clip": clip}
            | {"horizon": asdict(self.horizon), "objective": self.objective, "log": self.log},
            "version": importlib.metadata.version("quickstudy"),
        }
        with display.training(steps) as report:
            progress = fit(
                learner,
                ProblemSeeds(problems, seed),
                steps,
                optimizer=partial(torch.optim.Adam, lr=lr),
                schedule=self.schedule(steps),
                validation=lambda: self.final_loss(
                    learner, held_out, self.validation_problems, VALIDATION_SEED
                ),
                every=self.every,
                clip=clip,
                ema_decay=options.get("ema_decay") or None,
                fabric=fabric,
                out=out,
                manifest=manifest,
                report=report,
                **asked_of_fit(options),
            )
        return learner.eval(), progress

    def test(
        self,
        trained: RuleLearner,
        *,
        count: int = 1000,
        seed: int = 0,
        data_root: str | Path | None = None,
        display: Display,
        fabric: Fabric | None = None,
    ) -> list[FinalLoss]:
        """The losses of test problems, no more than are used in validation; as in `Experiment`."""
        problems = min(count, self.validation_problems)
        return [self.final_loss(trained, self.family("test", data_root), problems, TEST_SEED)]

    def final_loss(self, learner: RuleLearner, family: ProblemFamily, problems: int, seed: int) -> FinalLoss:
        """The losses of problems, as many of each family of a mixture, after the steps of the race."""
        held_out, device = self.objective == "held_out", next(learner.parameters()).device
        parts = family.families if isinstance(family, Mixture) else [family]
        drawn = [_on(device, part.sample(problems, seed)) for part in parts]
        curves = [unroll(learner.as_rule, each, self.race, held_out=held_out) for each in drawn]
        losses = torch.stack([curve.judged(held_out)[-1] for curve in curves])
        return FinalLoss.of(losses.cpu(), seed, self.family_name, self.race)

    def describe(self, manifest: Manifest | None = None) -> list[Tested]:
        """The race by which weights are selected; ours is the loss over that of tuned Adam."""
        race, figures = f"{self.family_name}, {self.race} steps", (manifest or {}).get("figures", {})
        ours = [f["of tuned Adam's"] for name, f in figures.items() if name.startswith(f"{race}, ")]
        return [Tested(race, ours=f"× {ours[0]:.2f}" if ours else "–")]

    def results(self, figures: Sequence[FinalLoss]) -> Results:
        """The final losses as a table."""
        headers = ("family", "step", "loss, 95 % interval", "median", "problems", "seed")
        rows: list[tuple[str, ...]] = []
        for v in figures:
            loss, median = f"{v.mean:.4g} ± {v.ci95:.2g}", f"{v.median:.4g}"
            rows.append((v.family, str(v.steps), loss, median, str(v.problems), str(v.seed)))
        return Results(headers, rows, ("family",))

    def test_command(self, folder: Path) -> list[str]:
        """As in `Experiment`."""
        return ["optimize", self.family_name, "--rule", str(folder)]


def _on(device: torch.device, problems: ProblemBatch) -> ProblemBatch:
    """The same problems with their optimizees on a device, which the losses then follow."""
    return replace(problems, start={k: p.to(device) for k, p in problems.start.items()})

"""Whether the variance that a Gaussian prototypical network learns tells damaged items, and whether it helps.

Some of the support items of each class are damaged, the queries never. Three models are told the same tasks
with the same damage: the network, the same network with all s alike (so that only the weighting differs), and
a plain prototypical network. Where the confidence works, the variance 1/s of the damaged items rises above
that of the clean ones, and the first loses less than the others. Test classes, inductive.

Two pairs are measured. "damaged": both networks trained here, from the same seed, in the same steps, on the
same tasks, some of whose support items are damaged (in the paper: down-sampled); only two kinds of damage are
trained on, the others are new to both. "clean": models that ship with the library, which never saw damage.
Checkpoints of the trainings are kept in --out, and what is done there is not done again. Draws the picture of
the docs, of the first pair, when asked to.
"""

import argparse
import importlib.metadata
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.rows import Row, read, write
from quickstudy.cli.terminal import Terminal
from quickstudy.core.episode import Batches, Episode, Support
from quickstudy.core.kernels.memory import keep_freed_memory
from quickstudy.core.learner import Learner, embed
from quickstudy.core.scores import accuracies, mean_ci95
from quickstudy.data.episodes import Episodes
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting
from quickstudy.metric.gaussian import GaussianPrototypical, distances, gaussians
from quickstudy.metric.prototypical import Prototypical
from quickstudy.recipes import weights
from quickstudy.recipes.catalogue import RECIPES
from quickstudy.recipes.recipe import Recipe
from quickstudy.training.fit import fit
from quickstudy.training.launch import launch
from quickstudy.training.plots import despine
from quickstudy.training.schedules import cosine_schedule

SETTING = Setting(20, 5, 5)
TRAIN = Setting(20, 2, 5)
SHARE = 0.4
"""Of the support items trained on, damaged."""
STEPS, WARMUP, LR = 400, 0.1, 2e-3
"""Of Adam; the share of the steps in which the rate rises, before it falls along a cosine; its highest."""
GAUSSIAN, PLAIN = "gaussian-omniglot", "prototypical-omniglot-1shot"
PAIRS = ("damaged", "clean")
NAME = "{}, trained on damaged tasks"
ALIKE = "{}, all s alike"
UNDAMAGED = "undamaged"
RATIO = "variance of damaged / of clean"
COLORS = ("#0969da", "#cf222e", "#57606a")


def squares(x: Tensor, pixels: float, rng: torch.Generator) -> Tensor:
    """Pictures [B, C, H, W] averaged to so many pixels of height and width, and enlarged again as squares."""
    return F.interpolate(F.interpolate(x, int(pixels), mode="area"), x.shape[-2:], mode="nearest")


def smooth(x: Tensor, pixels: float, rng: torch.Generator) -> Tensor:
    """As `squares`, but enlarged bilinearly."""
    return F.interpolate(F.interpolate(x, int(pixels), mode="area"), x.shape[-2:], mode="bilinear")


def noise(x: Tensor, std: float, rng: torch.Generator) -> Tensor:
    """Pictures [B, C, H, W] under Gaussian noise, cut off at 0 and 1."""
    return (x + std * torch.randn(x.shape, generator=rng).to(x.device)).clamp(0, 1)


def covered(x: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Pictures [B, C, H, W], each with a black (0) square somewhere that covers a share of it."""
    height, width = x.shape[-2:]
    side = min(round((share * height * width) ** 0.5), height, width)
    top = torch.randint(height - side + 1, (len(x), 1), generator=rng)
    left = torch.randint(width - side + 1, (len(x), 1), generator=rng)
    rows, columns = torch.arange(height) - top, torch.arange(width) - left
    inside = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[:, None]
    return x.masked_fill(inside.unsqueeze(1).to(x.device), 0.0)


@dataclass(frozen=True)
class Damage:
    """A kind of damage.

    Args:
        name: of the kind, with a place for the strength.
        apply: to pictures [B, C, H, W], a strength, and a source of randomness.
        strengths: from the weakest to the strongest.
    """

    name: str
    apply: Callable[[Tensor, float, torch.Generator], Tensor]
    strengths: tuple[float, ...]


DAMAGES = (
    Damage("down-sampled to {:g} pixels, enlarged as squares", squares, (14, 9, 7, 5, 4)),
    Damage("down-sampled to {:g} pixels, enlarged smoothly", smooth, (14, 9, 7, 5, 4)),
    Damage("under noise of standard deviation {:g}", noise, (0.1, 0.2, 0.4, 0.7, 1.0)),
    Damage("covered by a square, a share of {:g}", covered, (0.1, 0.25, 0.4, 0.6, 0.8)),
)


TRAINED = (DAMAGES[0], DAMAGES[2])
"""The kinds that are trained on: the rest is new to the networks."""


class Damaged:
    """Meta-batches like those of `episodes`, a share of the support items damaged; for `fit`.

    Which items, and each one's kind and strength of damage, are drawn from (seed, i).

    Args:
        episodes: the tasks.
        share: probability that an item is damaged.
        kinds: of damage, all equally likely, and all strengths of one.
    """

    def __init__(self, episodes: Batches, share: float, kinds: Sequence[Damage] = TRAINED) -> None:
        self.episodes, self.share, self.kinds = episodes, share, kinds

    @property
    def tasks(self) -> int:
        """T, tasks in a meta-batch."""
        return self.episodes.tasks

    @property
    def seed(self) -> int:
        """Of the draws."""
        return self.episodes.seed

    def on(self, device: torch.device | str) -> "Damaged":
        """The same on another device."""
        return Damaged(self.episodes.on(device), self.share, self.kinds)

    def part(self, i: int, rank: int = 0, world: int = 1) -> Episode:
        """The tasks of meta-batch i that fall to process `rank` of `world`."""
        episode = self.episodes.part(i)
        sequence = np.random.SeedSequence(self.seed, spawn_key=(i, 1))  # (i,) are the tasks themselves
        rng = torch.Generator().manual_seed(int(sequence.generate_state(1)[0]))
        x = episode.support.x.flatten(0, 1)
        damaged = torch.rand(len(x), generator=rng) < self.share
        of_kind = torch.randint(len(self.kinds), (len(x),), generator=rng)
        strong = torch.rand(len(x), generator=rng)
        for number, kind in enumerate(self.kinds):
            for level, strength in enumerate(kind.strengths):
                of_strength = (strong * len(kind.strengths)).long() == level
                chosen = (damaged & (of_kind == number) & of_strength).nonzero().squeeze(1).to(x.device)
                if len(chosen):
                    x = x.index_copy(0, chosen, kind.apply(x[chosen], strength, rng))
        episode.support.x = x.view_as(episode.support.x)
        return episode[rank::world]


@dataclass(frozen=True)
class Told:
    """What came of one damage, task by task.

    Args:
        right: [3] accuracies of the network, of the same with all s alike, and of the plain one.
        damaged: mean variance 1/s of the damaged items.
        clean: of the clean ones.
        spread: standard deviation of the clean ones' variances over their mean.
    """

    right: Tensor
    damaged: float
    clean: float
    spread: float


def encode(learner: Learner, x: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings [T, B, D] and inverse variances of items; those are 1 where the learner knows of none."""
    if isinstance(learner, GaussianPrototypical):
        return learner.embed(x)
    assert isinstance(learner, Prototypical)
    z = embed(learner.encoder, x)
    return z, torch.ones_like(z[..., :1])


@torch.no_grad()
def trial(
    gaussian: Learner, plain: Learner, episode: Episode, damaged: int, seed: int
) -> Iterator[tuple[str, Told]]:
    """One task, undamaged and after each damage.

    What is not damaged is encoded once. Every damage draws the same random numbers.

    Args:
        gaussian: the network.
        plain: a plain one.
        episode: of one task.
        damaged: how many of the support items of each class, the first, which are as good as any.
        seed: of the damage.
    """
    ways, by_class = episode.ways, episode.support.y[0].argsort(stable=True)
    support = Support(episode.support.x[:, by_class], episode.support.y[:, by_class], ways)
    items = support.x.shape[1]
    encoded = [encode(m, torch.cat([support.x, episode.query_x], 1)) for m in (gaussian, plain)]
    x = support.x.unflatten(1, (ways, -1))
    chosen = x[0, :, :damaged].flatten(0, 1)

    def tell(now: Sequence[tuple[Tensor, Tensor]]) -> Told:
        (x, s), others = now
        right = [
            accuracies(-distances(query[:, items:], gaussians(x, s, support.y, ways)), episode.query_y)
            for x, s, query in (
                (x, s, encoded[0][0]),
                (x, s.mean(1, keepdim=True).expand_as(s), encoded[0][0]),
                (*others, encoded[1][0]),
            )
        ]
        variances = s.reciprocal().unflatten(1, (ways, -1))
        clean = variances[:, :, damaged:]
        spread = clean.std() / clean.mean()
        damaged_mean, clean_mean = variances[:, :, :damaged].mean(), clean.mean()
        return Told(torch.cat(right), damaged_mean.item(), clean_mean.item(), spread.item())

    whole = [(z[:, :items], s[:, :items]) for z, s in encoded]
    yield UNDAMAGED, tell(whole)
    for kind in DAMAGES:
        for strength in kind.strengths:
            bad = kind.apply(chosen, strength, torch.Generator().manual_seed(seed))
            new = [encode(m, bad.unsqueeze(0)) for m in (gaussian, plain)]
            mixed = [
                (_with(z, bad_z, ways), _with(s, bad_s, ways))
                for (z, s), (bad_z, bad_s) in zip(whole, new, strict=True)
            ]
            yield kind.name.format(strength), tell(mixed)


def _with(whole: Tensor, bad: Tensor, ways: int) -> Tensor:
    """[1, S, D] with the first items of each class replaced by those of [1, ways · damaged, D]."""
    mixed, bad = whole.unflatten(1, (ways, -1)).clone(), bad.unflatten(1, (ways, -1))
    mixed[:, :, : bad.shape[2]] = bad
    return mixed.flatten(1, 2)


def measure(
    gaussian: Learner,
    plain: Learner,
    episodes: Episodes,
    count: int,
    damaged: int,
    report: Callable[[int, int], None] = lambda done, count: None,
) -> dict[str, list[Told]]:
    """Every damage on the first `count` tasks.

    Args:
        gaussian: the network.
        plain: a plain one.
        episodes: tasks, one in each meta-batch.
        count: n.
        damaged: support items of each class that are.
        report: called with (tasks done, count).

    Returns:
        For each damage what came of it, task by task.
    """
    found: dict[str, list[Told]] = {}
    for i in range(count):
        seed = int(np.random.SeedSequence(episodes.seed, spawn_key=(i,)).generate_state(1)[0])
        for name, told in trial(gaussian, plain, episodes[i], damaged, seed):
            found.setdefault(name, []).append(told)
        report(i + 1, count)
    return found


@dataclass(frozen=True)
class Pair:
    """What is measured side by side.

    Args:
        gaussian: the network.
        plain: a plain one.
        names: of the two in the rows.
        minutes: of training of the two.
    """

    gaussian: Learner
    plain: Learner
    names: tuple[str, str]
    minutes: tuple[float, float]

    @property
    def methods(self) -> tuple[str, str, str]:
        """Names of the network, of the same with all s alike, and of the plain one."""
        return self.names[0], ALIKE.format(self.names[0]), self.names[1]


def train(
    name: str, recipe: Recipe, pool: ClassPool, steps: int, seed: int, out: Path
) -> tuple[Learner, float]:
    """The learner of a recipe, trained on damaged tasks, and the minutes that took.

    Args:
        name: of its folder below `out`, where a training that was begun is gone on with.
        recipe: makes the learner; its schedule is not used.
        pool: the classes to train on.
        steps: how many.
        seed: of weights, tasks and damage.
        out: folder of all trainings.
    """
    torch.manual_seed(seed)
    learner = recipe.learner()
    manifest = {
        "learner": type(learner).__name__,
        "seed": seed,
        "train": asdict(TRAIN) | {"steps": steps, "lr": LR, "warmup": WARMUP, "damaged": SHARE},
        "damage": ", ".join(kind.name for kind in TRAINED),
        "data": pool.summary(),
        "items": recipe.item_format.as_dict(),
        "version": importlib.metadata.version("quickstudy"),
    }
    with Terminal().training(steps) as report:
        progress = fit(
            learner,
            Damaged(Episodes(pool, TRAIN, 1, seed), SHARE),
            steps,
            optimizer=partial(torch.optim.Adam, lr=LR),
            schedule=cosine_schedule(steps, warmup=round(WARMUP * steps)),
            every=50,
            fabric=launch("cpu"),
            out=out / name,
            resume=True,
            manifest=manifest,
            report=report,
        )
    return learner, progress.seconds / 60


def setting_of(damage: str, damaged: int) -> str:
    """`20w5s, 2 of 5 under noise of standard deviation 0.4`."""
    few = "" if damage == UNDAMAGED else f"{damaged} of {SETTING.shots} "
    return f"{SETTING}, {few}{damage}"


def rows_of(
    found: Mapping[str, Sequence[Told]], damaged: int, methods: Sequence[str], row: Callable[..., Row]
) -> list[Row]:
    """Rows of what `measure` found; differences are taken task by task, and have the interval of that.

    Args:
        found: for each damage, task by task.
        damaged: support items of each class that were.
        methods: names of the network, of the same with all s alike, and of the plain one.
        row: makes a row of what differs between them.
    """
    rows: list[Row] = []
    before = 100 * torch.stack([t.right for t in found[UNDAMAGED]], 1)
    for damage, told in found.items():
        setting, whole = setting_of(damage, damaged), damage == UNDAMAGED

        def add(method: str, metric: str, values: Tensor, setting: str = setting) -> None:
            value, ci95 = mean_ci95(values)
            interval = ci95 if math.isfinite(ci95) else None
            rows.append(
                row(method=method, setting=setting, metric=metric, value=value, ci95=interval, n=len(values))
            )

        right = 100 * torch.stack([t.right for t in told], 1)
        for method, now, then in zip(methods, right, before, strict=True):
            add(method, "accuracy %", now)
            if not whole:
                add(method, "points lost", then - now)
        add(methods[0], "points gained by the confidence", right[0] - right[1])
        clean = torch.tensor([t.clean for t in told])
        if not whole:
            add(methods[0], RATIO, torch.tensor([t.damaged for t in told]) / clean)
        else:
            add(methods[0], "variance", clean)
            add(methods[0], "spread of the variance %", 100 * torch.tensor([t.spread for t in told]))
    return rows


def draw(
    rows: Sequence[Row], damaged: int, methods: Sequence[str], title: str, seen: Sequence[Damage] = TRAINED
) -> Figure:
    """For each kind of damage the variance (left) and the accuracies (right) against its strength.

    Args:
        rows: as `rows_of` makes them.
        damaged: as there.
        methods: as there.
        title: of the picture.
        seen: the kinds trained on, which are marked.
    """
    figures = {(r.method, r.setting, r.metric): (r.value or 0.0, r.ci95 or 0.0) for r in rows}
    figure = Figure(figsize=(9, 2.6 * len(DAMAGES)), layout="constrained")
    panels = figure.subplots(len(DAMAGES), 2, squeeze=False)
    all_ratios = [1.0, *(r.value for r in rows if r.metric == RATIO and r.value is not None)]
    lowest = min(0.98 * r.value for r in rows if r.metric == "accuracy %" and r.value is not None)
    for (left, right), kind in zip(panels, DAMAGES, strict=True):
        strengths = [f"{strength:g}" for strength in kind.strengths]
        settings = [
            setting_of(damage, damaged)
            for damage in (UNDAMAGED, *(kind.name.format(strength) for strength in kind.strengths))
        ]
        ratios = [(1.0, 0.0), *(figures[methods[0], setting, RATIO] for setting in settings[1:])]
        _band(left, ratios, COLORS[0])
        left.axhline(1, color="#57606a", lw=0.8, ls=":")
        left.set(ylabel="variance, damaged / clean", ylim=(0.97 * min(all_ratios), 1.03 * max(all_ratios)))
        for method, color, style in zip(methods, COLORS, ("-", "--", "-"), strict=True):
            of = [figures[method, setting, "accuracy %"] for setting in settings]
            _band(right, of, color, label=method, ls=style)
        right.set(ylabel="accuracy, %", ylim=(lowest, 101))
        for axes in (left, right):
            axes.set_xticks(range(len(settings)), ["none", *strengths])
            axes.set_xlabel(
                kind.name.replace("{:g}", "…") + (" (trained on)" if kind in seen else ""), fontsize=9
            )
            axes.grid(alpha=0.3)
            despine(axes)
    panels[0, 1].legend(frameon=False, fontsize=8, loc="lower left")
    figure.suptitle(title, fontsize=11)
    return figure


def _band(axes: Axes, figures: Sequence[tuple[float, float]], color: str, **line: Any) -> None:
    """Means, with their 95 % intervals as a band."""
    y, half = np.array(figures).T
    axes.plot(range(len(y)), y, color=color, marker=".", **line)
    axes.fill_between(range(len(y)), y - half, y + half, color=color, alpha=0.2, lw=0)


def clean_pair(gaussian: str, plain: str) -> Pair:
    """Trained models, by name or path.

    Raises:
        ValueError: if they are of another kind, or take different pictures.
    """
    pair = [weights.load_learner(name) for name in (gaussian, plain)]
    for (learner, _), kind, name in zip(
        pair, (GaussianPrototypical, Prototypical), (gaussian, plain), strict=True
    ):
        if not isinstance(learner, kind):
            raise ValueError(f"{name} is a {type(learner).__name__}: name a {kind.__name__}")
    (network, manifest), (other, beside) = pair
    if manifest["items"] != beside["items"]:
        raise ValueError(f"{gaussian} and {plain} take different pictures: name two alike")
    minutes = manifest["training"]["minutes"], beside["training"]["minutes"]
    return Pair(network, other, (manifest["recipe"], beside["recipe"]), minutes)


def damaged_pair(pool: ClassPool, steps: int, seed: int, out: Path) -> Pair:
    """Both networks trained on damaged tasks, one after the other; as in `train`."""
    trained = [train(name, RECIPES[name](), pool, steps, seed, out) for name in (GAUSSIAN, PLAIN)]
    (network, minutes), (other, more) = trained
    return Pair(network, other, (NAME.format("gaussian"), NAME.format("prototypical")), (minutes, more))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--pairs", nargs="+", choices=PAIRS, default=list(PAIRS), help="the rows of the other are kept"
    )
    parser.add_argument("--gaussian", default=GAUSSIAN, help="model or checkpoint, not trained on damage")
    parser.add_argument("--plain", default=PLAIN, help="model or checkpoint, not trained on damage")
    parser.add_argument("--steps", type=int, default=STEPS, help="of training on damaged tasks")
    parser.add_argument("--training-seed", type=int, default=0, help="of that training")
    parser.add_argument("--out", type=Path, default=Path("runs/confidence"), help="folder of those trainings")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--share", type=float, default=0.4, help="of the support items of a class, damaged")
    parser.add_argument("--seed", type=int, default=0, help="of the tasks and damage measured on")
    parser.add_argument("--pictures", type=Path, help="folder to draw the pair trained on damage into")
    options = parser.parse_args()
    damaged = round(options.share * SETTING.shots)
    if not 0 < damaged < SETTING.shots:
        parser.error(f"--share {options.share} damages {damaged} of {SETTING.shots} items: some, but not all")
    keep_freed_memory()
    with Terminal().counting("decoding") as decoding:
        pool = weights.recipe_of({"recipe": GAUSSIAN, "arguments": {}}).pool(progress=decoding)
    test, rows = pool.split("test"), list[Row]()
    for which in PAIRS:
        if which not in options.pairs:
            continue
        try:
            pair = (
                damaged_pair(pool.split("train"), options.steps, options.training_seed, options.out)
                if which == "damaged"
                else clean_pair(options.gaussian, options.plain)
            )
        except (ValueError, OSError) as error:
            parser.error(str(error))
        with Terminal().counting("damaging") as report:
            episodes = Episodes(test, SETTING, 1, options.seed)
            found = measure(pair.gaussian, pair.plain, episodes, options.episodes, damaged, report)
        minutes = dict(zip(pair.methods, (pair.minutes[0], *pair.minutes), strict=True))

        def row(*, method: str, minutes: dict[str, float] = minutes, **given: Any) -> Row:
            return Row(
                benchmark="confidence",
                method=method,
                dataset=test.name.split(".")[0],
                split="test",
                mode="inductive",
                seed=options.seed,
                minutes=minutes[method],
                **given,
            )

        made = rows_of(found, damaged, pair.methods, row)
        for r in made:
            print(f"{r.setting}, {r.method}: {r.metric} {r.value:.3f} ± {r.ci95 or 0:.3f}")
        rows += made
        if options.pictures and which == "damaged":
            title = (
                f"trained on damaged tasks; {SETTING}, {damaged} of {SETTING.shots} support items damaged; "
                f"{options.episodes} tasks"
            )
            picture = options.pictures / "gaussian-confidence.png"
            draw(made, damaged, pair.methods, title).savefig(picture, dpi=100)
    again = {r.method for r in rows}
    kept = [r for r in read("confidence") if r.method not in again] if len(options.pairs) < len(PAIRS) else []
    write("confidence", [*rows, *kept])


if __name__ == "__main__":
    main()

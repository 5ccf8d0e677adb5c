"""The pictures of docs/methods, drawn from models that ship.

Each shows one task of test characters of Omniglot; `siamese-roc` is what `benchmarks.verification --pictures`
draws, without the measurements.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from benchmarks.verification import PAIR_SETTING, PAIR_TASKS, PAIRS
from quickstudy import experiment, plots
from quickstudy.data.episodes import Episodes, Setting
from quickstudy.data.pool import ClassPool
from quickstudy.learner import Learner
from quickstudy.learners.prototypical import Prototypical
from quickstudy.learners.semi_supervised import SemiPrototypical
from quickstudy.learners.siamese import Siamese
from quickstudy.memory import keep_freed_memory
from quickstudy.roc import verify

EPISODE, TASK = Setting(8, 1, 6), 24
"""Of 25 tasks one in which the relation network makes many mistakes."""


def load(name: str) -> tuple[Learner, ClassPool]:
    """A shipped learner and the test classes of its recipe."""
    learner, manifest = experiment.load_learner(name)
    return learner, experiment.recipe_of(manifest).pool().split("test")


def matching_episode(path: Path) -> None:
    """A task of matching networks."""
    plots.episode(*load("matching-omniglot"), EPISODE, seed=TASK).savefig(path, dpi=100)


def relation_episode(path: Path) -> None:
    """A task of relation networks."""
    plots.episode(*load("relation-omniglot-1shot"), EPISODE, seed=TASK).savefig(path, dpi=100)


def siamese_roc(path: Path) -> None:
    """Verification by a Siamese network."""
    learner, classes = load(PAIRS)
    assert isinstance(learner, Siamese)
    found = verify(learner, Episodes(classes, PAIR_SETTING), PAIR_TASKS)
    plots.plot_roc(found, path, "pairs of unseen characters")


def semi_supervised(path: Path) -> None:
    """Soft k-means in the embedding of a prototypical network, without and with distractors."""
    learner, classes = load("prototypical-omniglot-1shot")
    assert isinstance(learner, Prototypical)
    soft, setting = SemiPrototypical(learner.encoder, "soft"), Setting(5, 1, 1, 8, 5)
    plots.refinement(soft, classes, setting, seed=0).savefig(path, dpi=120)


PICTURES: dict[str, Callable[[Path], None]] = {
    "matching-episode": matching_episode,
    "relation-episode": relation_episode,
    "siamese-roc": siamese_roc,
    "semi-supervised": semi_supervised,
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PICTURES)}; all by default")
    parser.add_argument("--out", type=Path, default=Path("docs/img"))
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(PICTURES))
    if unknown:
        parser.error(f"there is no picture {unknown[0]!r}: choose of {', '.join(PICTURES)}")
    keep_freed_memory()
    for name in options.names or PICTURES:
        PICTURES[name](options.out / f"{name}.png")
        print(options.out / f"{name}.png")


if __name__ == "__main__":
    main()

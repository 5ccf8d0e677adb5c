"""The pictures of docs/methods, most of them drawn from models that ship.

These show one task of test characters of Omniglot; `siamese-roc` is what `benchmarks.verification --pictures`
draws, without the measurements, and `moment-norm` characters of the validation of `siamese-omniglot-lake`.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from benchmarks.verification import PAIR_SETTING, PAIR_TASKS, VINYALS, upright
from quickstudy.core.kernels.memory import keep_freed_memory
from quickstudy.core.learner import Learner
from quickstudy.data.episodes import Episodes
from quickstudy.data.formats.items import floats
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting
from quickstudy.encoders.moment_norm import MomentNorm
from quickstudy.metric import plots as metric_plots
from quickstudy.metric.prototypical import Prototypical
from quickstudy.metric.semi_supervised import SemiPrototypical
from quickstudy.metric.siamese import Siamese
from quickstudy.metric.verification import verify
from quickstudy.recipes import weights
from quickstudy.training import plots as training_plots

EPISODE, TASK = Setting(8, 1, 6), 24
"""Of 25 tasks one in which the relation network makes many mistakes."""
CHARACTERS = "Balinese/character05", "Early_Aramaic/character03"
"""Of alphabets of the validation."""


def load(name: str) -> tuple[Learner, ClassPool]:
    """A shipped learner and the test classes of its recipe."""
    learner, manifest = weights.load_learner(name)
    return learner, weights.recipe_of(manifest).pool().split("test")


def matching_episode(path: Path) -> None:
    """A task of matching networks."""
    training_plots.episode(*load("matching-omniglot"), EPISODE, seed=TASK).savefig(path, dpi=100)


def relation_episode(path: Path) -> None:
    """A task of relation networks."""
    training_plots.episode(*load("relation-omniglot-1shot"), EPISODE, seed=TASK).savefig(path, dpi=100)


def siamese_roc(path: Path) -> None:
    """Verification by a Siamese network."""
    learner, classes = load(VINYALS)
    assert isinstance(learner, Siamese)
    found = verify(learner, Episodes(classes, PAIR_SETTING), PAIR_TASKS)
    metric_plots.plot_roc(found, path, "pairs of unseen characters")


def semi_supervised(path: Path) -> None:
    """Soft k-means in the embedding of a prototypical network, without and with distractors."""
    learner, classes = load("prototypical-omniglot-1shot")
    assert isinstance(learner, Prototypical)
    soft, setting = SemiPrototypical(learner.encoder, "soft"), Setting(5, 1, 1, 8, 5)
    metric_plots.refinement(soft, classes, setting, seed=0).savefig(path, dpi=120)


def moment_norm(path: Path) -> None:
    """Two characters by nine drawers, as they are and as a network sees them after `MomentNorm`."""
    pool = upright("validation")
    first, second = (torch.from_numpy(pool.of_class(name)[:9]) for name in CHARACTERS)
    drawn = floats(torch.cat([first, second]))
    figure, axes = plt.subplots(4, 9, figsize=(9, 4.2))
    pictures = torch.cat([drawn, MomentNorm()(drawn)]).unflatten(0, (4, 9))[[0, 2, 1, 3], :, 0]
    for row, label, of_row in zip(axes, ("drawn", "seen") * 2, pictures, strict=True):
        row[0].set_ylabel(label)
        for ax, picture in zip(row, of_row, strict=True):
            ax.imshow(1 - picture, cmap="gray", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=100)


PICTURES: dict[str, Callable[[Path], None]] = {
    "matching-episode": matching_episode,
    "moment-norm": moment_norm,
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

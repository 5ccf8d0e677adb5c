"""Accuracy where domains differ: models on classes of data that is unlike what they were trained on.

- Trained on CIFAR-FS, tested on the classes of FC100's test that are neither in the training nor in the
  validation of CIFAR-FS. Both are pictures of CIFAR-100; what changes are the kinds of things: these classes
  are people, large sea animals and foxes, and tasks of them are harder. Beside it stand a model trained on
  FC100, for which all test classes are of unseen kinds, and raw pixels; apart from these `photos`, which was
  pretrained on ImageNet, of large photographs.
- Trained on Omniglot, tested on glyphs, letters of scripts that Omniglot has in part: printed in twelve
  typefaces, not written by hand. Beside it stand a model trained on other glyphs, and raw pixels.

Where a model was trained stands with its name. All of a data set's rows are of the same tasks.
"""

import argparse
from collections.abc import Iterator, Sequence

import numpy as np
from torch import nn

from benchmarks.rows import Row, write
from quickstudy.core.learner import Learner
from quickstudy.data.datasets.cifar import cifar_fs, class_lists, fc100
from quickstudy.data.datasets.glyphs import glyphs
from quickstudy.data.episodes import Episodes
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting
from quickstudy.metric.pretrained_features import PretrainedFeatures
from quickstudy.metric.prototypical import Prototypical
from quickstudy.recipes import weights
from quickstudy.training.evaluate import evaluate

SETTINGS = (Setting(5, 1, 15), Setting(5, 5, 15))
TASKS = 10
PIXELS = "raw pixels"
UNSEEN = "fc100, classes unseen in cifar-fs"
SIDES = {
    UNSEEN: ("plain-conv4-cifar-fs", "plain-conv4-fc100", PIXELS),
    f"{UNSEEN}; pretrained on ImageNet": ("photos",),
    "cifar-fs": ("plain-conv4-cifar-fs", PIXELS),
    "glyphs": ("prototypical-omniglot-1shot", "prototypical-glyphs", PIXELS),
}
"""Models by what they are tested on."""


def unseen(pool: ClassPool) -> ClassPool:
    """The classes of a test pool that CIFAR-FS neither trains nor validates on."""
    known = {name for split in ("train", "validation") for name in class_lists()["cifar-fs"][split]}
    return pool.subset([i for i, name in enumerate(pool.classes) if name not in known])


def side(model: str, pool: ClassPool) -> tuple[Learner, ClassPool, str]:
    """A model, what it is given of a pool, and what it was trained on."""
    if model == PIXELS:
        flat = pool.items[pool.indices].reshape(int(pool.counts.sum()), -1).astype(np.float32) / 255
        of = np.repeat(np.arange(len(pool)), pool.counts)
        pixels = ClassPool.from_arrays(flat, of, names=pool.classes, name=pool.name)
        return Prototypical(nn.Identity()), pixels, "nothing"
    learner, manifest = weights.load_learner(model)
    if isinstance(learner, PretrainedFeatures):  # a large network: each picture goes through it once
        features = pool.embedded(learner.encoder)
        return PretrainedFeatures(nn.Identity(), learner.head), features, "ImageNet"
    return learner, pool, str(manifest["data"]["name"]).split(".")[0]


def rows(pool: ClassPool, name: str, models: Sequence[str], count: int, seed: int) -> Iterator[Row]:
    """Accuracies of models on tasks of a pool, in %."""
    for model in models:
        learner, items, trained_on = side(model, pool)
        for setting in SETTINGS:
            score = evaluate(learner.eval(), Episodes(items, setting, TASKS, seed), count)
            yield Row(
                benchmark="across_domains",
                method=f"{model}, trained on {trained_on}",
                dataset=name,
                split="test",
                setting=score.setting,
                mode=score.mode,
                metric="accuracy %",
                value=100 * score.accuracy,
                ci95=100 * score.ci95,
                n=count,
                seed=seed,
            )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=1000, help="tasks of each figure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="write no results")
    given = parser.parse_args()
    new = unseen(fc100().split("test"))
    pools = (new, new, cifar_fs().split("test"), glyphs().split("test"))
    found: list[Row] = []
    for pool, (name, models) in zip(pools, SIDES.items(), strict=True):
        for row in rows(pool, name, models, given.episodes, given.seed):
            found.append(row)
            print(f"{row.method} on {row.dataset}, {row.setting}: {row.value:.2f} ± {row.ci95:.2f} %")
    if not given.dry:
        write("across_domains", found)


if __name__ == "__main__":
    main()

"""Semi-supervised prototypical networks on Omniglot, of which a tenth bears labels.

Of each class two of the twenty drawings have a label, in training, validation and test: one is support, the
other query. Five of the other eighteen are among the task's unlabelled items; with distractors, five of each
of as many further classes as well.

Departures from the paper: tasks of 10 ways in training instead of 5; Adam's learning rate rises over 200
steps and falls along a cosine to 0; training takes 4,000 steps instead of 20,000, in bfloat16 where the
processor has it; the validation characters select the weights.
"""

from functools import partial

from quickstudy.data.episodes import Labels, Setting
from quickstudy.data.images import ImageFormat
from quickstudy.data.omniglot import omniglot
from quickstudy.encoders import Conv4
from quickstudy.learners.semi_supervised import Refinement, SemiPrototypical
from quickstudy.recipes.recipe import Recipe
from quickstudy.schedules import cosine


def tenth_omniglot(label_seed: int = 0) -> Recipe:
    """The baseline: items without labels are not used."""
    return _recipe("soft", label_seed, unlabelled=0, distractors=False, published=94.62)


def soft_omniglot(label_seed: int = 0) -> Recipe:
    """Soft k-means; all unlabelled items are of the task's classes."""
    return _recipe("soft", label_seed, unlabelled=5, distractors=False, published=97.25)


def soft_omniglot_distractors(label_seed: int = 0) -> Recipe:
    """Soft k-means, with distractors."""
    return _recipe("soft", label_seed, unlabelled=5, distractors=True, published=95.01)


def cluster_omniglot_distractors(label_seed: int = 0) -> Recipe:
    """A cluster for the distractors."""
    return _recipe("cluster", label_seed, unlabelled=5, distractors=True, published=97.17)


def masked_omniglot_distractors(label_seed: int = 0) -> Recipe:
    """Masked soft k-means, with distractors."""
    return _recipe("masked", label_seed, unlabelled=5, distractors=True, published=97.30)


def _recipe(
    refinement: Refinement, label_seed: int, unlabelled: int, distractors: bool, published: float
) -> Recipe:
    def setting(ways: int) -> Setting:
        return Setting(ways, 1, 1, unlabelled, ways if distractors else 0)

    kind = f"{refinement} k-means" if unlabelled else "prototypical networks"
    return Recipe(
        summary=f"{kind} on Omniglot, a tenth labelled{', with distractors' * distractors}, Vinyals split",
        paper="Ren et al. 2018, Table 1",
        pool=partial(omniglot, split="vinyals", rotations=True),
        item_format=ImageFormat(28, 1, invert=True),
        learner=lambda: SemiPrototypical(Conv4(), refinement),
        train=setting(10),
        steps=4_000,
        lr=1e-2,
        schedule=partial(cosine, warmup=200),
        precision="bf16-mixed",
        validation=setting(5),
        every=500,
        tests=(setting(5),),
        published={"5w1s": published},
        labels=Labels(0.1, label_seed),
    )

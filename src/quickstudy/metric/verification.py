"""Verification: how well a score tells pairs of one class from pairs of two, whatever the threshold."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import auc, roc_curve
from torch import Tensor

from quickstudy.core.episode import Trials
from quickstudy.core.scores import Mode
from quickstudy.metric.pairs import draw_balanced
from quickstudy.metric.siamese import Siamese
from quickstudy.training.evaluate import evaluation

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Verification:
    """How well scores tell genuine pairs (of one class) from impostor pairs.

    FAR is the share of impostor pairs that a threshold accepts, TAR that of genuine pairs.

    Args:
        auc: area under TAR over FAR: how often a genuine pair scores higher than an impostor pair, a tie
            being half; in [0, 1].
        eer: equal error rate, where FAR = 1 − TAR, in [0, 1].
        threshold: the score from which pairs are accepted there.
        tar: TAR at FAR, by FAR, all in [0, 1].
        genuine: number of genuine pairs.
        impostor: number of impostor pairs.
        curve: FAR [K] and TAR [K] of every threshold, from the highest to the lowest.
        episodes: tasks that the pairs are of; 0 where scores came alone, and so below.
        seed: of the episodes.
        setting: such as 5w1s.
        mode: "inductive" or "transductive": what batch norm saw.
    """

    auc: float
    eer: float
    threshold: float
    tar: dict[float, float]
    genuine: int
    impostor: int
    curve: tuple[Floats, Floats] = field(repr=False, compare=False)
    episodes: int = 0
    seed: int = 0
    setting: str = ""
    mode: str = ""

    def __str__(self) -> str:
        """`EER 2.31 %, AUC 0.9971, TAR 95.10 % at FAR 1 % (800 genuine + 800 impostor pairs, 5w1s, …)`."""
        tars = "".join(f", TAR {100 * tar:.2f} % at FAR {100 * far:g} %" for far, tar in self.tar.items())
        parts = [f"{self.genuine} genuine + {self.impostor} impostor pairs"]
        if self.episodes:
            parts += [self.setting, self.mode, f"{self.episodes} episodes", f"seed {self.seed}"]
        return f"EER {100 * self.eer:.2f} %, AUC {self.auc:.4f}{tars} ({', '.join(parts)})"

    def as_dict(self) -> dict[str, Any]:
        """For a manifest or a log: all but the curve, what is by FAR under names such as "0.01"."""
        parts = {name: value for name, value in vars(self).items() if name != "curve"}
        return parts | {"tar": {f"{far:g}": tar for far, tar in self.tar.items()}}


def verification(
    scores: Tensor | npt.ArrayLike, genuine: Tensor | npt.ArrayLike, fars: Sequence[float] = (0.01, 0.001)
) -> Verification:
    """AUC, EER and TAR at FAR of scored pairs.

    The EER is where the line between two neighbouring operating points has FAR = 1 − TAR; the threshold lies
    between theirs in proportion. TAR at a FAR is the largest of the operating points with at most this FAR,
    never interpolated: with fewer impostor pairs than 1 / FAR, of those that accept none of them.

    Args:
        scores: [B] higher where a pair is likelier of one class, such as negative energies.
        genuine: [B] true or 1 where it is.
        fars: each in [0, 1].

    Raises:
        ValueError: if there is no genuine or no impostor pair, shapes differ, a score isn't finite, or a FAR
            is out of range.

    Example:
        >>> print(verification([0.9, 0.8, 0.4, 0.6, 0.2, 0.1], [1, 1, 1, 0, 0, 0], fars=[0.01]))
        EER 33.33 %, AUC 0.8889, TAR 66.67 % at FAR 1 % (3 genuine + 3 impostor pairs)
    """
    s, g = _array(scores), _array(genuine)
    if s.ndim != 1 or s.shape != g.shape:
        raise ValueError(f"scores have shape {list(s.shape)}, genuine {list(g.shape)}: both must be [B]")
    if not np.isfinite(s).all():
        at = int(np.flatnonzero(~np.isfinite(s))[0])
        raise ValueError(
            f"score {at} is {s[at]}: scores must be finite; look for what blew up in the encoder"
        )
    if not np.isin(g, (0, 1)).all():
        other = g[~np.isin(g, (0, 1))][0]
        raise ValueError(f"genuine holds {other:g}: it must be 1 (or true) for pairs of one class, else 0")
    count = int(g.sum())
    if not 0 < count < len(g):
        raise ValueError(
            f"there are {count} genuine and {len(g) - count} impostor pairs: "
            "it takes some of each; bring more items a class, or more classes"
        )
    wrong = [far for far in fars if not 0 <= far <= 1]
    if wrong:
        raise ValueError(f"FAR {wrong[0]} is not in [0, 1]: it is a share, 0.01 is 1 %")
    far, tar, thresholds = (np.asarray(a, np.float64) for a in roc_curve(g, s, drop_intermediate=False))
    eer, threshold = _equal_error(far, tar, thresholds)
    at_far = {f: float(tar[np.searchsorted(far, f, side="right") - 1]) for f in fars}
    return Verification(float(auc(far, tar)), eer, threshold, at_far, count, len(g) - count, curve=(far, tar))


def _array(values: Tensor | npt.ArrayLike) -> Floats:
    return np.asarray(values.detach().cpu().double() if isinstance(values, Tensor) else values, np.float64)


def _equal_error(far: Floats, tar: Floats, thresholds: Floats) -> tuple[float, float]:
    excess = far - (1 - tar)  # strictly rising from −1 to 1, as every operating point accepts more pairs
    i = int(np.argmax(excess >= 0))
    w = float(-excess[i - 1] / (excess[i] - excess[i - 1]))
    eer = (1 - w) * far[i - 1] + w * far[i]
    # the first operating point accepts nothing and has no finite threshold
    threshold = (1 - w) * thresholds[i - 1] + w * thresholds[i] if i > 1 else thresholds[i]
    return float(eer), float(threshold)


@torch.no_grad()
def verify(learner: Siamese, episodes: Trials, count: int = 100, mode: Mode = "inductive") -> Verification:
    """How well a Siamese network tells pairs of unseen classes, over the first `count` tasks of `episodes`.

    Scores are negative energies. The pairs are all genuine pairs of different items within a task, support
    and queries alike, and as many of its impostor pairs, drawn by the seed of the episodes.

    Args:
        learner: left in the state (training or not) it was in.
        episodes: of classes the learner has never seen.
        count: tasks.
        mode: as in `evaluate`.

    Raises:
        ValueError: if count < 1, the mode is unknown, or a task has fewer impostor than genuine pairs.
    """
    scores: list[Tensor] = []
    labels: list[Tensor] = []
    rng = np.random.default_rng(episodes.seed)
    with evaluation(learner, count, mode):
        episodes = episodes.on(learner.device)
        for i in range(math.ceil(count / episodes.tasks)):
            energies, genuine = (
                a.cpu() for a in learner.pairs(episodes.part(i)[: count - i * episodes.tasks])
            )
            for e, g in zip(energies, genuine, strict=True):
                chosen = draw_balanced(g, int(g.sum()), rng)
                scores.append(-e[chosen])
                labels.append(g[chosen])
    found = verification(torch.cat(scores), torch.cat(labels))
    return replace(found, episodes=count, seed=episodes.seed, setting=str(episodes.setting), mode=mode)

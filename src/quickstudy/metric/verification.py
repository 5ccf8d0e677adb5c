"""Verification: how well a score separates genuine from impostor pairs, over all thresholds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import auc, roc_curve
from torch import Tensor

from quickstudy.core.arrays import Float64Array
from quickstudy.core.episode import Trials
from quickstudy.core.modes import Mode
from quickstudy.metric.pairs import draw_balanced
from quickstudy.metric.siamese import Siamese
from quickstudy.training.evaluate import check_queries, scoring_mode


@dataclass(frozen=True)
class Verification:
    """Verification figures: how well scores separate genuine pairs (of one class) from impostor pairs.

    The false accept rate, FAR, is the share of impostor pairs that a threshold accepts; the true accept rate,
    TAR, is that of genuine pairs.

    Args:
        auc: Area under the curve of TAR over FAR, in [0, 1]: the probability that a genuine pair scores
            higher than an impostor pair, a tie counting half.
        eer: Equal error rate, where FAR = 1 − TAR, in [0, 1].
        threshold: Score from which pairs are accepted at the equal error rate.
        tar: TAR at given FARs, by FAR, all in [0, 1].
        genuine: Number of genuine pairs.
        impostor: Number of impostor pairs.
        curve: FAR [K] and TAR [K] at every threshold, from the highest to the lowest.
        episodes: Number of tasks that the pairs were drawn from; 0 where only scores were given.
        seed: Seed of the episodes; 0 where only scores were given.
        setting: Shape of a task, such as 5w1s; empty where only scores were given.
        mode: Statistics of batch norm, "inductive", "transductive" or "authors"; empty where only scores were
            given.
    """

    auc: float
    eer: float
    threshold: float
    tar: dict[float, float]
    genuine: int
    impostor: int
    curve: tuple[Float64Array, Float64Array] = field(repr=False, compare=False)
    episodes: int = 0
    seed: int = 0
    setting: str = ""
    mode: str = ""

    def __str__(self) -> str:
        """`EER 2.31 %, AUC 0.9971, TAR 95.10 % at FAR 1 % (800 genuine + 800 impostor pairs, …)`."""
        tars = "".join(f", TAR {100 * tar:.2f} % at FAR {100 * far:g} %" for far, tar in self.tar.items())
        parts = [f"{self.genuine} genuine + {self.impostor} impostor pairs"]
        if self.episodes:
            parts += [self.setting, self.mode, f"{self.episodes} episodes", f"seed {self.seed}"]
        return f"EER {100 * self.eer:.2f} %, AUC {self.auc:.4f}{tars} ({', '.join(parts)})"

    def as_dict(self) -> dict[str, Any]:
        """All figures but the curve, for a manifest or a log; FARs become strings such as "0.01"."""
        parts = {name: value for name, value in vars(self).items() if name != "curve"}
        return parts | {"tar": {f"{far:g}": tar for far, tar in self.tar.items()}}


def verification(
    scores: Tensor | npt.ArrayLike, genuine: Tensor | npt.ArrayLike, fars: Sequence[float] = (0.01, 0.001)
) -> Verification:
    """AUC, EER and TAR at FAR of scored pairs.

    The EER is where the line between two neighbouring operating points has FAR = 1 − TAR; the threshold is
    interpolated between theirs. TAR at a FAR is the largest TAR of the operating points with at most this
    FAR. It is never interpolated: with fewer impostor pairs than 1 / FAR, only operating points that accept
    no impostor pair count.

    Args:
        scores: [B] scores of the pairs, higher where a pair is likelier of one class, such as negative
            energies.
        genuine: [B] true or 1 where a pair is of one class, else false or 0.
        fars: FARs in [0, 1] at which TAR is reported.

    Returns:
        The figures and their curve.

    Raises:
        ValueError: If there is no genuine or no impostor pair, shapes differ, a score is not finite, or a FAR
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
    curve = roc_curve(g, s, drop_intermediate=False)
    far = np.asarray(curve[0], np.float64)
    tar = np.asarray(curve[1], np.float64)
    thresholds = np.asarray(curve[2], np.float64)
    eer, threshold = _equal_error(far, tar, thresholds)
    at_far = {f: float(tar[np.searchsorted(far, f, side="right") - 1]) for f in fars}
    return Verification(float(auc(far, tar)), eer, threshold, at_far, count, len(g) - count, curve=(far, tar))


def _array(values: Tensor | npt.ArrayLike) -> Float64Array:
    return np.asarray(values.detach().cpu().double() if isinstance(values, Tensor) else values, np.float64)


def _equal_error(far: Float64Array, tar: Float64Array, thresholds: Float64Array) -> tuple[float, float]:
    excess = far - (1 - tar)  # strictly rising from −1 to 1, as every operating point accepts more pairs
    i = int(np.argmax(excess >= 0))
    w = float(-excess[i - 1] / (excess[i] - excess[i - 1]))
    eer = (1 - w) * far[i - 1] + w * far[i]
    # the first operating point accepts nothing and has no finite threshold
    threshold = (1 - w) * thresholds[i - 1] + w * thresholds[i] if i > 1 else thresholds[i]
    return float(eer), float(threshold)


@torch.no_grad()
def verify(learner: Siamese, episodes: Trials, count: int = 100, mode: Mode = "inductive") -> Verification:
    """Verification of pairs of unseen classes by a Siamese network, over the first `count` tasks.

    Scores are negative energies. The pairs of a task are all genuine pairs of different items, support and
    query items, and an equal number of impostor pairs, drawn by the seed of the episodes.

    Args:
        learner: The trained network; afterwards it is in the mode (training or evaluation) it was in.
        episodes: Tasks of classes that the learner has never seen.
        count: Number of tasks.
        mode: Statistics of batch norm, "inductive", "transductive" or "authors", as in `evaluate`.

    Returns:
        The figures over the pairs of all tasks together.

    Raises:
        ValueError: If count < 1, the mode is unknown or "authors" with more than one query a class, or a task
            has fewer impostor than genuine pairs.
    """
    check_queries(episodes, mode)
    scores: list[Tensor] = []
    labels: list[Tensor] = []
    rng = np.random.default_rng(episodes.seed)
    with scoring_mode(learner, count, mode):
        episodes = episodes.on(learner.device)
        for i in range(math.ceil(count / episodes.tasks)):
            energies, genuine = learner.pairs(episodes.part(i)[: count - i * episodes.tasks])
            for e, g in zip(energies.cpu(), genuine.cpu(), strict=True):
                chosen = draw_balanced(g, int(g.sum()), rng)
                scores.append(-e[chosen])
                labels.append(g[chosen])
    found = verification(torch.cat(scores), torch.cat(labels))
    return replace(found, episodes=count, seed=episodes.seed, setting=str(episodes.setting), mode=mode)

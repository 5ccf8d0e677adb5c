"""Error rates of verification, with confidence intervals.

Terms and letters are those of `recognition/calibration.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quickstudy.core.arrays import Float64Array
from quickstudy.metric.verification import verification
from quickstudy.recognition.pairs import Interval, share_interval, shown


def min_dcf(
    scores: npt.ArrayLike,
    genuine: npt.ArrayLike,
    prior: float = 0.01,
    false_accept: float = 1.0,
    false_reject: float = 1.0,
) -> float:
    r"""Minimum detection cost (minDCF) over all thresholds; 1 is the cost of always giving the same answer.

    $$\min_t \frac{C_{fr} \pi \, \text{FRR}(t) + C_{fa} (1 - \pi) \, \text{FAR}(t)}
                  {\min(C_{fr} \pi, \, C_{fa} (1 - \pi))}$$

    Args:
        scores: Scores of the pairs, [P].
        genuine: Whether each pair is genuine, [P], true or 1 if it is.
        prior: Prior probability π of a genuine pair, in (0, 1).
        false_accept: Cost of a false accept, > 0.
        false_reject: Cost of a false reject, > 0.

    Returns:
        The cost, in [0, 1].

    Raises:
        ValueError: If a cost or the prior is out of range, or as in `verification`.

    Example:
        >>> min_dcf([4.0, 2.0, 3.0, 1.0], [1, 1, 0, 0])
        0.5

    Reference: NIST Speaker Recognition Evaluation plans, 2008 to 2016.
    """
    if not (0 < prior < 1 and min(false_accept, false_reject) > 0):
        raise ValueError(
            f"prior is {prior}, costs {false_accept} and {false_reject}: the prior must be between 0 and 1, "
            "costs positive"
        )
    far, tar = verification(scores, genuine).curve
    reject, accept = false_reject * prior, false_accept * (1 - prior)
    return float((reject * (1 - tar) + accept * far).min() / min(reject, accept))


@dataclass(frozen=True)
class Achieved:
    """Error rates at a given threshold.

    Args:
        threshold: Score from which on pairs are accepted.
        far: Share of impostor pairs accepted, in [0, 1]; NaN if there are none.
        far95: 95 % interval of the FAR over identities, as in `share_interval`.
        frr: Share of genuine pairs rejected, in [0, 1]; NaN if there are none.
        frr95: 95 % interval of the FRR over identities.
        genuine: Number of genuine pairs.
        impostor: Number of impostor pairs.
        identities: Number K of identities.
    """

    threshold: float
    far: float
    far95: Interval
    frr: float
    frr95: Interval
    genuine: int
    impostor: int
    identities: int

    def __str__(self) -> str:
        """`FAR 1.20 % (0.60 … 2.10), FRR 4.00 % (2.00 … 7.00) at -0.8123 (450 genuine + 4500 …)`."""
        return (
            f"FAR {shown(self.far, self.far95)}, FRR {shown(self.frr, self.frr95)} at {self.threshold:.4g} "
            f"({self.genuine} genuine + {self.impostor} impostor pairs of {self.identities} identities)"
        )

    def as_dict(self) -> dict[str, Any]:
        """All fields, for a manifest or a log; rates that are NaN are left out."""
        return {name: value for name, value in vars(self).items() if not np.isnan(value).any()}


def achieved(scores: npt.ArrayLike, identities: npt.ArrayLike, threshold: float, seed: int = 0) -> Achieved:
    """FAR and FRR at a threshold that was set on other data.

    Args:
        scores: Scores of the pairs, [P], such as those of `score_pairs`.
        identities: Identities of the two sides of each pair, [P, 2], integers ≥ 0; equal in a genuine pair.
        threshold: Score from which on pairs are accepted.
        seed: Seed of the bootstrap.

    Returns:
        The error rates, with intervals.

    Raises:
        ValueError: If shapes don't fit, or a score or the threshold is NaN.

    Example:
        >>> a = achieved([0.9, 0.2, 0.8, 0.1], [[0, 0], [1, 1], [0, 1], [0, 2]], 0.5)
        >>> a.far, a.frr
        (0.5, 0.5)
    """
    s, pairs = np.asarray(scores, np.float64), np.asarray(identities)
    if s.ndim != 1 or pairs.shape != (len(s), 2) or not len(s):
        raise ValueError(
            f"scores have shape {list(s.shape)}, identities {list(pairs.shape)}: they must be [P] and [P, 2]"
        )
    if np.isnan(s).any() or np.isnan(threshold):
        raise ValueError("scores and threshold must be numbers: look for what blew up in the encoder")
    same = pairs[:, 0] == pairs[:, 1]
    far, far95 = _share(s[~same] >= threshold, pairs[~same], seed)
    frr, frr95 = _share(s[same] < threshold, pairs[same], seed)
    genuine = int(same.sum())
    return Achieved(
        float(threshold), far, far95, frr, frr95, genuine, len(s) - genuine, len(np.unique(pairs))
    )


def _share(hits: npt.NDArray[np.bool_], pairs: npt.NDArray[Any], seed: int) -> tuple[float, Interval]:
    if not len(hits):
        return np.nan, (np.nan, np.nan)
    return float(hits.mean()), share_interval(hits, pairs, seed)


def per_group(
    scores: npt.ArrayLike, identities: npt.ArrayLike, threshold: float, groups: Sequence[str]
) -> dict[str, Achieved]:
    """FAR and FRR of each group of identities, on pairs within the group, where impostor pairs are hardest.

    Args:
        scores: Scores of the pairs, [P].
        identities: Identities of the two sides of each pair, [P, 2], in 0 … K − 1.
        threshold: Score from which on pairs are accepted.
        groups: Group of each identity, [K]; identities with an empty group are left out.

    Returns:
        Error rates by group; groups without pairs are left out.

    Raises:
        ValueError: If an identity has no entry in `groups`.
    """
    s, pairs, of = np.asarray(scores), np.asarray(identities), np.asarray(groups)
    if pairs.size and int(pairs.max()) >= len(of):
        raise ValueError(f"identity {pairs.max()} has no group: groups are of {len(of)} identities")
    found: dict[str, Achieved] = {}
    for group in sorted({g for g in groups if g}):
        within = (of[pairs] == group).all(1)
        if within.any():
            found[group] = achieved(s[within], pairs[within], threshold)
    return found


@dataclass(frozen=True)
class View2:
    """Accuracy on folds of pairs, each with a threshold from other folds.

    Args:
        accuracies: Accuracy on each tested fold, in [0, 1].
        thresholds: Threshold of each tested fold.
        mean: Mean of the accuracies.
        error: Standard error of the mean, s / √folds; NaN for a single fold.
    """

    accuracies: Float64Array
    thresholds: Float64Array
    mean: float
    error: float

    def __str__(self) -> str:
        """`87.50 ± 0.48 % (10 folds, mean ± standard error)`."""
        spread = f" ± {100 * self.error:.2f}" if len(self.accuracies) > 1 else ""
        return f"{100 * self.mean:.2f}{spread} % ({len(self.accuracies)} folds, mean ± standard error)"

    def as_dict(self) -> dict[str, Any]:
        """All fields, for a manifest or a log."""
        lists = {"accuracies": self.accuracies.tolist(), "thresholds": self.thresholds.tolist()}
        return lists | {"mean": self.mean, "error": self.error}


def lfw_view2(
    scores: npt.ArrayLike,
    same: npt.ArrayLike,
    tuned_on: Sequence[int] = (),
    tested_on: Sequence[int] = (),
) -> View2:
    """Accuracy as on View 2 of Labeled Faces in the Wild.

    The threshold of a fold is the one with the greatest accuracy on all other folds, or on those of
    `tuned_on`; in a tie the highest, midway between two scores.

    Args:
        scores: Scores of the pairs of each fold, [F, P]; in LFW [10, 600].
        same: Whether both pictures of a pair are of one person, [F, P], true or 1 if they are.
        tuned_on: Folds to choose the threshold on; by default all but the one tested.
        tested_on: Folds to test on; by default all but those of `tuned_on`.

    Returns:
        The accuracies and thresholds of the tested folds.

    Raises:
        ValueError: If shapes don't fit, or a fold would be used both for tuning and for testing.

    Reference: G. B. Huang, M. Ramesh, T. Berg, E. Learned-Miller: "Labeled Faces in the Wild", University of
    Massachusetts, Amherst, technical report 07-49, 2007.
    """
    s, genuine = np.asarray(scores, np.float64), np.asarray(same, bool)
    if s.ndim != 2 or s.shape != genuine.shape or len(s) < 2:
        raise ValueError(
            f"scores have shape {list(s.shape)}, same {list(genuine.shape)}: both must be [F, P], F ≥ 2"
        )
    folds = list(tested_on) or [f for f in range(len(s)) if f not in tuned_on]
    if set(folds) & set(tuned_on) or not all(0 <= f < len(s) for f in [*folds, *tuned_on]) or not folds:
        raise ValueError(
            f"folds {list(tuned_on)} tune and {folds} test: they must differ, and be of 0 … {len(s) - 1}"
        )
    thresholds = np.empty(len(folds))
    for i, fold in enumerate(folds):
        tuning = list(tuned_on) or [f for f in range(len(s)) if f != fold]
        thresholds[i] = _most_accurate(s[tuning].ravel(), genuine[tuning].ravel())
    right = ((s[folds] >= thresholds[:, None]) == genuine[folds]).mean(1)
    error = right.std(ddof=1) / len(folds) ** 0.5 if len(folds) > 1 else np.nan
    return View2(right, thresholds, float(right.mean()), float(error))


def _most_accurate(scores: Float64Array, genuine: npt.NDArray[np.bool_]) -> float:
    order = np.argsort(-scores, kind="stable")
    s = scores[order]
    right = np.cumsum(np.where(genuine[order], 1, -1))  # minus that of accepting nothing
    ends = np.flatnonzero(np.append(s[1:] < s[:-1], True))  # equal scores are accepted or rejected together
    best = int(ends[np.argmax(right[ends])])
    if right[best] <= 0:
        return float(np.nextafter(s[0], np.inf))
    return float((s[best] + s[best + 1]) / 2 if best + 1 < len(s) else s[best])

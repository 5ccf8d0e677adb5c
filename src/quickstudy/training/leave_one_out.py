"""What a few labelled items say of a learner: accuracy on those left out, and when to answer "unsure"."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from quickstudy.core.episode import Support
from quickstudy.core.learner import Learner, evaluation_mode
from quickstudy.training.of_embeddings import of_embeddings

FOLDS = 10
"""Most times that a task is learned anew: of classes with more items, several are left out at a time."""
AT_ONCE = 2_000_000
"""Most numbers of the items of tasks that are learned together."""
ALIKE, CLASSES = 0.2, 5
"""Assumed correlation of the answers within a class, and how many classes the assumption counts for."""


@dataclass(frozen=True)
class Expected:
    """Accuracy to expect on new items of the same classes, from labelled items that were left out.

    Args:
        accuracy: Share of the items left out that were classified rightly.
        low: Lower end of the 95 % interval of the accuracy.
        high: Upper end of the interval.
        items: Number of items that were left out in turn.
        classes: Number of classes that they are of: those with two items or more.
        ways: Number N of classes to choose from; chance is 1 / N.
        shots: Mean number of items that these classes were learned from, with one part left out.
    """

    accuracy: float
    low: float
    high: float
    items: int
    classes: int
    ways: int
    shots: float

    @property
    def above_chance(self) -> bool:
        """Whether the whole interval lies above chance, 1 / N."""
        return self.low > 1 / self.ways

    @property
    def warning(self) -> str:
        """What to say where the interval isn't above chance."""
        return (
            f"this isn't above chance for certain: {100 * self.accuracy:.1f} % ({100 * self.low:.1f} … "
            f"{100 * self.high:.1f}) of the labelled are right when left out, and guessing gives "
            f"{100 / self.ways:.1f} %: label more, or take a model of this kind of item"
        )

    def __str__(self) -> str:
        """`expect 91.7 % right (81.2 … 96.6 …)`, with what it was measured on."""
        of = "" if self.classes == self.ways else f" of {self.classes} of the {self.ways} classes"
        return (
            f"expect {100 * self.accuracy:.1f} % right ({100 * self.low:.1f} … {100 * self.high:.1f}): "
            f"leave-one-out on the {self.items} labelled{of}, learned from {self.shots:.3g} each; "
            f"chance is {100 / self.ways:.1f} %"
        )


@torch.no_grad()
def leave_one_out(learner: Learner, support: Support) -> tuple[Tensor, Tensor]:
    """Scores of labelled items, each by a task that was learned without it.

    One item of *each* class is left out at a time. If only one were left out in all, its class would be the
    only one learned from fewer items than the others, which alone makes errors. Of classes with more than
    `FOLDS` items a tenth is left out at a time; single items of a class stay.

    Learners with an encoder embed each item once. Everything is in evaluation mode.

    Args:
        learner: Trained learner.
        support: Labelled items of one task.

    Returns:
        [B] indices of the items that were left out, and [B, N] their scores.

    Raises:
        ValueError: If the support holds several tasks, or no class has two items.
    """
    if len(support.x) != 1:
        raise ValueError(f"the support holds {len(support.x)} tasks: leave items of one out at a time")
    folds = _folds(support.y[0].cpu(), support.ways)
    if not folds:
        raise ValueError("no class has two labelled items: none can be left out; label a second one of each")
    with evaluation_mode(learner):
        if embedded := of_embeddings(learner, support):
            learner, support = embedded
        x, y = support.x[0], support.y[0]
        size = max(1, AT_ONCE // max(1, x.numel()))
        found = [_learned(learner, x, y, support, folds[i : i + size]) for i in range(0, len(folds), size)]
    scores = torch.cat(found).flatten(0, 1)
    which = torch.cat([out for _, out in folds])
    # an item may be left out twice, so that all folds are of one size: the first time counts
    first = torch.full((int(which.max()) + 1,), len(which)).scatter_reduce(
        0, which, torch.arange(len(which)), "amin"
    )
    chosen = first[first < len(which)]
    return which[chosen], scores[chosen]


Fold = tuple[Tensor, Tensor]
"""Indices of the items that stay, and of those that are left out."""


def _learned(learner: Learner, x: Tensor, y: Tensor, support: Support, folds: list[Fold]) -> Tensor:
    """Scores [T, Q, N] of the items that T folds leave out, learned from those that stay."""
    stay, out = (torch.stack(part).to(x.device) for part in zip(*folds, strict=True))
    names = support.names if support.names is None else support.names.repeat(len(folds), 0)
    return learner.predict(Support(x[stay], y[stay], support.ways, names=names), x[out]).cpu()


def _folds(y: Tensor, ways: int) -> list[Fold]:
    """Folds that leave out each item once at least (but single ones of a class), all of one size."""
    of_class = [(y == c).nonzero()[:, 0] for c in range(ways)]
    counts = [len(of) for of in of_class if len(of) > 1]
    if not counts:
        return []
    number = min(max(counts), FOLDS)
    folds: list[Fold] = []
    for fold in range(number):
        out: list[Tensor] = []
        for of in of_class:
            if len(of) > 1:
                left = math.ceil(len(of) / number)
                out.append(of[(fold * left + torch.arange(left)) % len(of)])
        stays = torch.ones(len(y), dtype=torch.bool)
        stays[torch.cat(out)] = False
        folds.append((stays.nonzero()[:, 0], torch.cat(out)))
    return folds


def expected_accuracy(which: Tensor, scores: Tensor, support: Support) -> Expected:
    r"""Accuracy on items that were left out, with an interval over classes and items.

    Wilson's interval, corrected for continuity, for the share p of right answers, of as many independent
    answers as n items of K classes are worth:

    $$n_\text{eff} = \frac{n}{1 + (m - 1)\rho}, \qquad
      \rho = \frac{k\,\hat\rho + 5 \cdot 0.2}{k + 5}$$

    with m the mean number of items of a class and $\hat\rho$ the correlation of answers within a class, by
    analysis of variance. A few classes, or errors, can't tell it, so it is drawn towards 0.2 with the weight
    of five: k is K − 1, or, if less, the number of errors (or of right answers) less one.

    Args:
        which: [B] indices of the items that were left out, as `leave_one_out` gives them.
        scores: [B, N] scores of these items.
        support: Labelled items of one task.

    Reference: Newcombe 1998 (method 4), "Two-sided confidence intervals for the single proportion"; the
    design effect is that of Kish 1965.
    """
    y = support.y[0].cpu()[which]
    right = is_right(scores, y).double()
    counts = torch.bincount(y, minlength=support.ways).double()
    hits = torch.bincount(y, right, minlength=support.ways)[counts > 0]
    learned = torch.bincount(support.y[0].cpu(), minlength=support.ways)[counts > 0]
    left = torch.ceil(learned / min(int(learned.max()), FOLDS))
    counts = counts[counts > 0]
    low, high = clustered_interval(hits, counts)
    shots = float((learned - left).mean())
    return Expected(right.mean().item(), low, high, len(y), len(counts), support.ways, shots)


def is_right(scores: Tensor, y: Tensor) -> Tensor:
    """Whether the true class has strictly the highest score, [B]: a tie is an error.

    Args:
        scores: [B, N] scores.
        y: [B] true labels.
    """
    own = scores.gather(1, y[:, None])
    return (own > scores.scatter(1, y[:, None], -math.inf).amax(1, keepdim=True)).squeeze(1)


def clustered_interval(hits: Tensor, counts: Tensor) -> tuple[float, float]:
    """The 95 % interval of a share of right answers that come in classes, as in `expected_accuracy`.

    Args:
        hits: [K] number of right answers in each class.
        counts: [K] number of answers in each class, at least 1.
    """
    n, classes = float(counts.sum()), len(counts)
    p = float(hits.sum()) / n
    weight, rho = 0.0, 0.0
    if classes > 1 and 0 < p < 1 and n > classes:
        fewer = min(float(hits.sum()), n - float(hits.sum()))
        told = min(classes - 1.0, fewer - 1)  # of one error it can't be told whether errors come together
        weight = told / (told + CLASSES)
        rates = hits / counts
        between = float((counts * (rates - p).square()).sum()) / (classes - 1)
        within = float((counts * rates * (1 - rates)).sum()) / (n - classes)
        typical = (n - float(counts.square().sum()) / n) / (classes - 1)
        total = between + (typical - 1) * within
        rho = (between - within) / total if total > 0 else 0.0
    rho = min(max(weight * rho + (1 - weight) * ALIKE, 0.0), 1.0)
    # items weighted alike: the mean size of the class that an item is in
    n /= 1 + (float(counts.square().sum()) / n - 1) * rho
    z = 1.959964
    return max(_wilson(p, n, -z), 0.0), min(_wilson(p, n, z), 1.0)


def _wilson(p: float, n: float, z: float) -> float:
    """The end of Wilson's interval on the side of the sign of z, with the correction for continuity."""
    sign = math.copysign(1.0, z)
    if n * (1 - p if sign > 0 else p) < 1:  # less than one answer of the other kind
        return 1.0 if sign > 0 else 0.0
    inner = z * z + sign * 2 - 1 / n + 4 * p * (n * (1 - p) - sign)
    return (2 * n * p + z * z + sign + z * math.sqrt(max(inner, 0.0))) / (2 * (n + z * z))


def margins(scores: Tensor) -> Tensor:
    """How much the likeliest class leads the next, [B]: the difference of their scores.

    Args:
        scores: [B, N] scores.
    """
    best = scores.topk(2).values
    return best[:, 0] - best[:, 1]


@dataclass(frozen=True)
class Reject:
    """A threshold of the margin, below which the answer is "unsure".

    Args:
        error: Share of errors among the answers that was aimed at.
        margin: Least margin of an answer; infinite where no margin is enough.
        answered: Share of the items left out that got an answer.
        items: Number of the items left out.
    """

    error: float
    margin: float
    answered: float
    items: int

    def __str__(self) -> str:
        """What share of the pictures gets an answer, or why none does."""
        if self.margin == math.inf:
            return (
                f"unsure of everything: {self.items} labelled are too few, or too hard, to find answers of "
                f"which at most {100 * self.error:.3g} % are wrong (it takes {math.ceil(1 / self.error) - 1} "
                "right ones): label more, or allow more errors"
            )
        return (
            f"answers about {100 * self.answered:.0f} %, and is unsure of the rest, so that at most "
            f"{100 * self.error:.3g} % of the answers are wrong"
        )


def reject_below(scores: Tensor, y: Tensor, error: float) -> Reject:
    r"""The least margin with few enough errors among the items left out whose margin is no less.

    $$\frac{1 + \text{errors at margins} \ge \tau}{1 + \text{items at margins} \ge \tau} \le \text{error}$$

    The 1 is the next item, taken to be wrong: so 19 right answers are the fewest that support 5 %.

    Args:
        scores: [B, N] scores of items that were left out.
        y: [B] their true labels.
        error: Share of errors to allow among the answers, in (0, 1).

    Raises:
        ValueError: If `error` is out of range.
    """
    if not 0 < error < 1:
        raise ValueError(f"reject is {error}: it is a share of errors, above 0 and below 1; 0.05 is 5 %")
    lead, order = margins(scores).sort(descending=True)
    wrong = (~is_right(scores, y))[order].cumsum(0)
    allowed = (1 + wrong) / (2 + torch.arange(len(y))) <= error
    # a margin that several share lets all of them in, or none
    allowed &= torch.cat([lead[1:] < lead[:-1], torch.ones(1, dtype=torch.bool)])
    last = int(allowed.nonzero().max()) if allowed.any() else -1
    return Reject(error, float(lead[last]) if last >= 0 else math.inf, (last + 1) / len(y), len(y))

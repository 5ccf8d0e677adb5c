"""Heads: classifiers of features, made anew for each task from its few support items, without training.

A head sees features only, so it goes with any encoder: `PlainClassifier(encoder, …, head=…)`.
"""

import inspect
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.core.episode import Support
from quickstudy.core.process import WARNING_FILTERS_LOCK
from quickstudy.metric.distances import prototypes, squared_distances
from quickstudy.metric.ridge import ridge_regression

Head = Callable[[Tensor, Tensor, int, Tensor], Tensor]
"""Function that classifies the queries of T tasks by the support, `head(shots, y, ways, queries) -> scores`.

It is given the features of the support, `shots` [T, S, D], with their labels `y` [T, S] in 0 … N − 1, the
number N of classes, `ways`, and the features of the queries, `queries` [T, Q, D]. It returns scores
[T, Q, N], higher is likelier, whose softmax over N gives probabilities; dtype and device are those of the
queries. Each task stands for itself: its scores do not depend on the other tasks of the call. An inductive
head treats each query by itself; one that looks at all queries of a task together is transductive, and marked
so by `@transductive`. Options are bound by `functools.partial`. A head with a parameter `names` is given the
names of the classes, [T, N], or None where they aren't known. A head need not be differentiable: it is used
after training.
"""
_Head = TypeVar("_Head", bound=Callable[..., Tensor])


def transductive(head: _Head) -> _Head:
    """Decorator of a head that looks at all queries of a task together; its figures are named so.

    Args:
        head: Function that is a `Head`.
    """
    head.__dict__["transductive"] = True
    return head


def is_transductive(head: Head) -> bool:
    """Whether a head is marked as `transductive`; also of a `partial` of one.

    Args:
        head: A `Head`.
    """
    while isinstance(head, partial):
        head = head.func
    return bool(getattr(head, "transductive", False))


def told_apart(head: Head, shots: Tensor, support: Support, queries: Tensor) -> Tensor:
    """Scores of a head, which is given the names of the classes if it asks for them.

    Args:
        head: A `Head`.
        shots: [T, S, D] features of the support.
        support: Support sets that they are of.
        queries: [T, Q, D] features of the queries.

    Returns:
        [T, Q, N] scores.
    """
    bound = head.keywords if isinstance(head, partial) else {}
    named = "names" in inspect.signature(head).parameters and "names" not in bound
    given: Any = {"names": support.names} if named else {}
    with torch.autocast(queries.device.type, enabled=False):
        return head(shots, support.y, support.ways, queries, **given)


def nearest_prototype(shots: Tensor, y: Tensor, ways: int, queries: Tensor) -> Tensor:
    """Head that takes the nearest class mean: scores −‖q − c_k‖² (inductive).

    Of features of unit length, as a `PlainClassifier` gives them, this is SimpleShot's L2N.

    Args:
        shots: [T, S, D] features of the support.
        y: [T, S] labels in 0 … N − 1.
        ways: Number N of classes.
        queries: [T, Q, D] features of the queries.

    Returns:
        [T, Q, N] scores ≤ 0.

    Reference: Wang et al. 2019, "SimpleShot: revisiting nearest-neighbor classification for few-shot
    learning".
    """
    return -squared_distances(queries, prototypes(shots, y, ways))


PENALTY = 2.0
"""Penalty of `calibrated_ridge`, for items whose mean squared distance to the middle is 1."""
USUAL_SHARPNESS, SPREAD = 32.0, 0.3
"""Sharpness that fits a regression on one item a class, and how far that of a task may well be, in factors of
two. Both, and the penalty, fit the features of `photos` on validation classes of CIFAR-FS."""
TRIED = tuple(2 ** (i / 8) for i in range(-24, 25))
"""Sharpnesses that are tried, in units of the usual one."""


def calibrated_ridge(
    shots: Tensor, y: Tensor, ways: int, queries: Tensor, *, penalty: float = PENALTY
) -> Tensor:
    r"""Head of ridge regression, with probabilities that the support sets (inductive).

    $$W = \arg\min_W \sum_s w_s \lVert W^\top z_s - e_{y_s} + \tfrac{1}{N} \rVert^2
    + \lambda \lVert W \rVert^2, \qquad p(y = k \mid q) = \operatorname{softmax}(\tau\, W^\top q)_k$$

    The features z and q have their middle, the mean of the class means, at the origin, and the support a mean
    square of 1. Weights $w_s$ of a class sum to S / N, so that each class counts alike.

    The regression is not sure enough, by far: the sharpness τ of a task is told by its support, each item by
    the regression without it, which has a closed form. A few items can't tell it well, so it is drawn towards
    the usual one, by a normal prior of log₂ τ with deviation 0.3 around $\log_2(32\,n^{-1/4})$, of classes of
    n items in the mean; single items of a class say nothing of it. log₂ τ is the mean of its posterior.

    Args:
        shots: [T, S, D] features of the support.
        y: [T, S] labels in 0 … N − 1; each class has an item.
        ways: Number N of classes.
        queries: [T, Q, D] features of the queries.
        penalty: λ, above 0; the greater it is, the more alike are the answers to those of class means.

    Returns:
        [T, Q, N] scores.

    Raises:
        ValueError: If the penalty isn't positive.

    Reference: Bertinetto, Henriques, Torr, Vedaldi 2019, "Meta-learning with differentiable closed-form
    solvers"; Guo, Pleiss, Sun, Weinberger 2017, "On calibration of modern neural networks", whose temperature
    is 1 / τ.
    """
    if not penalty > 0:
        raise ValueError(f"penalty is {penalty}: it must be positive")
    with torch.autocast(shots.device.type, enabled=False):
        own = F.one_hot(y, ways).to(shots.dtype)  # [T, S, N]
        n = (own @ own.sum(1)[:, :, None]).squeeze(-1)  # [T, S] items of the class of each
        middle = prototypes(shots, y, ways).mean(1, keepdim=True)
        z, weights = shots - middle, y.shape[1] / ways / n[:, :, None]
        scale = (weights * z.square()).sum((1, 2), keepdim=True).div(y.shape[1]).clamp_min(1e-12).sqrt()
        x, targets = weights.sqrt() * z / scale, own - 1 / ways
        each = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).expand(len(x), -1, -1)
        fit = ridge_regression(x, each, penalty)  # from targets to weights
        w = fit @ (weights.sqrt() * targets)
        scores = (queries - middle) / scale @ w
    with torch.no_grad():
        own_part = (x * fit.mT).sum(-1, keepdim=True)  # of an item's target in its fitted value
        without = targets - (targets - z / scale @ w) / (1 - own_part)
        sharpness = _sharpness(without, own, n, USUAL_SHARPNESS * (y.shape[1] / ways) ** -0.25)
    return sharpness[:, None, None] * scores


def _sharpness(without: Tensor, own: Tensor, n: Tensor, usual: float) -> Tensor:
    """The sharpness of each task, [T], by scores [T, S, N] of its support, each item's without it."""
    factors = torch.tensor(TRIED, dtype=without.dtype, device=without.device)
    tried = usual * factors
    chances = (tried[:, None, None, None] * without).log_softmax(-1)  # [τ, T, S, N]
    likelihood = ((chances * own).sum(-1) * (n > 1)).sum(2)  # without a single item its class is unknown
    prior = -0.5 * (factors.log2() / SPREAD).square()
    posterior = (likelihood + prior[:, None]).softmax(0)
    return (tried.log()[:, None] * posterior).sum(0).exp()


def logistic_regression(
    shots: Tensor, y: Tensor, ways: int, queries: Tensor, *, inverse_penalty: float = 1.0
) -> Tensor:
    r"""Head that fits a logistic regression to the support of each task (inductive).

    $$\min_{W, b}\; \tfrac{1}{2} \lVert W \rVert^2
    - C \sum_{s} \log \operatorname{softmax}(W z_s + b)_{y_s}$$

    The bias is not penalized. It is fitted by scikit-learn's L-BFGS in float64, in at most 1,000 iterations;
    where these don't suffice, the last one is used. Of two classes scikit-learn fits the difference of their
    weights, which is another penalty.

    Args:
        shots: [T, S, D] features of the support.
        y: [T, S] labels in 0 … N − 1; each class has an item.
        ways: Number N of classes.
        queries: [T, Q, D] features of the queries.
        inverse_penalty: C, above 0; the greater it is, the closer the fit.

    Returns:
        [T, Q, N] log-probabilities ≤ 0, without gradient.

    Reference: Tian et al. 2020, whose code has the same solver, with C = 1.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    z, labels, q = (t.detach().cpu().numpy() for t in (shots.double(), y, queries.double()))
    scores: list[Any] = []
    with WARNING_FILTERS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for i in range(len(z)):
            fitted: Any = LogisticRegression(C=inverse_penalty, max_iter=1000).fit(z[i], labels[i])
            scores.append(fitted.decision_function(q[i]))
    logits = np.stack(scores) if scores else np.empty((0, q.shape[1], ways))
    if logits.ndim == 2:  # of two classes only the score of the second one is given
        logits = np.stack([np.zeros_like(logits), logits], -1)
    return F.log_softmax(torch.from_numpy(logits), -1).to(queries)

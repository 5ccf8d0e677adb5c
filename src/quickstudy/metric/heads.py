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


USUAL_SHARPNESS, SPREAD = 26.0, 0.45
"""Sharpness that fits unit features where classes have many items, and how far that of a task may well be, in
factors of two. Both fit the features of `photos` on validation classes of CIFAR-FS."""
TRIED = tuple(2 ** (i / 8) for i in range(-24, 25))
"""Sharpnesses that are tried, in units of the usual one."""


def calibrated_prototype(
    shots: Tensor, y: Tensor, ways: int, queries: Tensor, *, usual: float = USUAL_SHARPNESS
) -> Tensor:
    r"""Head that takes the nearest class mean, with probabilities that the support sets (inductive).

    $$p(y = k \mid q) = \frac{\exp(-\tau \lVert q - c_k \rVert^2)}
    {\sum_{k'} \exp(-\tau \lVert q - c_{k'} \rVert^2)}$$

    Distances of unit vectors are small, so that τ = 1 would be sure of nothing. The sharpness τ of a task is
    told by its support, each item taken as a fresh one: its squared distance to the mean of its own class, of
    n items, is enlarged by (n + 1) / (n − 1), as much as a fresh item's is larger. A few items can't tell it
    well, so it is drawn towards the usual one, by a normal prior of log₂ τ with deviation 0.45 around
    $\log_2(\tau_0\,n / (n + 2))$: means of few items are less to be relied on. log₂ τ is the mean of its
    posterior. The most likely class is that of `nearest_prototype`.

    Args:
        shots: [T, S, D] features of the support, of unit length.
        y: [T, S] labels in 0 … N − 1.
        ways: Number N of classes.
        queries: [T, Q, D] features of the queries, of unit length.
        usual: Sharpness τ₀ > 0 that is usual where classes have many items.

    Returns:
        [T, Q, N] scores −τ‖q − c_k‖² ≤ 0.

    Raises:
        ValueError: If the usual sharpness isn't positive.

    Reference: Guo, Pleiss, Sun, Weinberger 2017, "On calibration of modern neural networks", whose
    temperature is 1 / τ; here it is fitted to the very items that the means are made of.
    """
    if not usual > 0:
        raise ValueError(f"usual is {usual}: a sharpness must be above 0")
    means = prototypes(shots, y, ways)
    with torch.no_grad():
        sharpness = _sharpness(squared_distances(shots, means), y, ways, usual)
    return -sharpness[:, None, None] * squared_distances(queries, means)


def _sharpness(distances: Tensor, y: Tensor, ways: int, usual: float) -> Tensor:
    """The sharpness of each task, [T], by the squared distances [T, S, N] of its support."""
    own = F.one_hot(y, ways).bool()
    n = own.sum(1).gather(1, y)  # [T, S] items of the class of each
    fresh = torch.where(own, distances * ((n + 1) / (n - 1).clamp_min(1))[:, :, None], distances)
    factors = torch.tensor(TRIED, dtype=distances.dtype, device=distances.device)
    each = y.shape[1] / ways
    tried = usual * each / (each + 2) * factors
    chances = (-tried[:, None, None, None] * fresh).log_softmax(-1)  # [τ, T, S, N]
    likelihood = ((chances * own).sum(-1) * (n > 1)).sum(2)  # a single item is no fresh one
    prior = -0.5 * (factors.log2() / SPREAD).square()
    posterior = (likelihood + prior[:, None]).softmax(0)
    return (tried.log()[:, None] * posterior).sum(0).exp()


@torch.no_grad()
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

"""The plain classifier of Tian et al. 2020, derived again: one item and one task at a time."""

import math
import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from tests.support.episodes import of_one


def loss(encoder: nn.Module, linear: nn.Linear, x: Tensor, y: Tensor, smoothing: float) -> float:
    """Cross-entropy among all classes, item by item and class by class."""
    total, classes = 0.0, linear.out_features
    for item, label in zip(x, y.tolist(), strict=True):
        z = of_one(encoder, item).detach()
        logits = [float(linear.weight[k].detach() @ z + linear.bias[k].detach()) for k in range(classes)]
        normalizer = math.log(sum(math.exp(value) for value in logits))
        for k, value in enumerate(logits):
            wanted = (1 - smoothing) * (k == label) + smoothing / classes
            total -= wanted * (value - normalizer)
    return total / len(x)


def unit(encoder: nn.Module, item: Tensor) -> np.ndarray:
    z = of_one(encoder, item).detach().numpy()
    return z / math.sqrt(sum(float(v) ** 2 for v in z))


def log_probabilities(encoder: nn.Module, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
    """Of one task, as the authors' evaluation does it."""
    z = np.stack([unit(encoder, item) for item in support_x])
    q = np.stack([unit(encoder, item) for item in query_x])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = LogisticRegression(C=1.0, solver="lbfgs", max_iter=1000, random_state=0)
        fitted.fit(z, support_y.numpy())
    return torch.from_numpy(np.log(fitted.predict_proba(q)))

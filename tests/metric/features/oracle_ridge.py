"""Ridge regression, derived again: the normal equations of the weights of each class, bias included."""

import numpy as np


def scores(shots: np.ndarray, y: np.ndarray, ways: int, queries: np.ndarray) -> np.ndarray:
    def rows(z: np.ndarray) -> np.ndarray:
        return np.stack([np.append(v / np.sqrt(float(v @ v)), 1.0) for v in z])

    x, asked = rows(shots), rows(queries)
    found = []
    for k in range(ways):
        target = np.array([1.0 if label == k else 0.0 for label in y])
        w = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ target)
        found.append([10 * float(q @ w) for q in asked])
    return np.array(found).T

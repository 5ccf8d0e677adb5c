"""Transductive fine-tuning of Dhillon et al. 2020: TIM's losses without the entropy of the mean."""

import numpy as np

from tests.metric.features import oracle_tim


def scores(
    shots: np.ndarray, y: np.ndarray, ways: int, queries: np.ndarray, steps: int = 25, rate: float = 5e-5
) -> np.ndarray:
    return oracle_tim.scores(shots, y, ways, queries, steps, rate, (1.0, 0.0, 1.0))

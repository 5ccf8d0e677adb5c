"""Soft k-means: class means refined by the queries.

Mengye Ren, Eleni Triantafillou, Sachin Ravi, Jake Snell, Kevin Swersky, Joshua Tenenbaum, Hugo Larochelle,
Richard Zemel: "Meta-Learning for Semi-Supervised Few-Shot Classification", ICLR 2018.
"""

from torch import Tensor

from quickstudy.core.arguments import check_whole
from quickstudy.metric.distances import squared_distances
from quickstudy.metric.features.normalization import unit
from quickstudy.metric.heads import transductive
from quickstudy.metric.semi_supervised import k_means


@transductive
def soft_k_means(
    shots: Tensor, y: Tensor, ways: int, queries: Tensor, *, steps: int = 1, sharpness: float = 15.0
) -> Tensor:
    r"""Soft k-means with the queries as the unlabelled items (transductive).

    Features are of unit length. Class means begin as those of the support and are refined by

    $$c_k = \frac{\sum_s [y_s = k] z_s + \sum_q p_{qk} z_q}{\sum_s [y_s = k] + \sum_q p_{qk}}, \qquad
    p_{qk} = \operatorname{softmax}_k(-\tau \lVert z_q - c_k \rVert^2)$$

    Args:
        shots: [T, S, D] features of the support.
        y: [T, S] labels in 0 … N − 1.
        ways: Number N of classes.
        queries: [T, Q, D] features of the queries.
        steps: Number of steps, at least 1.
        sharpness: τ > 0.

    Returns:
        [T, Q, N] scores −τ‖z − c_k‖² ≤ 0.

    Raises:
        ValueError: If there are no steps.

    Reference: Ren et al. 2018, equation 3, with one step; `SemiPrototypical` learns through it.

    Departures: the unlabelled items are the queries; features are of unit length, with τ in the place of the
    scale that an encoder would have learned.
    """
    check_whole(1, steps=steps)
    z, q = unit(shots), unit(queries)

    def shares(items: Tensor, means: Tensor) -> Tensor:
        return (-sharpness * squared_distances(items, means)).softmax(-1)

    return -sharpness * squared_distances(q, k_means(z, y, ways, q, steps, shares))

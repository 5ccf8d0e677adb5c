"""SimpleShot: the nearest class mean on normalized features.

Yan Wang, Wei-Lun Chao, Kilian Weinberger, Laurens van der Maaten: "SimpleShot: Revisiting Nearest-Neighbor
Classification for Few-Shot Learning", 2019.
"""

from torch import Tensor

from quickstudy.metric.distances import cosines, prototypes
from quickstudy.metric.features.normalization import Mean, centered, unit
from quickstudy.metric.heads import nearest_prototype


def simple_shot_l2n(shots: Tensor, y: Tensor, ways: int, queries: Tensor) -> Tensor:
    r"""SimpleShot's L2N: the nearest class mean of features of unit length (inductive).

    $$z = \frac{f(x)}{\lVert f(x) \rVert}, \qquad \text{score}_k = -\lVert z - c_k \rVert^2$$

    Args:
        shots: [T, S, D] features of the support.
        y: [T, S] labels in 0 … N − 1.
        ways: Number N of classes.
        queries: [T, Q, D] features of the queries.

    Returns:
        [T, Q, N] scores ≤ 0.

    Reference: Wang et al. 2019, section 3. Without normalization (their UN) it is `nearest_prototype`.

    Departures: none. easyfsl 1.5 calls `nearest_cosine` SimpleShot.
    """
    return nearest_prototype(unit(shots), y, ways, unit(queries))


def simple_shot_cl2n(
    shots: Tensor, y: Tensor, ways: int, queries: Tensor, *, mean: Mean | None = None
) -> Tensor:
    r"""SimpleShot's CL2N: as L2N, after the mean of the training classes is subtracted (inductive).

    $$z = \frac{f(x) - \bar f}{\lVert f(x) - \bar f \rVert}, \qquad
    \text{score}_k = -\lVert z - c_k \rVert^2$$

    Args:
        shots: [T, S, D] features of the support.
        y: [T, S] labels in 0 … N − 1.
        ways: Number N of classes.
        queries: [T, Q, D] features of the queries.
        mean: [D] mean $\bar f$ of the features of the training classes, `mean_of(pool)`; None for that of the
            task's support, where no training classes are known.

    Returns:
        [T, Q, N] scores ≤ 0.

    Raises:
        ValueError: If the mean has another length than the features.

    Reference: Wang et al. 2019, section 3.

    Departures: none where the mean is given.
    """
    z, q = centered(shots, queries, mean)
    return nearest_prototype(z, y, ways, q)


def nearest_cosine(
    shots: Tensor, y: Tensor, ways: int, queries: Tensor, *, sharpness: float = 10.0
) -> Tensor:
    r"""The class mean at the least angle: scores τ cos(q, c_k) (inductive).

    Means are of the features as they are, so that long ones count for more.

    Args:
        shots: [T, S, D] features of the support.
        y: [T, S] labels in 0 … N − 1.
        ways: Number N of classes.
        queries: [T, Q, D] features of the queries.
        sharpness: Factor τ > 0 of the cosines, which the probabilities depend on and the classes don't.

    Returns:
        [T, Q, N] scores in −τ … τ.

    Reference: Gidaris & Komodakis 2018, "Dynamic few-shot visual learning without forgetting", whose scale τ
    begins at 10. It is what easyfsl 1.5 calls SimpleShot, there with τ = 1.
    """
    return sharpness * cosines(queries, prototypes(shots, y, ways))

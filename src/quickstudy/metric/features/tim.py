"""TIM: weights that make the predictions of the queries sure, and all classes equally frequent.

Malik Boudiaf, Imtiaz Masud Ziko, Jérôme Rony, José Dolz, Pablo Piantanida, Ismail Ben Ayed: "Transductive
Information Maximization for Few-Shot Learning", NeurIPS 2020.
"""

from typing import Literal

import torch
from torch import Tensor

from quickstudy.metric.distances import cosines, prototypes, squared_distances
from quickstudy.metric.features.descent import descended, linear_logits
from quickstudy.metric.features.normalization import unit
from quickstudy.metric.heads import transductive

Classifier = Literal["distance", "cosine"]


@transductive
def tim(
    shots: Tensor,
    y: Tensor,
    ways: int,
    queries: Tensor,
    *,
    sharpness: float = 15.0,
    cross_entropy: float = 0.1,
    marginal: float = 1.0,
    conditional: float = 0.1,
    steps: int = 1000,
    rate: float = 1e-4,
    classifier: Classifier = "distance",
    normalize: bool = True,
) -> Tensor:
    r"""TIM-GD: weights by gradient descent of the negative mutual information (transductive).

    Features are of unit length; the weights $w_k$ begin as the class means of the support. With
    $p_{qk} = \operatorname{softmax}_k(-\tfrac\tau2 \lVert z_q - w_k \rVert^2)$ and its mean over the queries
    $\hat p_k$, Adam descends

    $$-\frac{\lambda}{S} \sum_s \log p_{s y_s} + \sum_k \hat p_k \log \hat p_k
    - \frac{\alpha}{Q} \sum_q \sum_k p_{qk} \log p_{qk}$$

    The middle term draws the classes to equally many queries; where they don't have them, it loses.

    Args:
        shots: [T, S, D] features of the support.
        y: [T, S] labels in 0 … N − 1.
        ways: Number N of classes.
        queries: [T, Q, D] features of the queries.
        sharpness: τ > 0, a factor of the logits.
        cross_entropy: λ ≥ 0, the weight of the support's cross-entropy.
        marginal: Weight ≥ 0 of the middle term, the entropy of the mean prediction.
        conditional: α ≥ 0, the weight of the entropy of the predictions.
        steps: Number of steps of Adam.
        rate: Learning rate.
        classifier: "distance" for the logits above, "cosine" for τ cos(z, w).
        normalize: Whether to bring the features to unit length.

    Returns:
        [T, Q, N] logits; no gradient flows through the weights.

    Raises:
        ValueError: If the classifier is none of these.

    Reference: Boudiaf et al. 2020, equation 3, with the values of the authors' code: λ = 0.1, α = 0.1,
    τ = 15, 1,000 steps at 1e-4.

    Departures: none. easyfsl 1.5 has cosines with τ = 10, features of any length, λ = 1 and 50 steps.
    """
    if classifier not in ("distance", "cosine"):
        raise ValueError(f"classifier is {classifier!r}: it must be 'distance' or 'cosine'")
    z, q = (unit(shots), unit(queries)) if normalize else (shots, queries)
    both, items, cosine = torch.cat([z, q], 1).detach(), z.shape[1], classifier == "cosine"
    directions = unit(both)

    def loss(w: Tensor) -> Tensor:
        # [T, N, S + Q]
        logits = sharpness * unit(w) @ directions.mT if cosine else linear_logits(both, w, sharpness)
        of_support, log_p = logits.log_softmax(1).tensor_split((items,), 2)
        p = log_p.exp()
        mean = p.mean(2)
        wrong = -of_support.gather(1, y.unsqueeze(1)).mean((1, 2))
        unsure = -(p * log_p).sum(1).mean(1)
        spread = -(mean * mean.clamp_min(1e-30).log()).sum(1)
        return cross_entropy * wrong - marginal * spread + conditional * unsure

    w = descended(prototypes(z, y, ways), loss, steps, rate)
    return sharpness * (cosines(q, w) if cosine else -0.5 * squared_distances(q, w))

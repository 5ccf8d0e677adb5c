"""Transductive fine-tuning: weights that make the predictions of the queries sure.

Guneet Dhillon, Pratik Chaudhari, Avinash Ravichandran, Stefano Soatto: "A Baseline for Few-Shot Image
Classification", ICLR 2020.
"""

import torch
from torch import Tensor

from quickstudy.metric.distances import prototypes, squared_distances
from quickstudy.metric.features.descent import descended, linear_logits
from quickstudy.metric.features.normalization import unit
from quickstudy.metric.heads import transductive


@transductive
def transductive_fine_tuning(
    shots: Tensor,
    y: Tensor,
    ways: int,
    queries: Tensor,
    *,
    sharpness: float = 15.0,
    steps: int = 25,
    rate: float = 5e-5,
) -> Tensor:
    r"""Transductive fine-tuning of a linear classifier on features (transductive).

    Features are of unit length; the weights $w_k$ begin as the class means of the support. With
    $p_{qk} = \operatorname{softmax}_k(-\tfrac\tau2 \lVert z_q - w_k \rVert^2)$, Adam descends

    $$-\frac{1}{S} \sum_s \log p_{s y_s} - \frac{1}{Q} \sum_q \sum_k p_{qk} \log p_{qk}$$

    Args:
        shots: [T, S, D] features of the support.
        y: [T, S] labels in 0 … N − 1.
        ways: Number N of classes.
        queries: [T, Q, D] features of the queries.
        sharpness: τ > 0, a factor of the logits.
        steps: Number of steps of Adam.
        rate: Learning rate.

    Returns:
        [T, Q, N] logits; no gradient flows through the weights.

    Reference: Dhillon et al. 2020, section 3.2, with their 25 steps at 5e-5; τ = 15 as Veilleux et al. 2021
    have it.

    Departures: they tune the whole network; here it is the weights of the classes alone, which move little at
    that rate. Greater rates lost at one shot, on validation classes of CIFAR-FS. easyfsl 1.5 has logits
    −‖z − w‖ of features of any length.
    """
    z, q = unit(shots), unit(queries)
    both, items = torch.cat([z, q], 1).detach(), z.shape[1]

    def loss(w: Tensor) -> Tensor:
        of_support, log_p = linear_logits(both, w, sharpness).log_softmax(1).tensor_split((items,), 2)
        wrong = -of_support.gather(1, y.unsqueeze(1)).mean((1, 2))
        return wrong - (log_p.exp() * log_p).sum(1).mean(1)

    return -0.5 * sharpness * squared_distances(q, descended(prototypes(z, y, ways), loss, steps, rate))

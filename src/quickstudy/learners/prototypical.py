"""Prototypical networks.

Jake Snell, Kevin Swersky, Richard Zemel: "Prototypical Networks for Few-shot Learning", NeurIPS 2017.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.episode import Support
from quickstudy.learner import Learner, embed


class Prototypical(Learner):
    r"""Prototypical networks: the nearest class mean, in a space learned for it.

    $$c_k = \frac{1}{|S_k|} \sum_{(x_i, y_i) \in S_k} f_\phi(x_i) \tag{1}$$

    $$p_\phi(y = k \mid x) = \frac{\exp(-d(f_\phi(x), c_k))}{\sum_{k'} \exp(-d(f_\phi(x), c_{k'}))},
    \qquad d(a, b) = \lVert a - b \rVert^2 \tag{2}$$

    The meta-loss is $-\log p_\phi(y = k \mid x)$, averaged over the queries. The distance is *squared* and
    summed over dimensions; an unsquared or averaged one is another model.

    Args:
        encoder: $f_\phi$, any module from [B, ...] to [B, D].

    Departures: none. Support and queries of a task go through the encoder together, as in the authors'
    code, so in training its batch norm sees both.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def predict(self, support: Support, query_x: Tensor) -> Tensor:
        """Scores −‖f(q) − c_k‖² of the queries, [T, Q, N], each ≤ 0 (the logits of equation 2)."""
        z = embed(self.encoder, torch.cat([support.x, query_x], 1))
        shots, queries = z.split([support.x.shape[1], query_x.shape[1]], 1)
        return -squared_distances(queries, prototypes(shots, support.y, support.ways))


def prototypes(z: Tensor, y: Tensor, ways: int) -> Tensor:
    """Class means (equation 1).

    Args:
        z: [T, S, D] embeddings of the support.
        y: [T, S] labels in 0 … N − 1; classes may have unequal numbers of items.
        ways: N.

    Returns:
        [T, N, D] prototypes.
    """
    member = F.one_hot(y, ways).to(z.dtype)
    with torch.autocast(z.device.type, enabled=False):
        return member.mT @ z / member.sum(1).unsqueeze(-1)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances ‖a_i − b_j‖².

    Computed as ‖a‖² + ‖b‖² − 2 a·b after moving the origin into the middle of `b`, so that nothing
    cancels when the embeddings lie far out, and never in reduced precision.

    Args:
        a: [T, Q, D].
        b: [T, N, D].

    Returns:
        [T, Q, N], each ≥ 0.
    """
    with torch.autocast(a.device.type, enabled=False):
        middle = b.mean(1, keepdim=True).detach()
        a, b = a - middle, b - middle
        products = torch.baddbmm(a.square().sum(-1, keepdim=True), a, b.mT, alpha=-2)
        return (products + b.square().sum(-1).unsqueeze(1)).clamp_min(0)

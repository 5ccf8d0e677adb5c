"""Matching networks.

Oriol Vinyals, Charles Blundell, Timothy Lillicrap, Koray Kavukcuoglu, Daan Wierstra: "Matching Networks for
One Shot Learning", NeurIPS 2016.
"""

import math

import torch
from torch import Tensor, nn

from quickstudy.core.blueprint import rebuildable
from quickstudy.core.episode import Support
from quickstudy.core.learner import Learner, embed
from quickstudy.metric.distances import cosines


@rebuildable
class FullContext(nn.Module):
    r"""Full-context embeddings: what an item is said to be depends on the whole support set.

    The support goes through a bidirectional LSTM over $g'(x_i)$, its own embeddings,

    $$g(x_i, S) = \overrightarrow{h}_i + \overleftarrow{h}_i + g'(x_i)$$

    and a query through K steps of an LSTM that reads the support by attention, from $h_0 = 0, c_0 = 0$:

    $$\hat h_k, c_k = \mathrm{LSTM}(f'(\hat x), [h_{k-1}, r_{k-1}], c_{k-1}) \tag{a}$$

    $$h_k = \hat h_k + f'(\hat x) \tag{b}$$

    $$r_{k-1} = \sum_i a(h_{k-1}, g(x_i))\, g(x_i) \tag{c}$$

    $$a(h_{k-1}, g(x_i)) = \mathrm{softmax}_i(h_{k-1}^\top g(x_i)) \tag{d}$$

    and $f(\hat x, S) = h_K$.

    The order of the support changes the answer: a recurrent network reads it one item after the other.

    Args:
        dimensions: D.
        steps: K, of the attention LSTM.

    Raises:
        ValueError: if `steps` < 1.

    Departures: none. At k = 1 equation c with $h_0 = 0$ reads the mean of the support.
    """

    def __init__(self, dimensions: int = 64, steps: int = 5) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps is {steps}: full-context embeddings take at least 1")
        self.dimensions, self.steps = dimensions, steps
        self.of_support = nn.LSTM(dimensions, dimensions, batch_first=True, bidirectional=True)
        self.of_query = nn.LSTMCell(2 * dimensions, dimensions)

    def forward(self, support: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings that know the support.

        Args:
            support: [T, S, D] g', in an order that matters.
            queries: [T, Q, D] f'.

        Returns:
            g, [T, S, D], and f, [T, Q, D].
        """
        if support.shape[-1] != self.dimensions:
            raise ValueError(
                f"embeddings have {support.shape[-1]} dimensions but FullContext {self.dimensions}: "
                f"make it with dimensions={support.shape[-1]}"
            )
        there, back = self.of_support(support)[0].chunk(2, -1)
        g = there + back + support
        x = queries.flatten(0, 1)
        h, c = torch.zeros_like(queries), torch.zeros_like(x)
        for _ in range(self.steps):
            read = (h @ g.mT).softmax(-1) @ g
            # a gate is linear in [h, r], so r may as well stand beside the input
            out, c = self.of_query(torch.cat([x, read.flatten(0, 1)], -1), (h.flatten(0, 1), c))
            h = out.view_as(queries) + queries
        return g, h


@rebuildable
class Matching(Learner):
    r"""Matching networks: a query has the labels of the support items that it resembles.

    $$P(\hat y = k \mid \hat x, S) = \sum_{i: y_i = k} a(\hat x, x_i) \tag{1}$$

    $$a(\hat x, x_i) = \frac{\exp(\gamma \cos(f(\hat x), g(x_i)))}
    {\sum_j \exp(\gamma \cos(f(\hat x), g(x_j)))}$$

    The meta-loss is $-\log P(\hat y)$, averaged over the queries.

    Args:
        encoder: $f' = g'$, any module from [B, ...] to [B, D].
        context: makes $f$ and $g$ depend on the support; without, $f = f'$ and $g = g'$.
        scale: γ at the start of training, > 0.
        learn_scale: learn γ (as its logarithm); else it stays.

    Raises:
        ValueError: if `scale` is not positive.

    Departures: γ, which the paper has not got. A cosine lies in −1 … 1, so that without it no support item of
    20 could have more than 28 % of the attention.
    """

    def __init__(
        self,
        encoder: nn.Module,
        context: FullContext | None = None,
        scale: float = 10.0,
        learn_scale: bool = True,
    ) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"scale is {scale}: it must be positive")
        self.encoder, self.context = encoder, context
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)), requires_grad=learn_scale)

    def predict(self, support: Support, query_x: Tensor) -> Tensor:
        """Log-probabilities of the queries' classes, [T, Q, N], each ≤ 0 (equation 1)."""
        z = embed(self.encoder, torch.cat([support.x, query_x], 1))
        g, f = z.split([support.x.shape[1], query_x.shape[1]], 1)
        if self.context is not None:
            with torch.autocast(z.device.type, enabled=False):
                g, f = self.context(g, f)
        attention = (self.log_scale.exp() * cosines(f, g)).log_softmax(-1)
        return sum_by_class(attention, support.y, support.ways)


def sum_by_class(log_mass: Tensor, y: Tensor, ways: int) -> Tensor:
    """Probability of each class, the sum of its items', in logarithms.

    The largest of each class is taken out of its sum first, so that none comes out as log 0. No [T, Q, S, N]
    tensor is made.

    Args:
        log_mass: [T, Q, S] log-probability of each item.
        y: [T, S] its class.
        ways: N; each class has an item.

    Returns:
        [T, Q, N] log-probabilities.
    """
    index = y.unsqueeze(1).expand_as(log_mass)
    none = log_mass.new_full((*log_mass.shape[:2], ways), -torch.inf)
    largest = none.scatter_reduce(2, index, log_mass.detach(), "amax")
    mass = torch.zeros_like(none).scatter_add(2, index, (log_mass - largest.gather(2, index)).exp())
    return mass.log() + largest

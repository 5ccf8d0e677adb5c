"""Matching networks.

Oriol Vinyals, Charles Blundell, Timothy Lillicrap, Koray Kavukcuoglu, Daan Wierstra: "Matching Networks for
One Shot Learning", NeurIPS 2016.
"""

import math

import torch
from torch import Tensor, nn

from quickstudy.core.arguments import check_whole
from quickstudy.core.blueprint import rebuildable
from quickstudy.core.episode import Support
from quickstudy.core.learner import Learner, embed_together
from quickstudy.metric.distances import cosines


@rebuildable
class FullContext(nn.Module):
    r"""Full-context embeddings: the embedding of an item depends on the whole support set.

    The support goes through a bidirectional LSTM over its own embeddings $g'(x_i)$,

    $$g(x_i, S) = \overrightarrow{h}_i + \overleftarrow{h}_i + g'(x_i)$$

    and a query through K steps of an LSTM that reads the support by attention, from $h_0 = 0, c_0 = 0$:

    $$\hat h_k, c_k = \mathrm{LSTM}(f'(\hat x), [h_{k-1}, r_{k-1}], c_{k-1}) \tag{a}$$

    $$h_k = \hat h_k + f'(\hat x) \tag{b}$$

    $$r_{k-1} = \sum_i a(h_{k-1}, g(x_i))\, g(x_i) \tag{c}$$

    $$a(h_{k-1}, g(x_i)) = \mathrm{softmax}_i(h_{k-1}^\top g(x_i)) \tag{d}$$

    and $f(\hat x, S) = h_K$.

    The result depends on the order of the support, as a recurrent network reads one item after the other.

    Args:
        dimensions: D, the size of an embedding.
        steps: K, the number of steps of the attention LSTM, at least 1.

    Raises:
        ValueError: If `steps` < 1.

    Departures: none. At k = 1, where $h_0 = 0$, equation c reads the mean of the support.
    """

    def __init__(self, dimensions: int = 64, steps: int = 5) -> None:
        super().__init__()
        check_whole(1, dimensions=dimensions)
        if steps < 1:
            raise ValueError(f"steps is {steps}: full-context embeddings take at least 1")
        self.dimensions, self.steps = dimensions, steps
        self.of_support = nn.LSTM(dimensions, dimensions, batch_first=True, bidirectional=True)
        self.of_query = nn.LSTMCell(2 * dimensions, dimensions)

    def forward(self, support: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings in the context of the support set.

        Args:
            support: [T, S, D] embeddings g' of the support; their order matters.
            queries: [T, Q, D] embeddings f' of the queries.

        Returns:
            [T, S, D] embeddings g of the support, and [T, Q, D] embeddings f of the queries.

        Raises:
            ValueError: If the embeddings do not have D dimensions.
        """
        if support.shape[-1] != self.dimensions:
            raise ValueError(
                f"embeddings have {support.shape[-1]} dimensions but FullContext {self.dimensions}: "
                f"make it with dimensions={support.shape[-1]}"
            )
        forward, backward = self.of_support(support)[0].chunk(2, -1)
        g = forward + backward + support
        x = queries.flatten(0, 1)
        h, c = torch.zeros_like(queries), torch.zeros_like(x)
        for _ in range(self.steps):
            read = (h @ g.mT).softmax(-1) @ g
            # gates are linear in their inputs, so r may be concatenated to the input instead of to h
            out, c = self.of_query(torch.cat([x, read.flatten(0, 1)], -1), (h.flatten(0, 1), c))
            h = out.view_as(queries) + queries
        return g, h


@rebuildable
class Matching(Learner):
    r"""Matching networks: a query is labelled by attention over the labels of the support.

    $$P(\hat y = k \mid \hat x, S) = \sum_{i: y_i = k} a(\hat x, x_i) \tag{1}$$

    $$a(\hat x, x_i) = \frac{\exp(\gamma \cos(f(\hat x), g(x_i)))}
    {\sum_j \exp(\gamma \cos(f(\hat x), g(x_j)))}$$

    The meta-loss is $-\log P(\hat y)$, averaged over the queries.

    Args:
        encoder: $f' = g'$, any module from [B, ...] to [B, D].
        context: Module that makes $f$ and $g$ depend on the support set; without it $f = f'$ and $g = g'$.
        scale: γ > 0, the inverse temperature of the attention at the start of training.
        learn_scale: Whether γ is learned (as its logarithm) or constant.

    Raises:
        ValueError: If `scale` is not positive.

    Departures: the paper has no γ. As a cosine lies in −1 … 1, without γ none of 20 support items could get
    more than 28 % of the attention.
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
        """Log-probabilities of the queries' classes (equation 1).

        Args:
            support: Labelled items of T tasks.
            query_x: [T, Q, ...] items to classify.

        Returns:
            [T, Q, N] log-probabilities ≤ 0.
        """
        g, f = embed_together(self.encoder, support.x, query_x)
        if self.context is not None:
            with torch.autocast(g.device.type, enabled=False):
                g, f = self.context(g, f)
        attention = (self.log_scale.exp() * cosines(f, g)).log_softmax(-1)
        return sum_by_class(attention, support.y, support.ways)


def sum_by_class(log_mass: Tensor, y: Tensor, ways: int) -> Tensor:
    """Log-probability of each class: the log-sum-exp of those of its items.

    The largest term of each class is taken out of its sum first, so that no sum underflows to 0. No
    [T, Q, S, N] tensor is made.

    Args:
        log_mass: [T, Q, S] log-probability of each support item.
        y: [T, S] labels of the support items, in 0 … N − 1.
        ways: N, the number of classes; each has an item.

    Returns:
        [T, Q, N] log-probabilities of the classes.
    """
    index = y.unsqueeze(1).expand_as(log_mass)
    none = log_mass.new_full((*log_mass.shape[:2], ways), -torch.inf)
    largest = none.scatter_reduce(2, index, log_mass.detach(), "amax")
    mass = torch.zeros_like(none).scatter_add(2, index, (log_mass - largest.gather(2, index)).exp())
    return mass.log() + largest

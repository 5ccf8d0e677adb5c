"""What the oracles share: slow, literal re-derivations of the papers' equations, each beside its test.

They are written from the papers, not from the library: Python loops over tasks, classes, items and
dimensions, no broadcasting, no matrix products (but in the networks of the learned initialisations, whose
inner loops would take minutes so). Whatever is fast in the library must agree with these. They are
differentiable, so autograd can go through the loops as well.
"""

from collections.abc import Callable

from torch import Tensor

Encode = Callable[[Tensor], Tensor]
"""From one item [...] to its embedding [D]."""
Weights = dict[str, Tensor]
"""The weights θ of a network, by name."""

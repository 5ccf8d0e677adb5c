"""Gradient descent of the weights of a head, all tasks side by side."""

from collections.abc import Callable

import torch
from torch import Tensor


def descended(start: Tensor, loss: Callable[[Tensor], Tensor], steps: int, rate: float) -> Tensor:
    """Weights after some steps of Adam, each task as if it were alone.

    Args:
        start: [T, N, D] weights to begin with.
        loss: Function from weights to the loss of each task, [T].
        steps: Number of steps.
        rate: Learning rate.

    Returns:
        [T, N, D] weights, without gradient.
    """
    with torch.enable_grad():
        w = start.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([w], lr=rate)
        for _ in range(steps):
            (w.grad,) = torch.autograd.grad(loss(w).sum(), [w])
            optimizer.step()
    return w.detach()

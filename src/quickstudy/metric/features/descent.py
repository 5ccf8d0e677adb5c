"""Gradient descent of the weights of a head, all tasks side by side."""

from collections.abc import Callable

import torch
from torch import Tensor


def linear_logits(z: Tensor, w: Tensor, sharpness: float) -> Tensor:
    """Logits τ (z·w − ½‖w‖²): those of −τ/2 ‖z − w‖², without what is the same for all classes.

    Classes come first, for the gradient of this order is several times as fast.

    Args:
        z: [T, B, D] features.
        w: [T, N, D] weights.
        sharpness: τ.

    Returns:
        [T, N, B] logits.
    """
    return torch.baddbmm(-0.5 * w.square().sum(2, keepdim=True), w, z.mT, beta=sharpness, alpha=sharpness)


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

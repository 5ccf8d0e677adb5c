"""Oracle of supervised contrastive learning: the equations of the paper, literally and slowly."""

import torch
from torch import Tensor


def khosla(z: Tensor, y: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss of one task, equation 2 of Khosla et al. 2020: items [B, D], labels [B]."""
    unit = [item / item.square().sum().sqrt() for item in z]
    total = torch.zeros((), dtype=z.dtype)
    for i in range(len(unit)):
        others = [a for a in range(len(unit)) if a != i]
        denominator = sum((unit[i] @ unit[a] / temperature).exp() for a in others)
        positives = [p for p in others if y[p] == y[i]]
        logs = [((unit[i] @ unit[p] / temperature).exp() / denominator).log() for p in positives]
        total = total - sum(logs) / len(positives)
    return total / len(unit)

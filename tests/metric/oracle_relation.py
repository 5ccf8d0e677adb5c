"""Oracle of relation networks: the equations of the paper, literally and slowly."""

from collections.abc import Callable

import torch
from torch import Tensor

from tests.support.oracles import Encode


# Sung et al. 2018: "Learning to Compare: Relation Network for Few-Shot Learning"
def sung(
    f: Encode, g: Callable[[Tensor], Tensor], support_x: Tensor, support_y: Tensor, ways: int, query_x: Tensor
) -> Tensor:
    """Equation 1 for one task, [Q, N]: σ(g(C(Σ_{x_i of class k} f(x_i), f(x_j))))."""
    relations = []
    for x in query_x:
        row = []
        for k in range(ways):
            members = [f(support_x[i]) for i in range(len(support_x)) if int(support_y[i]) == k]
            total = members[0]
            for z in members[1:]:
                total = total + z
            row.append(torch.sigmoid(g(torch.cat([total, f(x)]))))
        relations.append(torch.stack(row))
    return torch.stack(relations)


def sung_loss(relations: Tensor, query_y: Tensor) -> Tensor:
    """Equation 2, divided by the number of its terms."""
    total = torch.zeros((), dtype=relations.dtype)
    for j in range(len(relations)):
        for k in range(relations.shape[1]):
            total = total + (relations[j, k] - (1.0 if int(query_y[j]) == k else 0.0)) ** 2
    return total / relations.numel()

"""Oracle of Gaussian prototypical networks: the equations of the paper, literally and slowly."""

import torch
from torch import Tensor


# Fort 2017: "Gaussian Prototypical Networks for Few-Shot Learning on Omniglot"
def fort(x: list[Tensor], s: list[Tensor], y: list[int], ways: int, query: Tensor) -> list[Tensor]:
    """Distances to the classes: √(Σ_d S_cd (q_d − p_cd)²), p_c = Σ s_i x_i / Σ s_i, S_c = Σ s_i."""
    distances = []
    for c in range(ways):
        total = torch.zeros((), dtype=query.dtype)
        for d in range(len(query)):
            weighted = weight = torch.zeros((), dtype=query.dtype)
            for i in range(len(x)):
                if y[i] == c:
                    s_id = s[i][d] if len(s[i]) > 1 else s[i][0]
                    weighted = weighted + s_id * x[i][d]
                    weight = weight + s_id
            total = total + weight * (query[d] - weighted / weight) ** 2
        distances.append(torch.sqrt(total))
    return distances

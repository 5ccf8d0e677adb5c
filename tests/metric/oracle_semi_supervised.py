"""Oracle of semi-supervised prototypical networks: the equations of the paper, literally and slowly."""

from collections.abc import Callable

import torch
from torch import Tensor

from tests.metric.oracle_matching import dot, vinyals_softmax
from tests.metric.oracle_prototypical import snell_distance
from tests.support.oracles import Encode, Weights

# Ren et al. 2018: "Meta-Learning for Semi-Supervised Few-Shot Classification"
# The network of the mask sees statistics that carry no gradient.
Shares = list[list[Tensor]]
"""How much unlabelled item j counts in each class c."""


def ren_soft(unlabelled: list[Tensor], prototypes: list[Tensor]) -> Shares:
    """Soft k-means: z_jc = exp(−‖h_j − p_c‖²) / Σ_c' exp(−‖h_j − p_c'‖²)."""
    return [vinyals_softmax([-snell_distance(h, p) for p in prototypes]) for h in unlabelled]


def ren_cluster(log_radius: Tensor, unlabelled: list[Tensor], prototypes: list[Tensor]) -> Shares:
    """With a distractor cluster: z_jc ∝ exp(−‖h_j − p_c‖² / (2 r_c²) − A(r_c)), A(r) = ½ log 2π + log r.

    p_{N+1} = 0, and r_c = 1 for all classes but this one.
    """
    shares = []
    for h in unlabelled:
        logits = []
        for p in [*prototypes, torch.zeros_like(h)]:
            distractor = len(logits) == len(prototypes)
            log_r = log_radius if distractor else torch.zeros_like(log_radius)
            constant = 0.5 * torch.log(torch.tensor(2 * torch.pi, dtype=h.dtype)) + log_r
            logits.append(-snell_distance(h, p) / (2 * torch.exp(log_r) ** 2) - constant)
        shares.append(vinyals_softmax(logits)[: len(prototypes)])
    return shares


def ren_statistics(d: list[Tensor]) -> list[Tensor]:
    """[min, max, variance, skewness, excess kurtosis] of the d̃_jc of one class, moments divided by M.

    The 1e-8 is the library's, for items that are all equally far.
    """
    low = high = d[0]
    mean = torch.zeros((), dtype=d[0].dtype)
    for v in d:
        low, high = torch.minimum(low, v), torch.maximum(high, v)
        mean = mean + v / len(d)
    moments = []
    for k in (2, 3, 4):
        moment = torch.zeros((), dtype=d[0].dtype)
        for v in d:
            moment = moment + (v - mean) ** k / len(d)
        moments.append(moment)
    m2, m3, m4 = moments
    return [low, high, m2, m3 / (m2 + 1e-8) ** 1.5, m4 / (m2 + 1e-8) ** 2 - 3]


def ren_network(weights: Weights, statistics: list[Tensor]) -> list[Tensor]:
    """Linear 5 → 20, tanh, linear 20 → 2, the layers being called 0 and 2."""
    given, hidden = torch.stack(statistics), []
    for i in range(20):
        hidden.append(torch.tanh(dot(weights["0.weight"][i], given) + weights["0.bias"][i]))
    return [dot(weights["2.weight"][i], torch.stack(hidden)) + weights["2.bias"][i] for i in range(2)]


def ren_masked(weights: Weights, unlabelled: list[Tensor], prototypes: list[Tensor]) -> Shares:
    """With masking: z_jc m_jc, z as in soft k-means, m_jc = σ(eᵃ (eᵇ − d̃_jc)), d̃_jc = d_jc / (1/M Σ_j d_jc).

    b and a of class c are the outputs of the network, which sees statistics of the d̃_jc.
    """
    soft = ren_soft(unlabelled, prototypes)
    shares: Shares = [[] for _ in unlabelled]
    for c in range(len(prototypes)):
        d = [snell_distance(h, prototypes[c]) for h in unlabelled]
        mean = torch.zeros((), dtype=d[0].dtype)
        for v in d:
            mean = mean + v / len(d)
        normalized = [v / mean for v in d]
        b, a = ren_network(weights, ren_statistics([v.detach() for v in normalized]))
        for j in range(len(unlabelled)):
            mask = torch.sigmoid(torch.exp(a) * (torch.exp(b) - normalized[j]))
            shares[j].append(soft[j][c] * mask)
    return shares


def ren_refined(
    h: list[Tensor], y: list[int], ways: int, unlabelled: list[Tensor], z: Shares
) -> list[Tensor]:
    """p̃_c = (Σ_i h_i z_ic + Σ_j h̃_j z_jc) / (Σ_i z_ic + Σ_j z_jc), z_ic = 1 if y_i = c and 0 if not."""
    refined = []
    for c in range(ways):
        weighted, weight = torch.zeros_like(h[0]), torch.zeros((), dtype=h[0].dtype)
        for i in range(len(h)):
            if y[i] == c:
                weighted, weight = weighted + h[i], weight + 1
        for j in range(len(unlabelled)):
            weighted, weight = weighted + z[j][c] * unlabelled[j], weight + z[j][c]
        refined.append(weighted / weight)
    return refined


def ren_task(
    f: Encode,
    shares: Callable[[list[Tensor], list[Tensor]], Shares],
    steps: int,
    support_x: Tensor,
    support_y: Tensor,
    ways: int,
    unlabelled_x: Tensor,
    query_x: Tensor,
) -> Tensor:
    """Scores −‖f(x) − p̃_c‖² of one task, [Q, N], after `steps` refinements."""
    h, unlabelled = [f(x) for x in support_x], [f(x) for x in unlabelled_x]
    y = [int(k) for k in support_y]
    prototypes = ren_refined(h, y, ways, [], [])
    for _ in range(steps):
        prototypes = ren_refined(h, y, ways, unlabelled, shares(unlabelled, prototypes))
    return torch.stack([torch.stack([-snell_distance(f(x), p) for p in prototypes]) for x in query_x])


def ren_loss(scores: Tensor, query_y: Tensor) -> Tensor:
    """−1/(TQ) Σ log p(y | x), p(c | x) = exp(s_c) / Σ_c' exp(s_c'), s the scores [T, Q, N]."""
    losses = []
    for t in range(len(scores)):
        for j in range(scores.shape[1]):
            p = vinyals_softmax(list(scores[t, j]))
            losses.append(-torch.log(p[int(query_y[t, j])]))
    return sum(losses[1:], losses[0]) / len(losses)

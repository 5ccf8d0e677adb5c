"""Slow, literal re-derivations of the papers' equations, one section a paper.

Written from the papers, not from the library: Python loops over tasks, classes, items and dimensions, no
broadcasting, no matrix products (but in the networks of the learned initialisations, whose inner loops would
take minutes so). Whatever is fast in the library must agree with these. They are differentiable, so autograd
can go through the loops as well.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

Encode = Callable[[Tensor], Tensor]
"""From one item [...] to its embedding [D]."""
Weights = dict[str, Tensor]
"""The weights θ of a network, by name."""


# Snell, Swersky, Zemel 2017: "Prototypical Networks for Few-shot Learning"


@dataclass
class SnellTask:
    """What Algorithm 1 computes for one task."""

    log_probabilities: list[list[Tensor]]
    distances: list[list[Tensor]]
    loss: Tensor


def snell_distance(a: Tensor, b: Tensor) -> Tensor:
    """d(a, b) = ‖a − b‖², the squared Euclidean distance (section 2.3)."""
    total = torch.zeros((), dtype=a.dtype)
    for i in range(len(a)):
        total = total + (a[i] - b[i]) ** 2
    return total


def snell_prototype(f: Encode, items: list[Tensor]) -> Tensor:
    """Equation 1: c_k = 1/|S_k| Σ_{(x_i, y_i) ∈ S_k} f(x_i)."""
    total = f(items[0])
    for x in items[1:]:
        total = total + f(x)
    return total / len(items)


def snell_task(
    f: Encode, support_x: Tensor, support_y: Tensor, ways: int, query_x: Tensor, query_y: Tensor
) -> SnellTask:
    """One task: prototypes, equation 2 in logarithms, and the loss J of Algorithm 1."""
    prototypes = []
    for k in range(ways):
        members = [support_x[i] for i in range(len(support_x)) if int(support_y[i]) == k]
        prototypes.append(snell_prototype(f, members))
    log_probabilities, distances = [], []
    loss = torch.zeros((), dtype=prototypes[0].dtype)
    for j in range(len(query_x)):
        z = f(query_x[j])
        d = [snell_distance(z, prototypes[k]) for k in range(ways)]
        total = torch.zeros((), dtype=z.dtype)
        for k in range(ways):
            total = total + torch.exp(-d[k])
        distances.append(d)
        log_probabilities.append([torch.log(torch.exp(-d[k]) / total) for k in range(ways)])
        loss = loss + (d[int(query_y[j])] + torch.log(total)) / len(query_x)
    return SnellTask(log_probabilities, distances, loss)


def snell(
    f: Encode, support_x: Tensor, support_y: Tensor, ways: int, query_x: Tensor, query_y: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Distances [T, Q, N], log-probabilities [T, Q, N] and mean loss of T tasks, each as above."""
    tasks = [
        snell_task(f, support_x[t], support_y[t], ways, query_x[t], query_y[t]) for t in range(len(support_x))
    ]
    distances = torch.stack([torch.stack([torch.stack(row) for row in task.distances]) for task in tasks])
    log_probabilities = torch.stack(
        [torch.stack([torch.stack(row) for row in task.log_probabilities]) for task in tasks]
    )
    loss = tasks[0].loss
    for task in tasks[1:]:
        loss = loss + task.loss
    return distances, log_probabilities, loss / len(tasks)


# Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra 2016: "Matching Networks for One Shot Learning"


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Σ_d a_d b_d."""
    total = torch.zeros((), dtype=a.dtype)
    for i in range(len(a)):
        total = total + a[i] * b[i]
    return total


def vinyals_softmax(values: list[Tensor]) -> list[Tensor]:
    """exp(v_i) / Σ_j exp(v_j)."""
    total = torch.zeros((), dtype=values[0].dtype)
    for v in values:
        total = total + torch.exp(v)
    return [torch.exp(v) / total for v in values]


def vinyals_cell(weights: Weights, suffix: str, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an LSTM with the gates i, f, g, o in this order: h and c after it."""
    gates = []
    for row in range(4 * len(c)):
        gates.append(
            dot(weights[f"weight_ih{suffix}"][row], x)
            + weights[f"bias_ih{suffix}"][row]
            + dot(weights[f"weight_hh{suffix}"][row], h)
            + weights[f"bias_hh{suffix}"][row]
        )
    size = len(c)
    new_h, new_c = [], []
    for d in range(size):
        i, f, o = (torch.sigmoid(gates[n * size + d]) for n in (0, 1, 3))
        new_c.append(f * c[d] + i * torch.tanh(gates[2 * size + d]))
        new_h.append(o * torch.tanh(new_c[d]))
    return torch.stack(new_h), torch.stack(new_c)


def vinyals_support(weights: Weights, g: list[Tensor]) -> list[Tensor]:
    """Appendix A.2: g(x_i, S) = h→_i + h←_i + g'(x_i), by LSTMs that read the support in both directions."""
    there, back = [], []
    h = c = torch.zeros_like(g[0])
    for i in range(len(g)):
        h, c = vinyals_cell(weights, "_l0", g[i], h, c)
        there.append(h)
    h = c = torch.zeros_like(g[0])
    for i in reversed(range(len(g))):
        h, c = vinyals_cell(weights, "_l0_reverse", g[i], h, c)
        back.insert(0, h)
    return [there[i] + back[i] + g[i] for i in range(len(g))]


def vinyals_query(weights: Weights, f: Tensor, g: list[Tensor], steps: int) -> Tensor:
    """Appendix A.1, the attention LSTM; [h, r] is what the recurrent weights multiply.

    The library's cell keeps the weights of r beside those of f', which is put right here.
    """
    size = len(f)
    given: Weights = {
        "weight_ih": weights["weight_ih"][:, :size],
        "weight_hh": torch.cat([weights["weight_hh"], weights["weight_ih"][:, size:]], 1),
        "bias_ih": weights["bias_ih"],
        "bias_hh": weights["bias_hh"],
    }
    h = c = torch.zeros_like(f)
    for _ in range(steps):
        attention = vinyals_softmax([dot(h, g[i]) for i in range(len(g))])
        r = torch.zeros_like(f)
        for i in range(len(g)):
            r = r + attention[i] * g[i]
        h_hat, c = vinyals_cell(given, "", f, torch.cat([h, r]), c)
        h = h_hat + f
    return h


def vinyals_probabilities(
    f: Tensor, g: list[Tensor], y: list[int], ways: int, scale: float | Tensor
) -> list[Tensor]:
    """Equation 1, with a the softmax of scaled cosines: P(k) = Σ_{i: y_i = k} a(x̂, x_i)."""
    attention = vinyals_softmax(
        [scale * dot(f, v) / (torch.sqrt(dot(f, f)) * torch.sqrt(dot(v, v))) for v in g]
    )
    probabilities = []
    for k in range(ways):
        total = torch.zeros((), dtype=f.dtype)
        for i in range(len(g)):
            if y[i] == k:
                total = total + attention[i]
        probabilities.append(total)
    return probabilities


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


# Hadsell, Chopra, LeCun 2006 and Koch, Zemel, Salakhutdinov 2015: Siamese networks


def hadsell_energy(a: Tensor, b: Tensor) -> Tensor:
    """‖a − b‖."""
    return torch.sqrt(snell_distance(a, b))


def hadsell_loss(energy: Tensor, genuine: bool, margin: float) -> Tensor:
    """Y·E² + (1 − Y)·max(margin − E, 0)² of one pair."""
    return energy**2 if genuine else torch.clamp(margin - energy, min=0) ** 2


def koch_probability(alpha: Tensor, beta: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """σ(Σ_d α_d |a_d − b_d| + β): that both are of one class."""
    total = beta
    for d in range(len(a)):
        total = total + alpha[d] * torch.abs(a[d] - b[d])
    return torch.sigmoid(total)


def balanced(
    items: list[Tensor], y: list[int], pair_loss: Callable[[Tensor, Tensor, bool], Tensor]
) -> Tensor:
    """Half the mean loss of all genuine pairs, half that of all impostor pairs."""
    means = []
    for genuine in (True, False):
        losses = [
            pair_loss(items[i], items[j], genuine)
            for i in range(len(items))
            for j in range(i)
            if (y[i] == y[j]) == genuine
        ]
        means.append(sum(losses[1:], losses[0]) / len(losses))
    return (means[0] + means[1]) / 2


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
        normalised = [v / mean for v in d]
        b, a = ren_network(weights, ren_statistics([v.detach() for v in normalised]))
        for j in range(len(unlabelled)):
            mask = torch.sigmoid(torch.exp(a) * (torch.exp(b) - normalised[j]))
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


# Finn, Abbeel, Levine 2017: "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks"

Net = Callable[[Weights, Tensor], Tensor]
"""f_θ: from weights and a batch [B, ...] to scores [B, N]."""
ItemLoss = Callable[[Tensor, Tensor], Tensor]
"""From the scores [N] of one item and its label to its loss."""


def finn_convolution(kernel: Tensor, x: Tensor) -> Tensor:
    """3×3 convolution without bias, with a border of zeros: [B, C, H, W] → [B, D, H, W]."""
    height, width = x.shape[2:]
    bordered = torch.zeros(len(x), x.shape[1], height + 2, width + 2, dtype=x.dtype)
    bordered[:, :, 1:-1, 1:-1] = x
    total = torch.zeros(len(x), len(kernel), height, width, dtype=x.dtype)
    for i in range(3):
        for j in range(3):
            shifted = bordered[:, :, i : i + height, j : j + width]
            total = total + torch.einsum("dc,bchw->bdhw", kernel[:, :, i, j], shifted)
    return total


def finn_batch_norm(weight: Tensor, bias: Tensor, x: Tensor, first: int) -> Tensor:
    """Ioffe, Szegedy 2015: (x − μ) / √(σ² + ε) · γ + β, μ and σ² of each channel over the `first` items."""
    planes = []
    for c in range(x.shape[1]):
        seen = x[:first, c]
        mean = seen.sum() / seen.numel()
        variance = ((seen - mean) ** 2).sum() / seen.numel()
        planes.append((x[:, c] - mean) / torch.sqrt(variance + 1e-5) * weight[c] + bias[c])
    return torch.stack(planes, 1)


def finn_linear(weight: Tensor, bias: Tensor, z: Tensor) -> Tensor:
    """[B, D] → [B, N]."""
    return torch.stack([(weight[n] * z).sum(1) + bias[n] for n in range(len(weight))], 1)


def finn_conv4(weights: Weights, x: Tensor, first: int | None = None) -> Tensor:
    """The network of section 5.2: 4 × (3×3 convolution, batch norm, ReLU, 2×2 max-pooling), linear layer.

    Batch norm takes the statistics of the `first` items of the batch, of all by default.
    """
    for i in range(4):
        x = finn_convolution(weights[f"encoder.convs.{i}.weight"], x)
        norm = weights[f"encoder.norms.{i}.weight"], weights[f"encoder.norms.{i}.bias"]
        x = finn_batch_norm(*norm, x, len(x) if first is None else first)
        x = torch.where(x > 0, x, torch.zeros_like(x))
        rows = torch.maximum(x[:, :, 0::2], x[:, :, 1::2])
        x = torch.maximum(rows[..., 0::2], rows[..., 1::2])
    return finn_linear(weights["head.weight"], weights["head.bias"], x.reshape(len(x), -1))


def finn_mlp(weights: Weights, x: Tensor) -> Tensor:
    """The network of section 5.1: fully connected layers with ReLU between them."""
    layers = len(weights) // 2
    for i in range(layers):
        x = finn_linear(weights[f"layers.{i}.weight"], weights[f"layers.{i}.bias"], x)
        if i < layers - 1:
            x = torch.where(x > 0, x, torch.zeros_like(x))
    return x


def finn_cross_entropy(scores: Tensor, y: Tensor) -> Tensor:
    """Equation 3, of one item: −log of the softmax at the label."""
    probabilities = torch.exp(scores) / torch.exp(scores).sum()
    return -torch.log(probabilities[int(y)])


def finn_squared_error(prediction: Tensor, y: Tensor) -> Tensor:
    """Equation 2 of the paper's section 3.1, of one item, averaged over its outputs as over the items."""
    return ((prediction - y) ** 2).sum() / y.numel()


def finn_loss(outputs: Tensor, y: Tensor, item_loss: ItemLoss) -> Tensor:
    """The mean of the items' losses."""
    total = torch.zeros((), dtype=outputs.dtype)
    for i in range(len(outputs)):
        total = total + item_loss(outputs[i], y[i])
    return total / len(outputs)


def finn_gradient(loss: Tensor, weights: Weights, names: Iterable[str]) -> Weights:
    """∇_θ of the named weights, itself differentiable; 0 where the loss doesn't depend on them."""
    wanted = {name: weights[name] for name in names}
    gradients = torch.autograd.grad(loss, list(wanted.values()), create_graph=True, allow_unused=True)
    return {
        name: torch.zeros_like(w) if gradient is None else gradient
        for (name, w), gradient in zip(wanted.items(), gradients, strict=True)
    }


def finn_adapt(
    net: Net, item_loss: ItemLoss, weights: Weights, rates: Weights, x: Tensor, y: Tensor, steps: int
) -> Weights:
    """θ' = θ − α∇_θ L(f_θ), some times; α by the name of the weight, which stays as it is without."""
    for _ in range(steps):
        gradients = finn_gradient(finn_loss(net(weights, x), y, item_loss), weights, rates)
        weights = weights | {name: weights[name] - rates[name] * gradients[name] for name in rates}
    return weights


@dataclass
class Finn:
    """What Algorithm 2 computes for a meta-batch."""

    adapted: list[Weights]
    outputs: Tensor
    loss: Tensor


def finn(
    net: Net,
    item_loss: ItemLoss,
    weights: Weights,
    rates: Weights,
    support: tuple[Tensor, Tensor],
    query: tuple[Tensor, Tensor],
    steps: int,
) -> Finn:
    """Adapted weights, outputs [T, Q, N] and the mean over tasks of the loss of equation 1.

    With rates that are tensors of the weights' shapes it is equation 2 of Li, Zhou, Chen, Li 2017,
    "Meta-SGD"; with rates for the last layer alone it is equation 1 of Raghu, Raghu, Bengio, Vinyals 2020,
    "Rapid Learning or Feature Reuse?" (ANIL).
    """
    adapted, outputs = [], []
    loss = torch.zeros((), dtype=query[0].dtype)
    tasks = len(query[0])
    for t in range(tasks):
        own = finn_adapt(net, item_loss, weights, rates, support[0][t], support[1][t], steps)
        output = net(own, query[0][t])
        adapted.append(own)
        outputs.append(output)
        loss = loss + finn_loss(output, query[1][t], item_loss) / tasks
    return Finn(adapted, torch.stack(outputs), loss)


def finn_first_order(
    net: Net,
    item_loss: ItemLoss,
    weights: Weights,
    rates: Weights,
    support: tuple[Tensor, Tensor],
    query: tuple[Tensor, Tensor],
    steps: int,
) -> tuple[Weights, Weights]:
    """Section 5.2: the meta-gradient is ∇L at the adapted weights, and nothing else; mean over tasks.

    Also that of the rates: θ' = θ − Σ_k α ∘ g_k with constant g_k, so it is −Σ_k g_k ∘ ∇L(θ').
    """
    tasks = len(query[0])
    of_weights = {name: torch.zeros_like(w) for name, w in weights.items()}
    of_rates = {name: torch.zeros_like(weights[name]) for name in rates}
    for t in range(tasks):
        own, walked = weights, {name: torch.zeros_like(weights[name]) for name in rates}
        for _ in range(steps):
            own = {name: w.detach().requires_grad_() for name, w in own.items()}
            gradients = finn_gradient(
                finn_loss(net(own, support[0][t]), support[1][t], item_loss), own, rates
            )
            own = own | {name: own[name] - rates[name] * gradients[name] for name in rates}
            walked = {name: walked[name] + gradients[name].detach() for name in rates}
        own = {name: w.detach().requires_grad_() for name, w in own.items()}
        gradients = finn_gradient(finn_loss(net(own, query[0][t]), query[1][t], item_loss), own, own)
        for name in weights:
            of_weights[name] = of_weights[name] + gradients[name].detach() / tasks
        for name in rates:
            of_rates[name] = of_rates[name] - walked[name] * gradients[name].detach() / tasks
    return of_weights, of_rates


# Nichol, Achiam, Schulman 2018: "On First-Order Meta-Learning Algorithms"


@dataclass
class NicholAdam:
    """State of Adam (Kingma, Ba 2015, Algorithm 1): steps taken, and second moments v."""

    t: int
    v: Weights


def nichol_adam(
    net: Net,
    weights: Weights,
    batches: list[tuple[Tensor, Tensor]],
    lr: float,
    state: NicholAdam | None = None,
    item_loss: ItemLoss = finn_cross_entropy,
) -> tuple[Weights, NicholAdam]:
    """U^k of Algorithm 1: a step of Adam with β₁ = 0 for each minibatch; from a state of Adam, or afresh."""
    beta1, beta2, eps = 0.0, 0.999, 1e-8
    m = {name: torch.zeros_like(w) for name, w in weights.items()}
    t, v = (0, m) if state is None else (state.t, state.v)
    for x, y in batches:
        t = t + 1
        weights = {name: w.detach().requires_grad_() for name, w in weights.items()}
        gradients = finn_gradient(finn_loss(net(weights, x), y, item_loss), weights, weights)
        moved: tuple[Weights, Weights, Weights] = ({}, {}, {})
        for name, w in weights.items():
            g = gradients[name].detach()
            moved[1][name] = beta1 * m[name] + (1 - beta1) * g
            moved[2][name] = beta2 * v[name] + (1 - beta2) * g**2
            m_hat = moved[1][name] / (1 - beta1**t)
            v_hat = moved[2][name] / (1 - beta2**t)
            moved[0][name] = (w - lr * m_hat / (torch.sqrt(v_hat) + eps)).detach()
        weights, m, v = moved
    return weights, NicholAdam(t, v)


@dataclass
class Nichol:
    """What one iteration of Algorithm 2 computes."""

    mean: Weights
    distance: Tensor
    state: NicholAdam


def nichol(
    net: Net,
    weights: Weights,
    tasks: list[list[tuple[Tensor, Tensor]]],
    lr: float,
    state: NicholAdam | None = None,
    item_loss: ItemLoss = finn_cross_entropy,
) -> Nichol:
    """The mean of φ̃_i over tasks, the mean of ½ ‖φ − φ̃_i‖², and the mean state of Adam."""
    mean = {name: torch.zeros_like(w) for name, w in weights.items()}
    seconds = {name: torch.zeros_like(w) for name, w in weights.items()}
    distance, t = torch.zeros((), dtype=next(iter(weights.values())).dtype), 0
    for batches in tasks:
        after, left = nichol_adam(net, weights, batches, lr, state, item_loss)
        t = left.t
        for name, w in weights.items():
            mean[name] = mean[name] + after[name] / len(tasks)
            seconds[name] = seconds[name] + left.v[name] / len(tasks)
            distance = distance + ((w.detach() - after[name]) ** 2).sum() / 2 / len(tasks)
    return Nichol(mean, distance, NicholAdam(t, seconds))


# Andrychowicz et al. 2016: "Learning to learn by gradient descent by gradient descent"
# This and the next two are in plain numbers, one coordinate after the other, and so not differentiable.


Numbers = dict[str, list[float]]
"""The elements of some tensors, by name."""


def numbers(tensors: Weights) -> Numbers:
    """Each tensor's elements in the order of `flatten`."""
    return {name: t.detach().flatten().tolist() for name, t in tensors.items()}


def sigmoid(x: float) -> float:
    """1 / (1 + e^−x)."""
    return 1 / (1 + math.exp(-x))


def andrychowicz_preprocess(x: float, p: float) -> list[float]:
    """Appendix A: (log|∇|/p, sgn ∇) if |∇| ≥ e^−p, and (−1, e^p ∇) otherwise."""
    if abs(x) >= math.exp(-p):
        return [math.log(abs(x)) / p, 1.0 if x > 0 else -1.0]
    return [-1.0, math.exp(p) * x]


def andrychowicz_layer(weight: Tensor, bias: Tensor, x: list[float]) -> list[float]:
    """Σ_d w_kd x_d + b_k for each k."""
    rows, biases, out = weight.tolist(), bias.flatten().tolist(), []
    for k in range(len(rows)):
        total = biases[k]
        for d in range(len(x)):
            total += rows[k][d] * x[d]
        out.append(total)
    return out


def andrychowicz_lstm(weights: Weights, x: list[float], hidden: list[list[float]]) -> list[float]:
    """A stack of LSTM cells (Hochreiter, Schmidhuber 1997, with forget gates) for one coordinate.

    `hidden` has h and c of each layer, and is moved on. Rows of the weights: those of i, of f, of o, of g.
    """
    for layer in range(len(hidden) // 2):
        h, c = hidden[2 * layer], hidden[2 * layer + 1]
        name, size = f"lstm.cells.{layer}", len(h)
        of_x = andrychowicz_layer(weights[f"{name}.of_input"], weights[f"{name}.bias"], x)
        of_h = andrychowicz_layer(weights[f"{name}.of_state"], torch.zeros(4 * size), h)
        gates = [of_x[k] + of_h[k] for k in range(4 * size)]
        new_h, new_c = [], []
        for d in range(size):
            i, f, o = (sigmoid(gates[n * size + d]) for n in range(3))
            new_c.append(f * c[d] + i * math.tanh(gates[3 * size + d]))
            new_h.append(o * math.tanh(new_c[d]))
        hidden[2 * layer], hidden[2 * layer + 1] = new_h, new_c
        x = new_h
    return x


def andrychowicz(
    weights: Weights,
    start: Weights,
    gradients: list[Weights],
    preprocess: bool = True,
    scale: float = 0.1,
    units: int = 20,
    layers: int = 2,
    p: float = 10.0,
) -> list[Numbers]:
    """θ_{t+1} = θ_t + g_t with (g_t, h_{t+1}) = m(∇_t, h_t, φ), after each step, coordinate by coordinate."""
    after = [numbers(start) for _ in gradients]
    for name in start:
        for n in range(start[name].numel()):
            theta = start[name].flatten()[n].item()
            hidden = [[0.0] * units for _ in range(2 * layers)]
            for t in range(len(gradients)):
                nabla = gradients[t][name].flatten()[n].item()
                x = andrychowicz_preprocess(nabla, p) if preprocess else [nabla]
                h = andrychowicz_lstm(weights, x, hidden)
                theta = theta + scale * andrychowicz_layer(weights["step.weight"], weights["step.bias"], h)[0]
                after[t][name][n] = theta
    return after


# Lv, Jiang, Li 2017: "Learning Gradient Descent: Better Generalization and Longer Horizons"


def lv(
    weights: Weights,
    start: Weights,
    gradients: list[Weights],
    alpha: float = 0.1,
    beta1: float = 0.95,
    beta2: float = 0.95,
    units: int = 20,
    layers: int = 2,
    eps: float = 1e-8,
) -> list[Numbers]:
    """RNNprop: m̃_t and g̃_t into a layer with ELU, an LSTM on it, and θ_{t+1} = θ_t − α tanh(x_out)."""
    after = [numbers(start) for _ in gradients]
    for name in start:
        for n in range(start[name].numel()):
            theta, m, v = start[name].flatten()[n].item(), 0.0, 0.0
            hidden = [[0.0] * units for _ in range(2 * layers)]
            for t in range(1, len(gradients) + 1):
                g = gradients[t - 1][name].flatten()[n].item()
                m = beta1 * m + (1 - beta1) * g
                v = beta2 * v + (1 - beta2) * g**2
                m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
                m_tilde, g_tilde = m_hat / (math.sqrt(v_hat) + eps), g / (math.sqrt(v_hat) + eps)
                x = andrychowicz_layer(weights["inputs.weight"], weights["inputs.bias"], [m_tilde, g_tilde])
                x = [e if e > 0 else math.exp(e) - 1 for e in x]
                h = andrychowicz_lstm(weights, x, hidden)
                x_out = andrychowicz_layer(weights["step.weight"], weights["step.bias"], h)[0]
                theta = theta - alpha * math.tanh(x_out)
                after[t - 1][name][n] = theta
    return after


# In the manner of Metz, Freeman, Harrison, Maheswaranathan, Sohl-Dickstein 2022: "Practical Tradeoffs Between
# Memory, Compute, and Performance in Learned Optimizers"; the equation is that of the rule's docstring.


def metz(
    weights: Weights,
    start: Weights,
    gradients: list[Weights],
    alpha: float = 0.01,
    decays: tuple[float, ...] = (0.5, 0.9, 0.99),
    square_decay: float = 0.99,
    horizons: tuple[float, ...] = (3, 10, 30, 100, 300, 1000),
    eps: float = 1e-8,
) -> list[Numbers]:
    """θ_{t+1} = θ_t − α d e^s, (d, s) = MLP(g/r, m̂_β/r for each β, t/(t + τ) for each τ), r = √v̂ + ε."""
    after = [numbers(start) for _ in gradients]
    for name in start:
        for n in range(start[name].numel()):
            theta, means, v = start[name].flatten()[n].item(), [0.0] * len(decays), 0.0
            for t in range(1, len(gradients) + 1):
                g = gradients[t - 1][name].flatten()[n].item()
                means = [b * m + (1 - b) * g for b, m in zip(decays, means, strict=True)]
                v = square_decay * v + (1 - square_decay) * g**2
                r = math.sqrt(v / (1 - square_decay**t)) + eps
                x = [g / r]
                x += [m / (1 - b**t) / r for b, m in zip(decays, means, strict=True)]
                x += [t / (t + tau) for tau in horizons]
                for layer in ("first", "second"):
                    x = andrychowicz_layer(weights[f"{layer}.weight"], weights[f"{layer}.bias"], x)
                    x = [max(0.0, e) for e in x]
                d, s = andrychowicz_layer(weights["last.weight"], weights["last.bias"], x)
                theta = theta - alpha * d * math.exp(s)
                after[t - 1][name][n] = theta
    return after


# Ravi, Larochelle 2017: "Optimization as a Model for Few-Shot Learning"
# What a gate remembers of itself is its value before σ, as in the authors' code.


def ravi_preprocess(x: Tensor, p: float) -> list[Tensor]:
    """Section 3.2: (log|x| / p, sgn x) where |x| ≥ e^−p, else (−1, e^p x)."""
    if abs(x.item()) >= math.exp(-p):
        return [torch.log(torch.abs(x)) / p, torch.sign(x)]
    return [-torch.ones_like(x), math.exp(p) * x]


def ravi_dot(weights: Tensor, values: list[Tensor]) -> Tensor:
    """Σ_d w_d v_d."""
    total = torch.zeros((), dtype=weights.dtype)
    for w, v in zip(weights, values, strict=True):
        total = total + w * v
    return total


@dataclass
class Ravi:
    """What the meta-learner remembers of one coordinate: h and c of the LSTM, and the gates before σ."""

    h: list[Tensor]
    c: list[Tensor]
    f: Tensor
    i: Tensor


def ravi_lstm(rule: Weights, x: list[Tensor], state: Ravi) -> tuple[list[Tensor], list[Tensor]]:
    """The LSTM's next h and c; its weights have the input gate first, then forget, output, candidate."""
    before, n = [], len(state.h)
    for k in range(4 * n):
        of_input = ravi_dot(rule["lstm.of_input"][k], x)
        of_state = ravi_dot(rule["lstm.of_state"][k], state.h)
        before.append(of_input + of_state + rule["lstm.bias"][k, 0])
    h, c = [], []
    for k in range(n):
        i, f, o = (torch.sigmoid(before[gate * n + k]) for gate in range(3))
        c.append(f * state.c[k] + i * torch.tanh(before[3 * n + k]))
        h.append(o * torch.tanh(c[k]))
    return h, c


def ravi_coordinate(
    rule: Weights, theta: Tensor, gradient: Tensor, loss: Tensor, state: Ravi, p: float
) -> tuple[Tensor, Ravi]:
    """Equation 2: c_t = f_t c_{t−1} + i_t c̃_t with c_{t−1} = θ_{t−1} and c̃_t = −∇L_t."""
    h, c = ravi_lstm(rule, ravi_preprocess(loss, p) + ravi_preprocess(gradient, p), state)
    f = ravi_dot(rule["weight"][0], [*h, theta, state.f]) + rule["bias"][0, 0]
    i = ravi_dot(rule["weight"][1], [*h, theta, state.i]) + rule["bias"][1, 0]
    return torch.sigmoid(f) * theta + torch.sigmoid(i) * -gradient, Ravi(h, c, f, i)


def ravi_adapt(
    net: Net,
    item_loss: ItemLoss,
    rule: Weights,
    weights: Weights,
    x: Tensor,
    y: Tensor,
    steps: int,
    first_order: bool,
    p: float = 10.0,
) -> Weights:
    """Algorithm 1, lines 7 to 12: θ_T of one task. First order: gradients and losses are constants."""
    zero = torch.zeros((), dtype=torch.float64)
    hidden = [zero] * rule["lstm.of_state"].shape[1]
    states = {name: [Ravi(hidden, hidden, zero, zero)] * w.numel() for name, w in weights.items()}
    for _ in range(steps):
        at = {name: w.detach().requires_grad_() for name, w in weights.items()} if first_order else weights
        loss = finn_loss(net(at, x), y, item_loss)
        gradients = finn_gradient(loss, at, at)
        moved: Weights = {}
        for name, w in weights.items():
            numbers, after = [], []
            for j in range(w.numel()):
                gradient, now = gradients[name].flatten()[j], loss
                if first_order:
                    gradient, now = gradient.detach(), loss.detach()
                number, state = ravi_coordinate(rule, w.flatten()[j], gradient, now, states[name][j], p)
                numbers.append(number)
                after.append(state)
            moved[name], states[name] = torch.stack(numbers).reshape(w.shape), after
        weights = moved
    return weights


def ravi(
    net: Net,
    item_loss: ItemLoss,
    rule: Weights,
    weights: Weights,
    support: tuple[Tensor, Tensor],
    query: tuple[Tensor, Tensor],
    steps: int,
    first_order: bool,
) -> Finn:
    """Adapted weights, outputs [T, Q, N] and the mean over tasks of the loss of the queries at θ_T."""
    adapted, outputs = [], []
    loss = torch.zeros((), dtype=query[0].dtype)
    for t in range(len(query[0])):
        own = ravi_adapt(net, item_loss, rule, weights, support[0][t], support[1][t], steps, first_order)
        output = net(own, query[0][t])
        adapted.append(own)
        outputs.append(output)
        loss = loss + finn_loss(output, query[1][t], item_loss) / len(query[0])
    return Finn(adapted, torch.stack(outputs), loss)


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

"""Prototypical, matching and relation networks of easyfsl 1.5.0 beside ours: same weights, same tasks.

Timed are training steps (forward, backward, Adam; 60-way 1-shot 5-query for prototypical networks, 20-way
1-shot 5-query for the others) and evaluation (5-way 1-shot 15-query, scores and accuracy), tasks drawn
beforehand. easyfsl brings no four-block encoder: it is timed with the plain one and with ours. What ours
counts beside is easyfsl well set up: with the same encoder, in the same precision, freed memory kept. Each
variant runs in processes of its own, by turns. The precision is that of the recipe: prototypical networks
train in bfloat16 where the processor has it, the others in float32.

Predictions are compared in float64, of the test tasks, after batch norm has seen one. In training the peer's
batch norm sees support and queries apart, and its loss is: for prototypical networks another one (its
distance is not squared), for matching and relation networks ours (log-likelihood, squared error). The amount
of work is the same.

Prototypical networks must predict the same.

Matching networks are those with full-context embeddings, the LSTMs' weights copied. easyfsl's reads the
support as often as it has items; so does ours here. Two things differ. Ours begins with h_0 = 0, easyfsl
with h_0 = f'(x). And the attention is the softmax of γ cos(f, g) in ours, of ‖f‖ cos(f, g) in easyfsl's,
which has no γ: with one shot, as here, either puts the classes in the order of the cosines. Begun where
easyfsl begins, ours must predict the same; as timed, with h_0 = 0, the share of equal predictions is stated.

Relation networks average the items of a class on both sides. easyfsl's comparing network is not the paper's:
it has no pool at maps of 5×5, and its second convolution no padding. Its class takes another, and gets the
paper's, plainly written, with the weights of ours; then it must predict the same. With its own, which is more
work, it is timed as well.

Its installation would replace torch, so it is used from an unpacked copy:

    python -m pip download --no-deps --dest DIR easyfsl==1.5.0
    python -m zipfile -e DIR/easyfsl-1.5.0-py3-none-any.whl DIR
    PYTHONPATH=DIR python -m benchmarks.peer_easyfsl
"""

import argparse
import importlib
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.children import Child, alternate, pooled, run
from benchmarks.plain import PlainConv4, characters, plain_comparison, plain_relation_encoder, take_weights
from benchmarks.rows import Row, write
from quickstudy.core.episode import Episode
from quickstudy.core.kernels.memory import keep_freed_memory
from quickstudy.core.kernels.torch_private import cpu_has_bfloat16
from quickstudy.core.learner import Learner
from quickstudy.core.scores import accuracies
from quickstudy.data.episodes import Episodes
from quickstudy.data.setting import Setting
from quickstudy.encoders.conv4 import Conv4
from quickstudy.metric.matching import FullContext, Matching
from quickstudy.metric.prototypical import Prototypical
from quickstudy.metric.relation import Comparison, Relation, relation_encoder
from quickstudy.recipes.recipe import TASKS

TEST = Setting(5, 1, 15)
WARM_UP = 2
CHECKED = 100
"""Test tasks whose predictions are compared."""
VERSION = "1.5.0"


@dataclass(frozen=True)
class Network:
    """What both sides have.

    Args:
        train: the tasks of a training step.
        bf16: our recipe trains it in bfloat16, where the processor has it.
        loss: of easyfsl's scores [Q, N] and the labels [Q], as its users write it.
    """

    train: Setting
    bf16: bool
    loss: Callable[[Tensor, Tensor], Tensor]


def squared_error(scores: Tensor, y: Tensor) -> Tensor:
    """Of relations in 0 … 1."""
    return F.mse_loss(scores, F.one_hot(y, scores.shape[-1]).to(scores.dtype))


NETWORKS = {
    "prototypical": Network(Setting(60, 1, 5), True, F.cross_entropy),
    "matching": Network(Setting(20, 1, 5), False, F.nll_loss),
    "relation": Network(Setting(20, 1, 5), False, squared_error),
}


@dataclass(frozen=True)
class Variant:
    """A side, and how it is set up.

    Args:
        peer: easyfsl.
        encoder: "plain" or "ours".
        fast: train in the recipe's precision, and keep freed memory.
        own: with easyfsl's own comparing network.
    """

    peer: bool
    encoder: str
    fast: bool = False
    own: bool = False

    def has(self, network: str) -> bool:
        """Whether there is such a variant of a network."""
        return network == "relation" or not self.own


VARIANTS = {
    "quickstudy": Variant(False, "ours", fast=True),
    "quickstudy, float32, default memory": Variant(False, "ours"),
    "easyfsl, plain encoder": Variant(True, "plain"),
    "easyfsl, our encoder": Variant(True, "ours"),
    "easyfsl, plain encoder, its own comparing network": Variant(True, "plain", own=True),
    "easyfsl, well set up": Variant(True, "ours", fast=True),
}
PEER = "easyfsl, well set up"


def easyfsl(module: str) -> ModuleType:
    """A module of it, unmodified.

    `easyfsl.methods` and `easyfsl.modules` import all that is in them, some of which needs torchvision; bare
    packages in their place let one module be imported alone. What predesigns the matching and relation
    networks' parts also has ResNets, which nobody builds here: their blocks are stand-ins.
    """
    package = importlib.util.find_spec("easyfsl")
    if not package or not package.submodule_search_locations:
        sys.exit("easyfsl is not on the path; how to get it: python -m benchmarks.peer_easyfsl --help")
    version = importlib.import_module("easyfsl").__version__
    if version != VERSION:
        sys.exit(f"this is easyfsl {version}: the comparison is with {VERSION}")
    for name in ("methods", "modules"):
        bare = ModuleType(f"easyfsl.{name}")
        bare.__path__ = [f"{package.submodule_search_locations[0]}/{name}"]
        sys.modules.setdefault(bare.__name__, bare)
    blocks = ModuleType("torchvision.models.resnet")
    vars(blocks).update(dict.fromkeys(("BasicBlock", "Bottleneck", "conv1x1"), object))
    sys.modules.setdefault(blocks.__name__, blocks)
    return importlib.import_module(f"easyfsl.{module}")


def build(network: str, variant: Variant, setting: Setting, seed: int) -> Any:
    """The learner of a side, for tasks of one size."""
    torch.manual_seed(seed)
    learner = ours(network, setting)
    return theirs(variant, learner) if variant.peer else learner


def ours(network: str, setting: Setting) -> Learner:
    """As it ships, but for what the module's first lines say."""
    if network == "prototypical":
        return Prototypical(Conv4())
    if network == "matching":
        return Matching(Conv4(), FullContext(steps=setting.ways * setting.shots))
    return Relation(relation_encoder(), Comparison(), pooling="mean")


def theirs(variant: Variant, learner: Any) -> Any:
    """The same network of easyfsl, with the same weights."""
    plain = variant.encoder == "plain"
    if isinstance(learner, Relation):
        maps: Any = learner.encoder
        backbone = take_weights(plain_relation_encoder(), maps) if plain else maps[:-1]  # not flattened
        parts = easyfsl("modules.predesigned_modules")
        comparison = take_weights(
            parts.default_relation_module(64) if variant.own else plain_comparison(), learner.comparison
        )
        method = easyfsl("methods.relation_networks").RelationNetworks
        return method(backbone, feature_dimension=64, relation_module=comparison)
    backbone = take_weights(PlainConv4(), learner.encoder) if plain else learner.encoder
    if isinstance(learner, Prototypical):
        return easyfsl("methods.prototypical_networks").PrototypicalNetworks(backbone)
    model = easyfsl("methods.matching_networks").MatchingNetworks(backbone, feature_dimension=64)
    model.support_features_encoder.load_state_dict(learner.context.of_support.state_dict())
    model.query_features_encoding_cell.load_state_dict(learner.context.of_query.state_dict())
    return model


def scores(model: Any, episode: Episode) -> Tensor:
    """Scores [T, Q, N], as each side's users get them: ours of all tasks at once, the peer's task by task."""
    if isinstance(model, Learner):
        return model.predict(episode.support, episode.query_x)
    each: list[Tensor] = []
    for x, y, query_x in zip(episode.support.x, episode.support.y, episode.query_x, strict=True):
        model.process_support_set(x, y)
        if hasattr(model, "one_hot_support_labels"):  # in float32, whatever the rest is
            model.one_hot_support_labels = model.one_hot_support_labels.to(query_x.dtype)
        each.append(model(query_x))
    return torch.stack(each)


def measure(network: str, variant: Variant, steps: int, seed: int) -> dict[str, list[float]]:
    """Seconds a task, of training steps and of meta-batches of test tasks."""
    if variant.fast:
        keep_freed_memory()
    of, pool = NETWORKS[network], characters()
    precision = (
        torch.autocast("cpu", torch.bfloat16)
        if variant.fast and of.bf16 and cpu_has_bfloat16()
        else nullcontext()
    )
    model = build(network, variant, of.train, seed)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def loss(episode: Episode) -> Tensor:
        if isinstance(model, Learner):
            return model(episode)
        return of.loss(scores(model, episode).flatten(0, 1), episode.query_y.flatten())

    def train(episode: Episode) -> None:
        optimizer.zero_grad()
        with precision:
            value = loss(episode)
        value.backward()
        optimizer.step()
        value.item()

    training = Episodes(pool, of.train, seed=seed)
    seconds = {"training": _seconds_a_task(train, [training[i] for i in range(WARM_UP + steps)])}
    tested = build(network, variant, TEST, seed).eval()

    @torch.no_grad()
    def test(episode: Episode) -> None:
        accuracies(scores(tested, episode), episode.query_y)

    testing = Episodes(pool, TEST, TASKS, seed)
    seconds["evaluation"] = _seconds_a_task(test, [testing[i] for i in range(WARM_UP + steps)])
    return seconds


def _seconds_a_task(work: Callable[[Episode], None], episodes: Sequence[Episode]) -> list[float]:
    seconds: list[float] = []
    for episode in episodes:
        started = time.perf_counter()
        work(episode)
        seconds.append((time.perf_counter() - started) / episode.tasks)
    return seconds[WARM_UP:]


@dataclass(frozen=True)
class Agreement:
    """Shares of the queries of which both sides predict the same class, in float64.

    Args:
        timed: as the sides are timed.
        alike: with all that can be made equal made equal: must be 1.
    """

    timed: float
    alike: float


@torch.no_grad()
def agreement(network: str, seed: int) -> Agreement:
    """Compare the predictions of both sides."""
    learner: Any = build(network, VARIANTS["quickstudy"], TEST, seed)
    episodes = Episodes(characters(), TEST, TASKS, seed)
    scores(learner, episodes[0])  # batch norm gets running statistics worth the name
    peer = theirs(VARIANTS["easyfsl, plain encoder"], learner).double().eval()
    learner.double().eval()
    tests = [_double(episodes[i]) for i in range(1, 1 + CHECKED // TASKS)]

    def share() -> float:
        same = [(scores(learner, e).argmax(-1) == scores(peer, e).argmax(-1)).double().mean() for e in tests]
        return torch.stack(same).mean().item()

    timed = share()
    if not isinstance(learner, Matching):
        return Agreement(timed, timed)
    context: Any = learner.context
    context.of_query, context.steps = FromTheQuery(context.of_query), context.steps + 1
    return Agreement(timed, share())


class FromTheQuery(nn.Module):
    """An LSTM cell whose first step makes nothing of h_0 = 0: so h_1 = f'(x), which is easyfsl's h_0.

    Args:
        cell: does the other steps.
    """

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """As `nn.LSTMCell`."""
        return self.cell(x, state) if state[0].any() else state


def _double(episode: Episode) -> Episode:
    episode.support.x, episode.query_x = episode.support.x.double(), episode.query_x.double()
    return episode


def rows_of(
    network: str, children: Mapping[str, Sequence[Child]], same: Agreement, row: Callable[..., Row]
) -> list[Row]:
    """The rows of a network.

    Args:
        network: its name.
        children: the processes of each variant.
        same: whether predictions agree.
        row: makes a row, with what all of them have in common.
    """
    rows: list[Row] = []
    for phase, setting in (("training", NETWORKS[network].train), ("evaluation", TEST)):
        of = partial(row, setting=str(setting), mode=f"{network}, {phase}")
        seconds = {v: pooled(c, phase) for v, c in children.items()}
        rate = {v: 1 / statistics.median(s) for v, s in seconds.items()}
        for variant, value in rate.items():
            for metric, figure, peers in (
                ("tasks/s", value, rate[PEER]),
                ("times as fast", value / rate[PEER], 1.0),
            ):
                peer = f"{PEER} {peers:.6g}" if variant == "quickstudy" else None
                rows.append(
                    of(method=variant, metric=metric, value=figure, n=len(seconds[variant]), peer=peer)
                )
    rows.append(
        row(
            method="quickstudy",
            setting=str(TEST),
            mode=f"{network}, evaluation",
            metric="same predictions %",
            value=100 * same.timed,
            n=CHECKED * TEST.ways * TEST.queries,
        )
    )
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=4, help="processes of each variant")
    parser.add_argument(
        "--steps", type=int, default=20, help="timed training steps and test batches a process"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="write no results")
    parser.add_argument("--variant", choices=[*VARIANTS, "agreement"], help=argparse.SUPPRESS)
    parser.add_argument("--network", choices=NETWORKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant == "agreement":
        print(json.dumps(asdict(agreement(options.network, options.seed))))
    elif options.variant:
        variant = VARIANTS[options.variant]
        print(json.dumps(measure(options.network, variant, options.steps, options.seed)))
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Check, measure, and write."""
    easyfsl("methods.utils")  # not there: say so before anything is measured
    module, seed = "benchmarks.peer_easyfsl", str(options.seed)

    def check(network: str) -> Agreement:
        report = run("-m", module, "--variant", "agreement", "--network", network, "--seed", seed).report
        same = Agreement(**report)
        if same.alike != 1:
            sys.exit(f"{network}: only {same.alike:.2%} are predicted alike: the comparison is void")
        return same

    checked = {network: check(network) for network in NETWORKS}
    dataset, split = characters().name.split(".")
    row = partial(Row, benchmark="peer_easyfsl", dataset=dataset, split=split, seed=options.seed)
    rows: list[Row] = []
    for network, same in checked.items():
        print(network, file=sys.stderr)
        variants = [v for v, variant in VARIANTS.items() if variant.has(network)]
        children = alternate(
            module,
            variants,
            options.rounds,
            *("--network", network, "--steps", str(options.steps), "--seed", seed),
        )
        rows += rows_of(network, children, same, row)
    for r in rows:
        print(f"{r.method}, {r.mode}: {r.value:,.4g} {r.metric}")
    if not options.dry:
        write("peer_easyfsl", rows)


if __name__ == "__main__":
    main()

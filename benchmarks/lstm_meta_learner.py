"""The LSTM meta-learner beside its kin and two baselines, all with the same network, data and budget.

Omniglot, 5-way, Conv4 with 32 filters, so many minutes of training each, one after the other on one core. Two
baselines, as in the paper: a network that was trained to tell all training classes apart, whose embedding is
then used for nearest neighbours, or fine-tuned on the support with a new last layer; its rate and number of
steps are chosen on validation classes. As minutes are few, all learners of an initialisation spend a share of
them as these baselines do, and begin with that network and a last layer of zeros; the baselines go on with it
all the time. The share is 0.4, and 0.9 for the LSTM meta-learner, whose meta-steps take many times as long:
with 0.4 and ten times the learning rate it forgot more than it learned. Its gates begin at a rate of 0.03,
which is what validation chooses for fine-tuning. It is there with its gates learned, and with these fixed,
where it learns its initial state only: what the gates are worth.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.rows import Row, kept, write
from quickstudy.core.kernels.memory import keep_freed_memory
from quickstudy.core.learner import Learner
from quickstudy.core.modes import Mode
from quickstudy.core.scores import Score
from quickstudy.data.datasets.omniglot import omniglot
from quickstudy.data.episodes import Episodes
from quickstudy.data.formats.items import floats
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting
from quickstudy.encoders.classifier import Classifier
from quickstudy.encoders.conv4 import Conv4
from quickstudy.initialization.maml import MAML, fomaml
from quickstudy.initialization.meta_sgd import MetaSGD
from quickstudy.metric.prototypical import Prototypical
from quickstudy.optimizer.lstm_meta_learner import LSTMMetaLearner
from quickstudy.optimizer.rules.cell_state import CellStateRule, Gates
from quickstudy.training.evaluate import evaluate
from quickstudy.training.fit import fit
from quickstudy.training.schedules import cosine_schedule

MODES: tuple[Mode, Mode] = ("inductive", "transductive")
CLIP, CHANNELS, BATCH = 1.0, 32, 128
RATES, STEPS = (0.01, 0.03, 0.1, 0.3, 1.0), (5, 20, 50)
"""Of fine-tuning."""


def classifier(encoder: Conv4) -> Classifier:
    """The network that all of them adapt, with the weights of an encoder and a last layer of zeros."""
    model = Classifier(Conv4(channels=CHANNELS, running_statistics=False), 5, dimensions=CHANNELS)
    model.encoder.load_state_dict(dict(encoder.named_parameters()), strict=False)
    for p in model.head.parameters():
        nn.init.zeros_(p)
    return model


@dataclass(frozen=True)
class Contestant:
    """A learner of an initialisation, made of an encoder; Adam's rate; the share of the minutes before."""

    make: Callable[[Conv4], Learner]
    lr: float
    before: float


def _lstm(encoder: Conv4, gates: Gates) -> Learner:
    rule = CellStateRule(gates, input_bias=(-3.6, -3.4))
    return LSTMMetaLearner(classifier(encoder), rule, steps=12)


CONTESTANTS = {
    "LSTM meta-learner": Contestant(partial(_lstm, gates="learned"), 3e-4, 0.9),
    "LSTM meta-learner, fixed gates": Contestant(partial(_lstm, gates="fixed"), 3e-4, 0.9),
    "MAML": Contestant(lambda e: MAML(classifier(e), lr=0.4, steps=1, test_steps=3), 5e-3, 0.4),
    "FOMAML": Contestant(lambda e: fomaml(classifier(e), lr=0.1, steps=1, test_steps=3), 5e-3, 0.4),
    "Meta-SGD": Contestant(lambda e: MetaSGD(classifier(e), init=(0.1, 0.1)), 5e-3, 0.4),
}
NEAREST, TUNED = BASELINES = ("nearest neighbour", "fine-tuning")


def trained(
    make: Callable[[], Learner], lr: float, pool: ClassPool, setting: Setting, minutes: float
) -> Learner:
    """A learner after so many minutes: as many steps as they have room for, by the time of the first."""
    torch.manual_seed(0)
    learner, episodes = make(), Episodes(pool.split("train"), setting, tasks=4)
    fit(make(), episodes, 2)  # what is done once only
    started = time.monotonic()
    fit(make(), episodes, 5)
    steps = max(10, round(60 * minutes / (time.monotonic() - started) * 5))
    fit(
        learner,
        episodes,
        steps,
        optimizer=partial(torch.optim.Adam, lr=lr),
        schedule=cosine_schedule(steps, warmup=100),
        clip=CLIP,
    )
    print(f"{steps} steps", flush=True)
    return learner


def pretrained(pool: ClassPool, minutes: float) -> Conv4:
    """An encoder trained to tell all training classes apart, so many minutes long."""
    torch.manual_seed(0)
    classes = pool.split("train")
    encoder, head = Conv4(channels=CHANNELS), nn.Linear(CHANNELS, len(classes))
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], 1e-3)
    label = torch.repeat_interleave(torch.arange(len(classes)), torch.from_numpy(classes.counts))
    place = torch.cat(
        [
            torch.arange(s, s + n)
            for s, n in zip(classes.starts.tolist(), classes.counts.tolist(), strict=True)
        ]
    )
    started = time.monotonic()
    while (share := (time.monotonic() - started) / 60 / minutes) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * (1 - share)
        chosen = torch.randint(len(label), (BATCH,))
        x = floats(torch.from_numpy(classes.items[place[chosen].numpy()]))
        optimizer.zero_grad()
        F.cross_entropy(head(encoder(x)), label[chosen]).backward()
        optimizer.step()
    return encoder.eval()


def fine_tuned(encoder: Conv4, pool: ClassPool, setting: Setting) -> Learner:
    """The encoder with a new last layer, trained on the support as long and fast as is best in validation."""
    validation = Episodes(pool.split("validation"), setting, 10, 1)

    def make(lr: float, steps: int) -> Learner:
        return fomaml(classifier(encoder), lr=lr, steps=steps)

    accuracies = {(lr, n): evaluate(make(lr, n), validation, 100).accuracy for lr in RATES for n in STEPS}
    best = max(accuracies, key=accuracies.__getitem__)
    print(f"fine-tuning: rate {best[0]}, {best[1]} steps", flush=True)
    return make(*best)


def learned(
    name: str, encoders: Mapping[float, Conv4], pool: ClassPool, setting: Setting, minutes: float
) -> Learner:
    """What a method makes of its minutes, given the encoders of the shares of them."""
    if name == NEAREST:
        return Prototypical(encoders[1.0])
    if name == TUNED:
        return fine_tuned(encoders[1.0], pool, setting)
    of = CONTESTANTS[name]
    make = partial(of.make, encoders[of.before])
    return trained(make, of.lr, pool, setting, minutes * (1 - of.before))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="of each training")
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--methods", nargs="+", choices=[*BASELINES, *CONTESTANTS], metavar="NAME")
    parser.add_argument("--dry", action="store_true", help="write no results")
    options = parser.parse_args()
    keep_freed_memory()
    pool = omniglot()
    rows: list[Row] = []
    chosen = options.methods or [*BASELINES, *CONTESTANTS]
    shares = {CONTESTANTS[name].before if name in CONTESTANTS else 1.0 for name in chosen}
    encoders = {share: pretrained(pool, share * options.minutes) for share in sorted(shares)}
    for shots in options.shots:
        setting = Setting(5, shots, 5)
        for name in chosen:
            learner = learned(name, encoders, pool, setting, options.minutes).eval()
            for mode in MODES:
                score: Score = evaluate(
                    learner, Episodes(pool.split("test"), Setting(5, shots), 10), options.episodes, mode
                )
                print(f"{name}: {score}", flush=True)
                rows.append(
                    Row(
                        benchmark="lstm_meta_learner",
                        method=name,
                        dataset=pool.name,
                        split="test",
                        setting=score.setting,
                        mode=mode,
                        metric="accuracy %",
                        value=100 * score.accuracy,
                        ci95=100 * score.ci95,
                        n=options.episodes,
                        seed=0,
                        minutes=options.minutes,
                    )
                )
        if not options.dry:
            write("lstm_meta_learner", [*kept("lstm_meta_learner", rows), *rows])


if __name__ == "__main__":
    main()

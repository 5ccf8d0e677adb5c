"""Recognition of people, words and voices that neither training nor calibration has met.

For each recipe of recognition: verification by all pairs of different test items, identification averaged
over random enrollments, and what the threshold that was calibrated for a FAR of 1 % on the validation
identities does to the test identities. Several samples of a name are taken together as `quickstudy calibrate`
would: in the way that has the least EER on the validation identities. Trainings are taken from runs/NAME, and
runs/NAME-seedS for further seeds, whichever are there:

    quickstudy train faces-orl --seed 1 --out runs/faces-orl-seed1
"""

import argparse
from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import nn

from benchmarks.rows import Row, read, write
from quickstudy.core.kernels.memory import keep_freed_memory
from quickstudy.core.scores import mean_ci95
from quickstudy.data.datasets.faces import LFW_TEST, LFW_VALIDATION, lfw, orl, pair_items, view2
from quickstudy.data.pool import ClassPool
from quickstudy.encoders.postprocess import Embedding
from quickstudy.encoders.test_time import TestTimeAugmentation
from quickstudy.metric.verification import verification
from quickstudy.recipes import weights
from quickstudy.recognition.calibration import calibrate
from quickstudy.recognition.embedder import Embedder
from quickstudy.recognition.gallery.pooling import Pooling
from quickstudy.recognition.measure import EmbeddedPool, embed_pool
from quickstudy.recognition.pairs import pooled_scores, score_pairs
from quickstudy.recognition.pooling_choice import Poolings, compare_poolings
from quickstudy.recognition.report.error_rates import achieved, lfw_view2, min_dcf
from quickstudy.recognition.report.identification import enrollment_draws

SETTINGS = {  # ways, shots, draws
    "faces-orl": ((10, 1, 500), (10, 5, 500)),
    "faces-lfw": ((20, 1, 500),),
    "words-arabic": ((8, 1, 4000), (8, 5, 4000)),
    "speakers-arabic": ((6, 1, 4000), (6, 5, 4000)),
    "digits-fsdd": ((10, 1, 500), (10, 5, 500)),
}
JOINED = 3
"""Clips of a speaker taken together."""
FAR = 0.01
CHOSEN = ", chosen"
"""Ends the setting of the pooling that was chosen; of several seeds, if all chose it."""


def rows_of(name: str, run: Path) -> Iterator[Row]:
    """Figures of one training."""
    embedder = Embedder(run)
    manifest = embedder.manifest
    if manifest.get("trainval"):
        raise SystemExit(f"{run} was trained on the validation classes too, which thresholds are measured on")
    recipe = weights.recipe_of(manifest)
    pool = recipe.pool()
    development, test = (embed_pool(embedder, pool.split(s)) for s in ("validation", "test"))
    sources = development.sources if recipe.cross_source else None
    poolings = compare_poolings(development.embeddings, development.labels, embedder.energy, sources=sources)
    scorer = pooled_scores(embedder.energy, poolings.chosen)
    method = f"{name}, {recipe.summary.split(' on ')[0]}"
    if manifest.get("start"):
        method += f", begun with {manifest['start'].split(',')[0]}"
    row = partial(
        Row,
        benchmark="recognition",
        method=method,
        dataset=name,
        split="test",
        seed=manifest["seed"],
        minutes=manifest["training"]["minutes"],
    )
    pairs = score_pairs(test.embeddings, test.labels, scorer)
    found = verification(pairs.scores, pairs.same)
    of = partial(row, setting=f"{found.genuine:,} genuine + {found.impostor:,} impostor pairs")
    yield of(metric="EER %", value=100 * found.eer)
    yield of(metric="AUC", value=found.auc)
    for far, tar in found.tar.items():
        yield of(metric=f"TAR % at FAR {100 * far:g} %", value=100 * tar)
    yield of(metric="minDCF", value=min_dcf(pairs.scores, pairs.same))
    yield from _accuracies(name, test, scorer, row)
    yield from _calibrated(development, test, scorer, row, recipe.cross_source)
    yield from _pooled(poolings, partial(row, split="validation"))
    for pooling in sorted({*get_args(Pooling)} - {poolings.chosen}):
        other = pooled_scores(embedder.energy, pooling)
        yield from _accuracies(name, test, other, row, after=f", by {pooling} instead", several=True)
    if name == "speakers-arabic":
        yield from _joined(test, scorer, row)
    if name == "faces-lfw":
        yield from _view2(embedder, row)
        yield from _elsewhere(embedder, scorer, row)
    yield from _without(name, embedder, pool.split("test"), scorer, row)


def _accuracies(
    name: str, test: EmbeddedPool, scorer, row, before: str = "", after: str = "", several: bool = False
) -> Iterator[Row]:
    """Identification; `several`: of names with several samples only."""
    sources = test.sources
    for ways, shots, draws in SETTINGS[name]:
        if several and shots == 1:
            continue
        got = enrollment_draws(test.embeddings, test.labels, scorer, shots, draws, 0, ways, sources)
        yield row(
            setting=f"{before}{ways}w{shots}s{', sources apart' * (sources is not None)}{after}",
            metric="accuracy %",
            value=100 * got.accuracy,
            ci95=100 * got.ci95,
            n=draws,
        )


def _without(name: str, embedder: Embedder, pool: ClassPool, scorer, row) -> Iterator[Row]:
    """What is lost without what is done after training: without the last of it first, then without all."""
    left_out: list[str] = []
    embedder = copy(embedder)
    for part, encoder in _peeled(embedder.encoder):
        left_out.append(type(part).__name__)
        embedder.encoder = encoder
        test = embed_pool(embedder, pool)
        pairs = score_pairs(test.embeddings, test.labels, scorer)
        without = f", without {', '.join(left_out)}"
        yield row(
            setting=f"all pairs{without}",
            metric="EER %",
            value=100 * verification(pairs.scores, pairs.same).eer,
        )
        yield from _accuracies(name, test, scorer, row, after=without)


def _peeled(encoder: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """What is done after training, the last first, each with the encoder that is left without it."""
    if isinstance(encoder, Embedding):
        for n in reversed(range(len(encoder.transforms))):
            yield encoder.transforms[n], Embedding(encoder.encoder, encoder.transforms[:n])
        encoder = encoder.encoder
    while isinstance(encoder, TestTimeAugmentation):
        yield encoder, encoder.encoder
        encoder = encoder.encoder


def _calibrated(
    development: EmbeddedPool, test: EmbeddedPool, scorer, row, cross_source: bool
) -> Iterator[Row]:
    dev, unseen = (d.sources if cross_source else None for d in (development, test))
    made = calibrate(development.embeddings, development.labels, scorer, FAR, samples=(1, 3, 5), sources=dev)
    for table in made.tables:
        pairs = score_pairs(test.embeddings, test.labels, scorer, table.samples, sources=unseen)
        got = achieved(pairs.scores, pairs.identities, table.threshold(FAR))
        setting = (
            f"threshold for FAR 1 % by {table.identities} other identities, {table.samples} samples of a name"
        )
        for what, value, (low, high) in (("FAR", got.far, got.far95), ("FRR", got.frr, got.frr95)):
            yield row(
                setting=setting,
                metric=f"achieved {what} % (95 %: {100 * low:.2f} … {100 * high:.2f})",
                value=100 * value,
                n=got.identities,
            )


def _pooled(poolings: Poolings, row) -> Iterator[Row]:
    """Which way to take the samples of a name together is best, on the validation identities."""
    for samples, each in poolings.eers.items():
        for pooling, eer in each.items():
            yield row(setting=f"{samples} samples of a name, {pooling}", metric="EER %", value=100 * eer)
    for pooling, eer in poolings.means.items():
        chosen = CHOSEN * (pooling == poolings.chosen)
        yield row(setting=f"mean over numbers of samples, {pooling}{chosen}", metric="EER %", value=100 * eer)


def _joined(test: EmbeddedPool, scorer, row) -> Iterator[Row]:
    """Three clips of a speaker, of different words, as one: the mean of their embeddings."""
    rng = np.random.default_rng(0)
    z: list[np.ndarray] = []
    y: list[str] = []
    for name in np.unique(test.labels):
        order = rng.permutation(np.flatnonzero(test.labels == name))
        for i in range(0, len(order) - JOINED + 1, JOINED):
            z.append(test.embeddings[order[i : i + JOINED]].mean(0))
            y.append(name)
    pairs = score_pairs(np.stack(z), y, scorer)
    found = verification(pairs.scores, pairs.same)
    yield row(
        setting=f"{JOINED} clips joined, {found.genuine:,} genuine + {found.impostor:,} impostor pairs",
        metric="EER %",
        value=100 * found.eer,
    )
    got = enrollment_draws(np.stack(z), y, scorer, 1, 500)
    yield row(
        setting=f"{JOINED} clips joined, 6w1s",
        metric="accuracy %",
        value=100 * got.accuracy,
        ci95=100 * got.ci95,
        n=500,
    )


def _view2(embedder: Embedder, row) -> Iterator[Row]:
    """Pairs of the folds that were not trained on; the threshold from that of validation."""
    pool, folds = lfw(size=embedder.format.shape[-1]), view2()
    held = [f - 1 for f in (*LFW_VALIDATION, *LFW_TEST)]
    scores: list[np.ndarray] = []
    for f in held:
        first, second = pair_items(pool, folds[f])
        a, b = (embedder.embed(pool.items[side]) for side in (first, second))
        scores.append((a * b).sum(1) if embedder.energy == "cosine" else -np.linalg.norm(a - b, axis=1))
    same = np.asarray([[p.genuine for p in folds[f]] for f in held])
    tuned = list(range(len(LFW_VALIDATION)))
    got = lfw_view2(scores, same, tuned_on=tuned)
    yield row(
        setting="View 2, folds 9 and 10, threshold from fold 8",
        metric="accuracy %",
        value=100 * got.mean,
        ci95=196 * float(np.sqrt(got.mean * (1 - got.mean) / (600 * len(LFW_TEST)))),
        n=600 * len(LFW_TEST),
    )
    test = slice(len(tuned), None)
    found = verification(np.concatenate(scores[test]), same[test].ravel())
    yield row(setting="View 2, folds 9 and 10", metric="EER %", value=100 * found.eer, n=600 * len(LFW_TEST))


def _elsewhere(embedder: Embedder, scorer, row) -> Iterator[Row]:
    """The test people of ORL, of which nothing was trained on."""
    test = embed_pool(embedder, orl(size=embedder.format.shape[-1]).split("test"))
    pairs = score_pairs(test.embeddings, test.labels, scorer)
    found = verification(pairs.scores, pairs.same)
    setting = f"people of ORL, {found.genuine:,} genuine + {found.impostor:,} impostor pairs"
    yield row(setting=setting, metric="EER %", value=100 * found.eer)
    yield from _accuracies("faces-orl", test, scorer, row, before="people of ORL, ")


def over_seeds(rows: list[Row]) -> list[Row]:
    """Of figures with several seeds, the mean and its 95 % interval over them; the others as they are."""
    grouped: dict[tuple[str, str, str], list[Row]] = {}
    for r in rows:
        setting = (r.setting or "").removesuffix(CHOSEN)  # seeds may choose differently
        grouped.setdefault((r.method, setting, r.metric.split(" (95")[0]), []).append(r)
    merged: list[Row] = []
    for (_, setting, metric), same in grouped.items():
        if len(same) == 1:
            merged += same
            continue
        mean, ci95 = mean_ci95(torch.tensor([r.value for r in same], dtype=torch.float64))
        chosen = CHOSEN * all((r.setting or "").endswith(CHOSEN) for r in same)
        setting = f"{setting}{chosen}; {len(same)} seeds"
        merged.append(
            replace(same[0], metric=metric, setting=setting, value=mean, ci95=ci95, n=len(same), seed=0)
        )
    return merged


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--names", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    keep_freed_memory()
    rows = [r for r in read("recognition") if r.dataset not in options.names]
    for name in options.names:
        runs = sorted(options.runs.glob(f"{name}*/best.safetensors"))
        each = [r for run in runs for r in rows_of(name, run.parent)]
        rows += over_seeds(each)
        for r in over_seeds(each):
            print(f"{r.method} {r.setting}: {r.metric} {r.value:.4g} ± {r.ci95 or 0:.2g}")
    write("recognition", rows)


if __name__ == "__main__":
    main()

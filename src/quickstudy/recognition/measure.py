"""Calibration of a model, and the report on it, from the data it is tried on."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from quickstudy.core import checkpoint
from quickstudy.core.arrays import IntArray
from quickstudy.core.kernels.sizes import sizes_on
from quickstudy.core.progress import ProgressCallback
from quickstudy.core.wording import of_ten
from quickstudy.data.datasets.folders import class_folders
from quickstudy.data.formats.audio import Place
from quickstudy.data.overlap import Overlap, items_record, overlaps
from quickstudy.data.pool import ClassPool
from quickstudy.recipes import weights as recipes_weights
from quickstudy.recipes.pretrained import is_pretrained
from quickstudy.recognition.calibration import Calibration, Cost, calibrate, refuse_worse
from quickstudy.recognition.embedder import Embedder, Vectors
from quickstudy.recognition.gallery.pooling import Pooling
from quickstudy.recognition.pairs import Distinct, distinct, pooled_scores
from quickstudy.recognition.pooling_choice import Poolings, compare_poolings
from quickstudy.recognition.recognizer import CALIBRATION
from quickstudy.recognition.report.report import RecognitionReport, recognition_report
from quickstudy.training.launch import Display

TOO_MANY = 0.3
"""False-reject rate from which on a calibration says in words what it means."""


@dataclass(frozen=True)
class EmbeddedPool:
    """The embedded items of some classes.

    Args:
        embeddings: Embeddings [I, D].
        labels: Class name of each item, [I].
        sources: Source of each item, [I], such as its speaker; None if the pool has no sources.
        pool: Pool that the items are from.
    """

    embeddings: Vectors
    labels: np.ndarray
    sources: IntArray | None
    pool: ClassPool


def embed_pool(embedder: Embedder, pool: ClassPool, progress: ProgressCallback | None = None) -> EmbeddedPool:
    """Embed all items of a pool's classes.

    Args:
        embedder: Trained encoder.
        pool: Pool of items in the encoder's format.
        progress: Function called with (items done, items in total) after each batch.

    Returns:
        Embeddings and labels, class after class.
    """
    index = pool.indices
    parts: list[Vectors] = []
    size = sizes_on().embedded_files
    for i in range(0, len(index), size):
        parts.append(embedder.embed(pool.items[index[i : i + size]]))
        if progress:
            progress(min(i + size, len(index)), len(index))
    labels = np.repeat(np.asarray(pool.classes), pool.counts)
    sources = None if pool.sources is None else pool.sources[index]
    return EmbeddedPool(np.concatenate(parts), labels, sources, pool)


def calibrate_model(
    model: str | Path,
    *,
    far: float = 0.01,
    cost: Cost | None = None,
    pooling: Pooling | None = None,
    folder: Path | None = None,
    data_root: str | Path | None = None,
    place: Place | None = None,
    seed: int = 0,
    skip_corrupt: bool = False,
    copy: Path | None = None,
    force: bool = False,
    display: Display,
) -> tuple[Calibration, Poolings]:
    """Choose the thresholds of a model, and write them into the manifest of its checkpoint.

    A model that was trained to recognize classes across sources, such as words of other speakers, is
    calibrated on pairs of different sources.

    Args:
        model: Path of a checkpoint or of a training's folder.
        far: Target false-accept rate, in (0, 0.5].
        cost: Cost of a false accept, cost of a false reject, and prior of a genuine pair, instead of `far`.
        pooling: Pooling of a name's samples: "centroid", "nearest" or "top"; by default the one that
            `compare_poolings` finds best on the same items.
        folder: Folder of development items, `folder/NAME/*`, that the model wasn't trained on; by default the
            validation classes of the model's own data.
        data_root: Folder of the data sets.
        place: Which window of a recording in `folder` is taken, see `AudioFormat`; by default that of the
            training.
        seed: Seed of the random choice of enrolled samples.
        skip_corrupt: Whether to leave out files of the folder that can't be read, with a warning.
        copy: Folder for a copy of the checkpoint, into which the thresholds are written instead.
        force: Whether to replace thresholds by ones that are worse, see `refuse_worse`.
        display: Display that shows the progress.

    Returns:
        The calibration, and the error rates by which the pooling was chosen.

    Raises:
        ValueError: If the model ships with the library and no copy is to be made, was trained on its
            validation classes and no folder is given, thresholds would become worse, or as in `calibrate`.
        FileExistsError: If there is a checkpoint in the folder for the copy.
    """
    named = is_pretrained(model)
    path = Path(model) if named else recipes_weights.find(model)
    if copy is None and (named or recipes_weights.ships(path)):
        raise ValueError(
            f"{model} ships with the library and can't be written to: calibrate a copy, with --copy FOLDER"
        )
    out = copy / "best.safetensors" if copy else path
    if copy and out.exists():
        raise FileExistsError(f"{out} is there already: calibrate that, or name another folder for the copy")
    embedder = _embedder(model, folder, place)
    if named and "arguments" not in embedder.manifest["fit"]["learner"]:
        raise ValueError(
            f"thresholds are kept in a checkpoint, which can't hold {model}, a network of others: calibrate "
            "photos, or a training of your own"
        )
    if named and not folder:
        raise ValueError(f"{model} has no data of its own: calibrate it on a folder, with --images")
    if embedder.manifest.get("trainval") and not folder:
        raise ValueError(
            f"{model} was trained on the validation classes too (trainval): calibrate it on a folder of "
            "others, with --images or --audio"
        )
    labelled, found = _unseen(embedder, "validation", folder, data_root, display, skip_corrupt)
    met = [o for o in overlaps(embedder.manifest, labelled.pool, ("train",)) if not o.disjoint]
    cross_source = folder is None and recipes_weights.recipe_of(embedder.manifest).cross_source
    z, labels, sources = labelled.embeddings, labelled.labels, labelled.sources if cross_source else None
    energy, poolings = embedder.energy, Poolings({}, {}, pooling)
    if not pooling:
        poolings = compare_poolings(z, labels, energy, seed=seed, sources=sources)
    pooling = poolings.chosen
    scorer = pooled_scores(energy, pooling)
    made = calibrate(z, labels, scorer, far, cost, seed=seed, sources=sources, pooling=pooling)
    frr = made.tables[0].point.frr
    told = [f"at this threshold it turns away {of_ten(frr)} who are rightly there"] if frr >= TOO_MANY else []
    made = replace(made, warnings=(*found.warnings, *made.warnings, *told, *(_met(o) for o in met)))
    if named:
        weights, manifest = checkpoint.prefixed("encoder.", embedder.encoder.state_dict()), embedder.manifest
    else:
        weights, manifest = checkpoint.load(embedder.path)
    readable = copy is not None or checkpoint.has_copy(path, manifest)
    before = manifest.get(CALIBRATION)
    if not force:
        known = Calibration.from_dict(before) if before else None
        refuse_worse(made, known, f"the {len(labels)} items of {labelled.pool.name}")
    facts = {"apart": cross_source, "data": labelled.pool.summary()}
    manifest[CALIBRATION] = made.as_dict() | poolings.as_dict() | facts
    manifest["classes"] = manifest.get("classes", {}) | {"calibration": labelled.pool.class_digests()}
    manifest["seen"] = manifest.get("seen", {}) | {"calibration": items_record(labelled.pool)}
    checkpoint.save(out, weights, manifest, readable)
    return made, poolings


def report_on(
    model: str | Path,
    *,
    folder: Path | None = None,
    data_root: str | Path | None = None,
    place: Place | None = None,
    seed: int = 0,
    skip_corrupt: bool = False,
    display: Display,
) -> RecognitionReport:
    """Measure a calibrated model on identities it has never seen.

    Args:
        model: Path of a checkpoint or of a training's folder, or name of a model.
        folder: Folder of test items, `folder/NAME/*`; by default the test classes of the model's own data.
        data_root: Folder of the data sets.
        place: Which window of a recording in `folder` is taken, see `AudioFormat`; by default that of the
            training.
        seed: Seed of all random draws.
        skip_corrupt: Whether to leave out files of the folder that can't be read, with a warning.
        display: Display that shows the progress.

    Returns:
        The report, which can be saved as an HTML page.

    Raises:
        ValueError: If the model isn't calibrated, or there are too few items.
    """
    embedder = _embedder(model, folder, place)
    stated = embedder.manifest.get(CALIBRATION)
    if not stated:
        raise ValueError(f"{model} has no thresholds yet: run quickstudy calibrate {model} first")
    labelled, found = _unseen(embedder, "test", folder, data_root, display, skip_corrupt)
    facts = {
        "model": embedder.fingerprint,
        "test data": f"{labelled.pool.name}: {len(labelled.pool)} identities, {len(labelled.labels)} items",
        "development data": f"{stated['data']['name']}: {stated['data']['classes']} identities",
        "energy": embedder.energy,
        "samples of a name": stated["pooling"],
        "seed": str(seed),
    }
    if found.warnings:
        facts["copies"] = "; ".join(found.warnings)
    met = [o for o in overlaps(embedder.manifest, labelled.pool, ("train", "calibration")) if not o.disjoint]
    return recognition_report(
        f"Recognition: {embedder.recipe}",
        labelled.embeddings,
        labelled.labels,
        pooled_scores(embedder.energy, stated["pooling"]),
        Calibration.from_dict(stated),
        facts=facts,
        met=tuple(map(str, met)),
        sources=labelled.sources,
        cross_source=stated.get("apart", False),
        seed=seed,
    )


def _embedder(model: str | Path, folder: Path | None, place: Place | None) -> Embedder:
    if place and not folder:
        raise ValueError(f"place {place} is for clips of your own: give them by --audio, or leave it out")
    return Embedder(model, place)


def _met(overlap: Overlap) -> str:
    """What a calibration on classes that were met means."""
    return f"{overlap}: of these the thresholds may be too lax" if overlap.checked else str(overlap)


def _unseen(
    embedder: Embedder,
    split: str,
    folder: Path | None,
    data_root: str | Path | None,
    display: Display,
    skip_corrupt: bool,
) -> tuple[EmbeddedPool, Distinct]:
    """The embedded items, each content once a name, and what was found twice."""
    with display.counting("decoding") as progress:
        if folder:
            every = (0.0, 0.0, 1.0)
            pool = class_folders(folder, embedder.format, every, skip_corrupt=skip_corrupt, progress=progress)
        else:
            recipe = recipes_weights.recipe_of(embedder.manifest)
            root = recipes_weights.data_root_of(embedder.manifest, data_root)
            pool = recipe.pool(root=root, progress=progress).split(split)
    with display.counting("embedding") as progress:
        whole = embed_pool(embedder, pool, progress)
    contents = [
        hashlib.blake2b(pool.items[i].tobytes(), digest_size=16).digest() for i in pool.indices.tolist()
    ]
    found = distinct(contents, whole.labels)
    sources = None if whole.sources is None else whole.sources[found.kept]
    once = EmbeddedPool(whole.embeddings[found.kept], whole.labels[found.kept], sources, pool)
    return once, found

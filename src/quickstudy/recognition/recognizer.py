"""Recognizer: enroll, verify and identify, with a calibrated threshold and "unknown" as an answer."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from quickstudy.core.errors import WrongTypeError
from quickstudy.core.kernels.sizes import sizes_on
from quickstudy.core.progress import ProgressCallback
from quickstudy.core.wording import plural
from quickstudy.data.datasets.folders import find_files
from quickstudy.data.formats.archives import File, Member
from quickstudy.data.formats.audio import Place
from quickstudy.recipes import weights
from quickstudy.recognition.calibration import Calibration, calibrate, refuse_worse, warning_of_enrolled
from quickstudy.recognition.embedder import Embedded, Embedder, Refusal, Vectors
from quickstudy.recognition.gallery.gallery import Gallery
from quickstudy.recognition.gallery.naming import checked_name, look_alikes
from quickstudy.recognition.gallery.pooling import Pooling, means_of, nearness, score_of, unit
from quickstudy.recognition.gallery.records import Match
from quickstudy.recognition.pairs import distinct, pooled_scores
from quickstudy.training.card import Level, level_of, sentence, summary_of

Files = str | File | Sequence[str | File]
MODEL, CALIBRATION = "model", "calibration"
"""Keys of a gallery's settings: the model it is used with, and its own calibration."""
CHECKED = 50_000
"""Largest number of samples of a gallery that is checked when somebody is enrolled, which takes time."""
RIVALS = 5
"""Number of nearest names that are asked for at least, to see whether several reach their thresholds."""


@dataclass(frozen=True)
class Enrollment:
    """Outcome of an enrollment.

    Args:
        added: Number of new samples, by name.
        known: Number of files whose content was enrolled under the same name already.
        refused: Files that can't be used, with reasons.
        likely_mislabelled: Files that may be mislabelled: they are nearer to the mean of another name than to
            that of the other samples of their own and, with thresholds, would be accepted as that name and
            not as their own.
        elsewhere: Files whose content is enrolled under another name, too.
        warnings: Sentences on names that look alike, and on thresholds that don't hold for what is enrolled.
        level: Whether the files together are "known" to the model, "unusual" or "far", by its card.
        outside: One line on that; empty where they are known.
        used: One line on how much of the files is used; empty where there is nothing to say.
    """

    added: dict[str, int]
    known: int
    refused: list[Refusal]
    likely_mislabelled: list[Refusal]
    elsewhere: list[Refusal] = field(default_factory=list[Refusal])
    warnings: list[str] = field(default_factory=list[str])
    level: Level = "known"
    outside: str = ""
    used: str = ""


@dataclass(frozen=True)
class Decision:
    """Comparison of a sample with a name.

    Args:
        name: Claimed name, or candidate.
        accepted: Whether the score reaches the threshold.
        score: Negative energy ≤ 0; the higher, the likelier the sample is of the name.
        threshold: Threshold for the name's number of samples.
        probability: Probability in (0, 1) that the sample is of the name, given a prior of one half.
        supported: Whether the threshold rests on enough impostor pairs; if not, it lies above the scores of
            all that were measured.
    """

    name: str
    accepted: bool
    score: float
    threshold: float
    probability: float
    supported: bool


@dataclass(frozen=True)
class Verdict(Decision):
    """Verification of samples: the decision on the claimed name, and what is known of the samples.

    Args:
        reason: What may be why they are rejected, such as "blurred"; None if they are accepted, or where
            nothing is found.
        outside: One line on what is unlike the items that the model knows; empty where nothing is.
        used: One line on how much of the files is used; empty where there is nothing to say.
    """

    reason: str | None = None
    outside: str = ""
    used: str = ""


@dataclass(frozen=True)
class Identity:
    """Identification of a sample.

    Args:
        file: Path of the sample; the first path of samples identified together, of all of which `reason`,
            `outside` and `used` then tell.
        name: Name of the best candidate, or None ("unknown") if it doesn't reach its threshold.
        candidates: Nearest names, likeliest first.
        reason: What may be why it is unknown, such as "blurred"; None for a name, or where nothing is found.
        outside: What is unlike the items that the model knows; None where nothing is.
        used: How much of the file is used; None where there is nothing to say.
    """

    file: File
    name: str | None
    candidates: list[Decision]
    reason: str | None = None
    outside: str | None = None
    used: str | None = None

    @property
    def shares(self) -> dict[str, float]:
        """Of each accepted name, the probability that it is this one of them: odds among them.

        They suppose that the sample is of one of these names, each as likely as any other beforehand.
        Empty for "unknown"; 1 if a single name is accepted.
        """
        if self.name is None:
            return {}
        accepted = [c for c in self.candidates if c.accepted]
        odds = [c.probability / max(1 - c.probability, 1e-15) for c in accepted]
        return {c.name: o / sum(odds) for c, o in zip(accepted, odds, strict=True)}

    @property
    def names(self) -> tuple[str, ...]:
        """The accepted names, likeliest first: several, where the thresholds don't tell them apart."""
        return tuple(sorted(self.shares, key=lambda name: -self.shares[name]))


class Recognizer:
    """A trained encoder, a gallery of enrolled samples, and calibrated thresholds.

    Args:
        model: Path of a checkpoint or of a training's folder, or name of a model; by default the model that
            the gallery was first used with.
        gallery: Path of a SQLite file, created at the first enrollment, or a PostgreSQL URL.
        far: False-accept rate to allow instead of the calibrated one, in (0, 0.5]: in verification, the share
            of strangers accepted as the name they claim; in identification, the share of strangers taken for
            any enrolled name.
        place: Which window of a recording is taken, see `AudioFormat`; by default that of the training.

    Raises:
        FileNotFoundError: If there is no such checkpoint, or no gallery to take the model from.
        ValueError: If the gallery is of another encoder, or `far` is out of range.

    Example:
        Five lines from folders to names (needs a trained model, hence no doctest)::

            recognizer = Recognizer("runs/faces", "people.db")
            recognizer.enroll_folder("people")  # people/NAME/*.jpg
            print(recognizer.verify("Ada", "door.jpg").accepted)
            for identity in recognizer.identify(["a.jpg", "b.jpg"]):
                print(identity.file, identity.name or "unknown")
    """

    def __init__(
        self,
        model: str | Path | None = None,
        gallery: str | Path = "gallery.db",
        far: float | None = None,
        place: Place | None = None,
    ) -> None:
        if far is not None and not 0 < far <= 0.5:
            raise ValueError(f"far is {far}: it must be above 0 and at most 0.5; it is a share, 0.01 is 1 %")
        self.embedder = _embedder_of(gallery, place) if model is None else Embedder(model, place)
        self.far = far
        self.gallery = Gallery(
            gallery, encoder=self.embedder.fingerprint, cosine=self.embedder.energy == "cosine"
        )

    @property
    def pooling(self) -> Pooling:
        """Pooling of a name's samples that the thresholds are for."""
        return self.calibration.pooling

    @property
    def calibration(self) -> Calibration:
        """Calibration of the gallery, or else of the model.

        Raises:
            ValueError: If there is neither.
        """
        found = self.calibration_if_any()
        if not found:
            name, copy = self.embedder.name, ""
            if weights.ships(self.embedder.path):
                copy = " --images DIR --copy FOLDER, and use the copy in FOLDER as the model"
            raise ValueError(
                f"{name} has no thresholds yet: measure them on people, words or sounds that it wasn't "
                "trained on, "
                f"by quickstudy calibrate {shlex.quote(name)}{copy}"
            )
        return found

    def calibration_if_any(self) -> Calibration | None:
        """Calibration of the gallery, or else of the model, or None."""
        own = self.gallery.get_setting(CALIBRATION) if self.gallery.exists() else None
        found = own or self.embedder.manifest.get(CALIBRATION)
        return Calibration.from_dict(found) if found else None

    def enroll(self, name: str, files: Files, progress: ProgressCallback | None = None) -> Enrollment:
        """Add samples of one name.

        Args:
            name: Name to enroll the samples under, up to 200 characters.
            files: Path or paths of samples; those that can't be used are refused, and the rest enrolled.
            progress: Function called with (files done, files in total) after each batch.

        Returns:
            Numbers of new and known samples, and the refused and likely mislabelled files.

        Raises:
            ValueError: If none of the files can be used, or the name isn't valid.
        """
        return self._enroll({name: _paths(files)}, progress)

    def enroll_folder(self, root: str | Path, progress: ProgressCallback | None = None) -> Enrollment:
        """Add the samples in `root/NAME/*.jpg`, or other files that the encoder takes.

        The samples of a name are written together: if the program ends, all of them or none. Enrolling the
        same folder again continues where it stopped.

        Args:
            root: Folder whose subfolders are the names, or a zip or tar archive of it.
            progress: Function called with (files done, files in total) after each batch.

        Returns:
            Numbers of new and known samples, and the refused and likely mislabelled files.

        Raises:
            FileNotFoundError: If there are no such folders.
            ValueError: If a folder is empty, or no file can be used.
        """
        return self._enroll(find_files(Path(root), self.embedder.format), progress)

    def _enroll(self, files: dict[str, list[File]], progress: ProgressCallback | None) -> Enrollment:
        before, calibration = self._counts() if self.gallery.exists() else {}, self.calibration_if_any()
        files, refused = _by_name(files)
        name_of = {path: name for name, paths in files.items() for path in paths}
        used: list[tuple[str, File, Vectors]] = []
        digests: list[str] = []
        outside: list[str | None] = []
        parts: list[str | None] = []
        for batch in self.embedder.batches(list(files.values()), progress):
            refused += batch.refused
            outside += batch.outside
            parts += batch.used
            if not batch.files:
                continue
            rows = zip(batch.files, batch.embeddings, batch.digests, strict=True)
            samples = [(name_of[file], z, digest) for file, z, digest in rows]
            self.gallery.enroll_many(samples)
            if self.gallery.get_setting(MODEL) != self.embedder.name:  # it has none yet, or was moved
                self.gallery.put_setting(MODEL, self.embedder.name)
            used += [(name, file, z) for (name, z, _), file in zip(samples, batch.files, strict=True)]
            digests += batch.digests
        if not used:
            reasons = "; ".join(f"{r.file}: {r.reason}" for r in refused[:3])
            raise ValueError(f"none of {len(refused)} files can be enrolled: {reasons}")
        after = self._counts()
        new = {name: after.get(name, 0) - before.get(name, 0) for name in files}
        added = {name: n for name, n in new.items() if n}
        level, noun = level_of(outside), self.embedder.format.noun
        done = Enrollment(
            added,
            len(used) - sum(added.values()),
            refused,
            [],
            self._elsewhere(used, digests),
            [],
            level,
            sentence(level, outside, noun),
            summary_of(parts, noun),
        )
        if max(len(after), sum(after.values())) > CHECKED:
            return done
        alike = look_alikes(files, after)
        said = [f"{name!r} looks like {_listed(others)}, enrolled as well" for name, others in alike.items()]
        doubtful: list[Refusal] = []
        if len(after) > 1:
            z, labels, names = self.gallery.embeddings()
            if calibration:
                scorer = pooled_scores(self.embedder.energy, calibration.pooling)
                warning = warning_of_enrolled(calibration, z, labels, scorer, self.far)
                said += [warning] if warning else []
            doubtful = self._likely_mislabelled(used, calibration, z, labels, names)
        return replace(done, likely_mislabelled=doubtful, warnings=said)

    def _elsewhere(self, used: list[tuple[str, File, Vectors]], digests: list[str]) -> list[Refusal]:
        """Files that are enrolled under another name than their own, too."""
        names_of = self.gallery.names_of(digests)
        others = [
            [n for n in names_of[d] if n != name] for (name, _, _), d in zip(used, digests, strict=True)
        ]
        return [
            Refusal(file, f"is enrolled as {_listed(names)}, too")
            for (_, file, _), names in zip(used, others, strict=True)
            if names
        ]

    def _counts(self) -> dict[str, int]:
        return {entry.name: entry.samples for entry in self.gallery.names()}

    def _likely_mislabelled(
        self,
        used: list[tuple[str, File, Vectors]],
        calibration: Calibration | None,
        z: Vectors,
        labels: np.ndarray,
        names: tuple[str, ...],
    ) -> list[Refusal]:
        """Samples nearer to the mean of another name than to that of the other samples of their own.

        With thresholds, only those that would be accepted as that name, and not as their own.
        """
        cosine = self.embedder.energy == "cosine"
        # Euclidean distances keep their digits if the common mean is subtracted first
        origin = np.zeros(z.shape[1], z.dtype) if cosine else z.mean(0)
        z = z - origin
        counts = np.bincount(labels, minlength=len(names))
        rows = np.split(z, np.cumsum(counts)[:-1])
        sums = np.add.reduceat(z, np.cumsum(counts) - counts, axis=0, dtype=np.float64)
        means, at = means_of(sums, counts, cosine), {name: i for i, name in enumerate(names)}
        asked = [sample for sample in used if counts[at[sample[0]]] > 2]
        likely_mislabelled: list[Refusal] = []
        size = sizes_on().embedded_files
        for i in range(0, len(asked), size):
            part = asked[i : i + size]
            own, x = np.asarray([at[name] for name, _, _ in part]), np.stack([z for _, _, z in part]) - origin
            near = nearness(x @ means.T, means)
            # a sample's own name is judged without it
            others = means_of(sums[own] - x, counts[own] - 1, cosine)
            near[np.arange(len(part)), own] = nearness((x * others).sum(1), others)
            nearest = near.argmax(1)
            wrong = nearest != own
            if calibration:
                wrong[wrong] = self._mistaken(x[wrong], own[wrong], nearest[wrong], rows, calibration)
            likely_mislabelled += [
                Refusal(part[j][1], f"resembles {names[nearest[j]]!r} more than {part[j][0]!r}")
                for j in np.flatnonzero(wrong)
            ]
        return likely_mislabelled

    def _mistaken(
        self, x: Vectors, own: np.ndarray, other: np.ndarray, rows: list[Vectors], calibration: Calibration
    ) -> np.ndarray:
        """Whether samples would be accepted as another name, and not as their own without them, [B]."""
        scorer = pooled_scores(self.embedder.energy, calibration.pooling)

        def reached(probes: Vectors, enrolled: Vectors) -> np.ndarray:
            return scorer(enrolled[None], probes)[:, 0] >= calibration.threshold(len(enrolled), far=self.far)

        mistaken = np.zeros(len(x), bool)
        for name in np.unique(other):
            asked = np.flatnonzero(other == name)
            mistaken[asked] = reached(x[asked], rows[name])
        for j in np.flatnonzero(mistaken):
            itself = np.square(rows[own[j]] - x[j]).sum(1).argmin()
            mistaken[j] = not reached(x[j][None], np.delete(rows[own[j]], itself, 0))[0]
        return mistaken

    def verify(self, name: str, files: Files) -> Verdict:
        """Decide whether samples are of the name they claim.

        Args:
            name: Claimed name, which must be enrolled.
            files: Path of a sample, or paths of several of the same person, word or sound; the mean of their
                embeddings is compared.

        Returns:
            The decision, with score and threshold, and what may be why they are rejected.

        Raises:
            ValueError: If the name isn't enrolled, or a file can't be used.
        """
        probe, embedded = self._probes(_paths(files), together=True)
        samples = len(self.gallery.samples(name))
        calibration = self.calibration
        distance = float(self.gallery.distances(probe, name, calibration.pooling)[0])
        decided = self._decide(calibration, Match(name, distance, samples), names=1)
        noun, outside = self.embedder.format.noun, embedded.outside
        return Verdict(
            **vars(decided),
            reason=None if decided.accepted else summary_of(embedded.reasons, noun) or None,
            outside=sentence(level_of(outside), outside, noun),
            used=summary_of(embedded.used, noun),
        )

    def identify(self, files: Files, top: int = 5, together: bool = False) -> list[Identity]:
        """Find the enrolled name of each sample, or "unknown".

        The threshold rises with the number of names, so that the share of strangers who are taken for any of
        them stays the calibrated one.

        Args:
            files: Path or paths of samples.
            top: Number of candidates to return for each sample.
            together: Whether all files are of the same person, word or sound; then the mean of their
                embeddings is compared, and one identity returned.

        Returns:
            An identity for each sample.

        Raises:
            ValueError: If a file can't be used, or nothing is enrolled.
        """
        calibration = self.calibration
        embedded, matched = self._found(files, max(top, RIVALS), together, calibration.pooling)
        found: list[Identity] = []
        told = [embedded.reasons, embedded.outside, embedded.used]
        if together:
            told = [[summary_of(said, self.embedder.format.noun) or None] for said in told]
        of_each = zip(embedded.files, *told, strict=not together)
        for (path, why, outside, used), matches in zip(of_each, matched, strict=True):
            names = self.gallery.size()[0]
            decided = [self._decide(calibration, match, names) for match in matches]
            candidates = decided[:top] + [c for c in decided[top:] if c.accepted]
            best = candidates[0]
            name = best.name if best.accepted else None
            found.append(Identity(path, name, candidates, None if name else why, outside, used))
        return found

    def nearest(self, files: Files, top: int = 5, together: bool = False) -> list[tuple[File, list[Match]]]:
        """Find the names nearest to each sample, without deciding anything: it takes no thresholds.

        Args:
            files: Path or paths of samples.
            top: Number of names to return for each sample.
            together: Whether all files are of the same person, word or sound, as in `identify`.

        Returns:
            Each sample with the nearest names, nearest first; `score_of` makes a score of a distance.

        Raises:
            ValueError: If a file can't be used, or nothing is enrolled.
        """
        calibration = self.calibration_if_any()
        pooling = calibration.pooling if calibration else "centroid"
        embedded, matched = self._found(files, top, together, pooling)
        return list(zip(embedded.files, matched, strict=False))

    def _found(
        self, files: Files, top: int, together: bool, pooling: Pooling
    ) -> tuple[Embedded, list[list[Match]]]:
        """What was found out about the files, and the nearest names of each, or of all together."""
        if not self.gallery.size()[0]:
            raise ValueError(f"nothing is enrolled in {self.gallery}: enroll somebody first")
        probes, embedded = self._probes(_paths(files), together)
        return embedded, list(self.gallery.search(probes, top, pooling))

    def recalibrate(self, far: float | None = None, force: bool = False) -> Calibration:
        """Measure the thresholds on the enrolled samples themselves, and store them in the gallery.

        It takes several samples of each of many names. The thresholds stay until they are measured again.

        Args:
            far: Target false-accept rate, in (0, 0.5]; by default the previous target, a rate or a cost.
            force: Whether to replace thresholds by ones that are worse, see `refuse_worse`.

        Returns:
            The gallery's own calibration.

        Raises:
            ValueError: If names or samples are too few, or thresholds would become laxer than those of more
                identities.
        """
        before = self.calibration
        z, labels, names = self.gallery.embeddings()
        # rounded, as the same item is embedded a little otherwise among others
        once = distinct([row.tobytes() for row in np.round(z, 4) + 0.0], np.asarray(names)[labels])
        z, labels = z[once.kept], labels[once.kept]
        scorer = pooled_scores(self.embedder.energy, before.pooling)
        asked = far or self.far
        if asked is None and before.cost is not None:
            own = calibrate(z, labels, scorer, cost=before.cost, pooling=before.pooling)
        else:
            own = calibrate(z, labels, scorer, asked or before.far, pooling=before.pooling)
        own = replace(own, warnings=once.warnings + own.warnings)
        if not force:
            refuse_worse(own, before, f"the {len(z)} samples of {len(names)} names in {self.gallery}")
        trained = self.embedder.manifest.get("classes", {})
        met = sorted({*map(str, labels)} & {*(trained.get("train", ()) if isinstance(trained, dict) else ())})
        if met:
            told = f"{plural(len(met), 'enrolled name')} of classes trained on, such as {met[0]!r}"
            own = replace(own, warnings=(*own.warnings, f"{told}: of these the thresholds may be too lax"))
        self.gallery.put_setting(CALIBRATION, own.as_dict())
        return own

    def _probes(self, files: list[File], together: bool) -> tuple[Vectors, Embedded]:
        """Embeddings to compare, and all that was found out about the files."""
        embedded = self.embedder.embed_files(files)
        if embedded.refused:
            first = embedded.refused[0]
            raise ValueError(f"{first.file} can't be used: {first.reason}")
        z = embedded.embeddings
        if together:
            z = z.mean(0, keepdims=True)
            if self.embedder.energy == "cosine":
                z = unit(z)
        return z, embedded

    def _decide(self, calibration: Calibration, match: Match, names: int) -> Decision:
        score = score_of(match.distance, self.embedder.energy)
        threshold = calibration.threshold(match.samples, names, self.far)
        probability = float(calibration.probability(score, match.samples))
        supported = calibration.support(match.samples, names, self.far)
        return Decision(match.name, score >= threshold, score, threshold, probability, supported)


def _paths(files: Files) -> list[File]:
    one: Any = files  # whatever a user has given
    several = hasattr(one, "__iter__") and not isinstance(one, str | Path | Member | bytes)
    given: list[Any] = list(one) if several else [one]  # pyright: ignore[reportArgumentType]
    wrong = [f for f in given if not isinstance(f, str | Path | Member)]
    if wrong:
        kind = type(wrong[0] if isinstance(files, list | tuple) else files).__name__
        raise WrongTypeError(
            f"samples are given by the paths of their files, and this is of type {kind}: write it into a "
            "file first, such as by picture.save('sample.png')"
        )
    paths = [f if isinstance(f, Member) else Path(f) for f in given]
    if not paths:
        raise ValueError("no files are given: name one at least")
    missing = [p for p in paths if isinstance(p, Path) and not p.is_file()]
    if missing:
        raise FileNotFoundError(f"there is no file {missing[0]}")
    return paths


def _by_name(files: dict[str, list[File]]) -> tuple[dict[str, list[File]], list[Refusal]]:
    """Files by the normal form of their names, which folders may share; those of bad names are refused."""
    joined: dict[str, list[File]] = {}
    refused: list[Refusal] = []
    for name, paths in files.items():
        try:
            joined.setdefault(checked_name(name), []).extend(paths)
        except ValueError as error:
            if len(files) == 1:
                raise
            refused += [Refusal(path, str(error)) for path in paths]
    return joined, refused


def _listed(names: Sequence[str]) -> str:
    shown = [repr(name) for name in names[:3]] + (["others"] if len(names) > 3 else [])
    return " and ".join(shown)


def _embedder_of(gallery: str | Path, place: Place | None) -> Embedder:
    """The model that a gallery is used with."""
    with Gallery(gallery) as there:
        if not there.exists():
            raise FileNotFoundError(f"there is no gallery at {there} yet: name the model by --model")
        model = there.get_setting(MODEL)
    if not model:  # an imported gallery
        raise ValueError(f"{there} doesn't say which model it was enrolled with: name it by --model")
    try:
        return Embedder(model, place)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{there} was enrolled with the model at {model}, and nothing is there any more: say where it "
            "is now by --model"
        ) from None

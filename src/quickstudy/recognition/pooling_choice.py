"""Choice of the pooling of a name's samples, centroid, nearest or nearest three, by error rate."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from quickstudy.metric.verification import verification
from quickstudy.recognition.calibration import FEW, TABLE_SAMPLES, usable_samples
from quickstudy.recognition.gallery.pooling import Energy, Pooling
from quickstudy.recognition.pairs import checked, pooled_scores, score_pairs


@dataclass(frozen=True)
class Poolings:
    """Equal error rates of the poolings, and the pooling chosen by them.

    Args:
        eers: EER in [0, 1] of each pooling, by number n > 1 of samples; empty if nothing was compared.
        identities: Number of identities with genuine pairs, by n.
        asked: Pooling that was asked for, whatever the EERs are; None to choose by them.
    """

    eers: dict[int, dict[Pooling, float]]
    identities: dict[int, int]
    asked: Pooling | None = None

    @property
    def counted(self) -> list[int]:
        """Numbers of samples with at least ten identities: with fewer, which pooling is best is chance."""
        return [n for n in self.eers if self.identities[n] >= FEW]

    @property
    def means(self) -> dict[Pooling, float]:
        """Mean EER of each pooling over the numbers of samples in `counted`, or over all if none."""
        over = self.counted or list(self.eers)
        return {p: float(np.mean([self.eers[n][p] for n in over])) for p in get_args(Pooling)} if over else {}

    @property
    def chosen(self) -> Pooling:
        """Pooling asked for, else the one with the least mean EER; in a tie or without data, the centroid."""
        if self.asked or not self.counted:
            return self.asked or "centroid"
        return min(get_args(Pooling), key=self.means.__getitem__)

    def as_dict(self) -> dict[str, Any]:
        """The pooling and the EERs it was chosen by, for a manifest."""
        return {"pooling": self.chosen, "eers": {str(n): each for n, each in self.eers.items()}}

    def __str__(self) -> str:
        """`pooling nearest (EER with 2, 3, 5 samples, mean: centroid 6.80 %, nearest 6.60 %, top 7.30 %)`."""
        if not self.eers:
            return f"pooling {self.chosen} ({'as asked' if self.asked else 'too few samples to compare'})"
        few = "" if self.counted else f"fewer than {FEW} names are too few to choose by; "
        numbers = ", ".join(str(n) for n in self.counted or self.eers)
        each = ", ".join(f"{pooling} {100 * eer:.2f} %" for pooling, eer in self.means.items())
        return f"pooling {self.chosen} ({few}EER with {numbers} samples, mean: {each})"


def compare_poolings(
    embeddings: npt.ArrayLike,
    labels: npt.ArrayLike,
    energy: Energy,
    samples: Sequence[int] = TABLE_SAMPLES,
    seed: int = 0,
    sources: npt.ArrayLike | None = None,
) -> Poolings:
    """Measure the equal error rate of each pooling, on the pairs that `calibrate` uses.

    With fewer than ten identities the centroid is chosen, whatever is measured: on the four validation words
    of `words-arabic` the three nearest were best, but they did worse on the test words.

    Args:
        embeddings: Embeddings [I, D].
        labels: Identity of each item, [I].
        energy: Energy of the encoder, "cosine" or "euclidean".
        samples: Numbers of enrolled samples to compare with; those that fewer than two identities exceed are
            left out, and so is 1, for which all poolings are the same.
        seed: Seed of the random choice of enrolled samples.
        sources: Source of each item, [I]; if given, only pairs of different sources count.

    Returns:
        The equal error rates, and the pooling chosen by them.

    Raises:
        ValueError: As in `calibrate`.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> who = np.repeat(np.arange(40), 6)
        >>> z = rng.normal(size=(40, 8))[who] + rng.normal(size=(240, 8))
        >>> compare_poolings(z, who, "euclidean").chosen
        'centroid'
    """
    _, y = checked(embeddings, labels)
    eers: dict[int, dict[Pooling, float]] = {}
    identities: dict[int, int] = {}
    for n in usable_samples(y, samples):
        if n == 1:
            continue
        each: dict[Pooling, float] = {}
        for pooling in get_args(Pooling):
            pairs = score_pairs(embeddings, labels, pooled_scores(energy, pooling), n, seed, sources)
            if pairs.genuine and pairs.impostor:
                each[pooling] = verification(pairs.scores, pairs.same).eer
                identities[n] = len(np.unique(pairs.identities[pairs.same, 0]))
        if each:
            eers[n] = each
    return Poolings(eers, identities)

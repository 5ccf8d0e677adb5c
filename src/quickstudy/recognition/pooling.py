"""Which way to take the samples of a name together is best: their mean, the nearest, or the nearest three."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from quickstudy.metric.verification import verification
from quickstudy.recognition.calibration import FEW, SAMPLES, fitting
from quickstudy.recognition.gallery.pooling import Energy, Pooling
from quickstudy.recognition.pairs import checked, pooled_scores, score_pairs


@dataclass(frozen=True)
class Poolings:
    """How well each way to take the samples of a name together tells pairs apart, and which is taken.

    Args:
        eers: EER, in [0, 1], of each pooling by number of samples, n > 1; empty where nothing was compared.
        identities: that have genuine pairs, by n.
        asked: taken whatever the EERs are.
    """

    eers: dict[int, dict[Pooling, float]]
    identities: dict[int, int]
    asked: Pooling | None = None

    @property
    def counted(self) -> list[int]:
        """The numbers of samples that count: where there are fewer than ten identities, the best is luck."""
        return [n for n in self.eers if self.identities[n] >= FEW]

    @property
    def means(self) -> dict[Pooling, float]:
        """EER of each pooling, over the numbers of samples that count, or over all if none does."""
        over = self.counted or list(self.eers)
        return {p: float(np.mean([self.eers[n][p] for n in over])) for p in get_args(Pooling)} if over else {}

    @property
    def chosen(self) -> Pooling:
        """As asked, else with the least EER in the mean; of equal ones, or if none counts, the centroid."""
        if self.asked or not self.counted:
            return self.asked or "centroid"
        return min(get_args(Pooling), key=self.means.__getitem__)

    def as_dict(self) -> dict[str, Any]:
        """For a manifest: the pooling, and the EERs it was chosen by."""
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
    samples: Sequence[int] = SAMPLES,
    seed: int = 0,
    sources: npt.ArrayLike | None = None,
) -> Poolings:
    """Measure which way to take the samples of a name together is best, on the pairs that `calibrate` uses.

    Of fewer than ten identities the mean is taken, whatever is measured: chosen on the four validation words
    of `words-arabic`, it would have been the three nearest, which told the test words worse.

    Args:
        embeddings: [I, D].
        labels: [I] whose each item is.
        energy: of the encoder.
        samples: numbers of enrolled samples, as far as two identities have more; of one, all poolings are the
            same.
        seed: of the draws of enrolled samples.
        sources: as in `calibrate`.

    Raises:
        ValueError: as in `calibrate`.

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
    for n in fitting(y, samples):
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

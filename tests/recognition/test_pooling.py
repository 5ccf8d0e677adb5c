"""One score, whichever way it is computed: by the gallery, for the thresholds, or literally."""

import numpy as np
import pytest
import torch

from quickstudy.encoders.conv4 import Conv4
from quickstudy.metric.distances import cosine_distance
from quickstudy.metric.matching import Matching
from quickstudy.metric.prototypical import Prototypical
from quickstudy.metric.siamese import Siamese, WeightedL1
from quickstudy.recognition.embedder import encoder_of
from quickstudy.recognition.gallery.gallery import Gallery
from quickstudy.recognition.gallery.pooling import nearness, pooled, score_of
from quickstudy.recognition.pairs import pooled_scores


@pytest.mark.medium
@pytest.mark.parametrize("energy", ["cosine", "euclidean"])
@pytest.mark.parametrize("pooling", ["centroid", "nearest", "top"])
@pytest.mark.parametrize("samples", [1, 2, 6])
def test_the_gallery_and_the_thresholds_score_alike(tmp_path, energy, pooling, samples: int) -> None:
    rng = np.random.default_rng(samples)
    enrolled, probes = rng.normal(size=(5, samples, 8)), rng.normal(size=(4, 8))
    if energy == "cosine":
        enrolled /= np.linalg.norm(enrolled, axis=2, keepdims=True)
        probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    expected = pooled_scores(energy, pooling)(enrolled, probes)
    with Gallery(tmp_path / "people.db", encoder="e", cosine=energy == "cosine") as gallery:
        for i, rows in enumerate(enrolled):
            gallery.enroll(str(i), rows, [str(j) for j in range(samples)])
            scores = [score_of(float(d), energy) for d in gallery.distances(probes, str(i), pooling)]
            np.testing.assert_allclose(scores, expected[:, i], atol=1e-6)
        for matches, row in zip(gallery.search(probes, 5, pooling), expected, strict=True):
            found = [score_of(m.distance, energy) for m in matches]
            np.testing.assert_allclose(found, [row[int(m.name)] for m in matches], atol=1e-6)
            np.testing.assert_allclose(found, np.sort(row)[::-1], atol=1e-6)


def test_squared_distances_pool_to_the_squared_pooled_distance() -> None:
    distances = torch.rand(4, 7, dtype=torch.float64)
    for pooling in ("centroid", "nearest", "top"):
        squared = pooled(distances.square(), pooling, squared=True)
        torch.testing.assert_close(squared, pooled(distances, pooling).square())


@pytest.mark.medium
@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("squared", [False, True])
def test_large_tensors_pool_as_small_ones_do(dim: int, squared: bool) -> None:
    values = torch.rand(8, 4000, 2, dtype=torch.float64).movedim(0, dim)
    whole = pooled(values, "top", squared, dim)
    for i, part in enumerate(values.movedim(dim, 0).unbind(1)):
        torch.testing.assert_close(whole[i], pooled(part, "top", squared, 0))


def test_nearness_ranks_as_the_distance_does() -> None:
    rng = np.random.default_rng(0)
    x, rows = rng.normal(size=(6, 3)), rng.normal(size=(9, 3))
    squares = ((x[:, None] - rows) ** 2).sum(2)
    expected = ((x**2).sum(1)[:, None] - squares) / 2
    np.testing.assert_allclose(nearness(x @ rows.T, rows), expected, atol=1e-12)


def test_learners_that_embed_name_their_distance() -> None:
    encoder = Conv4()
    assert encoder_of(Prototypical(encoder)) == (encoder, "euclidean")
    assert encoder_of(Siamese(encoder)) == (encoder, "euclidean")
    assert encoder_of(Siamese(encoder, cosine_distance)) == (encoder, "cosine")


@pytest.mark.parametrize("learner", [Matching(Conv4()), Siamese(Conv4(), WeightedL1(64))])
def test_learners_of_no_named_distance_are_refused(learner) -> None:
    with pytest.raises(ValueError, match=f"^recognition takes .*{type(learner).__name__}: train"):
        encoder_of(learner)

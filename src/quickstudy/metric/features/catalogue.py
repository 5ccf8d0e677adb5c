"""The heads on features by name, as the command line takes them."""

import difflib

from quickstudy.metric.features.baseline import baseline, baseline_plus_plus
from quickstudy.metric.features.bd_cspn import bd_cspn
from quickstudy.metric.features.laplacian_shot import laplacian_shot
from quickstudy.metric.features.neighbors import nearest_neighbors
from quickstudy.metric.features.pt_map import pt_map
from quickstudy.metric.features.regression import ridge_classifier, unit_logistic_regression
from quickstudy.metric.features.simple_shot import nearest_cosine, simple_shot_cl2n, simple_shot_l2n
from quickstudy.metric.features.soft_k_means import soft_k_means
from quickstudy.metric.features.tim import tim
from quickstudy.metric.features.transductive_fine_tuning import transductive_fine_tuning
from quickstudy.metric.heads import Head, nearest_prototype

HEADS: dict[str, Head] = {
    "simpleshot-un": nearest_prototype,
    "simpleshot-l2n": simple_shot_l2n,
    "simpleshot-cl2n": simple_shot_cl2n,
    "cosine": nearest_cosine,
    "ridge": ridge_classifier,
    "logistic-regression": unit_logistic_regression,
    "knn": nearest_neighbors,
    "baseline": baseline,
    "baseline-plus-plus": baseline_plus_plus,
    "bd-cspn": bd_cspn,
    "laplacianshot": laplacian_shot,
    "tim": tim,
    "pt-map": pt_map,
    "transductive-fine-tuning": transductive_fine_tuning,
    "soft-k-means": soft_k_means,
}
"""Heads that take features as an encoder gives them, `PretrainedFeatures(encoder, HEADS[name], unit=False)`;
the inductive ones first."""


def named_head(name: str) -> Head:
    """A head by its name.

    Args:
        name: Name in `HEADS`.

    Raises:
        ValueError: If there is none; the message lists all.
    """
    if name in HEADS:
        return HEADS[name]
    near = difflib.get_close_matches(name, HEADS, 1, 0.6)
    meant = f"did you mean {near[0]}? " if near else ""
    raise ValueError(f"there is no head {name!r}: {meant}the heads are {', '.join(HEADS)}")

"""What a pool shares with what a model has met: found by content and by name, whatever the rest is called."""

import json
from dataclasses import replace

import numpy as np
import pytest

from quickstudy.data import overlap
from quickstudy.data.overlap import items_record, overlaps
from quickstudy.data.pool import ClassPool


def pool(seed: int, names: list[str], items: int = 5) -> ClassPool:
    drawn = np.random.default_rng(seed).integers(0, 256, (items * len(names), 1, 4, 4), np.uint8)
    return ClassPool.from_grouped(drawn, names, [items] * len(names), name="p", digest=f"d{seed}")


def manifest(**pools: ClassPool) -> dict:
    classes = {split: p.class_digests() for split, p in pools.items()}
    stated = {"classes": classes, "seen": {split: items_record(p) for split, p in pools.items()}}
    return json.loads(json.dumps(stated))


def test_other_items_under_other_names_share_nothing() -> None:
    met = overlaps(manifest(train=pool(0, ["a", "b"])), pool(1, ["c", "d"]), ("train",))
    assert [o.disjoint for o in met] == [True]
    assert str(met[0]) == ""


def test_the_same_items_are_found_under_other_names_and_in_other_classes() -> None:
    before = pool(0, ["a", "b"])
    again = ClassPool.from_grouped(
        np.concatenate([before.items[3:7], pool(1, ["x"]).items]), ["c", "d"], [2, 7], name="q"
    )
    (met,) = overlaps(manifest(train=before), again, ("train",))
    assert (met.items, met.of, met.exact, met.disjoint) == (4, 9, True, False)
    assert str(met) == "4 of the 9 items were trained on"


def test_other_pictures_of_a_person_who_was_trained_on_are_found_by_the_name() -> None:
    (met,) = overlaps(
        manifest(calibration=pool(0, ["ann", "ben"])), pool(1, ["ann", "cid"]), ("calibration",)
    )
    assert str(met) == "1 name of classes here is of classes calibrated on: 'ann'"


def test_of_many_items_a_sample_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "SAMPLE", 100)
    names = [f"c{i}" for i in range(40)]
    before = pool(0, names, 25)
    kept = manifest(train=before)
    assert len(kept["seen"]["train"]["digests"]) == 100 * overlap.DIGITS
    (met,) = overlaps(
        kept, replace(before.subset(range(20)), classes=tuple("x" + n for n in names[:20])), ("train",)
    )
    assert (met.items, met.of, met.exact) == (500, 500, False)
    assert str(met) == "about 500 of the 500 items were trained on"
    half = np.concatenate([before.items[:250], pool(1, names[:10], 25).items])
    (met,) = overlaps(kept, ClassPool.from_grouped(half, ["y"], [500]), ("train",))
    assert 150 < met.items < 350


def test_what_a_checkpoint_does_not_say_is_said_unless_it_is_another_split_of_the_same_data() -> None:
    old = {"data": {"name": "letters.train", "digest": "d1"}}
    here = replace(pool(1, ["a"]), name="letters.test")
    assert overlaps(old, here, ("train",))[0].disjoint
    for other in (
        replace(here, digest="d2"),
        replace(here, name="letters.train"),
        replace(here, name="folder"),
    ):
        (met,) = overlaps(old, other, ("train",))
        assert not met.disjoint
        assert str(met) == (
            "not checked whether these are classes that were trained on: the checkpoint doesn't say"
        )
    assert not overlaps({}, here, ("calibration",))[0].disjoint

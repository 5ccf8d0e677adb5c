"""Random changes of what is trained on: what each does, and that they can be repeated."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from quickstudy.data.augment.images import (
    ColorJitter,
    Compose,
    ElasticTransform,
    RandomAffine,
    RandomCrop,
    RandomHorizontalFlip,
    SameOnBatch,
)
from quickstudy.data.episodes import Episodes
from quickstudy.data.setting import Setting
from tests.data import oracle_color as oracle
from tests.support.pools import coded_pool

NOTHING = {"degrees": 0, "shear": 0, "scale": (1, 1), "shift": 0, "probability": 1}


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def blob(down: float, across: float, size: int = 41) -> torch.Tensor:
    """[1, 1, size, size] a spot so many pixels from the middle."""
    at = torch.arange(size) - size // 2
    return torch.exp(-((at - down).square()[:, None] + (at - across).square()) / 8)[None, None].double()


def middle_of(x: torch.Tensor) -> tuple[float, float]:
    """Centre of mass, in pixels from the middle."""
    down, across = (torch.arange(length) - length // 2 for length in x.shape[2:])
    mass = x[0, 0] / x.sum()
    return (mass.sum(1) * down).sum().item(), (mass.sum(0) * across).sum().item()


class Highest:
    """In the place of a generator: every draw is the highest."""

    def uniform(self, low: float, high: float, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, float(high))

    def random(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.zeros(shape)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, (4, 8)),
        ({"shift": 3}, (7, 11)),
        ({"scale": (1, 1.5)}, (6, 12)),
        ({"degrees": 90}, (8, -4)),  # clockwise, as rows run downwards
        ({"shear": 0.5}, (8, 10)),  # across + ½ down, down + ½ across
        ({"scale": (1, 1.25), "shift": 2}, (7, 12)),  # about the middle first, then shifted
    ],
)
def test_each_change_moves_a_spot_where_it_should(
    change: dict[str, object], expected: tuple[int, int]
) -> None:
    moved = RandomAffine(**(NOTHING | change))(blob(4, 8), Highest())  # type: ignore[arg-type]
    assert middle_of(moved) == pytest.approx(expected, abs=0.05)


def test_nothing_to_change_changes_nothing() -> None:
    x = torch.rand(5, 3, 9, 9)
    torch.testing.assert_close(RandomAffine(**NOTHING)(x, rng()), x)  # type: ignore[arg-type]
    torch.testing.assert_close(RandomAffine(probability=0)(x, rng()), x)


def test_pictures_are_changed_each_for_itself_and_channels_alike() -> None:
    x = torch.rand(1, 1, 9, 9).expand(6, 2, 9, 9)
    changed = RandomAffine(probability=1)(x, rng())
    assert changed.shape == x.shape
    torch.testing.assert_close(changed[:, 0], changed[:, 1])
    assert len({tuple(one.flatten().tolist()) for one in changed}) == 6


def test_half_of_the_changes_are_made() -> None:
    kept = RandomAffine(**(NOTHING | {"shift": 4, "probability": 0.5}))(
        blob(0, 0).expand(2000, 1, 41, 41), rng()
    )  # type: ignore[arg-type]
    unmoved = (kept - blob(0, 0)).abs().amax((1, 2, 3)) < 1e-9
    assert unmoved.float().mean().item() == pytest.approx(0.25, abs=0.04)  # neither axis


@pytest.mark.parametrize(
    "wrong",
    [
        {"degrees": -1},
        {"shear": -0.1},
        {"shift": -2},
        {"scale": (0, 1)},
        {"scale": (1.2, 1)},
        {"probability": 2},
    ],
)
def test_a_wrong_range_is_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RandomAffine(**wrong)  # type: ignore[arg-type]


class Given(Highest):
    """The same, and normal draws are what was given, spread over the shape asked for."""

    def __init__(self, field: np.ndarray) -> None:
        self.field = field

    def standard_normal(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.broadcast_to(self.field, shape)


def test_an_elastic_change_moves_a_spot_by_what_is_drawn_at_the_nodes() -> None:
    """Cubics through nodes on a line are that line, so what is between is known; x comes first."""
    sideways, x = np.array([1.0, 0.0])[:, None, None], F.pad(blob(4, 8), (0, 20))
    before = torch.tensor(middle_of(x))
    moved = torch.tensor(middle_of(ElasticTransform(3.0)(x, Given(sideways))))  # type: ignore[arg-type]
    assert (moved - before).tolist() == pytest.approx([0, -3], abs=0.05)  # what is 3 to the right comes here
    down = np.array([0.0, 1.0])[:, None, None]
    moved = torch.tensor(middle_of(ElasticTransform(3.0)(x, Given(down))))  # type: ignore[arg-type]
    assert (moved - before).tolist() == pytest.approx([-3, 0], abs=0.05)
    bent = np.stack([np.zeros((4, 4)), np.tile([-1.0, 1.0, -1.0, 1.0], (4, 1))])
    left, right = (middle_of(ElasticTransform(4.0)(blob(0, at), Given(bent)))[0] for at in (-7, 7))  # type: ignore[arg-type]
    assert left == pytest.approx(-4, abs=0.5)
    assert right == pytest.approx(4, abs=0.5)


def test_elastic_changes_are_smooth_and_each_picture_has_its_own() -> None:
    ramp = torch.linspace(0, 1, 40).expand(2000, 1, 40, 40).contiguous()
    bent = ElasticTransform(2.0)(ramp, rng())
    inner = (bent - ramp)[:, 0, 8:-8, 8:-8] * 39  # how far aside, in pixels: the ramp runs across
    assert inner.diff(dim=1).std() < 0.25 * inner.std(), "neighbours move nearly alike"
    middle = inner[:, 12, 12]
    assert middle.std().item() == pytest.approx(2 / 3**0.5 * 0.65, rel=0.15)  # less between the nodes
    assert middle.unique().numel() > 1990
    torch.testing.assert_close(ElasticTransform(0.0)(ramp[:3], rng()), ramp[:3])


@pytest.mark.parametrize("wrong", [{"amplitude": -1.0}, {"nodes": 1}])
def test_a_wrong_bend_is_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        ElasticTransform(**wrong)  # type: ignore[arg-type]


def test_alike_changes_every_item_as_it_would_one() -> None:
    x = torch.rand(5, 3, 1, 9, 9).double()
    change = Compose((RandomAffine(probability=1), ElasticTransform(), RandomHorizontalFlip()))
    found = SameOnBatch(change)(x, rng())
    assert found.shape == x.shape
    for n in range(5):
        for b in range(3):
            torch.testing.assert_close(found[n, b], change(x[n, b][None], rng())[0])


def test_tasks_are_each_changed_in_another_way_and_their_classes_alike() -> None:
    pool = coded_pool([9] * 8)
    plain, turned = (
        Episodes(pool, Setting(4, 1, 2), tasks=30, seed=2, augment_classes=change)[0]
        for change in (None, SameOnBatch(RandomHorizontalFlip()))
    )
    mirrored = [
        [torch.equal(t, p) for t, p in zip(*pair, strict=True)]
        for pair in zip(turned.query_x, plain.query_x, strict=True)
    ]
    assert {len(set(task)) for task in mirrored} == {1}
    assert {task[0] for task in mirrored} == {True, False}


def test_episodes_are_changed_task_by_task_and_can_be_repeated() -> None:
    pool = coded_pool([9] * 6)
    plain = Episodes(pool, Setting(3, 1, 2, 1), tasks=4, seed=2)

    def noisy(x: torch.Tensor, source: np.random.Generator) -> torch.Tensor:
        return x + torch.from_numpy(source.random(x.shape)).to(x)

    noised = Episodes(pool, Setting(3, 1, 2, 1), tasks=4, seed=2, augment=noisy).on("cpu")
    once, again, before = noised[5], noised[5], plain[5]
    for name in ("support", "query"):
        one, two, unchanged = (
            e.query_x if name == "query" else torch.cat([e.support.x, e.support.unlabelled], 1)
            for e in (once, again, before)
        )
        assert torch.equal(one, two)
        changes = one - unchanged
        assert changes.flatten(1).unique().numel() > changes.numel() * 0.99  # no draw comes twice
    torch.testing.assert_close(noised.part(5, 1, 3).query_x, once.query_x[1::3])
    assert noised.part(5, 5, 6).tasks == 0
    assert not torch.equal(noised[6].query_x - plain[6].query_x, once.query_x - before.query_x)


def test_all_items_of_a_class_are_changed_alike() -> None:
    pool, setting = coded_pool([9] * 8), Setting(3, 1, 2, 2, distractors=2)

    def alike(x: torch.Tensor, source: np.random.Generator) -> torch.Tensor:
        assert x.shape[:2] == (3, 5)
        return x + torch.from_numpy(source.random((len(x), *[1] * (x.ndim - 1)))).to(x)

    plain = Episodes(pool, setting, tasks=4, seed=2)
    other = Episodes(pool, setting, tasks=4, seed=2, augment_classes=alike).on("cpu")
    before, once, again = plain[5], other[5], other[5]
    changes = []
    labels = {"support": before.support.y, "query": before.query_y, "unlabelled": plain.unlabelled_y(5)}
    for kind, items in (("support", 1), ("query", 2), ("unlabelled", 2)):
        x, y, z = (
            {"support": e.support.x, "query": e.query_x, "unlabelled": e.support.unlabelled}[kind]
            for e in (before, once, again)
        )
        assert torch.equal(y, z)
        by_class = labels[kind].argsort(dim=1, stable=True)
        change = (y - x)[torch.arange(4)[:, None], by_class].flatten(2)
        assert not change[:, 3 * items :].any(), "distractors stay as they are"
        changes.append(change[:, : 3 * items].unflatten(1, (3, items)))
    changes = torch.cat(changes, 2)  # [T, N, B, ...]
    torch.testing.assert_close(changes, changes[:, :, :1, :1].expand_as(changes))
    assert changes[:, :, 0, 0].unique().numel() == 12, "each class in a way of its own"
    assert torch.equal(once.query_y, before.query_y)
    torch.testing.assert_close(other.part(5, 1, 3).query_x, once.query_x[1::3])
    assert other.part(5, 5, 6).tasks == 0


# Pictures in color


@pytest.mark.parametrize("mode", ["reflect", "zeros"])
@pytest.mark.parametrize(("padding", "shape"), [(4, (3, 9, 9)), (2, (1, 5, 8)), (0, (3, 4, 4))])
def test_a_crop_is_of_the_padded_picture(mode: str, padding: int, shape: tuple[int, ...]) -> None:
    x = torch.rand(40, *shape, dtype=torch.float64)
    before = x.clone()
    cropped = RandomCrop(padding, mode)(x, rng())  # type: ignore[arg-type]
    down, across = rng().integers(0, 2 * padding + 1, (2, 40))
    expected = [
        oracle.crop(one, padding, y, z, mode) for one, y, z in zip(x.numpy(), down, across, strict=True)
    ]
    np.testing.assert_array_equal(cropped.numpy(), np.stack(expected))
    assert cropped.is_contiguous()
    assert torch.equal(x, before)


def test_crops_are_shifted_by_every_step_alike() -> None:
    down = (RandomCrop(2)(torch.arange(9.0).view(1, 1, 9, 1).expand(5000, 1, 9, 9), rng())[:, 0, 4, 0]).int()
    shares = down.bincount(minlength=9) / 5000
    assert shares[2:7].tolist() == pytest.approx([0.2] * 5, abs=0.03)
    assert shares.sum() == pytest.approx(shares[2:7].sum())


def test_crops_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="padding is -1: it must be at least 0"):
        RandomCrop(-1)
    with pytest.raises(ValueError, match="mode is 'wrap': it must be 'reflect' or 'zeros'"):
        RandomCrop(mode="wrap")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="padding is 4, but images of 4 × 9 pixels can be mirrored by less"):
        RandomCrop(4)(torch.rand(2, 3, 4, 9), rng())
    assert RandomCrop(4, "zeros")(torch.rand(2, 3, 4, 9), rng()).shape == (2, 3, 4, 9)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("most", [(0.4, 0.4, 0.4), (0.9, 0, 2), (0, 1.5, 0)])
def test_jitter_is_that_of_the_oracle(channels: int, most: tuple[float, float, float]) -> None:
    x = torch.rand(50, channels, 6, 7, dtype=torch.float64)
    before = x.clone()
    changed = ColorJitter(*most)(x, rng())
    drawn, spread = rng(), np.array(most)
    factors = drawn.uniform(np.maximum(0, 1 - spread), 1 + spread, (50, 3))
    orders = drawn.permuted(np.tile(np.arange(3), (50, 1)), axis=1)
    expected = [
        oracle.jitter(one, f, o)
        for one, f, o in zip(x.numpy(), factors.tolist(), orders.tolist(), strict=True)
    ]
    np.testing.assert_allclose(changed.numpy(), np.stack(expected), atol=1e-12)
    assert len({tuple(o) for o in orders.tolist()}) == 6
    assert torch.equal(x, before)


def test_jitter_without_strength_changes_nothing() -> None:
    x = torch.rand(5, 3, 8, 8)
    assert torch.equal(ColorJitter(0, 0, 0)(x, rng()), x)


def test_a_negative_jitter_is_refused() -> None:
    with pytest.raises(ValueError, match=r"contrast=-0\.1.*: brightness, contrast and saturation must be"):
        ColorJitter(contrast=-0.1)


@pytest.mark.torchvision
def test_jitter_is_that_of_torchvision() -> None:
    tv = pytest.importorskip("torchvision.transforms.functional")
    x = np.random.default_rng(0).random((3, 6, 7))
    for ours, theirs in (
        (oracle.brightness, tv.adjust_brightness),
        (oracle.contrast, tv.adjust_contrast),
        (oracle.saturation, tv.adjust_saturation),
    ):
        for factor in (0.0, 0.4, 1.0, 1.9):
            np.testing.assert_allclose(
                ours(x, factor), theirs(torch.from_numpy(x), factor).numpy(), atol=1e-7
            )


def test_color_changes_of_episodes_can_be_repeated() -> None:
    change = Compose((RandomCrop(1), ColorJitter()))
    episodes = Episodes(coded_pool([9] * 6), Setting(5, 1, 2), tasks=2, augment=change)
    assert torch.equal(episodes[3].query_x, episodes[3].query_x)

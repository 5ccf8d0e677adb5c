"""miniImageNet, tieredImageNet, CUB and several data sets side by side: small made-up copies."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quickstudy import data
from quickstudy.data.datasets.layouts import dataset_of, folder_pool, side_by_side
from quickstudy.data.episodes import Episodes
from quickstudy.data.formats.images import ImageFormat
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting
from quickstudy.recipes.own_pictures import prototypical_images

FORM = ImageFormat(8, 3)
CLASSES = [f"n0{i}" for i in range(8)]
SPLIT = {"train": CLASSES[:4], "validation": CLASSES[4:6], "test": CLASSES[6:]}
SHORT = {"train": "train", "validation": "val", "test": "test"}


def picture(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 9), (shade, 0, 0)).save(path)


def listed(root: Path, nested: bool, ending: str = "csv") -> None:
    """Pictures in `images/`, and lists of them."""
    for s, classes in SPLIT.items():
        lines = ["filename,label"] if ending == "csv" else []
        for c in classes:
            for i in range(3):
                name = f"{c}{i:04}.jpg"
                picture(root / "images" / (f"{c}/{name}" if nested else name), 10 * int(c[-1]) + i)
                lines.append(f"{name},{c}" if ending == "csv" else f"{c}/{name}")
        (root / f"{SHORT[s]}.{ending}").write_text("\r\n".join(lines) + "\n", encoding="utf-8-sig")


def by_split(root: Path) -> None:
    for s, classes in SPLIT.items():
        for c in classes:
            for i in range(3):
                picture(root / SHORT[s] / c / f"{i}.png", 10 * int(c[-1]) + i)


def check(pool: ClassPool) -> None:
    for s, classes in SPLIT.items():
        assert pool.split(s).classes == tuple(classes)
    assert pool.counts.tolist() == [3] * 8
    for c in CLASSES:
        assert np.abs(pool.of_class(c)[:, 0, 4, 4] - 10.0 * int(c[-1]) - [0, 1, 2]).max() <= 2


LAYOUTS: list[Callable[[Path], None]] = [
    lambda root: listed(root, nested=False),
    lambda root: listed(root, nested=True),
    by_split,
]


@pytest.mark.parametrize("lay_out", LAYOUTS)
@pytest.mark.parametrize(
    ("load", "folder", "name"),
    [
        (data.mini_imagenet, "mini_imagenet", "mini-imagenet"),
        (data.tiered_imagenet, "tiered_imagenet", "tiered-imagenet"),
    ],
)
def test_the_usual_layouts(
    load: Callable[..., ClassPool], folder: str, name: str, lay_out: Callable[[Path], None], tmp_path: Path
) -> None:
    lay_out(tmp_path / folder)
    pool = load(tmp_path, size=8)
    check(pool)
    assert pool.name == name
    assert pool.items.shape == (24, 3, 8, 8)
    check(folder_pool(tmp_path / folder, FORM)())  # as `--set images=` does


def test_lists_of_classes_and_of_paths(tmp_path: Path) -> None:
    listed(tmp_path / "mini_imagenet", nested=True, ending="txt")
    check(data.mini_imagenet(tmp_path, size=8))
    for s, classes in SPLIT.items():
        (tmp_path / "mini_imagenet" / f"{SHORT[s]}.txt").write_text("\n".join(classes))
    check(data.mini_imagenet(tmp_path, size=8))


def test_columns_in_another_order_and_paths_with_folders(tmp_path: Path) -> None:
    root = tmp_path / "mini_imagenet"
    listed(root, nested=True)
    for s in SPLIT:
        path = root / f"{SHORT[s]}.csv"
        rows = [line.split(",") for line in path.read_text("utf-8-sig").splitlines()[1:]]
        path.write_text("id,label,filename\n" + "\n".join(f"0,{c},../images/{c}/{f}" for f, c in rows))
    check(data.mini_imagenet(tmp_path, size=8))


def test_a_split_of_ones_own_goes_before_that_of_the_layout(tmp_path: Path) -> None:
    by_split(tmp_path / "mine")
    pool = folder_pool(tmp_path / "mine", FORM, (0, 0, 1))()
    assert len(pool.split("test")) == 8
    pool = folder_pool(tmp_path / "mine", FORM, {"train": CLASSES[:1], "test": CLASSES[1:]})()
    assert pool.split("train").classes == ("n00",)


def test_what_is_wrong_with_lists_and_folders(tmp_path: Path) -> None:
    root = tmp_path / "mini_imagenet"
    with pytest.raises(
        FileNotFoundError, match=r"no miniImageNet at .*: put images/.* there, or name another"
    ):
        data.mini_imagenet(tmp_path)
    root.mkdir()
    (root / "mini-imagenet-cache-train.pkl").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"no miniImageNet that is understood \(mini-.*pkl is not read: a pickle"
    ):
        data.mini_imagenet(tmp_path)
    listed(root, nested=False)
    (root / "images" / "n000001.jpg").unlink()
    with pytest.raises(
        ValueError, match=r"train.csv lists pictures, of which 1 of 12, e.g. n000001.jpg, are not in"
    ):
        data.mini_imagenet(tmp_path)
    (root / "train.csv").write_text("filename,label\nn010001.jpg,n01\n")
    (root / "val.csv").write_text("filename,label\nn010001.jpg,n01\n")
    with pytest.raises(
        ValueError, match=r"class 'n01' of .* is in both train and validation: splits share no"
    ):
        data.mini_imagenet(tmp_path)
    (root / "val.csv").write_text("filename,label\n")
    with pytest.raises(ValueError, match=r"val.csv lists pictures, of which none is in"):
        data.mini_imagenet(tmp_path)
    (root / "val.csv").write_text("id,filename,label\n5\n")
    with pytest.raises(ValueError, match=r"line 2 of .*val.csv has 1 column: expected filename,label"):
        data.mini_imagenet(tmp_path)
    (root / "val.csv").write_text("n99\n")
    with pytest.raises(ValueError, match=r"val.csv lists pictures, of which 1 of 1, e.g. n99, are not in"):
        data.mini_imagenet(tmp_path)


def test_a_list_names_nothing_outside_of_the_folder(tmp_path: Path) -> None:
    root = tmp_path / "mini_imagenet"
    listed(root, nested=False)
    picture(tmp_path / "secret.jpg", 0)
    (root / "val.csv").write_text(f"filename,label\n../secret.jpg,a\n{tmp_path}/secret.jpg,a\n")
    with pytest.raises(ValueError, match="2 of 2"):
        data.mini_imagenet(tmp_path)


# CUB


BIRDS = [f"{i + 1:03}.Bird{i}" for i in range(8)]


def birds(root: Path) -> Path:
    folder = root / "CUB_200_2011"
    for i, c in enumerate(BIRDS):
        for j in range(2):
            picture(folder / "images" / c / f"Bird{i}_{j}.jpg", 10 * i)
    (folder / "images.txt").write_text("1 001.Bird0/Bird0_0.jpg\n")
    return folder


def test_cub_without_lists_is_split_by_the_rule(tmp_path: Path) -> None:
    birds(tmp_path)
    pool = data.cub(tmp_path, size=8)
    assert pool.name == "cub"
    assert pool.split("train").classes == tuple(BIRDS[::2])
    assert pool.split("validation").classes == (BIRDS[1], BIRDS[5])
    assert pool.split("test").classes == (BIRDS[3], BIRDS[7])


def test_cub_by_the_lists_of_chen(tmp_path: Path) -> None:
    folder = birds(tmp_path)
    for name, classes in (("base", BIRDS[:5]), ("val", BIRDS[5:6]), ("novel", BIRDS[6:])):
        files = [f"/home/them/CUB_200_2011/images/{c}/{c[4:]}_0.jpg" for c in classes]
        content = {"label_names": BIRDS, "image_names": files, "image_labels": [0] * len(files)}
        (folder / f"{name}.json").write_text(json.dumps(content))
    pool = data.cub(tmp_path, size=8)
    assert pool.split("test").classes == tuple(BIRDS[6:])
    assert pool.counts.tolist() == [1] * 8, "only what is listed"
    (folder / "novel.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"novel.json is no list of pictures: expected \{\"image_names\""):
        data.cub(tmp_path)


def test_cub_by_lists_in_a_folder_of_their_own(tmp_path: Path) -> None:
    folder = birds(tmp_path)
    (folder / "split").mkdir()
    for name, classes in (("train", BIRDS[:5]), ("val", BIRDS[5:6]), ("test", BIRDS[6:])):
        lines = [f"{c[4:]}_{j}.jpg,{c}" for c in classes for j in range(2)]
        (folder / "split" / f"{name}.csv").write_text("\n".join(["filename,label", *lines]))
    pool = data.cub(tmp_path, size=8)
    assert pool.split("train").classes == tuple(BIRDS[:5])
    assert pool.counts.tolist() == [2] * 8


# Side by side


def several(root: Path) -> None:
    for name, classes in (("birds", 6), ("planes", 4), ("fungi", 5)):
        for c in range(classes):
            for i in range(3):
                picture(root / name / f"c{c}" / f"{i}.png", 10 * c + i)
    shutil.make_archive(str(root / "fungi"), "zip", root / "fungi")
    shutil.rmtree(root / "fungi")


def test_several_data_sets(tmp_path: Path) -> None:
    several(tmp_path / "all")
    pool = side_by_side(tmp_path / "all", FORM)
    assert len(pool) == 15
    assert {dataset_of(c) for c in pool.classes} == {"birds", "planes", "fungi"}
    assert {dataset_of(c) for c in pool.split("test").classes} == {"birds", "planes", "fungi"}
    episodes = Episodes(pool, Setting(4, 1, 1), tasks=50, group=dataset_of)
    drawn = np.searchsorted(pool.starts, episodes.indices(0)[:, :, 0], side="right") - 1
    of_tasks = [{dataset_of(pool.classes[c]) for c in classes} for classes in drawn.tolist()]
    assert all(len(names) == 1 for names in of_tasks)
    assert len(set.union(*of_tasks)) == 3


def test_data_sets_or_classes_as_splits(tmp_path: Path) -> None:
    several(tmp_path / "all")
    split = {"train": ["birds"], "validation": ["planes/c0"], "test": ["fungi", "planes/c1"]}
    pool = side_by_side(tmp_path / "all", FORM, split)
    assert {dataset_of(c) for c in pool.split("train").classes} == {"birds"}
    assert len(pool.split("test")) == 6
    with pytest.raises(ValueError, match=r"names 1 class without a folder, e.g. 'cats'"):
        side_by_side(tmp_path / "all", FORM, {"train": ["cats"]})
    with pytest.raises(
        FileNotFoundError, match="is no folder: name one that holds a folder for each data set"
    ):
        side_by_side(tmp_path / "none", FORM)
    (tmp_path / "all" / "fungi").mkdir()
    picture(tmp_path / "all" / "fungi" / "c0" / "0.png", 0)
    with pytest.raises(ValueError, match="holds two data sets named fungi: rename or remove one"):
        side_by_side(tmp_path / "all", FORM)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no data sets: expected empty/DATASET/CLASS"):
        side_by_side(tmp_path / "empty", FORM)


def test_recipes_take_them(tmp_path: Path) -> None:
    several(tmp_path / "all")
    (tmp_path / "all" / "fungi.zip").unlink()
    recipe = prototypical_images(tmp_path / "all", size=8, within=True)
    assert recipe.group is dataset_of
    assert len(recipe.pool()) == 10
    assert {dataset_of(c) for c in recipe.pool().split("validation").classes} == {"birds", "planes"}
    by_split(tmp_path / "mine")
    check(prototypical_images(tmp_path / "mine", size=8).pool())
    assert prototypical_images(tmp_path / "mine").group is None


def test_folders_of_classes_stay_what_they_are(tmp_path: Path) -> None:
    for c in ("train", "test", "ship"):  # things that are called so
        picture(tmp_path / "toys" / c / "1.png", 5)
    (tmp_path / "toys" / "train.csv").write_text("id,price\n1,2\n")
    (tmp_path / "toys" / "test.csv").write_text("id,price\n1,2\n")
    assert sorted(folder_pool(tmp_path / "toys", FORM)().classes) == ["ship", "test", "train"]

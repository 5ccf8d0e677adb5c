"""miniImageNet, tieredImageNet and CUB, from the layouts in which people have them; nothing is fetched.

The first two are of ImageNet (Russakovsky et al. 2015), CUB is Caltech-UCSD Birds 200-2011 (Wah et al. 2011);
their pictures are for research only.
"""

from pathlib import Path

from quickstudy.core.progress import ProgressCallback
from quickstudy.data.cache import data_root, present
from quickstudy.data.datasets.folders import find_files
from quickstudy.data.datasets.layouts import Layout, find_layout, pool_of_layout
from quickstudy.data.formats.images import ImageFormat
from quickstudy.data.pool import ClassPool

LICENCE = "research only, ImageNet"
CUB_LICENCE = "research only, Caltech-UCSD Birds 200-2011"
MINI, TIERED, CUB = "mini_imagenet", "tiered_imagenet", "CUB_200_2011"
"""Folders in the data root."""


def mini_imagenet(
    root: str | Path | None = None, size: int = 84, progress: ProgressCallback | None = None
) -> ClassPool:
    """Load miniImageNet: 100 classes of 600 pictures, 64 for training, 16 for validation, 20 for the test.

    Args:
        root: Data root, the folder that holds `mini_imagenet`, in one of two layouts: `images/*.jpg`, or
            `images/CLASS/*.jpg`, with the lists of Ravi and Larochelle, `train.csv`, `val.csv` and `test.csv`
            (columns filename and label); or `train/CLASS/*.jpg`, `val/…` and `test/…`. None for the default
            of `data_root`.
        size: Height and width in pixels.
        progress: Function that is called with (done, total) while decoding.

    Raises:
        FileNotFoundError: If the folder is missing.
        ValueError: If it is in none of the layouts, or a list names pictures that aren't there.

    Reference: Vinyals et al. 2016; the split is that of Ravi, Larochelle 2017.
    """
    what = "images/*.jpg with train.csv, val.csv and test.csv, or train/, val/ and test/ of class folders"
    return _pool(MINI, "miniImageNet", what, root, size, progress)


def tiered_imagenet(
    root: str | Path | None = None, size: int = 84, progress: ProgressCallback | None = None
) -> ClassPool:
    """Load tieredImageNet: 608 classes of about 1,300 pictures, split 351 / 97 / 160 by their superclasses.

    Args:
        root: Data root, the folder that holds `tiered_imagenet/train/CLASS/*.jpg`, `val/…` and `test/…`, or
            the lists of `mini_imagenet`; None for the default of `data_root`.
        size: Height and width in pixels.
        progress: Function that is called with (done, total) while decoding.

    Raises:
        FileNotFoundError: If the folder is missing.
        ValueError: If it is in none of the layouts, or a list names pictures that aren't there.

    Reference: Ren et al. 2018.
    """
    return _pool(TIERED, "tieredImageNet", "train/, val/ and test/ of class folders", root, size, progress)


def cub(
    root: str | Path | None = None, size: int = 84, progress: ProgressCallback | None = None
) -> ClassPool:
    """Load CUB: 200 species of birds, 11,788 pictures, 100 for training, 50 for validation, 50 for the test.

    The split is that of lists beside the pictures, if there are such: `base.json`, `val.json` and
    `novel.json` of Chen et al., or `train.csv`, `val.csv` and `test.csv` (columns filename and label), or
    `.txt`. Without lists it is the rule by which Chen et al. made theirs: of the species in the order of
    their names, every second is for training, and the others by turns for validation and test.

    Args:
        root: Data root, the folder that holds `CUB_200_2011` as it is unpacked: `images/CLASS/*.jpg`, with
            lists in it or in `split/`; None for the default of `data_root`.
        size: Height and width in pixels.
        progress: Function that is called with (done, total) while decoding.

    Raises:
        FileNotFoundError: If the folder is missing.
        ValueError: If it is laid out in another way, or a list names pictures that aren't there.

    Reference: Chen et al. 2019, "A closer look at few-shot classification".

    Departures: whole pictures; some papers crop the birds by their bounding boxes.
    """
    form = ImageFormat(size, 3)
    folder = present(data_root(root) / CUB, "CUB", "images/CLASS/*.jpg, as CUB_200_2011.tgz has them")
    layout = find_layout(folder, form, lists=True)
    if layout is None or not layout.splits:
        files = find_files(folder / "images" if (folder / "images").is_dir() else folder, form)
        names = sorted(files)
        splits = {"train": names[::2], "validation": names[1::4], "test": names[3::4]}
        layout = Layout(files, splits)
    return pool_of_layout(folder, layout, form, progress=progress, name="cub")


def _pool(
    folder_name: str,
    what: str,
    content: str,
    root: str | Path | None,
    size: int,
    progress: ProgressCallback | None,
) -> ClassPool:
    form = ImageFormat(size, 3)
    folder = present(data_root(root) / folder_name, what, content)
    layout = find_layout(folder, form, lists=True)
    if layout is None or not layout.splits:
        pickled = next((p for p in sorted(folder.iterdir()) if p.suffix in (".pkl", ".pickle", ".npz")), None)
        instead = f" ({pickled.name} is not read: a pickle can run any program)" if pickled else ""
        raise ValueError(f"{folder} is no {what} that is understood{instead}: put {content} there")
    return pool_of_layout(folder, layout, form, progress=progress, name=folder_name.replace("_", "-"))

"""Telling a user's own pictures apart: support folders name the classes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from quickstudy import checkpoint
from quickstudy.data.episodes import floats
from quickstudy.data.folders import find_images, images_in, report_bad
from quickstudy.data.images import ImageFormat, Progress, decode_images
from quickstudy.episode import Support
from quickstudy.learner import Learner
from quickstudy.learners.inner import InnerLoop


@dataclass(frozen=True)
class Prediction:
    """What a picture was taken for.

    Args:
        file: the picture.
        label: the likeliest class.
        probabilities: of every class, by name; they sum to 1.
    """

    file: Path
    label: str
    probabilities: dict[str, float]


@torch.no_grad()
def predict_folders(
    learner: Learner,
    image_format: ImageFormat,
    support: str | Path,
    query: str | Path,
    *,
    skip_corrupt: bool = False,
    save: str | Path | None = None,
    progress: Progress | None = None,
) -> list[Prediction]:
    """Classify pictures by a handful of labelled ones.

    Args:
        learner: trained.
        image_format: what its encoder takes.
        support: `support/CLASS/*.jpg`, the labelled pictures; two classes at least, any number in each.
        query: a picture, or a folder of pictures.
        skip_corrupt: leave out pictures that can't be read, with a warning, instead of an error.
        save: write the model as adapted to the support here, for learners of an initialisation: an ordinary
            `state_dict` as safetensors, with the names of the classes in its manifest (`checkpoint.load`).
        progress: called with (done, total) while decoding.

    Returns:
        One prediction a query picture, in the order of their names.

    Raises:
        FileNotFoundError, ValueError, OSError: if folders are absent or empty, or pictures can't be read, or
            there are no adapted weights to save.
    """
    if save and not isinstance(learner, InnerLoop):
        raise ValueError(
            f"{type(learner).__name__} learners adapt no weights, so there are none to save: leave out --save"
        )
    files = find_images(Path(support))
    if len(files) < 2:
        raise ValueError(f"{support} holds one class folder: telling classes apart takes two at least")
    queries = _queries(Path(query))
    labelled = [(i, p) for i, found in enumerate(files.values()) for p in found]
    paths = [p for _, p in labelled] + queries
    items = np.empty((len(paths), *image_format.shape), np.uint8)
    bad = decode_images(paths, image_format, items, progress)
    if bad:
        report_bad({paths[i]: reason for i, reason in sorted(bad.items())}, len(paths), skip_corrupt)
    good = [i for i in range(len(labelled)) if i not in bad]
    y = torch.tensor([[labelled[i][0] for i in good]])
    for i, name in enumerate(files):
        if i not in y:
            raise ValueError(f"no picture of class {name!r} can be read: mend or remove its folder")
    asked = [i for i in range(len(labelled), len(paths)) if i not in bad]
    if not asked:
        raise ValueError(f"no picture of {query} can be read")
    x = floats(torch.from_numpy(items).to(learner.device)).unsqueeze(0)  # one task
    labelled_items = Support(x[:, good], y.to(learner.device), len(files))
    scores = learner.eval().predict(labelled_items, x[:, asked])[0]
    names = list(files)
    if save and isinstance(learner, InnerLoop):
        weights = learner.adapted(labelled_items).state_dict()
        checkpoint.save(Path(save), weights, {"classes": names, "items": image_format.as_dict()})
    return [
        Prediction(paths[i], names[int(np.argmax(p))], dict(zip(names, p, strict=True)))
        for i, p in zip(asked, scores.softmax(-1).tolist(), strict=True)
    ]


def _queries(query: Path) -> list[Path]:
    if query.is_file():
        return [query]
    if not query.is_dir():
        raise FileNotFoundError(f"there is no picture or folder {query}")
    if not (found := images_in(query)):
        raise ValueError(f"{query} holds no pictures")
    return found

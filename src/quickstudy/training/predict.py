"""Classifying a user's own pictures or clips, with a folder of labelled examples for each class."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn

from quickstudy.core import checkpoint
from quickstudy.core.contracts import check_weights
from quickstudy.core.episode import Support
from quickstudy.core.learner import Learner, evaluation_mode
from quickstudy.core.progress import ProgressCallback
from quickstudy.data.datasets.folders import files_in, find_files, is_folder, report_bad
from quickstudy.data.formats.archives import File
from quickstudy.data.formats.items import ItemFormat, decode_items, floats


@dataclass(frozen=True)
class Prediction:
    """Predicted class of a picture or clip.

    Args:
        file: Path of the picture or clip, or the member of an archive.
        label: Name of the most likely class.
        probabilities: Probability of every class, by name; they sum to 1.
    """

    file: File
    label: str
    probabilities: dict[str, float]


@runtime_checkable
class Adapts(Protocol):
    """A learner that adapts the weights of a model to each task, such as those with an inner loop."""

    def adapted(self, support: Support) -> nn.Module:
        """The model with weights adapted to one task, as an ordinary module in evaluation mode."""
        ...


@torch.no_grad()
def predict_folders(
    learner: Learner,
    item_format: ItemFormat,
    support: str | Path,
    query: str | Path,
    *,
    skip_corrupt: bool = False,
    save: str | Path | None = None,
    progress: ProgressCallback | None = None,
) -> list[Prediction]:
    """Classify pictures or clips by a few labelled examples of each class.

    Args:
        learner: Trained learner.
        item_format: Format of the items that the learner's encoder takes.
        support: Folder of the labelled examples, `support/CLASS/*.jpg`, with two classes at least and any
            number of examples in each; or a zip or tar archive of it.
        query: File to classify, or a folder or archive of files.
        skip_corrupt: Whether to leave out unreadable files with a warning, instead of raising an error.
        save: Path for the model as adapted to the support, for learners that adapt one. It is written as an
             ordinary `state_dict` in safetensors, with the names of the classes in its manifest
            (`checkpoint.load`).
        progress: Callback that is given (done, total) while files are decoded.

    Returns:
        One prediction for each query, in the order of their names.

    Raises:
        FileNotFoundError: If a file or folder does not exist.
        OSError: If `save` can't be written.
        ValueError: If folders are empty, files can't be read, there is only one class, or `save` is given for
            a learner without adapted weights.
        FloatingPointError: If weights or scores aren't finite.
    """
    if save and not isinstance(learner, Adapts):
        raise ValueError(
            f"{type(learner).__name__} learners adapt no weights, so there are none to save: leave out --save"
        )
    files = find_files(Path(support), item_format)
    if len(files) < 2:
        raise ValueError(f"{support} holds one class folder: classification needs at least two")
    queries = _queries(Path(query), item_format)
    labelled = [(i, p) for i, found in enumerate(files.values()) for p in found]
    paths = [p for _, p in labelled] + queries
    items = np.empty((len(paths), *item_format.shape), item_format.dtype)
    bad = decode_items(paths, item_format, items, progress)
    if bad:
        reasons = {paths[i]: reason for i, reason in sorted(bad.items())}
        report_bad(reasons, len(paths), skip_corrupt, item_format.noun)
    check_weights(learner)
    good = [i for i in range(len(labelled)) if i not in bad]
    y = torch.tensor([[labelled[i][0] for i in good]])
    for i, name in enumerate(files):
        if i not in y:
            raise ValueError(f"no {item_format.noun} of class {name!r} can be read: mend or remove them")
    asked = [i for i in range(len(labelled), len(paths)) if i not in bad]
    if not asked:
        raise ValueError(f"no {item_format.noun} of {query} can be read: choose other files")
    x = floats(torch.from_numpy(items).to(learner.device)).unsqueeze(0)  # one task
    labelled_items = Support(x[:, good], y.to(learner.device), len(files))
    with evaluation_mode(learner):
        scores = learner.predict(labelled_items, x[:, asked])[0]
    names = list(files)
    if save and isinstance(learner, Adapts):
        weights = learner.adapted(labelled_items).state_dict()
        facts = {"classes": names, "items": item_format.as_dict()}
        checkpoint.save(Path(save), weights, facts, readable=False)
    return [
        Prediction(paths[i], names[int(np.argmax(p))], dict(zip(names, p, strict=True)))
        for i, p in zip(asked, scores.softmax(-1).tolist(), strict=True)
    ]


def _queries(query: Path, item_format: ItemFormat) -> list[File]:
    if not is_folder(query):
        if query.is_file():
            return [query]
        raise FileNotFoundError(f"there is no file or folder {query}")
    if not (found := files_in(query, item_format)):
        raise ValueError(f"{query} holds no {item_format.noun}")
    return found

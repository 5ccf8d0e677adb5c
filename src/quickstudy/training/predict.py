"""Classifying a user's own pictures or clips, with a folder of labelled examples for each class."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from quickstudy.core import checkpoint
from quickstudy.core.contracts import check_weights
from quickstudy.core.episode import Support
from quickstudy.core.learner import Learner, evaluation_mode
from quickstudy.core.progress import ProgressCallback
from quickstudy.data.datasets.folders import files_in, find_files, is_folder, report_bad
from quickstudy.data.formats.archives import File
from quickstudy.data.formats.items import ItemFormat, Items, decode_items, floats
from quickstudy.data.formats.originals import original_of, used_of
from quickstudy.training.card import Card, Level, features_of, how_far, sentence, summary_of
from quickstudy.training.leave_one_out import (
    Expected,
    Reject,
    expected_accuracy,
    leave_one_out,
    margins,
    reject_below,
)
from quickstudy.training.of_embeddings import embeddings, of_embeddings

LOOKED_AT = 32
"""Number of files that are looked at for colour."""


@dataclass(frozen=True)
class Prediction:
    """Predicted class of a picture or clip.

    Args:
        file: Path of the picture or clip, or the member of an archive.
        label: Name of the most likely class; None ("unsure") where its lead is below the threshold of
            `reject`.
        probabilities: Probability of every class, by name; they sum to 1.
        outside: What is unlike the items that the model knows; None where nothing is.
        used: How much of the file is used, and whether it is tiny or very large; None where nothing is out of
            the ordinary.
    """

    file: File
    label: str | None
    probabilities: dict[str, float]
    outside: str | None = None
    used: str | None = None


class Predictions(list[Prediction]):
    """Predictions of some files, and what the labelled ones say of them.

    Attributes:
        expected: Accuracy to expect, by leaving labelled items out; None where no class has two of them.
        reject: Threshold of "unsure"; None where none was asked for.
        level: Whether all the files together, the labelled too, are "known" to the model, "unusual" or "far";
            None for a model without a card.
        outside: One line on that; empty where they are known.
        used: One line on how much of the files to classify is used; empty where there is nothing to say.
        colored: Whether they are unlike those that the model knows, and in colour, of which it sees only the
            grey.
    """

    expected: Expected | None = None
    reject: Reject | None = None
    level: Level | None = None
    outside: str = ""
    used: str = ""
    colored: bool = False


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
    reject: float | None = None,
    card: Card | None = None,
    progress: ProgressCallback | None = None,
) -> Predictions:
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
        reject: Share of errors to allow among the answers, in (0, 1): a file is "unsure" (label None) where
            the likeliest class leads the next by less than it takes for that on the labelled items left out
            (`reject_below`). None to answer always.
        card: Card of the model (`card_of(manifest)`), by which it says what is unlike the items it knows.
        progress: Callback that is given (done, total) while files are decoded.

    Returns:
        One prediction for each query, in the order of their names, and as `expected` the accuracy that the
        labelled items promise.

    Raises:
        FileNotFoundError: If a file or folder does not exist.
        OSError: If `save` can't be written.
        ValueError: If folders are empty, files can't be read, there is only one class, or `save` is given for
            a learner without adapted weights; or if `reject` is out of range, or no class has two items.
        FloatingPointError: If weights or scores aren't finite.
    """
    if reject is not None and not 0 < reject < 1:
        raise ValueError(f"reject is {reject}: it is a share of errors, above 0 and below 1; 0.05 is 5 %")
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
    x = _as_floats(items[good], learner.device)
    classes = np.array([list(files)], object)
    labelled_items = Support(x, y.to(learner.device), len(files), names=classes)
    direct, of, z = learner, labelled_items, None
    if embedded := of_embeddings(learner, labelled_items):
        direct, of = embedded
        z = embeddings(learner.get_submodule("encoder"), items[asked], learner.device)[None]
    with evaluation_mode(direct):
        asked_for = _as_floats(items[asked], learner.device) if z is None else z
        scores = direct.predict(of, asked_for)[0]
    names, found = list(files), Predictions()
    if reject is not None or len(good) > len(files):
        which, left_out = leave_one_out(direct, of)
        found.expected = expected_accuracy(which, left_out, labelled_items)
        if reject is not None:
            found.reject = reject_below(left_out, y[0, which], reject)
    if save and isinstance(learner, Adapts):
        weights = learner.adapted(labelled_items).state_dict()
        facts = {"classes": names, "items": item_format.as_dict()}
        checkpoint.save(Path(save), weights, facts, readable=False)
    far, used = None, [original_of(paths[i], item_format) for i in asked]
    remarks = [used_of(original, item_format, card and card.size) for original in used]
    if card:
        chosen, features = items[good + asked], None
        if card.features:
            features = features_of(learner, chosen, z if z is None else torch.cat([of.x, z], 1)[0])
        far = how_far(card, chosen, item_format, features)
        found.colored = (
            far.level != "known" and item_format.shape[0] == 1 and mostly_colored(paths, item_format)
        )
        found.level = far.level
        found.outside = sentence(far.level, far.reasons, item_format.noun, found.colored)
    found.used = summary_of(remarks, item_format.noun)
    reasons = far.reasons[len(good) :] if far else [None] * len(asked)
    least = found.reject.margin if found.reject else 0.0
    scores = scores.cpu()
    rows = zip(asked, scores.softmax(-1).tolist(), margins(scores).tolist(), reasons, remarks, strict=True)
    for i, p, lead, reason, remark in rows:
        label = names[int(np.argmax(p))] if lead >= least else None
        found.append(Prediction(paths[i], label, dict(zip(names, p, strict=True)), reason, remark))
    return found


def _as_floats(items: Items, device: torch.device) -> Tensor:
    """Items as those of one task, [1, B, ...]."""
    return floats(torch.from_numpy(items).to(device))[None]


def mostly_colored(paths: Sequence[File], item_format: ItemFormat) -> bool:
    """Whether most of some files have colours; a few of them are looked at.

    Args:
        paths: Paths of pictures, or members of archives.
        item_format: Format of pictures.
    """
    step = max(1, len(paths) // LOOKED_AT)
    looked = [original_of(path, item_format, color=True) for path in paths[::step]]
    return 2 * sum(bool(o and o.colored) for o in looked) > len(looked)


def _queries(query: Path, item_format: ItemFormat) -> list[File]:
    if not is_folder(query):
        if query.is_file():
            return [query]
        raise FileNotFoundError(f"there is no file or folder {query}")
    if not (found := files_in(query, item_format)):
        raise ValueError(f"{query} holds no {item_format.noun}")
    return found

"""All pictures of a training, drawn from its folder."""

from pathlib import Path

from matplotlib.figure import Figure

from quickstudy.core.learner import Learner
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting
from quickstudy.metric.distances import embeds
from quickstudy.metric.plots import embedding
from quickstudy.training.plots import episode, learning_curve
from quickstudy.training.run_folder import read_log


def draw_all(
    learner: Learner,
    classes: ClassPool,
    setting: Setting,
    log: Path,
    out: Path,
    seed: int = 0,
    inverted: bool = True,
    kept: int | None = None,
) -> list[Path]:
    """Every picture that a checkpoint allows: the curve if there is a log, an episode, the embedding.

    Args:
        learner: The trained learner.
        classes: Test classes.
        setting: Size of the episode that is drawn.
        log: Path of the training's `log.jsonl`; it may be absent.
        out: Folder for the pictures; it is made if it is not there.
        seed: Seed of the episode, and of the classes of the embedding.
        inverted: Whether items are ink on black (`ImageFormat.invert`) and drawn as they were before.
        kept: Step of the log whose weights the learner has; that of the best validation by default.

    Returns:
        The files written.
    """
    out.mkdir(parents=True, exist_ok=True)
    drawn: list[tuple[str, Figure]] = []
    if read_log(log):  # it is empty until the first validation
        drawn.append(("learning-curve.png", learning_curve(log, kept)))
    drawn.append(("episode.png", episode(learner, classes, setting, seed, inverted)))
    if embeds(learner):
        drawn.append(("embedding.png", embedding(learner.encoder, classes, seed)))
    for name, figure in drawn:
        figure.savefig(out / name, dpi=150)
    return [out / name for name, _ in drawn]

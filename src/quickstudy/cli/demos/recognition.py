"""`quickstudy demo recognition | faces | words`: from samples to names and "unknown", watched."""

import shlex
import shutil
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import soundfile
from PIL import Image
from rich.panel import Panel
from rich.text import Text

from quickstudy.cli.terminal import Terminal, table
from quickstudy.core.consoles import console
from quickstudy.core.kernels.memory import keep_freed_memory
from quickstudy.data.datasets.folders import files_in
from quickstudy.data.formats.audio import AudioFormat
from quickstudy.data.formats.items import ItemFormat
from quickstudy.data.pool import ClassPool
from quickstudy.recipes import catalogue, weights
from quickstudy.recognition.measure import calibrate_model, report_on
from quickstudy.recognition.recognizer import Recognizer
from quickstudy.training.launch import launch

What = Literal["recognition", "faces", "words"]

ENROLLED, STRANGERS, DEMO_SAMPLES, PROBES = 10, 10, 3, 5
"""Names that are enrolled and that are not, at most; samples of a name, and probes of either."""
STEPS = {"faces": 200, "words": 200}
WHO = {
    "recognition": "letters of scripts that it has never met (with the model prototypical-glyphs)",
    "faces": "people whom it has never seen (after a short training on others, of ORL)",
    "words": "words that it has never heard, by speakers whom it has never heard (after a short training)",
}


def run(what: What, out: Path, steps: int | None = None, data_root: Path | None = None) -> None:
    """Calibrate, enroll a few samples of some names, identify others of theirs, and of strangers."""
    keep_freed_memory()
    started, display = time.monotonic(), Terminal()
    console.print(
        Panel(
            Text(
                f"A network is shown {DEMO_SAMPLES} samples each of {WHO[what]}. Then it says whose further "
                "samples are, or that they are nobody's it knows. Its threshold was set on yet others, so "
                "that 1 % of strangers are taken for a name."
            ),
            title=f"quickstudy: recognising {'letters' if what == 'recognition' else what}",
        )
    )
    folder, gallery = out / "run", out / "gallery.db"
    for path in (folder, out / "enroll", out / "probes"):
        shutil.rmtree(path, ignore_errors=True)
    gallery.unlink(missing_ok=True)
    _model(what, folder, steps, data_root, display)
    calibrate_model(folder, data_root=data_root, display=display)
    with display.counting("decoding") as progress:
        recipe = weights.recipe_of(weights.load_learner(folder)[1])
        pool = recipe.pool(root=data_root, progress=progress).split("test")
    known = _write(pool, recipe.item_format, out)
    recognizer = Recognizer(folder, gallery)
    recognizer.enroll_folder(out / "enroll")
    rows = table("sample of", "taken for", "probability", wraps=("sample of", "taken for"))
    right, wrong, missed, strangers, taken = 0, 0, 0, 0, 0
    for name in sorted(p for p in (out / "probes").iterdir() if p.is_dir()):
        for i, identity in enumerate(recognizer.identify(files_in(name, recipe.item_format))):
            if name.name in known:
                right += identity.name == name.name
                missed += identity.name is None
                wrong += identity.name not in (name.name, None)
            else:
                strangers += 1
                taken += identity.name is not None
            if not i:
                best = identity.candidates[0]
                stranger = "" if name.name in known else " (a stranger)"
                answer = identity.name or f"unknown (nearest {best.name})"
                rows.add_row(f"{name.name}{stranger}", answer, f"{best.probability:.1%}")
    console.print(rows)
    console.print(
        f"Of {right + missed + wrong} samples of the {len(known)} enrolled names {right} were named rightly, "
        f"{missed} called unknown and {wrong} named wrongly; of {strangers} of strangers {taken} were taken "
        "for a name.",
        highlight=False,
    )
    report_on(folder, data_root=data_root, display=display).save(out / "report.html")
    console.print(f"All in {time.monotonic() - started:.0f} seconds. Next:\n", highlight=False)
    probe = next((out / "probes").rglob("*.*"))
    for command, meaning in (
        (f"open {out / 'report.html'}", "how well it does, with its curves"),
        (
            f"quickstudy identify {shlex.quote(str(probe))} --gallery {shlex.quote(str(gallery))}",
            "ask for one sample",
        ),
        (shlex.join(["quickstudy", "gallery", "list", "--gallery", str(gallery)]), "who is enrolled"),
        ("quickstudy train siamese --set images=DIR", "your own pictures: a folder for each name"),
    ):
        console.print(f"  {command}", style="bold cyan", highlight=False, soft_wrap=True)
        console.print(f"      {meaning}", highlight=False, soft_wrap=True)


def _model(what: What, folder: Path, steps: int | None, data_root: Path | None, display: Terminal) -> None:
    if what == "recognition":
        folder.mkdir(parents=True)
        shutil.copy(weights.find("prototypical-glyphs"), folder / "best.safetensors")
        return
    name = "faces-orl" if what == "faces" else "words-arabic"
    recipe = catalogue.RECIPES[name]()
    recipe.run(
        folder,
        name=name,
        arguments={},
        options={"steps": steps or STEPS[what], "data_root": data_root},
        display=display,
        fabric=launch(precision=recipe.precision),
    )


def _write(pool: ClassPool, item_format: ItemFormat, out: Path) -> set[str]:
    """Samples as files, to look at and to listen to; the names that are to be enrolled."""
    order = np.random.default_rng(0).permutation(len(pool))
    most = min(ENROLLED + STRANGERS, len(pool))
    enrolled = min(ENROLLED, most // 2)
    for place, i in enumerate(order[:most].tolist()):
        name, items = pool.classes[i].rpartition("/")[2], pool.of_class(pool.classes[i])
        drawn = np.random.default_rng(i).permutation(len(items)).tolist()
        parts = (("probes", drawn[DEMO_SAMPLES : DEMO_SAMPLES + PROBES]),)
        if place < enrolled:
            parts = (("enroll", drawn[:DEMO_SAMPLES]), *parts)
        for part, chosen in parts:
            (out / part / name).mkdir(parents=True, exist_ok=True)
            for k in chosen:
                _save(items[k], item_format, out / part / name / str(k))
    return {p.name for p in (out / "enroll").iterdir()}


def _save(item: npt.NDArray[Any], item_format: ItemFormat, path: Path) -> None:
    if isinstance(item_format, AudioFormat):
        soundfile.write(path.with_suffix(".wav"), item, item_format.rate)
        return
    shown = 255 - item if getattr(item_format, "invert", False) else item
    Image.fromarray(shown[0] if len(shown) == 1 else shown.transpose(1, 2, 0)).save(path.with_suffix(".png"))

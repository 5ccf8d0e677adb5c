"""The commands of recognition. Torch is imported by those that need it, so that --help is quick."""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from quickstudy.commands.shared import AsJson
from quickstudy.wording import plural

if TYPE_CHECKING:
    from quickstudy.recognition.recogniser import Decision, Enrolment, Recogniser

gallery_app = typer.Typer(no_args_is_help=True, help="Look after a gallery of enrolled samples.")

PANEL = "Recognition: enroll, verify, identify"
REJECTED = 3
"""Exit code of a sample that is not of the name it claims; 1 and 2 are errors."""
GalleryPath = Annotated[
    str,
    typer.Option(
        "--gallery", "-g", envvar="QUICKSTUDY_GALLERY", help="A file, or a PostgreSQL URL, with pgvector."
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        envvar="QUICKSTUDY_MODEL",
        help="A training's folder, checkpoint, or model. (default: that of the gallery)",
        show_default=False,
    ),
]
Far = Annotated[
    float | None,
    typer.Option(
        min=1e-6,
        max=0.5,
        help="False accepts to allow, 0.01 is 1 %. (default: what was calibrated for)",
        show_default=False,
    ),
]
_panel = partial(typer.Option, rich_help_panel=PANEL)


def add_to(app: typer.Typer) -> None:
    """Hang the commands of recognition into the program."""
    for command in (enroll, verify, identify, calibrate, report):
        app.command(rich_help_panel=PANEL)(command)
    app.add_typer(gallery_app, name="gallery", rich_help_panel=PANEL)


def enroll(
    samples: Annotated[
        list[Path], typer.Argument(help="Files of one --name; or a folder whose folders are the names.")
    ],
    name: Annotated[str | None, typer.Option(help="Whose the files are.", show_default=False)] = None,
    gallery: GalleryPath = "gallery.db",
    model: Model = None,
    as_json: AsJson = False,
) -> None:
    """Enroll people, words or sounds from a few samples each.

    With a folder, folder/NAME/*.jpg. What can't be used is refused, with the reason, and the rest enrolled.
    What is enrolled already is passed over, so after a stop just run it again.
    """
    from quickstudy.display import Terminal, console
    from quickstudy.recognition.recogniser import Recogniser

    folders = [p for p in samples if p.is_dir()]
    if name is None and (len(samples) > 1 or not folders):
        raise ValueError("say whose the files are by --name, or name one folder whose folders are the names")
    recogniser = Recogniser(model, gallery)
    with Terminal().counting("enrolling") as progress:
        if name is None:
            done = recogniser.enroll_folder(folders[0], progress)
        else:
            files = [f for p in samples for f in (_files_in(recogniser, p) if p.is_dir() else [p])]
            done = recogniser.enroll(name, files, progress)
    if as_json:
        print(json.dumps(_listed(done), indent=2, ensure_ascii=False))
    else:
        console.print(_summary(done), highlight=False, soft_wrap=True)


def verify(
    name: Annotated[str, typer.Argument(help="Whom the samples claim to be.")],
    samples: Annotated[
        list[Path], typer.Argument(help="Files; several are of the same, and taken together.")
    ],
    gallery: GalleryPath = "gallery.db",
    model: Model = None,
    far: Far = None,
    as_json: AsJson = False,
) -> None:
    """Say whether samples are of the name they claim; exits with 3 where they are not."""
    from quickstudy.display import console
    from quickstudy.recognition.recogniser import Recogniser

    recogniser = Recogniser(model, _present(gallery), far)
    decision = recogniser.verify(name, samples)
    if as_json:
        print(json.dumps(asdict(decision), indent=2, ensure_ascii=False))
    else:
        console.print(
            f"{'accepted' if decision.accepted else 'rejected'}: {decision.name} ({_figures(decision)})",
            highlight=False,
            soft_wrap=True,
        )
    _warn_of_support(recogniser, [decision], to_verify=True)
    if not decision.accepted:
        raise typer.Exit(REJECTED)


def identify(
    samples: Annotated[list[Path], typer.Argument(help="Files, or folders of files.")],
    top: Annotated[int, typer.Option(min=1, help="Candidates to name.")] = 3,
    unknown: Annotated[
        bool, typer.Option(help="Say unknown below the threshold, or always the nearest.")
    ] = True,
    together: Annotated[
        bool, typer.Option("--together", help="All files are of the same person or word.")
    ] = False,
    gallery: GalleryPath = "gallery.db",
    model: Model = None,
    far: Far = None,
    as_json: AsJson = False,
) -> None:
    """Say whose each sample is among the enrolled, or that it is unknown."""
    from quickstudy.display import console, table
    from quickstudy.recognition.recogniser import Recogniser

    recogniser = Recogniser(model, _present(gallery), far)
    files = [f for p in samples for f in (_files_in(recogniser, p) if p.is_dir() else [p])]
    found = recogniser.identify(files, top, together)
    answers = [i.name if unknown else i.candidates[0].name for i in found]
    if unknown:
        _warn_of_support(recogniser, [i.candidates[0] for i in found])
    if as_json:
        rows = [
            {"file": str(i.file), "name": answer, "candidates": [asdict(c) for c in i.candidates]}
            for i, answer in zip(found, answers, strict=True)
        ]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    rows = table(
        "sample", "name", "score", "threshold", "probability", "next", wraps=("sample", "name", "next")
    )
    for i, answer in zip(found, answers, strict=True):
        best, others = i.candidates[0], i.candidates[1:]
        nearest = f" (nearest {best.name})" if answer is None else ""
        rows.add_row(
            i.file.name,
            f"{answer or 'unknown'}{nearest}",
            f"{best.score:.3f}",
            f"{best.threshold:.3f}",
            f"{best.probability:.1%}",
            "\n".join(f"{c.name} {c.score:.3f}" for c in others),
        )
    console.print(rows)


def calibrate(
    model: Annotated[
        str, typer.Argument(help="A training's folder or a checkpoint; its thresholds are written into it.")
    ],
    far: Annotated[
        float, typer.Option(min=1e-6, max=0.5, help="False accepts to aim at, 0.01 is 1 %.")
    ] = 0.01,
    cost: Annotated[
        str | None,
        typer.Option(
            help="Instead of --far: cost of a false accept, of a false reject, and the prior: 10,1,0.01.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Development pictures, DIR/NAME/*.jpg.", show_default=False)
    ] = None,
    audio: Annotated[
        Path | None, typer.Option(help="Development clips, DIR/NAME/*.wav.", show_default=False)
    ] = None,
    pooling: Annotated[
        Literal["centroid", "nearest", "top"] | None,
        typer.Option(
            help="Of a name's samples: their mean, the nearest, or the mean of the three nearest; without, "
            "the one with the least EER.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws of enrolled samples.")] = 0,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the data sets.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Choose the thresholds on identities that were not trained on, and keep them in the checkpoint.

    Without --images or --audio on the validation classes of the training's own data.
    """
    from quickstudy.display import Terminal, console, messages
    from quickstudy.recognition.evaluation import calibrate_model

    if images and audio:
        raise ValueError("--images and --audio can't both be: a model takes one of them")
    display = Terminal()
    made, poolings = calibrate_model(
        model,
        far=far,
        cost=_cost(cost),
        pooling=pooling,
        folder=images or audio,
        data_root=data_root,
        seed=seed,
        display=display,
    )
    for warning in made.warnings:
        messages.print(f"warning: {warning}", highlight=False, soft_wrap=True)
    if as_json:
        print(json.dumps(made.as_dict() | poolings.as_dict(), indent=2))
    else:
        console.print(f"{made}\n{poolings}", highlight=False, soft_wrap=True)


def report(
    model: Annotated[str, typer.Argument(help="A training's folder, a checkpoint, or a model's name.")],
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("report.html"),
    images: Annotated[
        Path | None, typer.Option(help="Test pictures, DIR/NAME/*.jpg.", show_default=False)
    ] = None,
    audio: Annotated[
        Path | None, typer.Option(help="Test clips, DIR/NAME/*.wav.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws of enrolled samples.")] = 0,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the data sets.", show_default=False)
    ] = None,
) -> None:
    """Measure how well a model recognises identities it has never seen, and write one page about it.

    Without --images or --audio on the test classes of the training's own data.
    """
    from quickstudy.display import Terminal, console
    from quickstudy.recognition.evaluation import report_on

    made = report_on(model, folder=images or audio, data_root=data_root, seed=seed, display=Terminal())
    made.save(out)
    console.print(str(made), highlight=False, soft_wrap=True)
    console.print(str(out), highlight=False, soft_wrap=True)


@gallery_app.command("list")
def list_(gallery: GalleryPath = "gallery.db", as_json: AsJson = False) -> None:
    """Who is enrolled, and from how many samples."""
    from quickstudy.display import console, table

    with _open(gallery) as opened:
        entries = opened.names()
    if as_json:
        print(json.dumps([asdict(e) for e in entries], indent=2, default=str, ensure_ascii=False))
        return
    rows = table("name", "samples", "first", "last", wraps=("name",))
    for e in entries:
        rows.add_row(e.name, str(e.samples), f"{e.first:%Y-%m-%d %H:%M}", f"{e.last:%Y-%m-%d %H:%M}")
    console.print(rows)


@gallery_app.command()
def show(
    name: Annotated[str, typer.Argument(help="An enrolled name.")],
    gallery: GalleryPath = "gallery.db",
    as_json: AsJson = False,
) -> None:
    """The samples of a name: digests of the files they were made from, and when."""
    from quickstudy.display import console, table

    with _open(gallery) as opened:
        samples = opened.samples(name)
    if as_json:
        print(json.dumps([asdict(s) for s in samples], indent=2, default=str))
        return
    rows = table("source", "enrolled (UTC)")
    for s in samples:
        rows.add_row(s.source, f"{s.time:%Y-%m-%d %H:%M:%S}")
    console.print(rows)


@gallery_app.command()
def rename(
    old: Annotated[str, typer.Argument(help="An enrolled name.")],
    new: Annotated[str, typer.Argument(help="What it shall be called.")],
    gallery: GalleryPath = "gallery.db",
) -> None:
    """Give a name another name."""
    with _open(gallery) as opened:
        opened.rename(old, new)
    _say(f"{old} is now {new}")


@gallery_app.command()
def remove(
    name: Annotated[str, typer.Argument(help="An enrolled name.")],
    source: Annotated[
        str | None, typer.Option(help="One sample's digest, instead of all.", show_default=False)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    gallery: GalleryPath = "gallery.db",
) -> None:
    """Remove a name, or one of its samples, for good: it is wiped from the file as well."""
    with _open(gallery) as opened:
        samples = [s for s in opened.samples(name) if source in (None, s.source)]
        what = f"{name} and {'its one sample' if len(samples) == 1 else f'all {len(samples)} samples'}"
        if not yes:
            typer.confirm(f"Remove {what if source is None else f'a sample of {name}'} for good?", abort=True)
        removed = opened.remove(name, source)
    _say(f"removed {plural(removed, 'sample')} of {name}")


@gallery_app.command()
def export(
    out: Annotated[Path, typer.Argument(help="File to write, .safetensors.")],
    gallery: GalleryPath = "gallery.db",
) -> None:
    """Write all samples into one file, to keep or to move elsewhere."""
    with _open(gallery) as opened:
        _say(f"{opened.export(out)} samples; {out}")


@gallery_app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="What `export` wrote.")], gallery: GalleryPath = "gallery.db"
) -> None:
    """Add the samples of an exported file; of another encoder they are refused."""
    from quickstudy.recognition.gallery import Gallery

    with Gallery(gallery) as opened:
        _say(f"{opened.import_(file)} new samples")


@gallery_app.command()
def stats(gallery: GalleryPath = "gallery.db", as_json: AsJson = False) -> None:
    """How large a gallery is, and of which encoder."""
    from quickstudy.display import console, table

    with _open(gallery) as opened:
        figures = asdict(opened.stats())
    if as_json:
        print(json.dumps(figures, indent=2))
        return
    rows = table("", "", wraps=("",))
    for key, value in figures.items():
        rows.add_row(key, str(value))
    console.print(rows)


@gallery_app.command("calibrate")
def recalibrate(gallery: GalleryPath = "gallery.db", model: Model = None, far: Far = None) -> None:
    """Measure the thresholds anew on the enrolled samples, and keep them with the gallery."""
    from quickstudy.display import console, messages
    from quickstudy.recognition.recogniser import Recogniser

    own = Recogniser(model, _present(gallery)).recalibrate(far)
    for warning in own.warnings:
        messages.print(f"warning: {warning}", highlight=False, soft_wrap=True)
    console.print(str(own), highlight=False, soft_wrap=True)


def _present(gallery: str) -> str:
    if "://" not in gallery and not Path(gallery).is_file():
        raise FileNotFoundError(
            f"there is no gallery at {gallery}: enroll somebody first, or name it by --gallery"
        )
    return gallery


def _open(gallery: str) -> Any:
    from quickstudy.recognition.gallery import Gallery

    return Gallery(_present(gallery))


def _say(text: str) -> None:
    from quickstudy.display import console

    console.print(text, highlight=False, soft_wrap=True)


def _files_in(recogniser: "Recogniser", folder: Path) -> list[Path]:
    from quickstudy.data.folders import files_in

    item_format = recogniser.embedder.format
    if not (found := files_in(folder, item_format)):
        raise ValueError(f"{folder} holds no {item_format.noun}")
    return found


def _warn_of_support(recogniser: "Recogniser", decisions: "list[Decision]", to_verify: bool = False) -> None:
    """Say where a threshold lies above every impostor score there was to measure."""
    from quickstudy.display import messages

    if all(d.supported for d in decisions):
        return
    far = recogniser.far or recogniser.calibration.far
    names = 1 if to_verify else recogniser.gallery.size()[0]
    among = f", spread over {names} names" * (names > 1)
    why = (
        f"too few pairs were calibrated on for a FAR of {100 * far:.3g} %{among}"
        if far
        else "no pairs of strangers that were calibrated on were cheap enough to accept"
    )
    messages.print(
        f"warning: {why}: the threshold is above all of their scores, and more of the enrolled than need be "
        "are turned down; calibrate on more identities, or allow more by --far",
        highlight=False,
        soft_wrap=True,
    )


def _figures(decision: Any) -> str:
    return (
        f"score {decision.score:.3f}, threshold {decision.threshold:.3f}, "
        f"probability {decision.probability:.1%}"
    )


def _summary(done: "Enrolment") -> str:
    """What became of an enrolment: one line, and one for each file refused or doubtful."""
    samples, names = sum(done.added.values()), len(done.added)
    parts = [f"enrolled {plural(samples, 'new sample')} of {plural(names, 'name')}"]
    if done.known:
        parts.append(f"{done.known} known already")
    if done.refused:
        parts.append(f"{len(done.refused)} refused")
    lines = [", ".join(parts)]
    lines += [f"refused: {r.file}: {r.reason}" for r in done.refused]
    lines += [f"look again: {r.file} {r.reason}" for r in done.doubtful]
    return "\n".join(lines)


def _listed(done: "Enrolment") -> dict[str, Any]:
    return {
        "added": done.added,
        "known": done.known,
        "refused": [{"file": str(r.file), "reason": r.reason} for r in done.refused],
        "doubtful": [{"file": str(r.file), "reason": r.reason} for r in done.doubtful],
    }


def _cost(text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        false_accept, false_reject, prior = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--cost {text} is not of the form 10,1,0.01: two costs and a prior") from None
    return false_accept, false_reject, prior

"""The commands of recognition. Only functions that need torch import it, so that --help is fast."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from quickstudy.cli.gallery import gallery_app
from quickstudy.cli.options import AsJson, Far, GalleryPath, Model, existing_gallery
from quickstudy.core.wording import plural

if TYPE_CHECKING:
    from quickstudy.data.formats.archives import File
    from quickstudy.recognition.recognizer import Decision, Enrollment, Recognizer


PANEL = "Recognition: enroll, verify, identify"
REJECTED = 3
"""Exit code of `verify` for a rejected sample; 1 and 2 are errors."""


def add_to(app: typer.Typer) -> None:
    """Add the commands of recognition to the program.

    Args:
        app: Program to add them to.
    """
    for command in (enroll, verify, identify, calibrate, report):
        app.command(rich_help_panel=PANEL)(command)
    app.add_typer(gallery_app, name="gallery", rich_help_panel=PANEL)


def enroll(
    samples: Annotated[
        list[Path],
        typer.Argument(
            help="Files to enroll under --name; or a folder, zip or tar with a subfolder for each name."
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Name to enroll the files under.", show_default=False)
    ] = None,
    gallery: GalleryPath = "gallery.db",
    model: Model = None,
    as_json: AsJson = False,
) -> None:
    """Enroll people, words or sounds from a few samples each.

    A folder has the form folder/NAME/*.jpg. Files that can't be used are refused, with the reason; the rest
    is enrolled. Files that are enrolled already are skipped, so after an interruption just run it again.
    """
    from quickstudy.cli.terminal import Terminal
    from quickstudy.core.consoles import console
    from quickstudy.data.datasets.folders import is_folder
    from quickstudy.recognition.recognizer import Recognizer

    folders = [p for p in samples if is_folder(p)]
    if name is None and (len(samples) > 1 or not folders):
        raise ValueError(
            "give the name to enroll the files under by --name, or one folder with a subfolder for each name"
        )
    recognizer = Recognizer(model, gallery)
    with Terminal().counting("enrolling") as progress:
        if name is None:
            done = recognizer.enroll_folder(folders[0], progress)
        else:
            files = _files_of(recognizer, samples)
            done = recognizer.enroll(name, files, progress)
    if as_json:
        print(json.dumps(_listed(done), indent=2, ensure_ascii=False))
    else:
        console.print(_summary(done), highlight=False, soft_wrap=True)
    _warn(done.outside, done.used)


def verify(
    name: Annotated[str, typer.Argument(help="Claimed name.")],
    samples: Annotated[
        list[Path],
        typer.Argument(help="Files; several must be of the same person or word, and are compared as one."),
    ],
    gallery: GalleryPath = "gallery.db",
    model: Model = None,
    far: Far = None,
    as_json: AsJson = False,
) -> None:
    """Verify that samples are of the name they claim; exits with code 3 if they are rejected."""
    from quickstudy.core.consoles import console
    from quickstudy.recognition.recognizer import Recognizer

    recognizer = Recognizer(model, existing_gallery(gallery), far)
    decision = recognizer.verify(name, samples)
    if as_json:
        print(json.dumps(asdict(decision), indent=2, ensure_ascii=False))
    else:
        console.print(
            f"{'accepted' if decision.accepted else 'rejected'}: {decision.name} ({_figures(decision)})",
            highlight=False,
            soft_wrap=True,
        )
    _warn_of_support(recognizer, [decision], to_verify=True)
    if not decision.accepted:
        raise typer.Exit(REJECTED)


def identify(
    samples: Annotated[list[Path], typer.Argument(help="Files, or folders or archives of files.")],
    top: Annotated[int, typer.Option(min=1, help="Number of candidates to show.")] = 3,
    unknown: Annotated[
        bool, typer.Option(help="Answer unknown below the threshold, or always the nearest name.")
    ] = True,
    together: Annotated[
        bool, typer.Option("--together", help="Compare all files as one sample, of the same person or word.")
    ] = False,
    gallery: GalleryPath = "gallery.db",
    model: Model = None,
    far: Far = None,
    as_json: AsJson = False,
) -> None:
    """Identify each sample: name the enrolled person, word or sound, or say that it is unknown."""
    from quickstudy.cli.terminal import table
    from quickstudy.core.consoles import console
    from quickstudy.recognition.recognizer import Recognizer
    from quickstudy.training.card import level_of, sentence, summary_of

    recognizer = Recognizer(model, existing_gallery(gallery), far)
    files = _files_of(recognizer, samples)
    found = recognizer.identify(files, top, together)
    answers = [i.name if unknown else i.candidates[0].name for i in found]
    if unknown:
        _warn_of_support(recognizer, [i.candidates[0] for i in found])
    outside, noun = [i.outside for i in found], recognizer.embedder.format.noun
    _warn(sentence(level_of(outside), outside, noun), summary_of([i.used for i in found], noun))
    if as_json:
        rows = [
            {
                "file": str(i.file),
                "name": answer,
                "candidates": [asdict(c) for c in i.candidates],
                "reason": i.reason,
                "outside": i.outside,
                "used": i.used,
            }
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
        nearest += f": {i.reason}" if answer is None and i.reason else ""
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
        str, typer.Argument(help="A training's folder or a checkpoint; the thresholds are written into it.")
    ],
    far: Annotated[
        float, typer.Option(min=1e-6, max=0.5, help="Target false-accept rate; 0.01 is 1 %.")
    ] = 0.01,
    cost: Annotated[
        str | None,
        typer.Option(
            help="Instead of --far: costs of a false accept and a false reject, and the prior: 10,1,0.01.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Development pictures, DIR/NAME/*.jpg, or a zip or tar.", show_default=False),
    ] = None,
    audio: Annotated[
        Path | None,
        typer.Option(help="Development clips, DIR/NAME/*.wav, or a zip or tar.", show_default=False),
    ] = None,
    pooling: Annotated[
        Literal["centroid", "nearest", "top"] | None,
        typer.Option(
            help="Score against a name's samples: their mean, the nearest, or the mean of the three nearest. "
            "(default: the one with the lowest EER)",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random choice of enrolled samples.")] = 0,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the data sets.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Choose the thresholds on identities that were not trained on, and store them in the checkpoint.

    By default these are the validation classes of the model's own data; or give --images or --audio.
    """
    from quickstudy.cli.terminal import Terminal
    from quickstudy.core.consoles import console, messages
    from quickstudy.recognition.measure import calibrate_model

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
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    images: Annotated[
        Path | None, typer.Option(help="Test pictures, DIR/NAME/*.jpg, or a zip or tar.", show_default=False)
    ] = None,
    audio: Annotated[
        Path | None, typer.Option(help="Test clips, DIR/NAME/*.wav, or a zip or tar.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random choice of enrolled samples.")] = 0,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the data sets.", show_default=False)
    ] = None,
) -> None:
    """Measure how well a model recognizes identities it has never seen, and write a report as one HTML page.

    By default these are the test classes of the model's own data; or give --images or --audio.
    """
    from quickstudy.cli.terminal import Terminal
    from quickstudy.core.consoles import console
    from quickstudy.recognition.measure import report_on

    made = report_on(model, folder=images or audio, data_root=data_root, seed=seed, display=Terminal())
    made.save(out)
    console.print(str(made), highlight=False, soft_wrap=True)
    console.print(str(out), highlight=False, soft_wrap=True)


def _files_of(recognizer: "Recognizer", samples: list[Path]) -> "list[File]":
    """Files as they are, and those in folders and archives."""
    from quickstudy.data.datasets.folders import files_in, is_folder

    item_format, files = recognizer.embedder.format, list["File"]()
    for path in samples:
        found = files_in(path, item_format) if is_folder(path) else [path]
        if not found:
            raise ValueError(f"{path} holds no {item_format.noun}")
        files += found
    return files


def _warn_of_support(recognizer: "Recognizer", decisions: "list[Decision]", to_verify: bool = False) -> None:
    """Warn if a threshold lies above every impostor score that was measured."""
    from quickstudy.core.consoles import messages

    if all(d.supported for d in decisions):
        return
    far = recognizer.far or recognizer.calibration.far
    names = 1 if to_verify else recognizer.gallery.size()[0]
    among = f", spread over {names} names" if names > 1 else ""
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


def _warn(*lines: str) -> None:
    """Warnings about files, where there are any."""
    from quickstudy.core.consoles import messages

    for line in lines:
        if line:
            messages.print(f"warning: {line}", highlight=False, soft_wrap=True)


def _figures(decision: Any) -> str:
    return (
        f"score {decision.score:.3f}, threshold {decision.threshold:.3f}, "
        f"probability {decision.probability:.1%}"
    )


def _summary(done: "Enrollment") -> str:
    """Outcome of an enrollment: one line, and one for each refused or likely mislabelled file."""
    samples, names = sum(done.added.values()), len(done.added)
    parts = [f"enrolled {plural(samples, 'new sample')} of {plural(names, 'name')}"]
    if done.known:
        parts.append(f"{done.known} known already")
    if done.refused:
        parts.append(f"{len(done.refused)} refused")
    lines = [", ".join(parts)]
    lines += [f"refused: {r.file}: {r.reason}" for r in done.refused]
    lines += [f"look again: {r.file} {r.reason}" for r in done.likely_mislabelled]
    return "\n".join(lines)


def _listed(done: "Enrollment") -> dict[str, Any]:
    return {
        "added": done.added,
        "known": done.known,
        "refused": [{"file": str(r.file), "reason": r.reason} for r in done.refused],
        "likely_mislabelled": [{"file": str(r.file), "reason": r.reason} for r in done.likely_mislabelled],
        "outside": done.outside or None,
        "used": done.used or None,
    }


def _cost(text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        false_accept, false_reject, prior = map(float, text.split(","))
    except ValueError:
        raise ValueError(f"--cost {text} is not of the form 10,1,0.01: two costs and a prior") from None
    return false_accept, false_reject, prior

"""The commands of recognition. Only functions that need torch import it, so that --help is fast."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from quickstudy.cli.gallery import gallery_app
from quickstudy.cli.options import (
    AsFormat,
    AsJson,
    Far,
    Force,
    Format,
    GalleryPath,
    Model,
    Place,
    ResultsOut,
    SkipCorrupt,
    UsageError,
    existing_gallery,
    results_to,
)
from quickstudy.core.wording import plural, shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quickstudy.data.formats.archives import File
    from quickstudy.recognition.recognizer import Decision, Enrollment, Recognizer, Verdict


PANEL = "Recognition: enroll, verify, identify"
PROBABILITY = (
    "probability: that the sample is of this name, had that been as likely as not before; unknowns have none"
)
SHARES = "of several names above their thresholds: which of them it is, if it is one of these"
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
    place: Place = None,
    as_json: AsJson = False,
) -> None:
    """Enroll people, words or sounds from a few samples each.

    A folder has the form folder/NAME/*.jpg. Files that can't be used are refused, with the reason; the rest
    is enrolled. Files that are enrolled already are skipped, so after an interruption just run it again.
    """
    from quickstudy.cli.terminal import Terminal
    from quickstudy.core.consoles import console, print_json
    from quickstudy.data.datasets.folders import is_folder
    from quickstudy.recognition.recognizer import Recognizer

    folders = [p for p in samples if is_folder(p)]
    if name is None and (len(samples) > 1 or not folders):
        raise UsageError(
            "give the name to enroll the files under by --name, or one folder with a subfolder for each name"
        )
    recognizer = Recognizer(model, gallery, place=place)
    with Terminal().counting("enrolling") as progress:
        if name is None:
            done = recognizer.enroll_folder(folders[0], progress)
        else:
            files = _files_of(recognizer, samples)
            done = recognizer.enroll(name, files, progress)
    if as_json:
        print_json(_listed(done))
    else:
        console.print(_summary(done), highlight=False, soft_wrap=True)
    _warn([*done.warnings, done.outside, done.used])


def verify(
    name: Annotated[str, typer.Argument(help="Claimed name.")],
    samples: Annotated[
        list[Path],
        typer.Argument(help="Files; several must be of the same person or word, and are compared as one."),
    ],
    gallery: GalleryPath = "gallery.db",
    model: Model = None,
    far: Far = None,
    place: Place = None,
    as_json: AsJson = False,
) -> None:
    """Verify that samples are of the name they claim; exits with code 3 if they are rejected."""
    from quickstudy.core.consoles import console, print_json
    from quickstudy.recognition.recognizer import Recognizer

    recognizer = Recognizer(model, existing_gallery(gallery), far, place)
    decision = recognizer.verify(name, samples)
    if as_json:
        print_json(asdict(decision))
    else:
        console.print(
            f"{'accepted' if decision.accepted else 'rejected'}: {decision.name} ({_figures(decision)})",
            highlight=False,
            soft_wrap=True,
        )
    _warn([decision.outside, "" if decision.reason else decision.used])
    _warn_of_support(recognizer, [decision], to_verify=True)
    if not decision.accepted:
        raise typer.Exit(REJECTED)


def identify(
    ctx: typer.Context,
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
    place: Place = None,
    as_json: AsJson = False,
    output: AsFormat = Format.table,
    out: ResultsOut = None,
    force: Force = False,
) -> None:
    """Identify each sample: name the enrolled person, word or sound, or say that it is unknown."""
    from quickstudy.cli.terminal import table
    from quickstudy.core.consoles import console, print_csv, print_json
    from quickstudy.recognition.recognizer import Recognizer
    from quickstudy.training.card import level_of, sentence, summary_of

    results_to(ctx, out, force)
    output = Format.json if as_json else output
    recognizer = Recognizer(model, existing_gallery(gallery), far, place)
    files = _files_of(recognizer, samples)
    if not unknown and not recognizer.calibration_if_any():
        _print_nearest(recognizer, files, top, together, output)
        return
    found = recognizer.identify(files, top, together)
    # below the threshold the nearest name is given all the same, if nobody is to be unknown
    names = [list(i.names) or ([] if unknown else [i.candidates[0].name]) for i in found]
    if unknown:
        _warn_of_support(recognizer, [i.candidates[0] for i in found])
    outside, noun = [i.outside for i in found], recognizer.embedder.format.noun
    _warn([sentence(level_of(outside), outside, noun), summary_of([i.used for i in found], noun)])
    if output is Format.json:
        rows = [
            {
                "file": str(i.file),
                "name": next(iter(of), None),
                "names": i.shares,
                "candidates": [asdict(c) for c in i.candidates],
                "reason": i.reason,
                "outside": i.outside,
                "used": i.used,
            }
            for i, of in zip(found, names, strict=True)
        ]
        print_json(rows)
        return
    if output is Format.csv:
        lines: list[list[object]] = [["file", "name", "nearest", "score", "threshold", "probability"]]
        for i, of in zip(found, names, strict=True):
            best = i.candidates[0]
            numbers = (best.score, best.threshold, best.probability)
            lines.append([str(i.file), " or ".join(of), best.name, *numbers])
        print_csv(lines)
        return
    rows = table(
        "sample", "name", "score", "threshold", "probability", "next", wraps=("sample", "name", "next")
    )
    for i, of in zip(found, names, strict=True):
        best, others = i.candidates[0], [c for c in i.candidates[1:] if c.name not in i.shares]
        score, threshold = apart(best.score, best.threshold)
        shares = "\n".join(f"{n} {share:.0%}" for n, share in i.shares.items())
        answer = " or ".join(of) if of else f"unknown (nearest {best.name})"
        rows.add_row(
            shown(i.file.name),
            "\n".join(map(shown, [answer, *filter(None, [i.reason])])),
            score,
            threshold,
            shares if len(i.shares) > 1 else f"{best.probability:.1%}" if of else "",
            "\n".join(shown(f"{c.name} {c.score:.3f}") for c in others),
        )
    console.print(rows)
    console.print(PROBABILITY, highlight=False, soft_wrap=True)
    if any(len(i.shares) > 1 for i in found):
        console.print(SHARES, highlight=False, soft_wrap=True)


def apart(score: float, threshold: float) -> tuple[str, str]:
    """Score and threshold with three digits, or as many as tell them apart.

    Args:
        score: Score of a sample.
        threshold: Threshold that it is compared with.
    """
    digits = next((d for d in range(3, 17) if f"{score:.{d}f}" != f"{threshold:.{d}f}"), 3)
    return f"{score:.{digits}f}", f"{threshold:.{digits}f}"


def _print_nearest(
    recognizer: "Recognizer", files: "list[File]", top: int, together: bool, output: Format
) -> None:
    """The nearest names and their scores, of a model without thresholds."""
    from quickstudy.cli.terminal import table
    from quickstudy.core.consoles import console, print_csv, print_json
    from quickstudy.recognition.gallery.pooling import score_of

    energy = recognizer.embedder.energy
    found = [
        (file, [(m.name, score_of(m.distance, energy)) for m in matches])
        for file, matches in recognizer.nearest(files, top, together)
    ]
    if output is Format.json:
        listed = [
            {
                "file": str(file),
                "name": matches[0][0],
                "candidates": [{"name": name, "score": score} for name, score in matches],
            }
            for file, matches in found
        ]
        print_json(listed)
    elif output is Format.csv:
        print_csv([["file", "name", "score"], *([str(f), m[0][0], m[0][1]] for f, m in found)])
    else:
        rows = table("sample", "nearest", "score", "next", wraps=("sample", "nearest", "next"))
        for file, matches in found:
            others = "\n".join(f"{name} {score:.3f}" for name, score in matches[1:])
            rows.add_row(*map(shown, (file.name, matches[0][0], f"{matches[0][1]:.3f}", others)))
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
    skip_corrupt: SkipCorrupt = False,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the data sets.", show_default=False)
    ] = None,
    place: Place = None,
    copy: Annotated[
        Path | None,
        typer.Option(
            help="Folder for a calibrated copy, as models that ship are not written to.", show_default=False
        ),
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Choose the thresholds on identities that were not trained on, and store them in the checkpoint.

    By default these are the validation classes of the model's own data; or give --images or --audio.
    """
    from quickstudy.cli.terminal import Terminal
    from quickstudy.core.consoles import console, print_json
    from quickstudy.recognition.measure import calibrate_model

    if images and audio:
        raise UsageError("--images and --audio can't both be: a model takes one of them")
    display = Terminal()
    made, poolings = calibrate_model(
        model,
        far=far,
        cost=_cost(cost),
        pooling=pooling,
        folder=images or audio,
        data_root=data_root,
        place=place,
        seed=seed,
        skip_corrupt=skip_corrupt,
        copy=copy,
        force=force,
        display=display,
    )
    _warn(made.warnings)
    if as_json:
        print_json(made.as_dict() | poolings.as_dict())
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
    skip_corrupt: SkipCorrupt = False,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the data sets.", show_default=False)
    ] = None,
    place: Place = None,
    force: Force = False,
) -> None:
    """Measure how well a model recognizes identities it has never seen, and write a report as one HTML page.

    By default these are the test classes of the model's own data; or give --images or --audio.
    """
    from quickstudy.cli.terminal import Terminal
    from quickstudy.core.consoles import console
    from quickstudy.recognition.measure import report_on
    from quickstudy.recognition.report.html import is_report

    if images and audio:
        raise UsageError("--images and --audio can't both be: a model takes one of them")
    made = report_on(
        model,
        folder=images or audio,
        data_root=data_root,
        place=place,
        seed=seed,
        skip_corrupt=skip_corrupt,
        display=Terminal(),
    )
    if out.exists() and not force and not is_report(out):
        raise FileExistsError(
            f"{out} is there already, and no report: name another --out, or replace it by --force"
        )
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


def _warn(sentences: "Iterable[str]") -> None:
    """Warnings, where there are any."""
    from quickstudy.core.consoles import messages

    for sentence in filter(None, sentences):
        messages.print(f"warning: {sentence}", highlight=False, soft_wrap=True)


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


def _figures(decision: "Verdict") -> str:
    score, threshold = apart(decision.score, decision.threshold)
    figures = f"score {score}, threshold {threshold}, probability {decision.probability:.1%}"
    return f"{figures}; {decision.reason}" if decision.reason else figures


def _summary(done: "Enrollment") -> str:
    """Outcome of an enrollment: one line, and one for each refused or likely mislabelled file."""
    samples, names = sum(done.added.values()), len(done.added)
    parts = [f"enrolled {plural(samples, 'new sample')} of {plural(names, 'name')}"]
    if done.known:
        parts.append(f"{done.known} known already")
    if done.refused:
        parts.append(f"{len(done.refused)} refused")
    lines = [", ".join(parts)]
    lines += [shown(f"refused: {r.file}: {r.reason}") for r in done.refused]
    lines += [shown(f"look again: {r.file} {r.reason}") for r in (*done.likely_mislabelled, *done.elsewhere)]
    return "\n".join(lines)


def _listed(done: "Enrollment") -> dict[str, Any]:
    return {
        "added": done.added,
        "known": done.known,
        "refused": [{"file": str(r.file), "reason": r.reason} for r in done.refused],
        "likely_mislabelled": [{"file": str(r.file), "reason": r.reason} for r in done.likely_mislabelled],
        "elsewhere": [{"file": str(r.file), "reason": r.reason} for r in done.elsewhere],
        "warnings": done.warnings,
        "outside": done.outside or None,
        "used": done.used or None,
    }


def _cost(text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        false_accept, false_reject, prior = map(float, text.split(","))
    except ValueError:
        raise UsageError(f"--cost {text} is not of the form 10,1,0.01: two costs and a prior") from None
    return false_accept, false_reject, prior

"""The command `gallery` and its subcommands."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from quickstudy.cli.options import (
    AsJson,
    Far,
    Force,
    GalleryPath,
    Model,
    existing_gallery,
    free,
    open_gallery,
    say,
)
from quickstudy.core.wording import plural, shown

gallery_app = typer.Typer(no_args_is_help=True, help="Manage a gallery of enrolled samples.")


@gallery_app.command("list")
def list_(gallery: GalleryPath = "gallery.db", as_json: AsJson = False) -> None:
    """List the enrolled names, with their numbers of samples."""
    from quickstudy.cli.terminal import table
    from quickstudy.core.consoles import console, print_json

    with open_gallery(gallery) as opened:
        entries = opened.names()
    if as_json:
        print_json([asdict(e) for e in entries])
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
    """Show the samples of a name: digests of their files, and times of enrollment."""
    from quickstudy.cli.terminal import table
    from quickstudy.core.consoles import console, print_json

    with open_gallery(gallery) as opened:
        samples = opened.samples(name)
    if as_json:
        print_json([asdict(s) for s in samples])
        return
    rows = table("source", "enrolled (UTC)", wraps=("source",))
    for s in samples:
        rows.add_row(s.source, f"{s.time:%Y-%m-%d %H:%M:%S}")
    console.print(rows)


@gallery_app.command()
def rename(
    old: Annotated[str, typer.Argument(help="An enrolled name.")],
    new: Annotated[str, typer.Argument(help="New name.")],
    merge_: Annotated[
        bool, typer.Option("--merge", help="If the new name is enrolled already, put the samples to its own.")
    ] = False,
    gallery: GalleryPath = "gallery.db",
) -> None:
    """Rename an enrolled name."""
    with open_gallery(gallery) as opened:
        if merge_ and any(e.name == new for e in opened.names()):
            say(f"{plural(opened.merge(old, new), 'sample')} of {old} are {new}'s now")
            return
        opened.rename(old, new)
    say(f"{old} is now {new}")


@gallery_app.command()
def merge(
    name: Annotated[str, typer.Argument(help="An enrolled name, which is gone afterwards.")],
    into: Annotated[str, typer.Argument(help="The enrolled name that gets its samples.")],
    gallery: GalleryPath = "gallery.db",
) -> None:
    """Merge a name into another: its samples become the other's."""
    with open_gallery(gallery) as opened:
        say(f"{plural(opened.merge(name, into), 'sample')} of {name} are {into}'s now")


@gallery_app.command()
def remove(
    name: Annotated[str, typer.Argument(help="An enrolled name.")],
    source: Annotated[
        str | None,
        typer.Option(help="Digest of the one sample to remove, instead of all.", show_default=False),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask for confirmation.")] = False,
    gallery: GalleryPath = "gallery.db",
) -> None:
    """Remove a name, or one of its samples, for good: it is wiped from the file as well."""
    from quickstudy.data.cache import cache_root

    with open_gallery(gallery) as opened:
        samples = [s for s in opened.samples(name) if source in (None, s.source)]
        of_it = "its one sample" if len(samples) == 1 else f"all {len(samples)} samples"
        what = f"{shown(name)} and {of_it}"
        if not yes:
            typer.confirm(
                f"Remove {what if source is None else f'a sample of {shown(name)}'} for good?", abort=True
            )
        removed = opened.remove(name, source)
    say(f"removed {plural(removed, 'sample')} of {name}")
    if source is not None:
        say("it is enrolled again with the folder or archive of its file: take the file away there, too")
    root = cache_root()
    if root.is_dir() and any(root.iterdir()):
        say(
            f"pictures and clips of folders that were trained, calibrated or reported on stay decoded in "
            f"{root}: "
            "delete what is theirs there"
        )


@gallery_app.command()
def export(
    out: Annotated[Path, typer.Argument(help="File to write (.safetensors).")],
    gallery: GalleryPath = "gallery.db",
    force: Force = False,
) -> None:
    """Export all samples to one file, as a backup or to move them."""
    free(out, force)
    with open_gallery(gallery) as opened:
        say(f"{opened.export(out)} samples; {out}")


@gallery_app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="File that `export` wrote.")],
    gallery: GalleryPath = "gallery.db",
) -> None:
    """Import the samples of an exported file; it must be of the same encoder."""
    from quickstudy.recognition.gallery.gallery import Gallery

    with Gallery(gallery) as opened:
        say(f"{opened.import_(file)} new samples")


@gallery_app.command()
def stats(gallery: GalleryPath = "gallery.db", as_json: AsJson = False) -> None:
    """Show the size of a gallery, and its encoder."""
    from quickstudy.cli.terminal import table
    from quickstudy.core.consoles import console, print_json

    with open_gallery(gallery) as opened:
        figures = asdict(opened.stats())
    if as_json:
        print_json(figures)
        return
    rows = table("", "", wraps=("",))
    for key, value in figures.items():
        rows.add_row(key, str(value))
    console.print(rows)


@gallery_app.command()
def check(gallery: GalleryPath = "gallery.db", as_json: AsJson = False) -> None:
    """Check that all is as it was enrolled: digests, embeddings, names, indices; else exit with code 1."""
    from quickstudy.core.consoles import console, print_json

    with open_gallery(gallery) as opened:
        samples, found = opened.stats().samples, opened.check()
    if as_json:
        print_json({"samples": samples, "problems": found})
    elif not found:
        say(f"{plural(samples, 'sample')}, all as they were enrolled")
    else:
        for sentence in found:
            console.print(sentence, highlight=False, soft_wrap=True)
        say("restore the gallery from a backup, or remove what is damaged and enroll it anew")
    if found:
        raise typer.Exit(1)


@gallery_app.command()
def index(gallery: GalleryPath = "gallery.db") -> None:
    """Build PostgreSQL's index for more than a million samples, while others go on reading and writing."""
    with open_gallery(gallery) as opened:
        built = opened.build_index()
    say("the index is there" if built else "no index is needed: searches are in memory")


@gallery_app.command("calibrate")
def recalibrate(
    gallery: GalleryPath = "gallery.db", model: Model = None, far: Far = None, force: Force = False
) -> None:
    """Measure the thresholds again, on the enrolled samples, and store them in the gallery."""
    from quickstudy.core.consoles import console, messages
    from quickstudy.recognition.recognizer import Recognizer

    own = Recognizer(model, existing_gallery(gallery)).recalibrate(far, force)
    for warning in own.warnings:
        messages.print(f"warning: {warning}", highlight=False, soft_wrap=True)
    console.print(str(own), highlight=False, soft_wrap=True)

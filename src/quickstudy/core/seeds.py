"""Seeds of parts from the seed of a whole, and global random generators left as they were."""

import random
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import torch


def derived_seed(seed: int, *key: int) -> int:
    """Seed of one part of something random: a function of the numbers, unrelated to that of any other part.

    Args:
        seed: Seed of the whole, at least 0.
        key: Numbers of the part, each at least 0, such as a step and a process.

    Returns:
        A number in 0 … 2⁶³ − 1, the same on every machine and with every version of Python.
    """
    state = np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)
    return int(state[0]) >> 1


def seed_generators(seed: int) -> None:
    """Seed torch's, numpy's and Python's global generators, inside `generators_kept`."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (a model of the user's may draw from it)
    random.seed(seed)


@contextmanager
def generators_kept(seed: int | None = None) -> Generator[None]:
    """Leave torch's, numpy's and Python's global generators as they were, however the block ends.

    Args:
        seed: What they are seeded with inside the block; without, they go on from where they are.
    """
    ours, numpys, pythons = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    # asking for the state of a card that nobody uses yet would start it
    cards = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        if seed is not None:
            seed_generators(seed)
        yield
    finally:
        torch.set_rng_state(ours)
        np.random.set_state(numpys)  # noqa: NPY002
        random.setstate(pythons)
        if cards is not None:
            torch.cuda.set_rng_state_all(cards)
        if mps is not None:
            torch.mps.set_rng_state(mps)

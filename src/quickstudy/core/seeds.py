"""Seeds derived from one seed, and restoring the global random generators."""

import random
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import torch


def derived_seed(seed: int, *key: int) -> int:
    """Seed of one part of a random computation, statistically independent of the seeds of all other parts.

    Args:
        seed: Seed of the whole computation, at least 0.
        key: Numbers that identify the part, each at least 0, such as a step and a process.

    Returns:
        Seed in 0 … 2⁶³ − 1, the same on every machine and with every version of Python.
    """
    state = np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)
    return int(state[0]) >> 1


def seed_generators(seed: int) -> None:
    """Seed the global random generators of torch, numpy and Python; meant for use inside `generators_kept`.

    Args:
        seed: Seed of all three generators, at least 0.
    """
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (a user's model may draw from it)
    random.seed(seed)


@contextmanager
def generators_kept(seed: int | None = None) -> Generator[None]:
    """Restore the global random generators of torch, numpy and Python after the block, also after an error.

    Args:
        seed: Seed of the generators inside the block; by default they continue from their present state.
    """
    ours, numpys, pythons = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    # asking for the state of a GPU that is not in use yet would initialize CUDA
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

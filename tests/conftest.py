"""One thread a process, and what many tests are given."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from quickstudy.data.pool import ClassPool
from tests.support.pools import coded_pool

DATA = os.environ.get("QUICKSTUDY_DATA")  # before any test changes it

# Before torch is imported, by programs that tests start as well. The work is small and two processes share it
# out; with several threads each, which wait for each other, some tests take three hundred times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What is begun in the background ignores Ctrl-C, and tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Repeatable, leaves no folder behind, and indifferent to how busy the machine is.
settings.register_profile("quickstudy", derandomize=True, database=None, deadline=None, max_examples=50)
settings.register_profile("brief", settings.get_profile("quickstudy"), max_examples=20)  # of make test
settings.register_profile("fast", settings.get_profile("quickstudy"), max_examples=10)  # of make test-fast
settings.load_profile("quickstudy")


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "real_data" in getattr(item, "fixturenames", ()):
            item.add_marker("data")


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """Call it with what must be there: gives the folder of the data sets, or skips the test."""

    def root(needed: str) -> Path:
        if not DATA or not (Path(DATA) / needed).exists():
            pytest.skip(f"QUICKSTUDY_DATA names no folder with {needed}")
        return Path(DATA)

    return root


@pytest.fixture
def pool() -> ClassPool:
    """Twelve classes of 9 to 14 items."""
    return coded_pool([9, 10, 11, 12, 13, 14] * 2)

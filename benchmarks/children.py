"""Measuring in processes of their own: fresh memory, own allocator settings, own peak."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Child:
    """A process that has ended well.

    Args:
        output: its standard output.
        seconds: from start to end.
        peak: largest resident memory, MiB. Linux hands a child its parent's peak at birth, so a parent must
            hold less than the child will: it may import what the child does, but leaves the work to it.
    """

    output: str
    seconds: float
    peak: float

    @property
    def report(self) -> Any:
        """What it printed last, a line of JSON."""
        return json.loads(self.output.splitlines()[-1])


def run(*command: str, environment: Mapping[str, str] | None = None) -> Child:
    """Run `python COMMAND`, and exit with its exit code where it fails."""
    started = time.perf_counter()
    env = dict(os.environ) | dict(environment or {})
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(process.returncode)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return Child(output, time.perf_counter() - started, usage.ru_maxrss / unit)


def alternate(module: str, variants: Iterable[str], rounds: int, *options: str) -> dict[str, list[Child]]:
    """Run `python -m MODULE --variant VARIANT OPTIONS` for every variant, `rounds` times over.

    All variants have a turn in every round, there and back, so that a drift of the machine's speed meets all
    of them.
    """
    children: dict[str, list[Child]] = {variant: [] for variant in variants}
    for i in range(rounds):
        for variant in list(children)[:: -1 if i % 2 else 1]:
            print(f"round {i + 1} of {rounds}: {variant}", file=sys.stderr)
            children[variant].append(run("-m", module, "--variant", variant, *options))
    return children


def pooled(children: Iterable[Child], key: str) -> list[float]:
    """The measurements under `key` of all the reports."""
    return [x for child in children for x in child.report[key]]

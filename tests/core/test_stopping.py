"""Signals: the first asks to stop, a second Ctrl-C insists, and those that others handle are left to them."""

import os
import pty
import signal
import subprocess
import sys
import threading

import pytest

from quickstudy.core.stopping import SIGNALS, Stopped, exit_code, signals_noted, signals_raise


def test_each_signal_raises_once_and_has_its_exit_code() -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, code in zip((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), (130, 143, 129), strict=True):
        with signals_noted() as noted:
            signal.raise_signal(number)
            assert noted() == number
        assert exit_code(Stopped(number)) == code
    assert exit_code(KeyboardInterrupt()) == 130
    assert {number: signal.getsignal(number) for number in SIGNALS} == before


def test_only_a_second_ctrl_c_insists_and_only_once() -> None:
    with signals_noted() as noted:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP):
            signal.raise_signal(number)
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert noted() == signal.SIGTERM


def test_handlers_of_others_and_ignored_signals_are_left_alone() -> None:
    got: list[int] = []
    mine = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    nohup = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_noted() as noted:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGHUP)
            assert (got, noted()) == ([signal.SIGTERM], 0)
    finally:
        signal.signal(signal.SIGTERM, mine)
        signal.signal(signal.SIGHUP, nohup)


def test_in_another_thread_nothing_is_noted() -> None:
    seen: list[int] = []

    def work() -> None:
        with signals_noted() as noted, signals_raise():
            seen.append(noted())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [0]


PROGRAM = """
import signal, sys, time
from quickstudy.core.stopping import exit_code, signals_raise
with signals_raise():
    try:
        print("ready", flush=True)
        time.sleep(600)
    except KeyboardInterrupt as stop:
        signal.raise_signal(signal.SIGINT)  # a second one, while it ends
        print("ended", file=sys.stderr)  # which fails where the terminal is gone
        sys.exit(exit_code(stop))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_program_ends_with_the_code_of_the_signal(number: signal.Signals, code: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(number)
        _, err = child.communicate()
    assert (child.returncode, err) == (code, "ended\n")


def test_a_killed_terminal_ends_it_as_well() -> None:
    terminal, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n" + PROGRAM],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    ) as child:
        os.close(slave)
        assert b"ready" in os.read(terminal, 100)
        os.close(terminal)  # the kernel sends SIGHUP, and what is written fails
    assert child.returncode == 129

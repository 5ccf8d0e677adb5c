"""The program: `quickstudy`, or `python -m quickstudy`."""

import os
import sys

from quickstudy.core.stopping import exit_code, signals_raise


def main() -> None:
    """Run the command line; errors that a user can mend are one line, and the exit code is 1."""
    with signals_raise():
        try:
            _run()
        except KeyboardInterrupt as stop:  # before there was a command
            sys.exit(exit_code(stop))


def _run() -> None:
    try:
        from quickstudy.cli.app import app

        app(prog_name="quickstudy")
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("QUICKSTUDY_DEBUG"):
            raise
        if os.environ.get("LOCAL_RANK", "0") != "0":  # the first process says it for all
            sys.exit(1)
        sys.exit(f"error: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()

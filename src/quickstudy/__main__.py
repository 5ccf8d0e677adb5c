"""The program: `quickstudy`, or `python -m quickstudy`."""

import os
import sys

from quickstudy.core.stopping import exit_code, signals_raise


def main() -> None:
    """Run the command line; errors that a user can mend are one line, wrong calls exit with 2, else 1."""
    with signals_raise():
        try:
            _run()
        except KeyboardInterrupt as stop:  # before there was a command
            sys.exit(exit_code(stop))


def _run() -> None:
    from quickstudy.cli.options import UsageError
    from quickstudy.core.consoles import never_fail, own_streams
    from quickstudy.core.errors import WrongTypeError
    from quickstudy.core.wording import one_line, shown

    own_streams()
    never_fail()
    try:
        from quickstudy.cli.app import app

        app(prog_name="quickstudy")
    except (ValueError, OSError, FloatingPointError, WrongTypeError) as error:
        if os.environ.get("QUICKSTUDY_DEBUG"):
            raise
        if os.environ.get("LOCAL_RANK", "0") != "0":  # the first process says it for all
            sys.exit(2 if isinstance(error, UsageError) else 1)
        if isinstance(error, UsageError):
            print(shown(f"error: {one_line(error, most=5000)}"), file=sys.stderr)
            sys.exit(2)
        sys.exit(f"error: {one_line(error, most=5000)}")


if __name__ == "__main__":
    main()

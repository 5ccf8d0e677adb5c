"""The program: `quickstudy`, or `python -m quickstudy`."""

import os
import sys


def main() -> None:
    """Run the command line; errors that a user can mend are one line, and the exit code is 1."""
    from quickstudy.cli.app import app
    from quickstudy.core.consoles import never_fail
    from quickstudy.core.wording import one_line

    never_fail()
    try:
        app(prog_name="quickstudy")
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("QUICKSTUDY_DEBUG"):
            raise
        if os.environ.get("LOCAL_RANK", "0") != "0":  # the first process says it for all
            sys.exit(1)
        sys.exit(f"error: {one_line(error, most=5000)}")


if __name__ == "__main__":
    main()

"""The command `concord`, also `python -m concord`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line; a stage that `make bench` started is handed to the process that has imported everything."""
    open_standard_streams()
    from concord.fork_server import serve, submit

    arguments = sys.argv[1:]
    if arguments[:1] == ["warm"]:
        sys.exit(serve(arguments[1:]))
    code = submit(arguments)
    if code is not None:
        sys.exit(code)
    from concord.cli import main as command_line

    command_line()


def open_standard_streams() -> None:
    """Closed ones lead nowhere: else the next file that is opened would take their place and be written into."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


if __name__ == "__main__":
    main()

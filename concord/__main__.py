"""The command `concord`, also `python -m concord`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; a stage that `make bench` started is handed to the process that has imported everything."""
    from concord.fork_server import serve, submit

    arguments = sys.argv[1:]
    if arguments[:1] == ["warm"]:
        sys.exit(serve(arguments[1:]))
    code = submit(arguments)
    if code is not None:
        sys.exit(code)
    from concord.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()

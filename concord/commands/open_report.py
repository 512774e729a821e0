"""`concord open`: the report in a browser."""

from __future__ import annotations

import functools
import http.server
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from concord.arguments import RESULTS, ProfileName, Results
from concord.data.errors import ConcordError


def open_report(
    data_set: Annotated[
        str | None,
        typer.Argument(
            metavar="[DATA_SET]",
            help="Results below the profile's folder, by name: quick, limit-8, data-...; else those that were "
            "reported last.",
            show_default=False,
        ),
    ] = None,
    results: Results = RESULTS,
    profile: ProfileName = "embedded",
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="Where to serve; 0: any free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser on it.")] = True,
    address: Annotated[bool, typer.Option("--print", help="Print where the page is, and serve nothing.")] = False,
) -> None:
    """Serve the report on this machine alone and open it in a browser; Ctrl-C ends it.

    The page can be read while a benchmark runs: loaded again, it shows what has been finished since.

    Examples:

      concord open

      concord open quick

      concord open --no-browser --port 8000
    """
    index = find_report(results / profile, data_set)
    typer.echo(f"report: {index}")
    if address:
        return
    with serve(index.parent, port) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/index.html"
        typer.echo(f"serving {url} (Ctrl-C ends it)")
        if browser:
            import webbrowser

            webbrowser.open(url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("")


def find_report(root: Path, data_set: str | None) -> Path:
    """The index page of a data set's report, or of the one that was written last; ConcordError where there is none."""
    pages = [*root.glob("report/index.html"), *root.glob("*/report/index.html")]
    known = {"" if page.parent.parent == root else page.parent.parent.name: page for page in pages}
    if not known:
        raise ConcordError(f"{root}: no report yet; run `make bench SIZE=quick`, or `concord run SUITE`")
    if data_set is None:
        return max(known.values(), key=lambda path: path.stat().st_mtime)
    if data_set not in known:
        listed = ", ".join(sorted(name for name in known if name)) or "none beside the benchmark's own"
        raise ConcordError(f"{root}: no report of '{data_set}'; expected one of {listed}")
    return known[data_set]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Files of one folder, never kept by the browser: a report is written again while it is read."""

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a line for every picture of a page helps nobody."""


def serve(folder: Path, port: int) -> http.server.ThreadingHTTPServer:
    """A server of that folder for this machine alone; ConcordError where the port is taken."""
    handler: Callable[..., http.server.BaseHTTPRequestHandler] = functools.partial(_Quiet, directory=str(folder))
    try:
        return http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise ConcordError(f"--port {port}: {error.strerror}; choose another, or leave it out") from None

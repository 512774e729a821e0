"""The command line: a list of verbs, each imported when it is called, so that `concord --help` answers at once."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import resource
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from concord.console import safe_streams, tables_as_json
from concord.data.errors import ConcordError
from concord.data.printable import printable
from concord.data.user_code import failure, traceback_of, watch_interrupts

VERBS: dict[str, tuple[str, str]] = {
    "list": ("concord.commands.run:list_all", "Suites, methods and metrics, and what has results."),
    "run": ("concord.commands.run:run", "A whole suite: generate, score, report."),
    "bench": ("concord.commands.bench:bench", "All suites: what is out of date in one call, then recorded by DVC."),
    "generate": ("concord.commands.stages:generate", "Make the images of a suite's rows."),
    "score": ("concord.commands.stages:score_verb", "Score a suite's finished rows."),
    "evaluate": ("concord.commands.evaluate:evaluate", "Score any folder of images, or one stored row."),
    "status": ("concord.commands.status:status", "Show what goes on by itself on a Slurm cluster."),
    "plan": ("concord.commands.run:plan", "Show what is up to date, and write the matrix that dvc.yaml reads."),
    "keys": ("concord.commands.run:keys", "Write what the stages of dvc.yaml stand on."),
    "report": ("concord.commands.report:report", "Write tables, figures and pages from stored results."),
    "open": ("concord.commands.open_report:open_report", "Read the report in a browser."),
    "compare": (
        "concord.commands.compare:compare",
        "Compare scores of two revisions or results folders, with a verdict.",
    ),
    "history": (
        "concord.commands.compare:history",
        "Draw a method's metrics over the commits that changed the baseline.",
    ),
    "table": ("concord.commands.table:table", "Print one table: drawn, Markdown, LaTeX or CSV."),
    "calibrate": ("concord.commands.calibrate:calibrate", "Hold what has one published answer against its window."),
    "tune": ("concord.commands.tune:tune", "Look for a suite's guidance strengths on validation faces."),
    "check": ("concord.commands.check:check", "Contract tests on a method."),
    "export": (
        "concord.commands.external:export",
        "Write a suite's requests as a folder, for a method that lives outside.",
    ),
    "import": ("concord.commands.external:import_", "Take the images of an answered export in as a method."),
    "fetch": ("concord.commands.fetch:fetch", "Fetch what a profile needs: datasets and weights."),
    "weights": ("concord.commands.fetch:weights", "Fetch and list the papers' weights."),
    "data": ("concord.commands.data:app", "Make, verify and preview datasets."),
    "train": ("concord.commands.train:train", "Make the embedded weights again."),
}
"""verb -> (module:function or module:typer application, one line of help)"""

FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENOTDIR, errno.EISDIR}
"""System errors that are the user's to mend: a full, read-only or wrong folder."""

DEBUG = "--debug"
JSON = "--json"
OWN_JSON = ("compare", "data", "evaluate", "warm")
"""Verbs that have an option of that name themselves."""
ADDRESS_SPACE = 4 * 2**30
"""Bytes of address space that a process with torch needs; most of them are mapped, not used."""
LIGHT_VERBS = ("fetch", "weights", "open")


class LazyGroup(TyperGroup):
    """Shows every verb from the table above, imports only the one that is called, and prints errors in one line."""

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        for verb, (_, text) in VERBS.items():
            self.add_command(TyperCommand(verb, callback=None, help=text, short_help=text))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if name and not {"--help", "-h"}.intersection(rest):
            check_address_space(name)
        return name, load_verb(name) if name else command, rest

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """`--debug` and `--json` may stand anywhere, before the verb or behind it."""
        verb = next((one for one in args if not one.startswith("-")), "")
        own = verb in OWN_JSON or (verb == "score" and any(one.startswith(("--images", "--metrics")) for one in args))
        ctx.meta[DEBUG], ctx.meta[JSON] = DEBUG in args, JSON in args and not own
        return super().parse_args(ctx, [one for one in args if one != DEBUG and (own or one != JSON)])

    def invoke(self, ctx: Any) -> object:
        from concord.data.notes import show_notes_as_lines

        show_notes_as_lines()
        with safe_streams():
            watch_interrupts()
            with tables_as_json() if ctx.meta[JSON] else contextlib.nullcontext():
                return self._invoke(ctx)

    def _invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ConcordError as error:
            if ctx.meta[DEBUG]:
                typer.echo(traceback_of(error) + error.details, err=True)
            fail(str(error))
        except KeyboardInterrupt:
            typer.echo("interrupted: what was finished is kept; the same command goes on from there", err=True)
            raise SystemExit(130) from None
        except (typer.Exit, typer.Abort, TyperException):
            raise
        except Exception as error:
            if ctx.meta[DEBUG]:
                typer.echo(traceback_of(error), err=True)
            if isinstance(error, OSError) and error.errno in FAULTS:
                fail(f"{error.filename or 'a file'}: {error.strerror}; free space or choose another folder")
            if isinstance(error, MemoryError) or (isinstance(error, ImportError) and "map segment" in str(error)):
                fail(
                    f"out of memory ({type(error).__name__}): free some, or lift the limit of this shell (`ulimit -v`)"
                )
            # a fault of Concord's own: one line all the same, and where to see more
            fail(f"{failure(error)}: this is a fault of concord's; the same command with {DEBUG} shows where", code=1)


def check_address_space(verb: str) -> None:
    """Refuse a limit that torch cannot be imported within: it would end in tracebacks, or without a word."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if verb not in LIGHT_VERBS and limit != resource.RLIM_INFINITY and limit < ADDRESS_SPACE:
        raise ConcordError(
            f"the address space of this process is limited to {limit / 2**30:.1f} GiB (`ulimit -v`): `concord {verb}` "
            f"needs {ADDRESS_SPACE / 2**30:g} GiB or more, as torch is mapped into it; lift the limit"
        )


def fail(message: str, code: int = 2) -> None:
    """Print one line and end with exit code 2, or another."""
    typer.echo(f"error: {' '.join(printable(message).split())}", err=True)
    raise SystemExit(code) from None


def load_verb(name: str) -> object:
    """The command of a verb, imported now."""
    module, _, attribute = VERBS[name][0].partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if not isinstance(found, typer.Typer):
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command(name)(found)
        found = single
    command = typer.main.get_command(found)
    command.name = name
    return command


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def concord(
    debug: Annotated[bool, typer.Option(DEBUG, help="Show the whole traceback of an error, a plugin's too.")] = False,
    as_json: Annotated[
        bool, typer.Option(JSON, help="Print tables as one JSON document, all else on the error stream.")
    ] = False,
) -> None:
    """Concord: a benchmark of image generation under several conditions at once.

    Examples:

      concord list

      concord run face-generation --limit 8

      concord run face-generation --data path/to/CelebAMask-HQ
    """


def main() -> None:
    """Entry point of the command `concord`."""
    os.environ["MPLBACKEND"] = "agg"  # figures go to files; a name that does not exist would end the import
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a sign shows '?'
    app(prog_name="concord")

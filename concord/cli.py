"""The command line: a list of verbs, each imported when it is called, so that `concord --help` answers at once."""

from __future__ import annotations

import errno
import importlib
import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from concord.data.errors import ConcordError

VERBS: dict[str, tuple[str, str]] = {
    "list": ("concord.commands.run:list_all", "Suites, methods and metrics, and what has results."),
    "run": ("concord.commands.run:run", "A whole suite: generate, score, report."),
    "bench": ("concord.commands.bench:bench", "All suites: what is out of date in one call, then recorded by DVC."),
    "generate": ("concord.commands.stages:generate", "Make the images of a suite's rows."),
    "score": ("concord.commands.stages:score_verb", "Score a suite's finished rows."),
    "evaluate": ("concord.commands.evaluate:evaluate", "Score any folder of images, or one stored row."),
    "plan": ("concord.commands.run:plan", "Show what is up to date, and write the matrix that dvc.yaml reads."),
    "keys": ("concord.commands.run:keys", "Write what the stages of dvc.yaml stand on."),
    "report": ("concord.commands.report:report", "Write tables, figures and pages from stored results."),
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


class LazyGroup(TyperGroup):
    """Shows every verb from the table above, imports only the one that is called, and prints errors in one line."""

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        for verb, (_, text) in VERBS.items():
            self.add_command(TyperCommand(verb, callback=None, help=text, short_help=text))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, load_verb(name) if name else command, rest

    def invoke(self, ctx: Any) -> Any:
        from concord.data.notes import show_notes_as_lines

        show_notes_as_lines()
        try:
            return super().invoke(ctx)
        except ConcordError as error:
            fail(str(error))
        except KeyboardInterrupt:
            typer.echo("interrupted: what was finished is kept; the same command goes on from there", err=True)
            raise SystemExit(130) from None
        except OSError as error:
            if error.errno not in FAULTS:
                raise
            fail(f"{error.filename or 'a file'}: {error.strerror}; free space or choose another folder")


def fail(message: str) -> None:
    """Print one line and end with exit code 2."""
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    raise SystemExit(2) from None


def load_verb(name: str) -> Any:
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
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def concord() -> None:
    """Concord: a benchmark of image generation under several conditions at once.

    Examples:

      concord list

      concord run face-generation --limit 8

      concord run face-generation --data path/to/CelebAMask-HQ
    """


def main() -> None:
    """Entry point of the command `concord`."""
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal that cannot show a sign shows '?'
    app(prog_name="concord")

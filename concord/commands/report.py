"""`concord report`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from concord.arguments import RESULTS, DataFolder, Limit, ProfileName, Results, SeedSet
from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from concord.reports.report import Report
    from concord.reports.tables.table import Table


SuiteOption = Annotated[
    list[str] | None, typer.Option("--suite", help="The same as SUITE; may be given again.", show_default=False)
]


def report(
    suites: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SUITE]...", help="Suites; all of them if absent.", show_default=False),
    ] = None,
    suite: SuiteOption = None,
    results: Results = RESULTS,
    profile: ProfileName = "embedded",
    data_set: Annotated[
        str | None,
        typer.Option(
            "--data-set",
            help="Results below the profile's folder, by name: data-..., limit-..., seeds-...",
            show_default=False,
        ),
    ] = None,
    data: DataFolder = None,
    limit: Limit = None,
    seed_set: SeedSet = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Write the pages, print no tables.")] = False,
    where: Annotated[
        bool, typer.Option("--where", help="Print tables and where the pages are; write nothing.")
    ] = False,
    brief: Annotated[
        bool, typer.Option("--brief", help="One screen in place of the tables, which are printed where one is asked.")
    ] = False,
) -> None:
    """Write tables, figures and pages from stored results, and print the tables.

    Examples:

      concord report

      concord report face-generation --limit 8

      concord report --data path/to/CelebAMask-HQ
    """
    from concord.benchmarks.plan.requests import Options
    from concord.reports.report import stored_report

    options = Options(profile, "default", limit, data, seed_set, results)
    names = [*(suites or []), *(suite or [])]
    report = stored_report(names, options, data_set, write=not where)
    problems = show_report(report, quiet or (brief and len(names) != 1), not where, brief)
    raise_problems(problems, report.unmade.details)


def show_report(report: Report, quiet: bool = False, write: bool = True, brief: bool = False) -> list[str]:
    """Print the tables that were asked for, then write the pages; returns what is wrong, a line each.

    brief: end with one screen of all suites.
    """
    from concord.reports.report import left_out

    names = report.asked or list(report.tables)
    shown = [] if quiet else [report.tables[name] for name in names if name in report.tables]
    for table in shown:
        print_table(table)
    for line in left_out(shown):
        typer.echo(line)
    if write:
        report.write()
    for note in report.notes:
        typer.echo(note, err=True)
    if brief:
        from concord.reports.brief import screen

        for line in screen(report):
            typer.echo(line)
    else:
        typer.echo(f"report: {report.index}")
    return report.problems


def raise_problems(problems: Sequence[str], details: Sequence[str] = ()) -> None:
    """End with an error where something is missing that the rest was printed or written without."""
    if problems:
        raise ConcordError("; ".join(problems), "\n".join(details))


def check_whole(tables: Sequence[Table]) -> None:
    """Raise ConcordError where rows are missing from tables that are printed otherwise: the exit code says it too."""
    missing = [f"{table.name}/{row.name}: {row.absent}" for table in tables for row in table.rows if row.is_missing]
    if missing:
        raise ConcordError("; ".join(missing))


def print_table(table: Table) -> None:
    """In a terminal a drawn table, in a file or a pipe Markdown."""
    from rich.console import Console

    from concord.console import collect, records
    from concord.reports.tables.export import to_frame, to_terminal
    from concord.reports.tables.markdown import to_markdown

    if collect(table.name, records(to_frame(table))):
        return
    console = Console()
    if console.is_terminal:
        console.print(to_terminal(table))
    else:
        typer.echo(to_markdown(table))

"""`concord table`: one table, as text that goes into a paper, a page or a program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from concord.arguments import DataFolder, Limit, ProfileName, Results, SeedSet
from concord.commands.report import RESULTS, stored_root, with_extra_rows, with_reasons
from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from concord.benchmarks.store.run import Store
    from concord.reports.tables.table import Table


def table(
    name: Annotated[
        str,
        typer.Argument(
            metavar="TABLE",
            help="A suite, or a table of a paper that no suite answers, such as amdm-table-1.",
            show_default=False,
        ),
    ],
    format: Annotated[
        str | None,
        typer.Option("--format", help="markdown, latex or csv; a drawn table if absent.", show_default=False),
    ] = None,
    fragment: Annotated[
        bool, typer.Option("--fragment", help="LaTeX without the document around it, to be taken in by a paper.")
    ] = False,
    results: Results = RESULTS,
    profile: ProfileName = "embedded",
    data_set: Annotated[
        str | None,
        typer.Option("--data-set", help="Results below the profile's folder, by name.", show_default=False),
    ] = None,
    data: DataFolder = None,
    limit: Limit = None,
    seed_set: SeedSet = 0,
) -> None:
    """Print one table from stored results; where nothing was run, the paper's values.

    Examples:

      concord table face-generation

      concord table face-generation --format latex > table.tex

      concord table amdm-table-1 --format csv
    """  # fmt: skip
    from concord.benchmarks.plan.requests import Options
    from concord.benchmarks.settings import load_settings
    from concord.benchmarks.store.run import Store
    from concord.reports.tables.export import render
    from concord.reports.tables.latex import to_latex

    load_settings().profile(profile)
    if fragment and format != "latex":
        raise ConcordError("--fragment: goes with --format latex")
    options = Options(profile, "default", limit, data, seed_set, results)
    made = find_table(name, Store(stored_root(options, data_set)), profile)
    if format is None:
        from concord.commands.report import print_table

        print_table(made)
    else:
        text = to_latex(made, standalone=False) if fragment else render(made, format)
        typer.echo(text, nl=not text.endswith("\n"))
    if made.refusal:
        raise ConcordError(f"table '{name}': {made.refusal}")


def find_table(name: str, store: Store, profile: str) -> Table:
    """The table of a suite, or one that the papers print and no suite answers; ConcordError lists the names."""
    from concord.benchmarks.suite import read_suite, suite_names
    from concord.reports.assemble import build_table, unanswered_tables

    if name in suite_names() or name.endswith((".yaml", ".yml")):
        suite = with_reasons(with_extra_rows(read_suite(name), store), store, profile)
        return build_table(suite, store, profile)
    others = {table.name: table for table in unanswered_tables(profile)}
    if name not in others:
        raise ConcordError(f"unknown table '{name}': expected one of {', '.join([*suite_names(), *others])}")
    return others[name]

"""`concord table`: one table, as text that goes into a paper, a page or a program."""

from __future__ import annotations

from typing import Annotated

import typer

from concord.arguments import RESULTS, DataFolder, Limit, ProfileName, Results, SeedSet
from concord.data.errors import ConcordError


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
    """
    from concord.benchmarks.plan.requests import Options
    from concord.benchmarks.settings import load_settings
    from concord.benchmarks.store.run import Store
    from concord.reports.stored import find_table, stored_root
    from concord.reports.tables.export import render
    from concord.reports.tables.latex import to_latex

    load_settings().profile(profile)
    if fragment and format != "latex":
        raise ConcordError("--fragment: goes with --format latex")
    options = Options(profile, "default", limit, data, seed_set, results)
    made = find_table(name, Store(stored_root(options, data_set)), profile)
    from concord.commands.report import check_whole, print_table

    if format is None:
        print_table(made)
    else:
        text = to_latex(made, standalone=False) if fragment else render(made, format)
        typer.echo(text, nl=not text.endswith("\n"))
    if made.refusal:
        raise ConcordError(f"table '{name}': {made.refusal}")
    check_whole([made])

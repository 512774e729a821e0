"""`concord table`: one table, as text that goes into a paper, a page or a program."""

from __future__ import annotations

from typing import Annotated

import typer

from concord.arguments import RESULTS, DataFolder, Limit, ProfileName, Results, SeedSet, split_names
from concord.data.errors import ConcordError


def table(
    name: Annotated[
        str,
        typer.Argument(
            metavar="TABLE",
            help="A suite, or a table of a paper that no suite answers, such as z-magic-figure-1.",
            show_default=False,
        ),
    ],
    format: Annotated[
        str | None,
        typer.Option("--format", help="markdown, latex or csv; a drawn table if absent.", show_default=False),
    ] = None,
    fragment: Annotated[
        bool, typer.Option("--fragment", help="LaTeX that fits a paper's column: values, intervals, a short caption.")
    ] = False,
    columns: Annotated[
        str | None,
        typer.Option(
            "--columns",
            help="With --fragment: these metrics, and n, failed, seconds, memory or passes, by commas.",
            show_default=False,
        ),
    ] = None,
    notes: Annotated[
        bool, typer.Option("--notes", help="With --format latex: what stands under the table, for an appendix.")
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

      concord table face-generation --format latex --fragment --columns fid,mask-accuracy,seconds

      concord table collaborative-diffusion-table-a4 --format csv
    """
    from concord.benchmarks.plan.requests import Options
    from concord.benchmarks.settings import load_settings
    from concord.benchmarks.store.run import Store
    from concord.reports.stored import find_table, stored_root
    from concord.reports.tables.export import render
    from concord.reports.tables.latex import to_fragment, to_notes

    load_settings().profile(profile)
    for option, given in (("--fragment", fragment), ("--notes", notes)):
        if given and format != "latex":
            raise ConcordError(f"{option}: goes with --format latex")
    if columns is not None and not fragment:
        raise ConcordError("--columns: goes with --format latex --fragment")
    options = Options(profile, "default", limit, data, seed_set, results)
    made = find_table(name, Store(stored_root(options, data_set)), profile)
    from concord.commands.report import check_whole, print_table

    if format is None:
        print_table(made)
    else:
        chosen = split_names(columns, "--columns")
        text = to_fragment(made, chosen) if fragment else to_notes(made) if notes else render(made, format)
        typer.echo(text, nl=not text.endswith("\n"))
    if made.refusal:
        raise ConcordError(f"table '{name}': {made.refusal}")
    check_whole([made])

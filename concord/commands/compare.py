"""`concord compare | history`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from concord.arguments import ProfileName, Results
from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from concord.reports.compare.margins import Margins

RESULTS = Path("results")

SuiteOption = Annotated[
    list[str] | None, typer.Option("--suite", help="Only rows of this suite; may be given again.", show_default=False)
]


def compare(
    base: Annotated[
        str | None,
        typer.Argument(
            metavar="[BASE]",
            help="What is measured against: a git revision (its committed baseline), a results folder, or 'baseline' "
            "(the committed one as it lies here; the default). A folder goes before a revision of the same name.",
            show_default=False,
        ),
    ] = None,
    head: Annotated[
        str | None,
        typer.Argument(
            metavar="[HEAD]", help="What is measured: the same, or 'results' (the default).", show_default=False
        ),
    ] = None,
    suite: SuiteOption = None,
    profile: ProfileName = "embedded",
    results: Results = RESULTS,
    margins: Annotated[
        Path | None,
        typer.Option("--margins", help="Another file of margins than reports/margins.yaml.", show_default=False),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option("--tolerance", help="One margin for all: a share of the base's value.", min=0, show_default=False),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the comparison here, for programs.", show_default=False)
    ] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="Also write it here, as one page.", show_default=False)
    ] = None,
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", help="Also write here what is printed.", show_default=False)
    ] = None,
    accept: Annotated[bool, typer.Option("--accept", help="Make the stored results the new baseline.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="With --accept: drop rows of the old baseline that have no results now.")
    ] = False,
) -> None:
    """Compare two sets of scores, request by request: which metric of which method became better or worse.

    Exit code 0: no loss; 1: something is worse beyond its margin; 2: bad input; 3: something cannot be compared.

    Examples:

      concord compare

      concord compare main

      concord compare HEAD~5 HEAD

      concord compare results/embedded other/results/embedded --html out.html

      concord compare --accept
    """
    from concord.benchmarks.settings import ROOT, load_settings
    from concord.reports.compare import sides as sides
    from concord.reports.compare.comparison import compare_sides
    from concord.reports.compare.margins import read_margins, same_for_all
    from concord.reports.compare.render import to_html, to_json, to_markdown

    load_settings().profile(profile)
    allowed = same_for_all(tolerance) if tolerance is not None else None
    if allowed is None:
        allowed = read_margins(profile, margins) if margins is not None else read_margins(profile)
    if accept:
        if base is not None or head is not None:
            raise ConcordError("--accept takes the stored results (--results), so it wants no BASE and no HEAD")
        _accept(profile, results, suite, prune, allowed)
        return
    if prune:
        raise ConcordError("--prune belongs to --accept")
    first = sides.open_side(base or "baseline", profile, ROOT, results, sides.BASELINE)
    second = sides.open_side(head or "results", profile, ROOT, results, sides.BASELINE)
    result = compare_sides(first, second, allowed, only=_chosen(suite, {*first.runs, *second.runs}))
    typer.echo(to_markdown(result), nl=False)
    for path, text in ((json_file, to_json), (html_file, to_html), (markdown_file, to_markdown)):
        if path is not None:
            _write(path, text(result))
    if result.exit_code:
        raise typer.Exit(result.exit_code)


def _accept(profile: str, results: Path, suites: list[str] | None, prune: bool, margins: Margins) -> None:
    from concord.benchmarks.store.run import Store
    from concord.reports.compare import sides as sides
    from concord.reports.compare.baseline import renew, renewal_markdown

    store = Store(results / profile)
    if not store.root.is_dir():
        raise ConcordError(f"{store.root}: no such folder; run `concord run SUITE` first")
    folder, found = sides.BASELINE / profile, sides.store_side(store, profile)
    if found.profile != profile:
        raise ConcordError(f"{store.root}: results of profile '{found.profile}'; give --profile {found.profile}")
    renewal = renew(found, folder, margins, only=_chosen(suites, found.runs), prune=prune)
    typer.echo(renewal_markdown(renewal, folder), nl=False)


def _chosen(suites: list[str] | None, known: Iterable[str]) -> set[str] | None:
    """Those of the known runs that suites have as rows (an open suite: every row of its requests); None: no choice."""
    from concord.benchmarks.suite import read_suite

    if not suites:
        return None
    found: set[str] = set()
    for suite in map(read_suite, suites):
        pairs = ((name, *name.split("/", 1)) for name in known)
        rows = set(suite.row_names())
        found |= {name for name, group, row in pairs if group == suite.request_set and (suite.open or row in rows)}
    return found


def _write(path: Path, text: str) -> None:
    from concord.data.files import atomic_path

    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def history(
    method: Annotated[
        str, typer.Argument(metavar="METHOD", help="A row: 'composable', or 'SUITE/composable'.", show_default=False)
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", help="Only this metric; may be given again.", show_default=False),
    ] = None,
    profile: ProfileName = "embedded",
    last: Annotated[int | None, typer.Option("--last", help="Only so many commits.", min=1, show_default=False)] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The drawing: .svg or .png. Default: history-METHOD.svg here.", show_default=False),
    ] = None,
) -> None:
    """A method's metrics over the commits that changed the committed baseline: a table, and a drawing.

    Examples:

      concord history composable

      concord history face-generation/collaborative --metric mask-accuracy --out mask.png
    """
    from concord.benchmarks.settings import ROOT, load_settings
    from concord.reports.compare import history as past

    load_settings().profile(profile)
    target = out or Path(f"history-{method.replace('/', '-')}.svg")
    if target.suffix not in past.DRAWINGS:
        raise ConcordError(f"--out {target}: expected a name that ends with {' or '.join(past.DRAWINGS)}")
    found = past.read_history(ROOT, profile, method, metric, last)
    for note in found.notes:
        typer.echo(note, err=True)
    typer.echo(past.to_markdown(found), nl=False)
    past.draw(found, target)
    typer.echo(f"drawing: {target}")

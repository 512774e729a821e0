"""`concord export | import`: a method that lives outside is asked by a folder, and answers with images in it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from concord.arguments import (
    RESULTS,
    DataFolder,
    Limit,
    MachineOptions,
    Plugins,
    RequestOptions,
    Results,
    SuiteName,
    grouped,
    open_session,
    split_names,
)
from concord.console import print_summary, print_timing, raise_failed
from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from concord.benchmarks.external.exchange import Export
    from concord.benchmarks.plan.requests import Options


@dataclass(frozen=True)
class AboutMethod:
    """What a table and its notes say of the method."""

    title: Annotated[str, typer.Option("--title", help="What the table calls it; its name if absent.")] = ""
    paper: Annotated[str, typer.Option("--paper", help="Such as arXiv:2304.10530.")] = ""
    citation: Annotated[str, typer.Option("--citation", help="Authors: Title. Venue, year.")] = ""


@dataclass(frozen=True)
class ExportedRequests:
    """Which requests were answered, where the export does not say it right."""

    suite: Annotated[
        str | None,
        typer.Option(
            "--suite", help="Another suite of the same requests; the export's own if absent.", show_default=False
        ),
    ] = None
    data: DataFolder = None
    limit: Limit = None
    size: Annotated[
        str | None, typer.Option("--size", help="default or full; the export's if absent.", show_default=False)
    ] = None
    seed_set: Annotated[int | None, typer.Option("--seed-set", help="The export's if absent.", show_default=False)] = (
        None
    )
    profile: Annotated[str | None, typer.Option("--profile", help="The export's if absent.", show_default=False)] = None

    def options(self, known: Export, results: Path) -> Options:
        from concord.benchmarks.plan.requests import Options

        chosen = known.options
        return Options(
            self.profile or known.profile,
            self.size or chosen.size,
            chosen.limit if self.limit is None else self.limit,
            self.data or (Path(chosen.data) if chosen.data else None),
            chosen.seed_set if self.seed_set is None else self.seed_set,
            results,
        )


@grouped
def export(
    suite: SuiteName,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or an empty folder.", show_default=False)],
    requests: RequestOptions,
    conditions: Annotated[
        str | None,
        typer.Option("--conditions", help="Only these of the suite's conditions, by commas.", show_default=False),
    ] = None,
) -> None:
    """Write a suite's requests as a folder: requests.jsonl, their conditions as files, and a README of the format.

    Fill the folder with one <id>.png a request, in whatever environment; `concord import` takes the images in.

    Examples:

      concord export face-generation exchange --limit 32

      concord export face-generation exchange --conditions text --size full
    """
    from concord.benchmarks.external.exchange import README
    from concord.benchmarks.external.transfer import export_suite
    from concord.benchmarks.opening import open_plan

    if requests.seeds != 1:
        raise ConcordError("--seeds: an export asks for one image of every item; export each --seed-set by itself")
    # A reference row asks for no method: none has to be imported to write requests.
    plan = open_plan(suite, requests.options(), row="ground-truth", say=typer.echo)
    written = export_suite(plan, folder, suite, split_names(conditions, "--conditions"))
    pixels = f"{written.image_size}x{written.image_size}"
    typer.echo(f"{folder}: {written.n} requests of suite '{plan.suite.name}' ({', '.join(written.conditions)})")
    typer.echo(f"make {pixels} images as {folder}/<id>.png ({folder / README} tells how), then:")
    typer.echo(f"concord import {folder} --as NAME")


@grouped
def import_(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder that `concord export` wrote.", show_default=False)
    ],
    name: Annotated[str, typer.Option("--as", help="What the method is called.", show_default=False)],
    about: AboutMethod,
    requests: ExportedRequests,
    machine: MachineOptions,
    images: Annotated[
        Path | None, typer.Option("--images", help="Where the images lie; in DIR if absent.", show_default=False)
    ] = None,
    results: Results = RESULTS,
    plugin: Plugins = None,
) -> None:
    """Take the images of an answered export in as a method: checked, stored, scored, and shown in the suite's table.

    Nothing is stored unless every request has its image, readable and of the right size, and the requests are those
    of the suite today. Imported again under its name, a method is replaced.

    Examples:

      concord import exchange --as my-method

      concord import exchange --as my-method --title "My method" --paper arXiv:2304.10530
    """
    from concord.benchmarks.external.exchange import check_answers, read_export

    known = read_export(folder)
    check_answers(known, folder, images or folder)
    from concord.benchmarks.external.transfer import import_folder, with_run
    from concord.benchmarks.opening import Additions, open_plan
    from concord.commands.report import show_report
    from concord.reports.report import plan_report

    additions = Additions(plugin or ())
    plan = open_plan(requests.suite or known.suite, requests.options(known, results), additions, say=typer.echo)
    session = open_session(plan, machine)
    with session.measure("write"):
        run, new = import_folder(plan, folder, name, images, asdict(about))
    typer.echo(f"{run.path}: {len(run.requests)} images of '{name}' {'taken in' if new else 'are there already'}")
    plan = session.plan = with_run(plan, run)
    runs = plan.select([name])  # from here on as `concord run --methods NAME`: reference rows come along
    made = session.generate(runs)
    scored = session.score(runs)
    print_summary(runs, [*made, *([run] if new else [])], scored)
    with session.measure("report"):
        report = plan_report(plan)
        problems = show_report(report)
    print_timing([session])
    raise_failed([session], problems, report.unmade.details)

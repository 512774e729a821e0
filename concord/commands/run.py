"""`concord list | run | plan`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from concord.arguments import (
    RESULTS,
    BatchSize,
    Device,
    Devices,
    MachineOptions,
    MethodOptions,
    Methods,
    Plugins,
    ProfileName,
    RequestOptions,
    Results,
    SizeName,
    grouped,
    open_session,
    split_names,
    spread,
)
from concord.console import print_reasons, print_summary, print_table, print_timing, raise_failed
from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from concord.benchmarks.plan.requests import Options
    from concord.benchmarks.plan.runs import Plan
    from concord.benchmarks.settings import Settings
    from concord.benchmarks.store.run import Store
    from concord.benchmarks.suite import Suite


@grouped
def run(
    requests: RequestOptions,
    machine: MachineOptions,
    additions: MethodOptions,
    suite: Annotated[
        str | None,
        typer.Argument(metavar="SUITE", help="A suite (see `concord list`), or a .yaml file.", show_default=False),
    ] = None,
    methods: Methods = None,
    batch_size: BatchSize = None,
    results: Results = RESULTS,
    all_stale: Annotated[
        bool, typer.Option("--all-stale", help="Instead of one suite: every row of all suites that is not up to date.")
    ] = False,
    only: Annotated[
        str | None, typer.Option("--suite", help="With --all-stale: only this suite.", show_default=False)
    ] = None,
    claims: Annotated[
        list[str] | None,
        typer.Option(
            "--claim",
            help="A claim registered before anything is made: 'mine > composable : mask-accuracy'. Tested with the "
            "paper's own; repeat it for several.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run a whole suite: generate what is missing, score it, write the report. A killed run goes on where it stopped.

    Examples:

      concord run face-generation

      concord run face-generation --limit 8 --methods composable,collaborative

      concord run face-generation --data path/to/CelebAMask-HQ

      concord run face-generation --plugin my_method.py --methods my-method --set steps=20

      concord run face-generation --external my_method.yaml

      concord run --all-stale
    """
    if all_stale:
        from concord.commands.run_stale import run_stale

        chosen = [
            requests.data,
            requests.limit,
            requests.seed_set or None,
            requests.seeds if requests.seeds != 1 else None,
            methods,
            additions.changes,
            additions.external,
            claims,
        ]
        if any(value is not None for value in chosen):
            raise ConcordError(
                "--all-stale runs the suites as they are; leave out --data, --methods, --limit, --set, --claim"
            )
        run_stale(suite or only, requests, machine, additions, batch_size, results)
        return
    if suite is None:
        raise ConcordError("a suite is missing: `concord run SUITE` (see `concord list`), or `concord run --all-stale`")
    from concord.benchmarks.opening import open_plan
    from concord.benchmarks.suite import read_suite
    from concord.commands.report import show_report
    from concord.reports.published import answer_mistakes
    from concord.reports.report import plan_report

    names = split_names(methods)
    asked = read_suite(suite)
    wrong = answer_mistakes(asked.paper, asked.table)
    plan = open_plan(suite, requests.options(results), additions.additions(names), say=typer.echo, mistakes=wrong)
    _register(plan, claims or [])
    session = open_session(plan, machine, batch_size)
    runs = plan.select(names)
    _introduce(plan)
    print_reasons(session, runs)
    if machine.engine is not None:
        outcome = spread(machine, [(session, runs)])
        made, scored = outcome.made, outcome.scored
    else:
        made = session.generate(runs)
        scored = session.score(runs)
    for what, reason in [*session.not_run.items(), *session.metrics_not_run.items()]:
        typer.echo(f"'{what}': {reason}", err=True)
    print_summary([run for run in runs if run.row.name not in session.failed], made, scored)
    with session.measure("report"):
        report = plan_report(plan)
        problems = show_report(report)
    print_timing([session])
    raise_failed([session], problems, report.unmade.details)


def _register(plan: Plan, texts: Sequence[str]) -> None:
    """Keep the claims of a call, with their day and commit, before anything is made."""
    from concord.benchmarks.claims import check_claim, parse_claim, register
    from concord.benchmarks.store.provenance import git_commit
    from concord.benchmarks.store.run import Run

    claims = [parse_claim(text) for text in texts]
    for claim in claims:
        check_claim(claim, [run.row.name for run in plan.runs], plan.suite.metrics)
    if claims:
        made = [run.row.name for run in plan.runs if (Run(run.path).path / "images").is_dir()]
        register(plan.root, plan.suite.name, claims, made, git_commit())


def plan(
    suite: Annotated[
        str | None, typer.Option("--suite", help="Only this suite; all of them if absent.", show_default=False)
    ] = None,
    size: SizeName = "default",
    profile: ProfileName = "embedded",
    device: Device = "auto",
    results: Results = RESULTS,
    plugin: Plugins = None,
    devices: Devices = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Accept the licences of what profile paper fetches, as they are listed.")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time the paper's networks on --device first, for the hours below.")
    ] = False,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.1, help="How many requests each suite takes in so many minutes.", show_default=False),
    ] = None,
    pilot: Annotated[
        Path | None, typer.Option(help="For --minutes: results on other faces and seeds.", show_default=False)
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Write n of --minutes into the suites.")] = False,
) -> list[str]:
    """Show what is up to date and what is to do, and write the matrix that dvc.yaml reads (benchmarks/matrix.yaml).

    For profile paper it also tells what all of it will take: images, network evaluations, hours, disk, licences, and
    what is missing. Nothing is fetched or run.

    With --minutes it prints, in place of that, how many requests each suite should take so that a budget of minutes
    decides as many of the orders that the papers' tables state as it can: from what an image took in --results and the
    effects that a pilot shows.

    Examples:

      concord plan

      concord plan --suite face-generation --size full

      concord plan --profile paper

      concord plan --profile paper --measure --device cuda:0

      concord plan --minutes 25 --pilot results/embedded/data-tuning-1a2b3c4d+seeds-1 --write
    """
    from concord.benchmarks.dvc import MATRIX, make_matrix, write_keys, write_matrix
    from concord.benchmarks.opening import load_plugins
    from concord.benchmarks.plan.requests import Options
    from concord.benchmarks.settings import ROOT, load_settings
    from concord.benchmarks.stamps import remove_stale
    from concord.benchmarks.suite import load_suites, suite_path
    from concord.benchmarks.tune import stale_tunings

    load_plugins(plugin or ())
    if device.startswith("cuda"):
        from concord.data.device import resolve_device

        resolve_device(device)
    settings = load_settings()
    suites = load_suites()
    if suite is not None:
        suite_path(suite)  # an unknown name is an error that lists the known ones
        suites = [found for found in suites if found.name == suite]
    if minutes is not None:
        from concord.commands.allocate import show_allocation

        show_allocation(suites, profile, results, minutes, pilot, write)
        return []
    options = Options(profile, size, results=results)
    suites = [found.in_profile(profile) for found in suites]
    if settings.profile(profile).datasets and profile != "embedded":
        from concord.benchmarks.generators import has_models
        from concord.commands.cost_report import accept_licences, print_cost_report, remove_failed
        from concord.commands.cost_report import measure as measure_rates

        without = [found.name for found in suites if not has_models(found, profile)]
        if without:
            typer.echo(f"not part of profile '{profile}', as their models are not public: {', '.join(without)}")
        suites = [found for found in suites if found.name not in without]
        if measure:
            measure_rates(suites, settings, options, device)
        print_cost_report(suites, settings, options)
        if yes:
            accept_licences(suites, settings, options)
        remove_failed(results / profile / "fetched")
        devices = devices or ("all" if device == "auto" else None)
    matrix = make_matrix(
        suites,
        settings,
        profile=profile,
        size=size,
        device=device,
        results=results,
        plugins=plugin or [],
        devices=devices,
    )
    in_checkout = (ROOT / "dvc.yaml").is_file()  # an installed package has no DVC to tell
    changed = in_checkout and write_matrix(matrix)
    if in_checkout:
        write_keys(suites, profile, results / profile / "keys")
        remove_stale(results / profile / "stages", results / profile)
    states = _show_status(suites, options, settings)
    for line in (line for found in suites for line in stale_tunings(found, profile)):
        typer.echo(line)
    if in_checkout:
        typer.echo(f"{MATRIX.name}: {len(matrix['suites'])} suites, {'written' if changed else 'unchanged'}")
    return states


def keys(
    profile: ProfileName = "embedded",
    device: Device = "auto",
    results: Results = RESULTS,
    plugin: Plugins = None,
    devices: Devices = None,
) -> None:
    """Write what the stages of dvc.yaml stand on: code, parameters and versions, a file a stage (for DVC to watch).

    device, devices: taken and left aside, so that every stage has the same options.

    Examples:

      concord keys

      concord keys --profile paper
    """
    from concord.benchmarks.dvc import write_keys
    from concord.benchmarks.opening import load_plugins
    from concord.benchmarks.suite import load_suites

    load_plugins(plugin or ())
    folder = results / profile / "keys"
    written = write_keys(load_suites(), profile, folder)
    typer.echo(f"{folder}: {', '.join(path.stem for path in written) or 'nothing'} changed")


def list_all(
    profile: ProfileName = "embedded",
    results: Results = RESULTS,
    plugin: Plugins = None,
) -> None:
    """Show the suites, methods and metrics that there are, and which rows have results.

    Examples:

      concord list

      concord list --plugin my_method.py
    """
    from concord.benchmarks.opening import load_plugins
    from concord.benchmarks.settings import load_settings
    from concord.benchmarks.store.run import Store
    from concord.benchmarks.suite import load_suites
    from concord.methods.base import all_methods
    from concord.metrics.base import SetMetric, all_metrics

    load_plugins(plugin or ())
    settings = load_settings()
    settings.profile(profile)
    store = Store(results / profile)
    rows = []
    for suite in load_suites():
        runs = [store.run(suite.request_set, name) for name in suite.row_names()]
        done = f"{sum(run.finished for run in runs)} made, {sum(run.scored for run in runs)} scored of {len(runs)}"
        sizes = suite.part(profile).n or suite.n
        n = f"{sizes.default} / {sizes.full}" if sizes else "-"
        rows.append((suite.name, suite.title, f"{suite.paper} {suite.table}", " ".join(suite.conditions), n, done))
    print_table(
        f"Suites (profile {profile})", ("suite", "title", "paper", "conditions", "n default / full", "rows"), rows
    )
    methods = [
        (name, method.title, " ".join(sorted(method.conditions)), "no" if method.training_free else "yes", method.paper)
        for name, method in all_methods().items()
    ]
    methods += _outside(store)
    print_table("Methods", ("method", "title", "conditions", "trained", "paper"), methods)
    metrics = [
        (
            name,
            metric.label,
            "higher" if metric.higher_is_better else "lower",
            "set" if issubclass(metric, SetMetric) else "image",
            " ".join(sorted(metric.needs)),
            str(metric.minimum_n),
        )
        for name, metric in all_metrics().items()
    ]
    print_table("Metrics", ("metric", "label", "better", "per", "against", "least n"), metrics)


# -------------------------------------------------------------------------------------------------------------- telling


def _introduce(plan: Plan) -> None:
    requests = plan.requests
    typer.echo(f"{plan.suite.title}: {len(requests)} requests from {requests.dataset.name}, results in {plan.root}")
    if len(requests) < 16:
        typer.echo(
            f"n = {len(requests)}: far too few for any conclusion; set metrics such as FID are refused", err=True
        )
    for reason, count in requests.left_out.items():
        typer.echo(f"left out: {count} items, {reason}", err=True)
    for name, reason in plan.skipped.items():
        typer.echo(f"row '{name}' is left out: {reason}", err=True)
    for row in plan.suite.rows:
        if row.planned:
            typer.echo(f"row '{row.name}': {row.planned}", err=True)


def _outside(store: Store) -> list[tuple[str, str, str, str, str]]:
    """Lines of the methods that live outside and have results."""
    from concord.benchmarks.external.method import External, external_manifest

    manifests = map(external_manifest, sorted(store.root.glob("*/*/run.json")))
    found = {told["row"]: External.of(told) for told in manifests if told is not None}
    return [(name, one.title, " ".join(one.conditions), "external", one.paper) for name, one in sorted(found.items())]


def _show_status(suites: list[Suite], options: Options, settings: Settings) -> list[str]:
    """One line a run, each run once: which state it is in, and why. Returns what is said of each."""
    from concord.benchmarks.plan.requests import NothingToAskError

    rows: dict[Path, tuple[str, ...]] = {}
    for suite in suites:
        dataset = settings.profile(options.profile).datasets[suite.dataset]
        reason = "the data are fetched first" if dataset.sources else "the data are drawn first"
        folders = [dataset.items_folder, dataset.reference_folder or dataset.items_folder]
        if all(folder.is_dir() for folder in folders):
            related = [other for other in suites if other.request_set == suite.request_set]
            try:
                rows.update(_states(suite, options, settings, related))
                continue
            except NothingToAskError as error:
                if options.profile == "embedded":
                    raise
                reason = str(error)
        names = [name for name in suite.row_names() if name in suite.reference or suite.row(name).method]
        for name in names:
            path = Path(suite.request_set) / name
            rows[path] = (suite.request_set, name, "-", "to do", "to do", reason)
    print_table("Runs", ("request set", "row", "n", "images", "scores", ""), list(rows.values()))
    return ["up to date" if row[3] == row[4] == "up to date" else f"{row[3]}, {row[4]}" for row in rows.values()]


def _states(
    suite: Suite, options: Options, settings: Settings, related: Sequence[Suite]
) -> dict[Path, tuple[str, ...]]:
    """The state of each run of a suite, by its folder."""
    from concord.benchmarks.generators import why_not
    from concord.benchmarks.planner import make_plan
    from concord.benchmarks.run.generate import run_status
    from concord.benchmarks.session import Session

    session = Session(make_plan(suite, settings, options, related=related))
    states: dict[Path, tuple[str, ...]] = {}
    for run in session.plan.runs:
        status = run_status(run, session.grid)
        reasons, scores = list(status.reasons), "to do"
        if status.state == "up to date":
            reasons = session.stale_score_reasons(run)
            scores = "to do" if reasons else "up to date"
        elif reason := why_not(run):
            reasons = [reason]
        shown = "; ".join(reason for reason in reasons if reason not in ("not made yet", "not scored yet"))
        states[run.path] = (
            run.requests.name,
            run.row.name,
            str(len(run.requests)),
            status.state,
            scores,
            shown,
        )
    return states

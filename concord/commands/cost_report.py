"""What `concord plan --profile paper` tells before anything starts: costs, licences, and all that is missing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from concord.console import print_table
from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from concord.benchmarks.cost import Cost, Rate, RowCost
    from concord.benchmarks.plan.requests import Options
    from concord.benchmarks.settings import Settings
    from concord.benchmarks.suite import Suite
    from concord.data.download.fetch import Row
    from concord.data.download.manifest import Manifest


def print_cost_report(suites: Sequence[Suite], settings: Settings, options: Options) -> None:
    """Costs, disk, licences, what is missing and how to have it by hand."""
    from concord.benchmarks.generators import lacking, needed_by
    from concord.data.download.fetch import Fetcher, listing
    from concord.data.download.manifest import load_manifest

    purposes = needed_by(suites, settings, options.profile)
    manifests = [load_manifest(name) for names in purposes.values() for name in names]
    missing = lacking((manifest.name for manifest in manifests), options.profile)
    to_fetch = listing([manifest for manifest in manifests if manifest.name in missing], Fetcher())
    _print_costs(_cost(suites, settings, options), options.profile, to_fetch)
    _print_licences(manifests, missing)
    _print_missing(suites, settings, options, manifests, missing)


def accept_licences(suites: Sequence[Suite], settings: Settings, options: Options) -> None:
    """Keep that the licences of what is needed, as they were listed, are accepted."""
    from concord.benchmarks.generators import needed_by
    from concord.data.download.manifest import Lock, load_manifest

    for names in needed_by(suites, settings, options.profile).values():
        for manifest in map(load_manifest, names):
            if manifest.licence.accept:
                Lock(manifest).accept()


def remove_failed(folder: Path) -> None:
    """Remove the notes of fetches that failed, so that DVC tries them again."""
    for path in sorted(folder.glob("*.json")):
        try:
            failed = bool(
                {"failed", "not_had"} & set(json.loads(path.read_text(encoding="utf-8")))
            )  # not_had: its former name
        except (OSError, ValueError):
            failed = True
        if failed:
            path.unlink()


# ---------------------------------------------------------------------------------------------------------------- costs


def _cost(suites: Sequence[Suite], settings: Settings, options: Options) -> Cost:
    """The cost of every row that is not made yet, each once: suites of one request set share rows."""
    from concord.benchmarks.cost import Cost, read_rates

    rates = read_rates()
    rows: dict[tuple[str, str], RowCost] = {}
    for suite in suites:
        related = [other for other in suites if other.request_set == suite.request_set]
        for row in _rows(suite, settings, options, related, rates):
            rows.setdefault((row.request_set, row.row), row)
    return Cost(list(rows.values()))


def _rows(
    suite: Suite, settings: Settings, options: Options, related: Sequence[Suite], rates: Sequence[Rate]
) -> list[RowCost]:
    from concord.benchmarks.cost import cost_of, row_cost
    from concord.benchmarks.generators import generator_of, row_reason, why_not
    from concord.benchmarks.planner import make_plan
    from concord.benchmarks.run.generate import is_current
    from concord.methods.base import get_method, make_params

    grid = max(other.grid for other in related)
    try:
        plan = make_plan(suite, settings, options, related=related)
        return [row_cost(run, rates, why_not(run)) for run in plan.runs if not is_current(run, grid)]
    except ConcordError:  # without the dataset: from the suite and params.yaml alone
        n = suite.size(options.size, options.profile)
        size = suite.part(options.profile).image_size or settings.profile(options.profile).image_size
        found = [cost_of(suite.request_set, name, None, {}, (), n, size) for name in suite.reference]
        for row in suite.in_size(options.size).rows:
            if row.method is not None:
                params = make_params(get_method(row.method), row.params).model_dump(mode="json")
                conditions = suite.row_conditions(row)
                reason = row_reason(suite, row, options.profile)
                found.append(
                    cost_of(
                        suite.request_set,
                        row.name,
                        row.method,
                        params,
                        conditions,
                        n,
                        size,
                        None,
                        rates,
                        reason,
                        generator_of(suite, row, options.profile),
                        settings.profile(options.profile).dtype or "fp32",
                    )
                )
        return found


def measure(suites: Sequence[Suite], settings: Settings, options: Options, device: str) -> None:
    """Time the generators whose files are here, and keep their rates for the estimate; say which are not."""
    from concord.benchmarks.generators import generator_of, lacking, weights_of
    from concord.benchmarks.profiling.rates import measure_rate, write_rates
    from concord.data.device import resolve_device
    from concord.data.progress import bar

    profile, chosen = settings.profile(options.profile), resolve_device(device)
    names = {generator_of(suite, row, options.profile) for suite in suites for row in suite.rows} - {None}
    rates = []
    with bar("measure") as progress:
        for number, name in enumerate(sorted(map(str, names))):
            uses = profile.uses(list(profile.generator(name).roles), name)
            missing = lacking(weights_of(uses), options.profile)
            for told in missing.values():
                typer.echo(f"generator '{name}' is not measured: {told}", err=True)
            if not missing:
                dtype = profile.dtype or "fp32"
                rates.append(measure_rate(name, chosen, dtype, profile.batch_size, profile=options.profile))
            progress(number + 1, len(names))
    if rates:
        typer.echo(f"{write_rates(rates)}: rates of {', '.join(rate.generator for rate in rates)} on {rates[0].device}")


def _print_costs(cost: Cost, profile: str, to_fetch: Sequence[Row]) -> None:
    """to_fetch: what is missing, with the sizes that `concord fetch` states too."""
    from concord.data.download.transfer import megabytes

    rows = []
    for row in cost.rows:
        each = "unknown" if row.counts is None else f"{sum(row.counts.values()):,.0f}"
        total = "unknown" if row.total is None else f"{row.total:,.0f}"
        hours = "-" if row.counts == {} else "unknown" if row.hours is None else f"{row.hours:,.1f}"
        rows.append(
            (
                row.request_set,
                row.row,
                f"{row.n:,}",
                f"{row.size}x{row.size}",
                each,
                total,
                hours,
                "not now: see below" if row.reason else "",
            )
        )
    columns = ("request set", "row", "images", "size", "evaluations / image", "evaluations", "hours", "")
    print_table("To be made (estimate)", columns, rows)
    typer.echo(f"{cost.images:,} images, {cost.evaluations:,.0f} network evaluations, passes backwards among them")
    sources = sorted({row.seconds[1] for row in cost.rows if row.seconds is not None})
    if cost.hours is None:
        typer.echo(
            "GPU hours: unknown. Nobody has measured these networks here; once their files are fetched, `concord plan "
            f"--profile {profile} --measure` times them on your device, and the rows that finish first tell"
        )
    else:
        typer.echo(f"hours on one device: about {cost.hours:,.1f}, an estimate from {'; '.join(sources)}")
        if cost.without_rate:
            typer.echo(f"not in it, as nobody has measured them: {', '.join(row.row for row in cost.without_rate)}")
    images = sum(row.bytes for row in cost.rows)
    weights = sum(row.size for row in to_fetch)
    unstated = [row.manifest.name for row in to_fetch if row.vague]
    also = f", and {', '.join(unstated)}, whose size nobody states" if unstated else ""
    typer.echo(f"disk: about {megabytes(images)} of images, {megabytes(weights)} to fetch for these suites{also}")
    typer.echo(_all_of(profile, weights))
    typer.echo("")


def _all_of(profile: str, needed: int) -> str:
    """What `concord fetch --for PROFILE` brings, in its own words; it also holds what only `evaluate` looks through."""
    from concord.commands.fetch import needed_for
    from concord.data.download.fetch import Fetcher, listing
    from concord.data.download.transfer import megabytes

    try:
        total = sum(row.size for row in listing(needed_for(profile), Fetcher()))
    except ConcordError as error:
        return str(error)
    more = " in all: also networks that no suite asks for, and `concord evaluate` can" if total > needed else ""
    return f"`concord fetch --for {profile}` brings about {megabytes(total)}{more}; `--for SUITE` what one suite needs"


# ------------------------------------------------------------------------------------------------- licences and missing


def _print_licences(manifests: Sequence[Manifest], missing: dict[str, str]) -> None:
    from concord.data.download.manifest import Lock

    rows = []
    for manifest in manifests:
        licence = manifest.licence
        state = "here" if manifest.name not in missing else "to fetch"
        accepted = "free" if not licence.accept else "accepted" if Lock(manifest).accepted else "to be accepted"
        rows.append((manifest.name, manifest.kind, state, licence.name, accepted, licence.consequence))
    print_table("Licences", ("name", "", "", "licence", "", "what follows"), rows)


def _print_missing(
    suites: Sequence[Suite],
    settings: Settings,
    options: Options,
    manifests: Sequence[Manifest],
    missing: dict[str, str],
) -> None:
    """Every missing thing: why, how to fetch it, how to supply it by hand, and who waits for it."""
    from concord.data.download.manifest import Lock

    lines = []
    for manifest in manifests:
        if manifest.name not in missing:
            continue
        lines.append(missing[manifest.name])
        if manifest.licence.accept and not Lock(manifest).accepted:
            lines.append(f"    its licence is to be accepted first: {manifest.licence.url or manifest.licence.name}")
        if manifest.by_hand:
            lines.append(f"    by hand: {manifest.by_hand}, then `{manifest.command} --from-file PATH`")
        lines.append(f"    needed by: {', '.join(_waiting(manifest.name, suites, settings, options)) or 'all rows'}")
    lines += _lacking_data(suites, settings, options)
    if not lines:
        typer.echo("nothing is missing")
        typer.echo("")
        return
    typer.echo("Missing. What needs it is not run; the rest is.")
    for line in lines:
        typer.echo(line if line.startswith("    ") else f"  {line}")
    typer.echo("  all at once, with the licences listed and asked for: `concord fetch --for paper`")
    typer.echo("")


def _waiting(name: str, suites: Sequence[Suite], settings: Settings, options: Options) -> list[str]:
    """The rows and metrics that need a name."""
    from concord.benchmarks.generators import generator_of, metric_needs, row_needs

    found: dict[str, None] = {}
    for suite in suites:
        for row in suite.rows:
            generator = generator_of(suite, row, options.profile)
            if row.method is None or generator is None:
                continue
            if name in row_needs(options.profile, row.method, generator, row.params, suite.row_conditions(row)):
                found[f"{suite.request_set}/{row.name}"] = None
        waiting = [metric for metric in suite.metrics if name in metric_needs(options.profile, [metric])]
        found |= {f"metric {metric}": None for metric in waiting}
    return list(found)


def _lacking_data(suites: Sequence[Suite], settings: Settings, options: Options) -> list[str]:
    """What the datasets lack: the prepared shards, landmarks."""
    from concord.benchmarks.planner import open_items

    lines: dict[str, None] = {}
    for suite in suites:
        named = settings.profile(options.profile).datasets[suite.dataset]
        folder = named.items_folder
        if not (folder / "prepared.json").is_file() and named.sources:
            how = f"`concord data prepare {named.sources[0]}` (`make bench` does it once the dataset is fetched)"
            lines[f"{folder}: not prepared yet; run {how}"] = None
        elif "landmarks" in suite.conditions:
            try:
                items: list[Any] = list(open_items(suite, settings, options).items)
                if not any(item.has_landmarks for item in items):
                    lines[f"{folder}/landmarks.npz: the faces have no landmarks; run `concord data landmarks`"] = None
            except ConcordError as error:
                lines[str(error)] = None
    return list(lines)

"""What is left to do before a profile whose data are fetched can run as a whole: a numbered list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from concord.benchmarks.settings import Settings
    from concord.benchmarks.suite import Suite


def print_next_steps(suites: Sequence[Suite], settings: Settings, profile: str) -> bool:
    """Print what is missing as numbered steps; False where nothing is."""
    steps = next_steps(suites, settings, profile)
    if not steps:
        return False
    typer.echo("")
    typer.echo(f"What is left to do for profile '{profile}':")
    for number, step in enumerate(steps, 1):
        typer.echo(f"  {number}. {step}")
    return True


def next_steps(suites: Sequence[Suite], settings: Settings, profile: str) -> list[str]:
    """Fetch, supply by hand, prepare, run again: those of them that something still waits for."""
    from concord.benchmarks.generators import lacking, needed_by
    from concord.data.download.fetch import Fetcher, listing, megabytes
    from concord.data.download.manifest import load_manifest

    names = dict.fromkeys(name for needed in needed_by(suites, settings, profile).values() for name in needed)
    missing = [load_manifest(name) for name in lacking(names, profile)]
    by_hand = [manifest for manifest in missing if manifest.by_hand]
    steps = []
    if missing:
        size = megabytes(sum(row.size for row in listing(missing, Fetcher())))
        steps.append(
            f"`concord fetch --for {profile}` lists the licences, asks, fetches: {len(missing)} datasets and weights "
            f"are missing, about {size}"
        )
    if by_hand:
        first = by_hand[0]
        steps.append(
            f"what a host refuses is supplied by hand, such as {first.name}: {first.by_hand}, then `{first.command} "
            f"--from-file PATH`; `concord plan --profile {profile}` says how for each"
        )
    chosen = settings.profile(profile).datasets
    for kind, dataset in chosen.items():
        if dataset.sources and not dataset.items_folder.is_dir():
            if kind == "faces":
                steps.append(f"`concord data prepare {dataset.sources[0]}`, which `make bench` does by itself")
            if any("landmarks" in suite.conditions for suite in suites if suite.dataset == kind):
                steps.append("`concord data landmarks`, for the suites that ask for landmarks")
    if steps:
        steps.append(f"`make bench PROFILE={profile}` again: it runs what can run, and says what the rest waits for")
    return steps

"""Requests out, images in: an export of a suite, and the answered export taken in as a finished run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from concord.benchmarks.external.exchange import (
    Choices,
    Declared,
    Export,
    digest_of_answers,
    find_answers,
    fingerprint_of,
    read_declared,
    read_export,
    write_export,
)
from concord.benchmarks.external.images import FolderSource
from concord.benchmarks.external.method import (
    External,
    check_folder,
    check_free,
    external_manifest,
    external_run,
)
from concord.benchmarks.run.generate import generate_run, is_current
from concord.benchmarks.store.digests import list_row
from concord.benchmarks.store.lock import run_lock
from concord.benchmarks.store.shards import SHARD_SIZE
from concord.data.errors import ConcordError
from concord.data.own_files import refuse_links

if TYPE_CHECKING:
    from concord.benchmarks.plan.requests import RequestSet
    from concord.benchmarks.plan.runs import Plan, RunPlan
    from concord.data.request import Request


def export_suite(plan: Plan, folder: Path, suite: str, conditions: Sequence[str] | None = None) -> Export:
    """Write the plan's requests as a folder. suite: as the user named it; conditions: some of the suite's, or all."""
    given = plan.suite.conditions
    for name in conditions or []:
        if name not in given:
            raise ConcordError(f"--conditions {name}: suite '{plan.suite.name}' gives {', '.join(given)}")
    names = [name for name in given if conditions is None or name in conditions]
    plan.requests.check()
    options = plan.options
    data = str(options.data.resolve()) if options.data is not None else None
    facts = {
        "suite": str(Path(suite).resolve()) if suite.endswith((".yaml", ".yml")) else suite,
        "request_set": plan.requests.name,
        "profile": options.profile,
        "image_size": plan.requests.image_size,
        "n": len(plan.requests),
        "conditions": names,
        "options": Choices(size=options.size, limit=options.limit, seed_set=options.seed_set, data=data),
        "data": plan.requests.fingerprint,
    }
    return write_export(folder, partial(_requests, plan.requests, names), facts)


def _requests(requests: RequestSet, names: Sequence[str]) -> Iterator[Request]:
    return (requests.request(planned, names) for planned in requests.requests)


def check_same(export: Export, plan: Plan, folder: Path) -> None:
    """Raise ConcordError unless the export holds the plan's requests: what differs, in the user's words."""
    requests = plan.requests
    facts = [
        ("request set", export.request_set, requests.name),
        ("profile", export.profile, plan.options.profile),
        ("image size", export.image_size, requests.image_size),
        ("n", export.n, len(requests)),
        ("seed set", export.options.seed_set, plan.options.seed_set),
        ("data (fingerprint)", export.data[:12], requests.fingerprint[:12]),
    ]
    for what, theirs, ours in facts:
        if theirs != ours:
            raise ConcordError(
                f"{folder}: was exported with {what} {theirs}, not {ours}: it answers other requests; give the "
                "options of the export, or export the suite again"
            )
    unknown = [name for name in export.conditions if name not in plan.suite.conditions]
    if unknown or fingerprint_of(_requests(requests, export.conditions), export.conditions, export.image_size) != (
        export.fingerprint
    ):
        raise ConcordError(f"{folder}: its requests are not those of suite '{plan.suite.name}' today; export again")


def import_folder(
    plan: Plan, folder: Path, name: str, images: Path | None = None, about: Mapping[str, str] | None = None
) -> tuple[RunPlan, bool]:
    """Take the images of an answered export in as a finished run; returns it, and whether anything was new.

    images: where they lie; the export's own folder for None. about: title, paper, citation.
    Nothing is left in the store when anything is wrong: the run is built aside and moved into its place.
    """
    export = read_export(folder)
    check_free(name, plan.related)
    check_same(export, plan, folder)
    answers = images or folder
    paths = find_answers(answers, [request.id for request in plan.requests.requests], plan.requests.image_size)
    declared = read_declared(answers)
    origin = {
        "folder": str(answers.resolve()),
        "export": export.fingerprint,
        "suite": export.suite,
        "declared": declared.model_dump(exclude_defaults=True),
    }
    told = dict(about or {})
    external = External(
        name,
        "folder",
        tuple(export.conditions),
        digest_of_answers(paths, declared),
        told.get("title", ""),
        told.get("paper", ""),
        told.get("citation", ""),
        origin,
    )
    run = external_run(plan.suite, external, plan.requests, plan.root, plan.options.profile)
    run = replace(run, suites={suite.name: suite.version for suite in plan.related})  # as later plans have it
    check_folder(run.path, "folder")
    known = external_manifest(run.path / "run.json") if is_current(run) else None
    if known and all(known["external"][key] == getattr(external, key) for key in ("title", "paper", "citation")):
        return run, False
    _build(run, dict(zip([request.id for request in plan.requests.requests], paths, strict=True)), declared)
    return run, True


def with_run(plan: Plan, run: RunPlan) -> Plan:
    """The plan with a run that has just been taken in."""
    name = run.row.name
    others = tuple(other for other in plan.runs if other.row.name != name)
    skipped = {row: reason for row, reason in plan.skipped.items() if row != name}
    return replace(plan, runs=(*others, run), skipped=skipped)


def _build(run: RunPlan, paths: Mapping[str, Path], declared: Declared) -> None:
    """The run beside its place, then in it: a reader sees the old one, the new one, or none."""
    aside = run.path.parent.parent / f".{run.path.parent.name}.{run.path.name}.importing"
    old = aside.with_suffix(".replaced")
    refuse_links(run.path.parent.parent, run.path)
    with ExitStack() as stack:
        stack.enter_context(run_lock(aside))
        try:
            _clear(aside)
            source = FolderSource(paths, run.requests.image_size, declared)
            # The lock of `aside` is held here; the runner takes that of the folder that it writes, one level deeper.
            generate_run(replace(run, path=aside / "run"), lambda: source, SHARD_SIZE)
            if run.path.exists():
                stack.enter_context(run_lock(run.path))
                shutil.rmtree(old, ignore_errors=True)
                os.replace(run.path, old)
            run.path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(aside / "run", run.path)
            list_row(run.path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def _clear(folder: Path) -> None:
    """What a killed import left behind; the lock is held, so nobody is writing it."""
    shutil.rmtree(folder / "run", ignore_errors=True)

"""Methods that live outside Concord, in environments of their own: imported folders of images, and commands.

An *imported* row is a finished run of images that somebody made from an export (benchmarks/external/exchange.py). A
*command*
row is made by a program that a YAML file names: Concord exports a shard, runs the program, takes its images back, and
goes on with the next (benchmarks/external/command.py). Both lie in the store like any run, and the store is where
later plans
find them: what they stand for is a digest in their manifest (the images, or the command and the files it names).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from concord.benchmarks.external.exchange import (  # fmt: skip
    COSTS,
    Choices,
    Declared,
    Export,
    digest_of_answers,
    find_answers,
    fingerprint_of,
    read_answer,
    read_declared,
    read_export,
    write_export,
)
from concord.benchmarks.external.schema import Strict, read_model
from concord.benchmarks.run.generate import generate_run, is_current
from concord.benchmarks.run.image_source import Made, Maker
from concord.benchmarks.store.lock import run_lock
from concord.benchmarks.store.run import Run
from concord.benchmarks.suite import REFERENCES, SHARD_SIZE, Row
from concord.data.errors import ConcordError
from concord.data.files import read_json, sha256_file
from concord.data.request import CONDITION_NAMES

if TYPE_CHECKING:
    from concord.benchmarks.planner import Plan, PlannedRequest, RequestSet, RunPlan
    from concord.benchmarks.suite import Suite
    from concord.data.request import Request

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
KEPT_NAMES = (*REFERENCES, "reference")
PLACEHOLDERS = ("requests", "output")

Kind = Literal["folder", "command"]


class Spec(Strict):
    """The schema of the YAML file that names a command."""

    name: str
    title: str = ""  # as papers write it
    paper: str = ""  # 'arXiv:2304.10530'
    citation: str = ""
    conditions: list[str] = Field(min_length=1)  # what it takes; it is given those that the suite has
    command: str = Field(min_length=1)  # for the shell, run in the YAML's folder
    timeout: float | None = Field(default=None, gt=0, allow_inf_nan=False)  # seconds that a shard may take
    files: list[str] = Field(default_factory=list)  # code and weights whose change asks for new images

    @field_validator("name")
    @classmethod
    def _a_name(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError(f"{value!r}: expected letters, digits, '-', '_', '.', at most 64")
        return value

    @field_validator("conditions")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in CONDITION_NAMES:
                raise ValueError(f"unknown condition '{name}': expected some of {', '.join(CONDITION_NAMES)}")
        return value

    @field_validator("command")
    @classmethod
    def _filled(cls, value: str) -> str:
        try:
            found = [name for _, name, _, _ in string.Formatter().parse(value) if name is not None]
        except ValueError as error:
            raise ValueError(f"{error}; a brace of the command's own is doubled: {{{{ }}}}") from None
        for name in found:
            if name not in PLACEHOLDERS:
                raise ValueError(
                    f"unknown placeholder {{{name}}}: expected {{requests}} and {{output}}; "
                    "a brace of the command's own is doubled"
                )
        for name in PLACEHOLDERS:
            if name not in found:
                raise ValueError(f"lacks the placeholder {{{name}}}: the command reads {{requests}}, fills {{output}}")
        return value


@dataclass(frozen=True)
class External:
    """What a plan and a manifest know of a method that lives outside.

    digest: SHA-256 of what stands for its images in the run's key. origin: where it came from, for the manifest.
    spec, folder: where there is a command to run, and the folder that it runs in; None for rows that were only found.
    """

    name: str
    kind: Kind
    conditions: tuple[str, ...]
    digest: str
    title: str = ""
    paper: str = ""
    citation: str = ""
    origin: dict[str, Any] = field(default_factory=dict)
    spec: Spec | None = None
    folder: Path | None = None

    def facts(self) -> dict[str, Any]:
        """For the manifest; `costs` is added by the runner."""
        return {
            "kind": self.kind, "title": self.title, "paper": self.paper, "citation": self.citation,
            "digest": self.digest, "origin": self.origin,
        }  # fmt: skip

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> External:
        """What the manifest of a stored run says."""
        told = manifest["external"]
        return cls(
            manifest["row"], told["kind"], tuple(manifest["conditions"]), told["digest"], told["title"],
            told["paper"], told["citation"], dict(told["origin"]),
        )  # fmt: skip


def load_external(path: Path) -> External:
    """A command's YAML file, checked; ConcordError naming the file and the key otherwise."""
    spec = read_model(path, Spec)
    folder = path.resolve().parent
    facts: dict[str, Any] = {"command": spec.command}
    if spec.files:
        facts["files"] = {name: _hash_of(path, folder / name) for name in spec.files}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    names = tuple(name for name in CONDITION_NAMES if name in spec.conditions)
    origin = {"yaml": str(path.resolve()), **facts}
    return External(spec.name, "command", names, digest, spec.title, spec.paper, spec.citation, origin,
                    spec, folder)  # fmt: skip


def _hash_of(path: Path, file: Path) -> str:
    """SHA-256 of a file, or over all files of a folder."""
    if file.is_dir():
        digest = hashlib.sha256()
        for inner in sorted(inner for inner in file.rglob("*") if inner.is_file() and "__pycache__" not in inner.parts):
            digest.update(f"{inner.relative_to(file)}\x00{sha256_file(inner)}\n".encode())
        return digest.hexdigest()
    if not file.is_file():
        raise ConcordError(f"{path}: 'files' names {file}, which is not there; correct the path or leave it out")
    return sha256_file(file)


# ----------------------------------------------------------------------------------------------------------- the plan


def external_runs(
    suite: Suite, requests: RequestSet, root: Path, profile: str, given: Iterable[External] = ()
) -> tuple[list[RunPlan], dict[str, str]]:
    """The rows of methods that live outside: those given by --external, and those that the store holds.

    A stored one joins the suite that its request set is called after, and any suite that plans a row of its name.
    Returns the runs, and by row why a stored one cannot be shown.
    """
    own = {row.name for row in suite.rows if row.method is not None}
    runs = [_run(suite, external, requests, root, profile) for external in given]
    for run in runs:
        check_folder(run.path, "command")
    left: dict[str, str] = {}
    named = {run.row.name for run in runs}
    joins = suite.name == suite.request_set
    for path in sorted((root / requests.name).glob("*/run.json")):
        manifest = external_manifest(path)
        if manifest is None:
            continue
        name = path.parent.name
        if name in own:
            raise ConcordError(
                f"{path.parent}: holds images of an external method named as the row '{name}' of suite "
                f"'{suite.name}'; remove that folder, or rename the method"
            )
        if name not in named and (joins or name in suite.row_names()):
            external = External.of(manifest)
            fits = set(external.conditions) <= set(suite.conditions)
            found = _run(suite, external, requests, root, profile) if fits else None
            if found is not None and found.key == manifest.get("key"):
                runs.append(found)
            else:
                how = "import" if external.kind == "folder" else "run"
                left[name] = f"its images answer other requests or other data than today's; {how} it again"
    return sorted(runs, key=lambda run: run.row.name), left


def external_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of a stored external run; None of any other, and of one that cannot be read."""
    try:
        manifest = read_json(path)
        told = manifest["external"]
        External.of(manifest)
    except (ConcordError, OSError, KeyError, TypeError):
        return None
    return manifest if told else None


def _run(suite: Suite, external: External, requests: RequestSet, root: Path, profile: str) -> RunPlan:
    from concord.benchmarks.planner import RunPlan

    conditions = tuple(name for name in suite.conditions if name in external.conditions)
    if not conditions:
        raise ConcordError(
            f"external method '{external.name}' takes {', '.join(external.conditions)}; suite '{suite.name}' gives "
            f"{', '.join(suite.conditions)}: it needs at least one of them"
        )
    row = Row(name=external.name, method=external.name, conditions=list(conditions))
    return RunPlan(profile, requests, row, conditions, {}, (), root / requests.name / row.name, external)


def check_free(name: str, suites: Sequence[Suite]) -> None:
    """Raise ConcordError when a method of Concord's, a row of the suites, or a plugin has the name."""
    from concord.methods.base import all_methods

    if not NAME.fullmatch(name):
        raise ConcordError(f"name '{name}': expected letters, digits, '-', '_', '.', at most 64 of them")
    if name in KEPT_NAMES:
        raise ConcordError(f"name '{name}' is kept for Concord's own use; choose another")
    if name in all_methods():
        raise ConcordError(f"name '{name}' is taken: a registered method is called so; choose another")
    for suite in suites:
        if any(row.name == name and row.method is not None for row in suite.rows):
            raise ConcordError(f"name '{name}' is taken: suite '{suite.name}' has a row of that name; choose another")


def check_folder(path: Path, kind: Kind) -> None:
    """Raise ConcordError when the run's folder holds a finished run that is no external one of that kind."""
    if not Run(path).finished:
        return
    manifest = external_manifest(path / "run.json")
    if manifest is None:
        raise ConcordError(f"{path}: holds the results of another method; choose another name, or remove that folder")
    if manifest["external"]["kind"] != kind:  # the one cannot be had back by the other
        made = "imported" if kind == "command" else "made by a command"
        raise ConcordError(f"{path}: holds images that were {made}; choose another name, or remove that folder")


# ------------------------------------------------------------------------------------------------------ out, and in


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
        "folder": str(answers.resolve()), "export": export.fingerprint, "suite": export.suite,
        "declared": declared.model_dump(exclude_defaults=True),
    }  # fmt: skip
    told = dict(about or {})
    external = External(
        name, "folder", tuple(export.conditions), digest_of_answers(paths, declared),
        told.get("title", ""), told.get("paper", ""), told.get("citation", ""), origin,
    )  # fmt: skip
    run = _run(plan.suite, external, plan.requests, plan.root, plan.options.profile)
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
    with ExitStack() as stack:
        stack.enter_context(run_lock(aside))
        try:
            _clear(aside)
            maker = FolderMaker(paths, run.requests.image_size, declared)
            # The lock of `aside` is held here; the runner takes that of the folder that it writes, one level deeper.
            generate_run(replace(run, path=aside / "run"), lambda: maker, SHARD_SIZE)
            if run.path.exists():
                stack.enter_context(run_lock(run.path))
                shutil.rmtree(old, ignore_errors=True)
                os.replace(run.path, old)
            run.path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(aside / "run", run.path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def _clear(folder: Path) -> None:
    """What a killed import left behind; the lock is held, so nobody is writing it."""
    shutil.rmtree(folder / "run", ignore_errors=True)


# -------------------------------------------------------------------------------------------------------------- makers


class AnswerMaker(Maker):
    """What both kinds share: the costs that were declared, and those that Concord measured itself."""

    declared = Declared()
    measured: Mapping[str, float]

    def shard_facts(self, n: int) -> dict[str, Any]:
        """Costs of the shard of n images: declared where they were, else measured, else not known."""
        declared, measured = self.declared, self.measured
        values: dict[str, float] = {}
        costs = {}
        for cost in COSTS:
            said = getattr(declared, cost)
            costs[cost] = "declared" if said is not None else "measured" if cost in measured else "not known"
            values[cost] = said if said is not None else measured.get(cost, 0)
        return {
            "time": {"generate": round(values["seconds_per_image"] * n, 4)},
            "peak_memory_bytes": int(values["peak_memory_bytes"]),
            "evaluations": {name: count * n for name, count in declared.evaluations_per_image.items()},
            "costs": costs,
            "provenance": {
                "device": declared.device or "not declared",
                "code": declared.code or "not declared",
                "weights": declared.weights,
            },
        }


class FolderMaker(AnswerMaker):
    """Images that somebody else made."""

    measured: Mapping[str, float] = {}

    def __init__(self, paths: Mapping[str, Path], size: int, declared: Declared) -> None:
        self.paths, self.size, self.declared = paths, size, declared

    def prepare(self, batch: Sequence[PlannedRequest]) -> Any:
        import numpy as np

        return np.stack([read_answer(self.paths[request.id], self.size) for request in batch])

    def make(self, prepared: Any, tell: bool) -> Made:
        return Made(prepared)


def open_external(run: RunPlan) -> Maker:
    """The maker of a row that is made outside; ConcordError where nothing here can make it."""
    external = run.external
    assert external is not None
    if external.spec is None or external.folder is None:
        what = "import it again" if external.kind == "folder" else "give its YAML file with --external to make it again"
        raise ConcordError(f"{run.path}: images of the external row '{run.row.name}' are damaged or missing; {what}")
    from concord.benchmarks.external.command import CommandMaker

    return CommandMaker(external.spec, external.folder, run)

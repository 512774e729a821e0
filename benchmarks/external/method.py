"""Methods that live outside Concord, in environments of their own: imported folders of images, and commands.

An *imported* row is a finished run of images that somebody made from an export (benchmarks/external/transfer.py). A
*command* row is made by a program that a YAML file names: Concord exports a shard, runs the program, takes its images
back, and goes on with the next (benchmarks/external/command.py). Both lie in the store like any run, and the store is
where later plans find them: what they stand for is a digest in their manifest (the images, or the command and the
files it names).
"""

from __future__ import annotations

import hashlib
import json
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from concord.benchmarks.plan.runs import RunPlan
from concord.benchmarks.plan.sources import Sources
from concord.benchmarks.store.run import Run
from concord.benchmarks.suite import REFERENCES, Row
from concord.data.conditions.base import condition_names
from concord.data.errors import ConcordError
from concord.data.files import read_json, sha256_file
from concord.data.schema import Strict, read_model

if TYPE_CHECKING:
    from concord.benchmarks.plan.requests import RequestSet
    from concord.benchmarks.suite import Suite

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
            if name not in condition_names():
                raise ValueError(f"unknown condition '{name}': expected some of {', '.join(condition_names())}")
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

    def facts(self) -> dict[str, object]:
        """For the manifest; `costs` is added by the runner."""
        return {
            "kind": self.kind,
            "title": self.title,
            "paper": self.paper,
            "citation": self.citation,
            "digest": self.digest,
            "origin": self.origin,
        }

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> External:
        """What the manifest of a stored run says."""
        told = manifest["external"]
        return cls(
            manifest["row"],
            told["kind"],
            tuple(manifest["conditions"]),
            told["digest"],
            told["title"],
            told["paper"],
            told["citation"],
            dict(told["origin"]),
        )


def load_external(path: Path) -> External:
    """A command's YAML file, checked; ConcordError naming the file and the key otherwise."""
    spec = read_model(path, Spec)
    folder = path.resolve().parent
    facts: dict[str, object] = {"command": spec.command}
    if spec.files:
        facts["files"] = {name: _hash_of(path, folder / name) for name in spec.files}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    names = tuple(name for name in condition_names() if name in spec.conditions)
    origin = {"yaml": str(path.resolve()), **facts}
    return External(spec.name, "command", names, digest, spec.title, spec.paper, spec.citation, origin, spec, folder)


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
    runs = [external_run(suite, external, requests, root, profile) for external in given]
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
            found = external_run(suite, external, requests, root, profile) if fits else None
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


def external_run(suite: Suite, external: External, requests: RequestSet, root: Path, profile: str) -> RunPlan:
    """The run of a method that lives outside, over a suite's requests."""
    conditions = tuple(name for name in suite.conditions if name in external.conditions)
    if not conditions:
        raise ConcordError(
            f"external method '{external.name}' takes {', '.join(external.conditions)}; suite '{suite.name}' gives "
            f"{', '.join(suite.conditions)}: it needs at least one of them"
        )
    row = Row(name=external.name, method=external.name, conditions=list(conditions))
    return RunPlan(profile, requests, row, conditions, {}, Sources(), root / requests.name / row.name, external)


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

"""Options that verbs share, and what they mean together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from concord.benchmarks.external.method import External
    from concord.benchmarks.plan.runs import Plan
    from concord.benchmarks.session import Session
    from concord.benchmarks.suite import Suite

SuiteName = Annotated[
    str, typer.Argument(metavar="SUITE", help="A suite (see `concord list`), or a .yaml file.", show_default=False)
]
RowName = Annotated[
    str | None, typer.Argument(metavar="[ROW]", help="One row of the suite; all of them if absent.", show_default=False)
]
DataFolder = Annotated[
    Path | None,
    typer.Option(
        "--data", help="Your own folder: a CelebAMask-HQ tree, or index masks with a caption file.", show_default=False
    ),
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", help="At most so many requests; results go to a folder of their own.", show_default=False),
]
SizeName = Annotated[str, typer.Option("--size", help="default, or full: as many requests as the papers took.")]
SeedSet = Annotated[int, typer.Option("--seed-set", help="1, 2, ...: other seeds, in a results folder of their own.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Devices = Annotated[
    str | None,
    typer.Option(
        "--devices", help="A worker process on each: cuda:0,cuda:1, or all (every visible GPU).", show_default=False
    ),
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", help="1..64; default: the profile's in params.yaml.", show_default=False)
]
ProfileName = Annotated[str, typer.Option("--profile", help="embedded or paper.")]
Results = Annotated[Path, typer.Option("--results", help="Where results are kept.")]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="A Python file with a method; may be given again.", show_default=False),
]
Externals = Annotated[
    list[Path] | None,
    typer.Option("--external", help="A YAML file with the command of a method that lives outside; may be given again.",
                 show_default=False),
]  # fmt: skip
Methods = Annotated[
    str | None,
    typer.Option("--methods", help="Only these rows or methods, separated by commas; reference rows come along.",
                 show_default=False),
]  # fmt: skip
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="key=value: another parameter of the methods, as rows of their own.", show_default=False
    ),
]


def load_plugins(paths: list[Path] | None) -> list[str]:
    """Register plugin methods; returns their names."""
    from concord.methods.plugins import load_plugin

    return [name for path in paths or [] for name in load_plugin(path)]


def load_externals(paths: list[Path] | None, suites: Sequence[Suite]) -> list[External]:
    """The methods of --external, their names checked against all that these suites hold."""
    from concord.benchmarks.external.method import check_free, load_external

    found: list[External] = []
    for path in paths or []:
        external = load_external(path)
        if any(other.name == external.name for other in found):
            raise ConcordError(f"{path}: a second method named '{external.name}' is given by --external; rename one")
        try:
            check_free(external.name, suites)
        except ConcordError as error:
            raise ConcordError(f"{path}: {error}") from None
        found.append(external)
    return found


def parse_changes(changes: list[str] | None) -> dict[str, Any]:
    """'steps=10' -> {'steps': 10}; values are read as YAML scalars."""
    from concord.data.schema import parse_scalar

    found: dict[str, Any] = {}
    for change in changes or []:
        name, sign, text = change.partition("=")
        if not sign or not name.strip():
            raise ConcordError(f"--set {change}: expected key=value, such as --set steps=10")
        found[name.strip()] = parse_scalar(text, f"--set {change}")
    return found


def split_names(names: str | None, option: str = "--methods") -> list[str] | None:
    """'a,b' -> ['a', 'b']; None stays None."""
    if names is None:
        return None
    found = [name.strip() for name in names.split(",") if name.strip()]
    if not found:
        raise ConcordError(f"{option}: expected one or more names separated by commas")
    return found


def open_plan(
    suite: str,
    *,
    data: Path | None = None,
    limit: int | None = None,
    size: str = "default",
    seed_set: int = 0,
    profile: str = "embedded",
    results: Path = Path("results"),
    plugin: list[Path] | None = None,
    methods: list[str] | None = None,
    changes: list[str] | None = None,
    row: str | None = None,
    external: list[Path] | None = None,
) -> Plan:
    """The plan that the options ask for; registered methods named by --methods or --plugin join as rows.

    row: the only row that is wanted. A reference row needs no method, so that none is imported for it.
    """
    from concord.benchmarks.plan.requests import Options
    from concord.benchmarks.planner import make_plan
    from concord.benchmarks.settings import load_settings
    from concord.benchmarks.suite import REFERENCES, load_suite, read_suite, related_suites
    from concord.commands.datasets import ensure_dataset
    from concord.methods.base import all_methods

    settings = load_settings()
    options = Options(profile, size, limit, data, seed_set, results)
    if row in REFERENCES and not changes:
        found = read_suite(suite)
        found = found.model_copy(update={"rows": []})
    else:
        joining = load_plugins(plugin)
        joining += [name for name in methods or [] if name in all_methods() and name not in joining]
        found = load_suite(suite, extra=joining)
    related = related_suites(suite)
    outside = load_externals(external, [found, *related])
    ensure_dataset(found, settings, options)
    return make_plan(found, settings, options, parse_changes(changes), related, outside)


def open_session(plan: Plan, device: str, batch_size: int | None, devices: str | None = None) -> Session:
    """The plan on a device, with progress bars; a device that is not there is an error now, not after an hour.

    devices: as --devices; the first of them scores.
    """
    from concord.benchmarks.session import Session
    from concord.progress import bar

    if device.startswith("cuda"):  # 'auto' and 'cpu' need no look at the machine, so that torch loads only when needed
        from concord.data.device import resolve_device

        resolve_device(device)
    found: list[str] = []
    if devices is not None:
        from concord.benchmarks.run.workers import resolve_devices

        found = resolve_devices(devices)
        device = found[0]
    return Session(plan, device, batch_size, bar, devices=found)

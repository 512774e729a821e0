"""Options that verbs share, and what they mean together."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_type_hints

import typer

from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from concord.benchmarks.engines.spread import Outcome
    from concord.benchmarks.opening import Additions
    from concord.benchmarks.plan.requests import Options
    from concord.benchmarks.plan.runs import Plan, RunPlan
    from concord.benchmarks.session import Session

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
SizeName = Annotated[
    str, typer.Option("--size", help="default; full: as many requests as the papers took; quick: a first look.")
]
SeedSet = Annotated[int, typer.Option("--seed-set", help="1, 2, ...: other seeds, in a results folder of their own.")]
Seeds = Annotated[
    int,
    typer.Option(
        "--seeds", help="So many images of every item, pooled: in a results folder of their own, tested by item."
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Devices = Annotated[
    str | None,
    typer.Option(
        "--devices", help="A worker process on each: cuda:0,cuda:1, or all (every visible GPU).", show_default=False
    ),
]
EngineName = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="NAME",
        help="Where it is computed: local, ray, slurm (params.yaml, ~/.config/concord.yaml); this process if absent.",
        show_default=False,
    ),
]
Detach = Annotated[
    bool,
    typer.Option("--detach", help="With --engine slurm: submit and return; `concord status` tells how far it is."),
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", help="1..64; default: the profile's in params.yaml.", show_default=False)
]


def profile_name(value: str) -> str:
    """The name of a profile that is given by its name, or by the path of a YAML file of the user's."""
    from concord.data.profile import load_profile

    return load_profile(value).name


ProfileName = Annotated[
    str,
    typer.Option(
        "--profile",
        metavar="NAME|FILE.yaml",
        callback=profile_name,
        help="One of benchmarks/profiles (embedded, paper, photos), or a YAML file of your own.",
    ),
]
Results = Annotated[Path, typer.Option("--results", help="Where results are kept.")]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="A Python file with a method; may be given again.", show_default=False),
]
Externals = Annotated[
    list[Path] | None,
    typer.Option(
        "--external",
        help="A YAML file with the command of a method that lives outside; may be given again.",
        show_default=False,
    ),
]
Methods = Annotated[
    str | None,
    typer.Option(
        "--methods",
        help="Only these rows or methods, separated by commas; reference rows come along.",
        show_default=False,
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="key=value: another parameter of the chosen rows, as rows of their own; METHOD.key=value: of one; "
        "key=a,b,c: a row of each.",
        show_default=False,
    ),
]

RESULTS = Path("results")


# -------------------------------------------------------------------------------------------------- groups of options


@dataclass(frozen=True)
class RequestOptions:
    """Which requests of a suite."""

    data: DataFolder = None
    limit: Limit = None
    size: SizeName = "default"
    seed_set: SeedSet = 0
    profile: ProfileName = "embedded"
    seeds: Seeds = 1

    def options(self, results: Path = RESULTS) -> Options:
        from concord.benchmarks.plan.requests import Options

        return Options(self.profile, self.size, self.limit, self.data, self.seed_set, results, self.seeds)


@dataclass(frozen=True)
class MachineOptions:
    """Where it is computed."""

    device: Device = "auto"
    devices: Devices = None
    engine: EngineName = None
    detach: Detach = False


@dataclass(frozen=True)
class MethodOptions:
    """What joins a suite's own rows."""

    plugin: Plugins = None
    external: Externals = None
    changes: Changes = None

    def additions(self, methods: list[str] | None = None, chosen: list[str] | None = None) -> Additions:
        """methods: that join by name, and are chosen. chosen: rows or methods; those of `methods` if absent."""
        from concord.benchmarks.changes import read_changes
        from concord.benchmarks.opening import Additions

        changes = read_changes(self.changes or ())
        return Additions(self.plugin or (), self.external or (), methods or (), changes, chosen or methods)


def grouped(verb: Callable[..., None]) -> Callable[..., None]:
    """A verb for typer: its parameters that are groups become the options that they hold."""
    hints = get_type_hints(verb, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}
    parameters = []
    for name, parameter in inspect.signature(verb).parameters.items():
        if name not in groups:
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        types = get_type_hints(groups[name], include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=types[field.name]
            )
            for field in fields(groups[name])
        ]

    @functools.wraps(verb)
    def command(**values: object) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name, field.default) for field in fields(group)})
        verb(**values)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


# ------------------------------------------------------------------------------------------------- what options mean


def split_names(names: str | None, option: str = "--methods") -> list[str] | None:
    """'a,b' -> ['a', 'b']; None stays None."""
    if names is None:
        return None
    found = [name.strip() for name in names.split(",") if name.strip()]
    if not found:
        raise ConcordError(f"{option}: expected one or more names separated by commas")
    return found


def spread(
    machine: MachineOptions,
    work: Sequence[tuple[Session, Sequence[RunPlan]]],
    generate: bool = True,
    score: bool = True,
) -> Outcome:
    """Make and score rows by the engine that --engine names."""
    from concord.benchmarks.engines.base import Call
    from concord.benchmarks.engines.opening import open_engine
    from concord.benchmarks.engines.spread import Outcome, Spread

    assert machine.engine is not None
    if machine.detach and os.environ.get("DVC_STAGE"):
        raise ConcordError(
            f"--detach in DVC's stage '{os.environ['DVC_STAGE']}': DVC would record rows that are not made; run "
            "`concord run --all-stale --engine slurm --detach` by itself, and `make bench` when they are"
        )
    if not work:
        return Outcome()
    session = work[0][0]
    named = [machine.device] if machine.device != "auto" else []
    call = Call(tuple(session.devices or named), machine.detach, session.plan.options.results.resolve())
    engine = open_engine(machine.engine, call)
    outcome = Spread(engine, work, generate, score).run()
    if outcome.detached:
        typer.echo(
            f"{outcome.detached} tasks go on by themselves: `concord status` shows them, and the same command takes "
            "what they have finished"
        )
    return outcome


def open_session(plan: Plan, machine: MachineOptions, batch_size: int | None = None) -> Session:
    """The plan on a device, with progress bars; a device that is not there is an error now, not after an hour.

    Of several devices the first one scores.
    """
    from concord.benchmarks.session import Session
    from concord.data.progress import bar

    if machine.detach and machine.engine is None:
        raise ConcordError("--detach needs an engine whose tasks go on by themselves: add --engine slurm")
    device = machine.device
    if device not in ("auto", "cpu"):  # these need no look at the machine, so that torch loads only when needed
        from concord.data.device import resolve_device

        resolve_device(device)
    found: list[str] = []
    if machine.devices is not None:
        from concord.benchmarks.run.workers import resolve_devices

        found = resolve_devices(machine.devices)
        device = found[0]
    return Session(plan, device, batch_size, bar, devices=found, apart=True)

"""`concord train`: make the embedded weights again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from concord.arguments import EngineName
from concord.data.errors import ConcordError, warn


def train(
    names: Annotated[list[str] | None, typer.Argument(help="Networks to train; see `concord train --list`.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Train every network, in the order of their needs.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the networks with what their cards say.")] = False,
    steps: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's number of steps.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    restart: Annotated[bool, typer.Option(help="Begin anew instead of resuming from the last checkpoint.")] = False,
    further: Annotated[
        bool, typer.Option("--further", help="Begin with the weights that are there; --steps says for how long.")
    ] = False,
    lr: Annotated[
        float | None, typer.Option(min=0, help="Instead of the recipe's learning rate.", show_default=False)
    ] = None,
    rate: Annotated[float | None, typer.Option("--rate", min=0, hidden=True)] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all cores.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the weights; default: data/weights/embedded.")] = None,
    engine: EngineName = None,
) -> None:
    """Train embedded networks on SynthFaces and write their weights and cards.

    A checkpoint is written every two minutes; the same command resumes after a kill.

    Examples:

      concord train faces-mask

      concord train faces-parser-judge --steps 500 --out my-weights

      concord train faces-text --further --steps 4000 --lr 5e-4

      concord train --all --device cuda

      concord train --all --engine ray
    """
    from concord.methods.training import all_tasks, get_task

    if list_:
        _list()
        return
    if rate is not None:
        warn("--rate is now called --lr")
        lr = rate if lr is None else lr
    chosen = list(all_tasks()) if all_ else list(names or [])
    if not chosen:
        raise ConcordError(f"nothing to train: name one of {', '.join(all_tasks())}, or pass --all")
    kinds = [get_task(name) for name in chosen]

    import torch

    from concord.data.checkpoints import EMBEDDED, weight_path
    from concord.data.device import resolve_device
    from concord.methods.training.trainer import train as run

    if engine is not None:
        from concord.benchmarks.engines.opening import open_engine
        from concord.benchmarks.engines.training import How, out_folder, train_by

        settled: dict[str, int] = {} if threads is None else {"threads": threads}
        train_by(
            open_engine(engine, None, **settled), kinds, How(out_folder(out), steps, restart, further, lr), _print_card
        )
        return
    place = resolve_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    for kind in kinds:
        missing = [need for need in kind.depends_on if not weight_path(need).is_file()]
        if missing:
            absent = ", ".join(missing)
            raise ConcordError(f"{kind.name} needs {absent}: train that first (`concord train {missing[0]}`)")
        for card in run(kind(place, out or EMBEDDED), steps, not restart, further=further, lr=lr):
            _print_card(card)


def _print_card(card: dict[str, Any]) -> None:
    size, seconds = f"{card['parameters'] / 1e6:.2f} M parameters", f"{card['seconds']:.0f} s"
    typer.echo(f"{card['name']}: {size}, {seconds}, held out: {card['held_out']}")


def _list() -> None:
    from rich.console import Console
    from rich.table import Table

    from concord.data.checkpoints import card_path
    from concord.data.files import read_json
    from concord.methods.training import all_tasks
    from concord.reports.tables.trainings import parts_of, steps_of

    table = Table("network", "task", "parameters", "steps", "seconds", "held out", title="Embedded networks")
    for name, kind in all_tasks().items():
        for file in kind.output_names or (name,):
            if not card_path(file).is_file():
                table.add_row(file, name, "-", "-", "-", "not trained yet")
                continue
            card = read_json(card_path(file))
            held_out = ", ".join(f"{k} {v}" for k, v in card["held_out"].items() if not isinstance(v, dict | list))
            size, seconds = f"{card['parameters'] / 1e6:.2f} M", sum(part["seconds"] for part in parts_of(card))
            table.add_row(file, name, size, str(steps_of(card)), f"{seconds:.0f}", held_out)
    Console().print(table)

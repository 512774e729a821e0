"""The contract tests of a method whose code is not Concord's, in a process of their own, which it may end."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from concord.benchmarks.contract import Check, Contract
from concord.benchmarks.run.workers import PRELOAD, end_with_parent, how_it_ended
from concord.data.user_code import UserCodeError, failure, traceback_of, user_code, watch_interrupts


@dataclass(frozen=True)
class CheckJob:
    """A method with its parameters, as the other process opens it. file: where it is written."""

    method: str
    file: Path
    params: Mapping[str, object]
    device: str
    profile: str


def open_contract(method: str, params: Mapping[str, object], device: str, profile: str) -> Contract:
    """The contract tests of a registered method over its profile's networks."""
    from concord.benchmarks.generators import method_generator
    from concord.data.device import resolve_device, use_all_cores
    from concord.data.networks import Networks
    from concord.methods.base import make_method

    chosen = resolve_device(device)
    use_all_cores()
    generator = method_generator(profile, method, params)
    return Contract(make_method(method, params, lambda: Networks(profile, generator, chosen)))


def check_apart(job: CheckJob) -> Iterator[Check]:
    """Every check in turn; raises UserCodeError where the method cannot be opened, or ends the process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(job, there), daemon=True)
    process.start()
    there.close()  # so that the end of the process is the end of the pipe
    last = ""
    try:
        while True:
            try:
                kind, value = here.recv()
            except (EOFError, OSError):
                process.join()
                while_ = f"after the check '{last}'" if last else "while it was opened"
                said = f"{how_it_ended(process.exitcode or 0)} {while_}"
                raise UserCodeError(f"method '{job.method}' ({job.file}): its process {said}") from None
            if kind == "check":
                last = value.name
                yield value
            elif kind == "end":
                return
            else:
                raise UserCodeError(*value)
    finally:
        if process.is_alive():
            process.terminate()
        process.join()
        here.close()


def _work(job: CheckJob, link: Connection) -> None:
    end_with_parent()
    watch_interrupts()
    try:
        with user_code(f"method '{job.method}' ({job.file}), loading", names_itself=True):
            from concord.methods.base import all_methods
            from concord.methods.plugins import load_plugin

            if job.method not in all_methods():
                load_plugin(job.file)
            contract = open_contract(job.method, job.params, job.device, job.profile)
        for result in contract.run():
            link.send(("check", result))
        link.send(("end", None))
    except UserCodeError as error:
        link.send(("error", (str(error), error.details)))
    except (BrokenPipeError, EOFError):
        pass  # the parent is gone
    except BaseException as error:
        link.send(("error", (failure(error), traceback_of(error))))
    finally:
        link.close()

"""What a guided step costs: passes through the networks, seconds, memory; FreeDoM and Z-Magic for 2 to 4 conditions.

    python -m concord.benchmarks.profiling.guidance_speed [--batch 8] [--repeats 5] [--device cpu]

Passes are rows of the batch per image and guided step, counted by hooks: forward through the model, backward through
it, and backward through a backward pass (second order). Beside them stands the least that the equations allow. Seconds
are the best of several turns, all methods in every turn, so that a busy machine slows all of them. What the counts
predict comes from one forward pass (model, decoder, and the guides there and back) and one backward pass, each measured
in the same run; a second-order pass counts as one of each, which is what it has to compute: the derivative of the
backward pass, and the backward pass of the forward one. Memory is the slope of the peak between two batch sizes.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from concord.benchmarks.contract import sample_conditions
from concord.benchmarks.run.meter import EvaluationCounter, PeakMemory, wait_for

if TYPE_CHECKING:
    import torch

    from concord.methods.guidance.method import GuidedMethod

Names = tuple[str, ...]
CONDITIONS: tuple[Names, ...] = (
    ("text", "mask"),  # the text's step size needs a pass of its own in FreeDoM
    ("identity", "landmarks"),  # these share one
    ("text", "mask", "identity"),
    ("text", "mask", "identity", "landmarks"),
)
T, BEFORE = 501, 491
FIRST = 24_500  # a validation face


@dataclass
class Case:
    """One method on some conditions; `run` is one guided step of the whole batch."""

    kind: str
    hvp: str
    names: Names
    method: GuidedMethod
    run: Callable[[], object]
    least: tuple[int, int, int]  # forward, backward, second order
    seconds: list[float] = field(default_factory=list)
    passes: tuple[float, float, float] = (0.0, 0.0, 0.0)


def least(kind: str, hvp: str, n: int, alone: int) -> tuple[int, int, int]:
    """The passes that the equations ask for, per image and step.

    freedom: one forward; one backward for all conditions together, and one for each whose own length sets its step.
    z-magic: x_t and every x^ forward; the gradients at x_t and at every x^ backward; A g + beta H g of every pair in
    one second-order pass. A difference quotient replaces that by a forward and a backward, and a backward for A g.
    """
    if kind == "freedom":
        return 1, min(n, alone + 1), 0
    starts, pairs = (1, 1) if n == 2 else (n, n * (n - 1))
    if hvp == "exact":
        return 1 + starts, starts + pairs, pairs
    return 1 + starts + pairs, starts + 3 * pairs, 0


def make_context(method: Any, names: Names, batch: int, networks: Any) -> tuple[Any, Any]:
    """The energies of drawn faces, and x_t (B, C, h, w)."""
    import torch

    from concord.data.request import Request
    from concord.methods.base import Batch

    faces = range(FIRST, FIRST + batch)
    requests = [Request.make("speed", str(index), 0, sample_conditions(names, index)) for index in faces]
    x = torch.randn((batch, *method.space.latent_shape), generator=torch.Generator().manual_seed(0)).to(networks.device)
    return method.context(Batch(requests, [torch.Generator()] * batch, networks.device), names, False), x


def make_case(kind: str, hvp: str, names: Names, batch: int, networks: Any) -> Case:
    """A method ready to step."""
    import torch

    from concord.methods.base import Trace, make_method
    from concord.methods.core.sampler import Step

    params: dict[str, object] = {"sampler": "ancestral", "order": names}
    method: Any = make_method(kind, params | ({"hvp": hvp} if hvp else {}), networks)
    context, x = make_context(method, names, batch, networks)
    step = Step("ancestral", method.schedule, T, BEFORE, torch.zeros_like(x))

    def run() -> torch.Tensor:
        with torch.enable_grad():
            return method.correct(context, x, step, names, Trace()).detach()

    alone = sum(method.params.rules.rule(name).startswith("relative") for name in names)
    return Case(kind, hvp, names, method, run, least(kind, hvp, len(names), alone))


def count(case: Case, batch: int) -> tuple[float, float, float]:
    """Rows per image of one step: forward, backward, second order."""
    counter = EvaluationCounter(case.method.denoisers())
    try:
        case.run()
    finally:
        counter.close()
    rows = counter.rows
    forward = sum(value for name, value in rows.items() if name.startswith("eps-"))
    return forward / batch, rows["backward"] / batch, rows.get("second-order", 0) / batch


def one_pass(case: Case, batch: int, networks: Any) -> Callable[[], tuple[float, float]]:
    """Seconds per image of one forward pass (with the guides there and back) and of one backward pass."""
    import torch

    from concord.methods.guidance.autodiff import vjp

    context, x = make_context(case.method, case.names, batch, networks)

    def measure() -> tuple[float, float]:
        wait_for(networks.device)
        start = time.perf_counter()
        with torch.enable_grad():
            state = context.evaluate(x, T)
            image_grads = [context.image_grad(name, state.images, T)[0] for name in case.names]
        wait_for(networks.device)
        middle = time.perf_counter()
        vjp(state.images, state.x_t, torch.stack(image_grads).sum(dim=0)[None])
        wait_for(networks.device)
        return (middle - start) / batch, (time.perf_counter() - middle) / batch

    return measure


def peak_per_image(kind: str, hvp: str, names: Names, networks: Any, sizes: tuple[int, int] = (2, 10)) -> float:
    """Bytes that one more image takes at the peak of a step."""
    found = []
    for size in sizes:
        case = make_case(kind, hvp, names, size, networks)
        case.run()
        with contextlib.suppress(OSError, AttributeError):  # glibc: freed memory goes back, so that a new peak shows
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        memory = PeakMemory(networks.device)
        before = memory.bytes()
        case.run()
        found.append(memory.bytes() - before)
    return (found[1] - found[0]) / (sizes[1] - sizes[0])


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the arguments, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)

    import torch

    from concord.data.device import resolve_device, use_all_cores
    from concord.data.networks import Networks

    use_all_cores()
    networks = Networks("embedded", "faces", resolve_device(options.device))
    kinds = [("freedom", ""), ("z-magic", "finite-difference"), ("z-magic", "exact")]
    cases = [make_case(kind, hvp, names, options.batch, networks) for names in CONDITIONS for kind, hvp in kinds]
    baselines = {case.names: case for case in cases if case.kind == "freedom"}
    units = {names: one_pass(case, options.batch, networks) for names, case in baselines.items()}
    unit_seconds: dict[Names, list[tuple[float, float]]] = {names: [] for names in units}
    for case in cases:
        case.passes = count(case, options.batch)
    for _ in range(options.repeats):
        for names, unit in units.items():
            unit_seconds[names].append(unit())
        for case in cases:
            wait_for(networks.device)
            start = time.perf_counter()
            case.run()
            wait_for(networks.device)
            case.seconds.append((time.perf_counter() - start) / options.batch)

    print(f"batch {options.batch}, {networks.device}, {torch.get_num_threads()} thread(s), best of {options.repeats}")
    print("passes per image and step, in brackets the least; ms per image; predicted from the passes; as a multiple of")
    print("freedom's; MiB per image at the peak")
    for case in cases:
        if case.kind == "freedom":
            print(f"\n{' + '.join(case.names)}")
        forward, backward = (min(seconds[i] for seconds in unit_seconds[case.names]) for i in (0, 1))
        f, b, s = case.passes
        predicted = f * forward + b * backward + s * (forward + backward)
        seconds = min(case.seconds)
        kinds_of_pass = zip(case.passes, case.least, ("forward", "backward", "second"), strict=True)
        told = ", ".join(f"{passes:g} ({fewest}) {word}" for passes, fewest, word in kinds_of_pass if fewest or passes)
        print(
            f"  {case.kind:<8} {case.hvp:<18} {told:<42} {1e3 * seconds:7.1f} ms {1e3 * predicted:7.1f} predicted "
            f"{seconds / min(baselines[case.names].seconds):6.2f} x "
            f"{peak_per_image(case.kind, case.hvp, case.names, networks) / 2**20:6.1f} MiB"
        )


if __name__ == "__main__":
    main()

"""The contract tests that every method has to pass, whoever wrote it: `concord check` and the test suite run these."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from concord.data.code import is_installed, module_of
from concord.data.conditions.base import all_conditions, get_condition
from concord.data.errors import ConcordError
from concord.data.request import Conditions, Request
from concord.data.user_code import failure, interrupted

if TYPE_CHECKING:
    from torch import Tensor

    from concord.methods.base import Method

TOLERANCE = 1 / 255
"""How far an image may move when its batch changes: kernels differ with the batch's shape, so one grey level."""
REQUESTS = 3


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    name: str
    passed: bool
    detail: str


class Broken(Exception):
    """A check that did not hold; the message is the table's detail."""


def sample_conditions(names: Sequence[str], index: int) -> Conditions:
    """The named conditions of the drawn test item of that index."""
    return Conditions(**{name: get_condition(name).example(index) for name in names})


class Contract:
    """The checks of one method with its parameters; each is a `check_...`, and its docstring is what it checks."""

    def __init__(self, method: Method, first_index: int = 27_000) -> None:
        self.method = method
        self.names = [name for name in all_conditions() if name in method.conditions]
        self.requests = [
            Request.make("contract", str(index), 0, sample_conditions(self.names, index))
            for index in range(first_index, first_index + REQUESTS)
        ]

    @cached_property
    def images(self) -> Tensor:
        """What the method makes of the requests in one batch; all checks compare with this."""
        return self.method.generate(self.requests)

    def run(self) -> Iterator[Check]:
        """Every check in turn. A ConcordError that a check did not expect is its failure, not the end."""
        seen: dict[str, str] = {}  # what a method raised -> the check that said it first
        for name in [name for name in dir(self) if name.startswith("check_")]:
            check: Callable[[], str] = getattr(self, name)
            title = (check.__doc__ or name).strip().rstrip(".")
            try:
                result = Check(title, True, check())
            except Broken as error:
                result = Check(title, False, str(error))
            except BaseException as error:  # whatever a method raises is what the user has to see, SystemExit too
                if isinstance(error, KeyboardInterrupt) and interrupted():
                    raise
                said = str(error) if isinstance(error, ConcordError) else failure(error)
                place = place_of(error)
                said = f"{said} ({place})" if place and place not in said else said
                result = Check(title, False, f"the same: {seen[said]}" if said in seen else said)
                seen.setdefault(said, f"see '{title}'")
            yield result

    # ------------------------------------------------------------------------------------------------ what comes out

    def check_a_shape(self) -> str:
        """Images are float32 (B, 3, H, W) on the CPU, finite, in [0, 1]."""
        import torch

        images = self.images
        if images.ndim != 4 or images.shape[:2] != (REQUESTS, 3) or images.shape[2] != images.shape[3]:
            raise Broken(f"shape {tuple(images.shape)}, expected ({REQUESTS}, 3, H, H)")
        if images.dtype != torch.float32 or images.device.type != "cpu":
            raise Broken(f"{images.dtype} on {images.device}, expected float32 on the CPU")
        low, high = float(images.min()), float(images.max())
        if not (torch.isfinite(images).all() and low >= 0 and high <= 1):
            raise Broken(f"values {low:.3f}..{high:.3f}, expected 0..1")
        if high - low < TOLERANCE:
            raise Broken("the images are one flat colour")
        return f"{tuple(images.shape)}, {low:.2f}..{high:.2f}"

    # ------------------------------------------------------------------------------------- what an image depends on

    def check_b_repetition(self) -> str:
        """The same requests give the same bits, whatever the global seeds; no global random state is touched."""
        import torch

        first = self.images
        kept = _global_state()
        try:
            _set_global_state(
                (
                    random.Random(1).getstate(),
                    np.random.RandomState(1).get_state(),
                    torch.Generator().manual_seed(1).get_state(),
                )
            )
            before = _fingerprint(_global_state())
            again = self.method.generate(self.requests)
            after = _fingerprint(_global_state())
        finally:
            _set_global_state(kept)
        if before != after:
            raise Broken("drew from a global random state; draw from batch.generators")
        if not torch.equal(first, again):
            raise Broken(f"images differ by up to {_distance(first, again):.2e} between two identical calls")
        return "identical"

    def check_c_batches(self) -> str:
        """An image does not depend on how the requests are cut into batches."""
        import torch

        parts = [self.method.generate(part) for part in (self.requests[:1], self.requests[1:])]
        return _within(_distance(self.images, torch.cat(parts)))

    def check_d_order(self) -> str:
        """An image does not depend on the order of the requests."""
        return _within(_distance(self.images, self.method.generate(self.requests[::-1]).flip(0)))

    def check_e_seeds(self) -> str:
        """A request's seed changes its own image and no other."""
        first, second = self.requests[:2]
        images = self.method.generate([first, replace(second, seed=second.seed + 1)])
        moved = _distance(self.images[1], images[1])
        if self.method.is_deterministic:
            if moved > TOLERANCE:
                raise Broken("another seed changes the image of a method that says it draws no noise")
            return "draws no noise, as it says"
        if moved <= TOLERANCE:
            raise Broken("another seed gives the same image; draw noise from batch.generators")
        return f"{_within(_distance(self.images[0], images[0]))}; its own moves by {moved:.2f}"

    def check_f_inputs(self) -> str:
        """The conditions are left as they were given."""
        conditions = [sample_conditions(self.names, int(request.id.split("-")[0])) for request in self.requests]
        _ = self.images
        for request, fresh in zip(self.requests, conditions, strict=True):
            for name in self.names:
                kind = get_condition(name)
                if kind.digest(request.conditions[name]) != kind.digest(fresh[name]):
                    raise Broken(f"condition '{name}' of request {request.id} was changed in place")
        return ", ".join(self.names)

    # --------------------------------------------------------------------------------------------------- what it tells

    def check_g_traces(self) -> str:
        """Traces that the method names are told, finite, one for each request and step; asking changes no image."""
        import torch

        from concord.methods.base import Trace

        if not self.method.traces:
            return "none"
        trace = Trace(*self.method.traces)
        images = self.method.generate(self.requests, trace)
        if not torch.equal(images, self.images):
            raise Broken("asking for a trace changes the images")
        told = []
        for name in self.method.traces:
            if name not in trace.values:
                raise Broken(f"'{name}' is named in `traces` but never told")
            steps, value = trace.stacked(name)
            if value.shape[:2] != (REQUESTS, len(steps)) or not bool(torch.isfinite(value).all()):
                raise Broken(
                    f"'{name}' has shape {tuple(value.shape)}, expected ({REQUESTS}, {len(steps)}, ...), finite"
                )
            told.append(f"{name} {tuple(value.shape)}")
        return ", ".join(told)

    # ------------------------------------------------------------------------------------------------ what it refuses

    def check_h_foreign(self) -> str:
        """A condition that the method does not take is refused with a clear error."""
        foreign = [name for name in all_conditions() if name not in self.names]
        if not foreign:
            return "takes all"
        request = Request("foreign-0", 0, sample_conditions([*self.names, foreign[0]], 27_000))
        self._refuses([request], foreign[0])
        return foreign[0]

    def check_i_too_few(self) -> str:
        """Too few conditions, or no requests at all, are refused with a clear error."""
        self._refuses([], "request")
        if not self.method.minimum_conditions:
            return "no requests; it needs no condition"
        fewer = self.names[: self.method.minimum_conditions - 1]
        self._refuses([Request("few-0", 0, sample_conditions(fewer, 27_000))], "needs at least")
        return f"fewer than {self.method.minimum_conditions}"

    def check_j_parameters(self) -> str:
        """An unknown parameter is refused with an error that lists the known ones."""
        from concord.methods.base import make_params

        kind = type(self.method)
        try:
            make_params(kind, {"no_such_parameter": 1})
        except ConcordError as error:
            known = list(kind.Params.model_fields)
            if all(name in str(error) for name in known):
                return ", ".join(known)
            raise Broken(f"the error does not list {', '.join(known)}: {error}") from None
        raise Broken("'no_such_parameter' was accepted; Params must derive from Method.Params")

    def _refuses(self, requests: list[Request], word: str) -> None:
        try:
            self.method.generate(requests)
        except ConcordError as error:
            if word not in str(error) or "\n" in str(error):
                raise Broken(f"refused, but not in one line with '{word}': {error}") from None
            return
        raise Broken("made images all the same; expected a ConcordError")


def place_of(error: BaseException) -> str:
    """File and line of the user's code that an exception came from: 'mine.py, line 31'; '' where there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        path = Path(frame.filename)
        if path.is_file() and module_of(path.resolve()) is None and not is_installed(path.resolve()):
            return f"{path.name}, line {frame.lineno}"
    return ""


def _global_state() -> tuple[Any, Any, Tensor]:
    """The states of Python's, NumPy's and torch's global generators."""
    import torch

    return random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002


def _set_global_state(state: tuple[Any, Any, Tensor]) -> None:
    import torch

    random.setstate(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    torch.set_rng_state(state[2])


def _fingerprint(state: tuple[Any, Any, Tensor]) -> tuple[Any, ...]:
    numpy = state[1]
    return state[0], numpy[1].tobytes(), numpy[2:], state[2].numpy().tobytes()


def _distance(a: Tensor, b: Tensor) -> float:
    """The largest difference between two batches of images."""
    return float((a - b).abs().max())


def _within(distance: float) -> str:
    if distance > TOLERANCE:
        raise Broken(f"moves by up to {distance:.4f}, more than {TOLERANCE:.4f} (1/255)")
    return f"within {distance:.1e} (allowed {TOLERANCE:.1e})"

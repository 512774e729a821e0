"""What a plan will cost, before anything starts: images, network evaluations, hours, disk.

Evaluations follow from the parameters by each method's algorithm; tests hold them against what the meter counts while
the same rows run on the embedded networks. Hours are an estimate: evaluations times seconds that somebody measured on
some device (`benchmarks/rates.yaml`, or finished rows of the same generator in the results). Where nobody measured,
they are unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from concord.benchmarks.plan.runs import RunPlan
from concord.benchmarks.settings import ROOT
from concord.data.files import read_json
from concord.data.schema import Strict, read_model

RATES = ROOT / "benchmarks" / "rates.yaml"
PNG_SHARE = 0.6
"""Of the bytes of an 8-bit picture that its PNG takes: stored 64x64 faces take less, noise about 1."""


# ---------------------------------------------------------------------------------------------------------- evaluations


def evaluations(
    method: str, params: Mapping[str, Any], conditions: Sequence[str], steps: Sequence[int] | None = None
) -> dict[str, float] | None:
    """Network evaluations for one image by the names of `Method.denoisers`; None for a method that is not known here.

    steps: the timesteps, descending; those of `Schedule.ddim_timesteps` on 1000 where absent.
    """
    known = {
        "text-only": _single, "mask-only": _single, "unconditional": _single, "composable": _composable,
        "collaborative": _collaborative, "style-aligned": _style_aligned, "freedom": _guided, "ugd": _guided,
        "z-magic": _guided, "amdm": _amdm, "layout-interaction": _layout, "layout-attribute": _layout,
        "layout-style": _layout, "composable-layouts": _composable_layouts, "amdm-layouts": _amdm_layouts,
        "sdedit": _sdedit, "clean-masked": _nothing, "tedigan": _tedigan,
        **dict.fromkeys(_MULTI_TASK, _multi_task), **dict.fromkeys(_SINGLE_TASK, _multi_task),
    }  # fmt: skip  # a table
    if method not in known:
        return None
    taken = list(steps) if steps is not None else timesteps(int(params.get("steps") or 1))
    found: dict[str, float] = known[method](method, params, list(conditions), taken)
    return found


def timesteps(steps: int, total: int = 1000) -> list[int]:
    """As `Schedule.ddim_timesteps`, without importing torch."""
    stride = total // steps
    return [min(t + 1, total - 1) for t in range(0, stride * steps, stride)][::-1]


def _single(method: str, p: Mapping[str, Any], conditions: list[str], steps: list[int]) -> dict[str, float]:
    name = {"text-only": "text", "mask-only": "mask"}.get(method, "unconditional")
    return {f"eps-{name}": len(steps)}


def _composable(method: str, p: Mapping[str, Any], conditions: list[str], steps: list[int]) -> dict[str, float]:
    names = [*conditions, *(["unconditional"] if p["combine"] == "conjunction" else [])]
    return {f"eps-{name}": len(steps) for name in names}


def _collaborative(method: str, p: Mapping[str, Any], conditions: list[str], steps: list[int]) -> dict[str, float]:
    runs = 1 if p["vary_in_time"] else 2  # a first run records the influence, a second one takes its mean
    experts = {f"eps-{name}": float(runs * len(steps)) for name in conditions}
    return experts | {f"influence-{name}": float(len(steps)) for name in conditions}


def _style_aligned(method: str, p: Mapping[str, Any], conditions: list[str], steps: list[int]) -> dict[str, float]:
    found = {"eps-text": 3.0 * len(steps)}  # the reference beside the sample, and the reference's inversion
    return found if p["text_scale"] == 1 else {**found, "eps-unconditional": 2.0 * len(steps)}


def _amdm(method: str, p: Mapping[str, Any], conditions: list[str], steps: list[int]) -> dict[str, float]:
    first, *others = list(p["order"]) or conditions
    end = p["first_step"] + p["aggregation_steps"] if p["aggregation_steps"] else 0
    return {f"eps-{first}": float(len(steps)), **{f"eps-{name}": float(end) for name in others}}


def _layout(method: str, p: Mapping[str, Any], conditions: list[str], steps: list[int]) -> dict[str, float]:
    return {f"eps-{method.removeprefix('layout-')}": _guided_rows(p["guidance"]) * len(steps)}


def _composable_layouts(method: str, p: Mapping[str, Any], conditions: list[str], steps: list[int]) -> dict[str, float]:
    kinds = _layout_models(conditions)
    return _all_layout_models({kind: _guided_rows(p["weight"] * len(kinds)) * len(steps) for kind in kinds})


def _amdm_layouts(method: str, p: Mapping[str, Any], conditions: list[str], steps: list[int]) -> dict[str, float]:
    counts = _amdm(method, p, list(p["order"]) or _layout_models(conditions), steps)
    rows = _guided_rows(p["guidance"])
    return _all_layout_models({name.removeprefix("eps-"): rows * count for name, count in counts.items()})


_LAYOUT_MODELS = {"interaction": "layout", "attribute": "layout", "style": "style"}  # and the condition of each


def _layout_models(conditions: list[str]) -> list[str]:
    return [kind for kind, condition in _LAYOUT_MODELS.items() if condition in conditions]


def _all_layout_models(counts: Mapping[str, float]) -> dict[str, float]:
    return {f"eps-{kind}": float(counts.get(kind, 0)) for kind in _LAYOUT_MODELS}


def _guided_rows(guidance: float) -> int:
    """Rows of a layout model for one prediction: the null condition's beside its own, unless nothing is guided."""
    return 1 if guidance == 1 else 2


_MULTI_TASK = (
    "mt-diffusion-x",
    "mt-diffusion-u",
    "mt-diffusion-seg",
    "mt-diffusion-parse",
    "mt-diffusion-m",
    "mt-diffusion-e",
    "mt-diffusion-parse-star",
)
_SINGLE_TASK = ("adm", "adm-class-conditional", "single-task-diffusion", "mt-diffusion-m-star")


def _multi_task(method: str, p: Mapping[str, Any], conditions: list[str], steps: list[int]) -> dict[str, float]:
    encoded = 0  # the encoder of a label is the network itself
    if method in ("mt-diffusion-m", "mt-diffusion-e"):
        encoded = len(steps) if p["label"] is None else 1
    return {"eps-mt" if method in _MULTI_TASK else "eps-mt-single": float(len(steps) + encoded)}


def _sdedit(method: str, p: Mapping[str, Any], conditions: list[str], steps: list[int]) -> dict[str, float]:
    return {"eps-unconditional": float(max(1, sum(t < p["start"] * 1000 for t in steps)))}


def _nothing(method: str, p: Mapping[str, Any], conditions: list[str], steps: list[int]) -> dict[str, float]:
    return {}


def _tedigan(method: str, p: Mapping[str, Any], conditions: list[str], steps: list[int]) -> dict[str, float]:
    """The generator paints the end, every step of an optimisation, and what a text is to leave alone."""
    inverted = p["inversion_steps"] if "source_image" in conditions else 0
    optimised = p["steps"] + (not inverted) if p["steps"] and "text" in conditions else 0
    return {"generator": float(1 + inverted + optimised)}


def _guided(method: str, p: Mapping[str, Any], conditions: list[str], steps: list[int]) -> dict[str, float]:
    """FreeDoM, Universal Guidance and Z-Magic: a pass forwards each turn, and what guidance adds while it is on."""
    order = [*p["order"], *(name for name in conditions if name not in p["order"])]
    names = [name for name in order if name in conditions]
    driven = p["text_by"] == "model" and "text" in names
    pulling = [name for name in names if not (driven and name == "text") and p["strengths"][name] > 0]
    seen, backward, second = 0.0, 0.0, 0.0
    low, high = p["repeat_window"]
    for place, t in enumerate(steps):
        turns = p["repeat"] if low <= t <= high and place + 1 < len(steps) else 1
        active = [name for name in pulling if p["windows"][name][0] < t < p["windows"][name][1]]
        if method == "z-magic" and t <= p["stop"]:
            active = []
        more, back, twice = (0, 0, 0) if not active else _TURN[method](p, active, driven)
        seen += turns * (1 + more)
        backward += turns * back
        second += turns * twice
    found = {"eps-unconditional": seen, **({"eps-text": seen} if p["text_by"] == "model" else {})}
    if p["text_by"] == "model" and not driven:
        found["eps-text"] = 0.0
    found["backward"] = backward
    return {**found, "second-order": second} if method == "z-magic" else found


def _freedom_turn(p: Mapping[str, Any], active: list[str], driven: bool) -> tuple[int, int, int]:
    alone = [name for name in active if str(p["rules"][name]).startswith("relative")]
    return 0, len(alone) + (len(active) > len(alone)), 0


def _ugd_turn(p: Mapping[str, Any], active: list[str], driven: bool) -> tuple[int, int, int]:
    return 0, 1 if p["forward"] else 0, 0


def _z_magic_turn(p: Mapping[str, Any], active: list[str], driven: bool) -> tuple[int, int, int]:
    """Rows forwards beyond the first, rows backwards, and of them through a backward pass."""
    starts: list[str | None] = [None, *active] if driven else list(active)
    if p["joining"] == "coded" or len(starts) <= 2:
        starts = starts[:1]
    pairs = [(i, j) for i in starts for j in active if j != i]
    if not pairs:
        return 0, 1, 0
    starts = list(dict.fromkeys(i for i, _ in pairs))
    first = sum(i is not None for i in starts)
    longest = max(sum(pair[0] == i for pair in pairs) for i in starts)
    ahead = len(starts) * longest
    if p["hvp"] == "exact":
        second = sum(i is not None for i, _ in pairs)
        return len(starts), first + ahead + len(pairs) - second, second
    bent = sum(i is not None for i, _ in pairs) if p["hvp"] == "finite-difference" else 0
    return len(starts) + bent, first + ahead + len(pairs) + bent, 0


_TURN = {"freedom": _freedom_turn, "ugd": _ugd_turn, "z-magic": _z_magic_turn}


# ---------------------------------------------------------------------------------------------------------------- rates


class Rate(Strict):
    """Seconds of one evaluation of one image, as measured."""

    generator: str
    device: str
    dtype: str
    batch: int = Field(ge=1)
    seconds: dict[str, float]  # by network, as `evaluations` names them
    source: str  # what was run


class Rates(Strict):
    """benchmarks/rates.yaml."""

    rates: list[Rate]


def read_rates(path: Path = RATES) -> list[Rate]:
    """The stated rates; none where there is no such file."""
    return read_model(path, Rates).rates if path.is_file() else []


def seconds_per_image(run: RunPlan, counts: Mapping[str, float], rates: Sequence[Rate]) -> tuple[float, str] | None:
    """(seconds, where that is from) for one image; None where nobody measured.

    A finished row of the same name and method under the plan's folder goes first, scaled by its evaluations.
    """
    try:
        made = read_json(run.path / "run.json")
        seen = sum(made["evaluations_per_image"].values())
        if made["method"] == run.row.method and made.get("generator") == run.generator and seen:
            place = f"{made['n']} images made on {made['device']} before"
            return made["seconds_per_image"] * sum(counts.values()) / seen, place
    except Exception:  # nothing stored, or of another form: no measurement
        pass
    return stated_seconds(run.generator, run.dtype, counts, rates)


def stated_seconds(
    generator: str | None, dtype: str, counts: Mapping[str, float], rates: Sequence[Rate]
) -> tuple[float, str] | None:
    """(seconds, where that is from) for one image by the first rate of that generator that names all its networks."""
    taken = {name: count for name, count in counts.items() if count}
    for rate in rates:
        if (rate.generator, rate.dtype) == (generator, dtype) and set(taken) <= set(rate.seconds):
            total = sum(count * rate.seconds[name] for name, count in taken.items())
            return total, f"{rate.device}, {rate.dtype}, batch {rate.batch}: {rate.source}"
    return None


# ------------------------------------------------------------------------------------------------------------- the plan


@dataclass(frozen=True)
class RowCost:
    """One row that is to be made. counts: evaluations for one image; None where the method is not known here."""

    request_set: str
    row: str
    n: int
    size: int
    counts: Mapping[str, float] | None
    seconds: tuple[float, str] | None = None
    reason: str | None = None  # why it cannot be made now

    @property
    def total(self) -> float | None:
        """Evaluations of all its images, forwards and backwards."""
        return None if self.counts is None else self.n * sum(self.counts.values())

    @property
    def hours(self) -> float | None:
        return None if self.seconds is None else self.n * self.seconds[0] / 3600

    @property
    def bytes(self) -> int:
        """Of its images in the store, about."""
        return int(self.n * 3 * self.size**2 * PNG_SHARE)


@dataclass(frozen=True)
class Cost:
    """What a plan takes. files: name -> bytes to come of what is not here (None: not stated)."""

    rows: Sequence[RowCost]
    files: Mapping[str, int | None] = field(default_factory=dict)

    @property
    def images(self) -> int:
        return sum(row.n for row in self.rows)

    @property
    def evaluations(self) -> float:
        return sum(row.total or 0 for row in self.rows)

    @property
    def hours(self) -> float | None:
        """Of the rows whose rate is known; None where that is none."""
        known = [row.hours for row in self.rows if row.hours is not None]
        return sum(known) if known else None

    @property
    def without_rate(self) -> list[RowCost]:
        return [row for row in self.rows if row.hours is None and row.counts != {}]

    @property
    def bytes(self) -> int:
        return sum(row.bytes for row in self.rows) + sum(size or 0 for size in self.files.values())


def row_cost(run: RunPlan, rates: Sequence[Rate], reason: str | None = None) -> RowCost:
    """The cost of a run as it is planned; reference rows evaluate no generator."""
    n, size = len(run.requests), run.requests.image_size
    return cost_of(
        run.requests.name, run.row.name, run.row.method, run.params, run.conditions, n, size, run, rates, reason
    )


def cost_of(
    request_set: str,
    row: str,
    method: str | None,
    params: Mapping[str, Any],
    conditions: Sequence[str],
    n: int,
    size: int,
    run: RunPlan | None = None,
    rates: Sequence[Rate] = (),
    reason: str | None = None,
    generator: str | None = None,
    dtype: str = "fp32",
) -> RowCost:
    """The same from the parts, where no dataset is there to plan requests from."""
    counts = {} if method is None else evaluations(method, params, conditions)
    seconds = None
    if counts:
        found = seconds_per_image(run, counts, rates) if run is not None else None
        seconds = found or stated_seconds(generator, dtype, counts, rates)
    return RowCost(request_set, row, n, size, counts, seconds, reason)

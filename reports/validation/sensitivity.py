"""Which known failures each suite finds at its default n: `make sensitivity`.

One row of every suite is harmed in ways whose harm nobody doubts, and its metrics are asked, at the same requests and
seeds, whether they see it:

    4-bit weights         the method's networks, each weight tensor rounded to 15 evenly spaced values
    a fifth of the steps  10 in place of 50
    guidance off          every strength 0, every scale of classifier-free guidance 1; where a row has any
    swapped conditions    for 10 % of the requests the image of another request
    blur of one pixel     a Gaussian, sigma 1 pixel

Images that are stored already are read where the harm is one of images (the last two); the others are generated, and
kept. Each trial draws n requests from the pool with replacement, a seed set of its own, and tests every metric as the
tables do (paired sign flips; paired jackknife), corrected over the suite's metrics (Holm). `found`: the share of trials
in which a metric calls the harmed row worse. A metric that finds none of its own failures in half of the trials is
marked in the report; a set metric sees no conditions, so that swapped ones are none of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from pydantic import BaseModel, Field

from concord.benchmarks.suite import JOINT_SUCCESS
from concord.benchmarks.tuned import merge
from concord.data.errors import ConcordError
from concord.data.schema import Strict, read_model
from concord.reports import statistics as st

if TYPE_CHECKING:
    from torch import nn

    from concord.benchmarks.plan.requests import PlannedRequest
    from concord.benchmarks.plan.runs import Plan, RunPlan
    from concord.benchmarks.run.image_source import MethodSource
    from concord.data.networks import Networks
    from concord.metrics.base import Metric
    from concord.metrics.evaluation import ImageBatch

TABLE = Path(__file__).resolve().parent / "sensitivity.yaml"
PLAIN = "unchanged"
WEIGHTS, STEPS, GUIDANCE, SWAP, BLUR = (
    "4-bit weights", "a fifth of the steps", "guidance off", "swapped conditions", "blur of one pixel",
)  # fmt: skip  # a table
EFFECTS = (WEIGHTS, STEPS, GUIDANCE, SWAP, BLUR)
SWAPPED = 0.1
TRIALS = 100
SEEN = 0.5  # a failure counts as found by a metric that finds it in this share of trials
ALPHA = 0.05
BATCH = 32
SCALES = ("guidance", "text_scale")
"""Parameters that are 1 where nothing is guided."""


# ----------------------------------------------------------------------------------------------------------- the table


class SuiteSensitivity(Strict):
    """One suite. found: effect -> metric -> share of trials; an effect that the row does not have is absent."""

    row: str
    n: int  # requests of a trial: the suite's default
    pool: int  # requests with images, from which the trials draw
    trials: int
    found: dict[str, dict[str, float]]
    commit: str = ""
    command: str = ""

    def blind(self, sees_conditions: Mapping[str, bool]) -> list[str]:
        """The metrics that find none of their own failures; sees_conditions: metric -> whether swaps are its own."""
        metrics = next(iter(self.found.values()), {})
        return [
            metric
            for metric in metrics
            if all(
                shares[metric] < SEEN
                for effect, shares in self.found.items()
                if effect != SWAP or sees_conditions.get(metric, False)
            )
        ]


class Sensitivity(Strict):
    """reports/validation/sensitivity.yaml."""

    profile: str
    suites: dict[str, SuiteSensitivity] = Field(default_factory=dict)


def read_sensitivity(path: Path = TABLE) -> Sensitivity | None:
    """The kept table; None where none was made."""
    return read_model(path, Sensitivity) if path.is_file() else None


def write_sensitivity(found: Sensitivity, path: Path = TABLE) -> None:
    """Write the table, whole or not at all."""
    import yaml

    from concord.data.files import atomic_path

    head = "# Written by `make sensitivity`: the share of seed sets in which each metric finds a known failure.\n"
    with atomic_path(path) as temporary:
        text = yaml.safe_dump(found.model_dump(), sort_keys=False, width=140, default_flow_style=None)
        temporary.write_text(head + text, encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------- the effects


def quantise(module: nn.Module, bits: int = 4) -> None:
    """Round every weight tensor in place to 2^bits - 1 values evenly spaced around 0, up to its largest."""
    import torch

    levels = 2 ** (bits - 1) - 1
    with torch.no_grad():
        for parameter in module.parameters():
            scale = parameter.abs().max() / levels
            if parameter.ndim > 1 and scale > 0:  # biases and norms stay, as in formats of few bits
                parameter.copy_((parameter / scale).round() * scale)


def blur(images: np.ndarray) -> np.ndarray:
    """uint8 (B, H, W, 3), each channel under a Gaussian of sigma 1 pixel, edges repeated."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(images.astype(np.float64), sigma=(0, 1, 1, 0), mode="nearest")
    return smooth.round().clip(0, 255).astype(np.uint8)


def swap(images: np.ndarray, share: float = SWAPPED) -> np.ndarray:
    """The images (n, ...) with a share of them, evenly spread, handed on in a ring: no image of these stays."""
    n = len(images)
    places = np.unique(np.linspace(0, n - 1, max(2, round(share * n))).round().astype(int))
    swapped = images.copy()
    swapped[places] = images[np.roll(places, 1)]
    return swapped


def unguided(params: BaseModel) -> dict[str, Any]:
    """The changes that leave nothing of a row's guidance; empty where it has none."""
    values = params.model_dump()
    changes: dict[str, Any] = {}
    strengths = values.get("strengths")
    if isinstance(strengths, dict):
        changes["strengths"] = dict.fromkeys(strengths, 0.0)
    changes |= {name: 1.0 for name in SCALES if values.get(name, 1.0) != 1.0 and values.get("text_by") != "energy"}
    if values.get("combine") == "conjunction":
        changes["weight"] = 0.0
    return changes


def fewer_steps(params: BaseModel) -> dict[str, Any]:
    """A fifth of the row's steps; empty for a method without steps."""
    steps = params.model_dump().get("steps")
    return {"steps": max(1, steps // 5)} if isinstance(steps, int) and steps > 1 else {}


# ---------------------------------------------------------------------------------------------- images and their scores


@dataclass(frozen=True)
class Scored:
    """Of one set of images, values: sample metric -> (n,), and features: kind -> (n, D)."""

    values: dict[str, np.ndarray]
    features: dict[str, np.ndarray]


@dataclass
class SuiteTrial:
    """A suite's row, its requests, and what scores them."""

    plan: Plan
    run: RunPlan
    metrics: Sequence[Metric]
    judges: Networks
    reference: Mapping[str, np.ndarray]
    folder: Path
    tell: Callable[[str], None] = print
    images: dict[str, np.ndarray] = field(default_factory=dict)

    def made(self, effect: str) -> np.ndarray | None:
        """Images uint8 (n, H, W, 3) under an effect; None where the row does not have what it takes away."""
        if effect == PLAIN:
            return self._stored()
        if effect == BLUR:
            return blur(self._stored())
        if effect == SWAP:
            return swap(self._stored()) if self.run.conditions else None
        changes = {WEIGHTS: lambda _: {}, STEPS: fewer_steps, GUIDANCE: unguided}[effect](_params_of(self.run))
        if effect != WEIGHTS and not changes:
            return None
        path = self.folder / self.run.requests.name / f"{self.run.row.name}-{effect.replace(' ', '-')}.npy"
        if path.is_file():
            kept: np.ndarray = np.load(path, allow_pickle=False)
            if len(kept) == len(self.run.requests):
                return kept
        found = self._generated(changes, effect == WEIGHTS)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, found)
        return found

    def _stored(self) -> np.ndarray:
        """The row's images from the store; generated where it has not all of them."""
        from concord.benchmarks.store.run import Run

        if PLAIN not in self.images:
            stored, wanted = Run(self.run.path), [request.id for request in self.run.requests.requests]
            if stored.finished and set(wanted) <= set(stored.ids):
                images = dict(stored.images(wanted))
                self.images[PLAIN] = np.stack([images[name] for name in wanted])
            else:
                self.images[PLAIN] = self._generated({}, False)
        return self.images[PLAIN]

    def _generated(self, changes: dict[str, Any], few_bits: bool) -> np.ndarray:
        from dataclasses import replace

        from concord.benchmarks.image_sources import open_method

        row = self.run.row.model_copy(update={"params": merge(self.run.row.params, changes)})
        source: MethodSource = open_method(replace(self.run, row=row))
        if few_bits:
            for module in source.method.denoisers().values():
                quantise(module)
        found = []
        for first in range(0, len(self.run.requests), BATCH):
            batch = self.run.requests.requests[first : first + BATCH]
            found.append(source.make(source.prepare(batch), False).images)
        source.close()
        return np.concatenate(found)

    def scored(self, images: np.ndarray) -> Scored:
        """The metrics of images (n, H, W, 3) as answers to the requests."""
        from concord.data.device import exact_float32
        from concord.metrics.evaluation import Scores, score_batches

        scores = Scores(len(images))
        with exact_float32():
            for batch in score_batches(self._batches(images), self.metrics, self.judges):
                scores.add(batch)
        return Scored(scores.values, scores.features)

    def _batches(self, images: np.ndarray) -> Iterator[ImageBatch]:
        from concord.metrics.evaluation import ImageBatch, to_tensor

        requests, size = self.run.requests, self.run.requests.image_size
        for first in range(0, len(images), BATCH):
            planned: Sequence[PlannedRequest] = requests.requests[first : first + BATCH]
            own = np.stack([one.item.image(size) for one in planned]) if requests.has_images else None
            yield ImageBatch(
                np.arange(first, first + len(planned)),
                to_tensor(images[first : first + BATCH]),
                [requests.conditions_of(one, requests.conditions) for one in planned],
                None if own is None else to_tensor(own),
            )


# -------------------------------------------------------------------------------------------------------------- trials


def found_shares(
    metrics: Sequence[Metric],
    plain: Scored,
    harmed: Scored,
    reference: Mapping[str, np.ndarray],
    n: int,
    trials: int,
    seed: int = 0,
) -> dict[str, float]:
    """Metric -> share of trials in which it calls the harmed images worse."""
    from concord.metrics.base import SetMetric

    rng = np.random.default_rng(seed)
    size = len(next(iter([*plain.values.values(), *plain.features.values()])))
    found = dict.fromkeys((metric.name for metric in metrics), 0)
    for _ in range(trials):
        drawn = rng.integers(size, size=n)
        tests = []
        for metric in metrics:
            if isinstance(metric, SetMetric):
                tests.append(_set_test(metric, plain, harmed, reference, drawn))
            else:
                tests.append(_sample_test(metric, plain, harmed, drawn))
        adjusted = st.holm([p for p, _ in tests])
        for metric, (_, worse), p in zip(metrics, tests, adjusted, strict=True):
            found[metric.name] += bool(p < ALPHA and worse)
    return {name: count / trials for name, count in found.items()}


def _sample_test(metric: Metric, plain: Scored, harmed: Scored, drawn: np.ndarray) -> tuple[float, bool]:
    moved = (harmed.values[metric.name] - plain.values[metric.name])[drawn]
    moved = moved[np.isfinite(moved)]
    if not len(moved) or not np.any(moved):
        return 1.0, False
    return float(st.sign_flip(moved)[0]), (float(moved.mean()) < 0) == metric.higher_is_better


def _set_test(
    metric: Any, plain: Scored, harmed: Scored, reference: Mapping[str, np.ndarray], drawn: np.ndarray
) -> tuple[float, bool]:
    from concord.metrics.evaluation import score_set

    real = reference.get(metric.features) if metric.needs_reference else None
    before, old = score_set(metric, plain.features[metric.features][drawn], real)
    value, new = score_set(metric, harmed.features[metric.features][drawn], real)
    if value == before:
        return 1.0, False
    test = st.paired_jackknife(value, np.asarray(new), before, np.asarray(old))
    return float(test.p), (value < before) == metric.higher_is_better


# ---------------------------------------------------------------------------------------------------------- the command


def open_trial(
    name: str, results: Path, folder: Path, pool: int | None, tell: Callable[[str], None] = print
) -> tuple[SuiteTrial, int]:
    """A suite's trial, and its default n. pool: requests with images; the default n where absent."""
    from concord.benchmarks.datasets import ensure_dataset
    from concord.benchmarks.plan.requests import Options
    from concord.benchmarks.planner import make_plan
    from concord.benchmarks.session import Session
    from concord.benchmarks.settings import load_settings
    from concord.benchmarks.suite import load_suite
    from concord.metrics.base import SampleMetric, get_metric

    settings, suite = load_settings(), load_suite(name)
    n = suite.size("default", "embedded")
    ensure_dataset(suite, settings, Options(limit=max(n, pool or 0)), tell)
    plan = make_plan(suite, settings, Options(results=results))
    if pool is not None:
        from dataclasses import replace

        fewer = replace(plan.requests, requests=plan.requests.requests[:pool])
        plan = replace(plan, requests=fewer, runs=tuple(replace(run, requests=fewer) for run in plan.runs))
    run = typical_row(plan.runs, suite.conditions)
    if run is None:
        raise ConcordError(f"suite '{name}': no row takes sampling steps, so that nothing of it can be harmed")
    metrics = [get_metric(metric) for metric in suite.metrics if metric != JOINT_SUCCESS]
    metrics = [m for m in metrics if not m.needs_originals or plan.requests.has_images]
    session = Session(plan)
    compared = session.compared
    reference = {} if session.reference is None else session.reference.features(session.judges, compared)
    weighted = [m.name for m in metrics if isinstance(m, SampleMetric) and m.weight_by is not None]
    if weighted:
        tell(f"{name}: {', '.join(weighted)} weigh every image alike here")
    return SuiteTrial(plan, run, metrics, session.judges, reference, folder, tell), n


def _steps(run: RunPlan) -> int:
    """Sampling steps; 0 of a row without."""
    steps = run.params.get("steps", 0)
    return steps if isinstance(steps, int) else 0


def typical_row(runs: Sequence[RunPlan], conditions: Sequence[str]) -> RunPlan | None:
    """The row that is harmed: the first with sampling steps that is guided, by all conditions if there is one such."""
    sampled = [run for run in runs if run.row.method is not None and _steps(run) > 1]
    whole = [run for run in sampled if set(run.conditions) == set(conditions)] or sampled
    guided = [run for run in whole if unguided(_params_of(run))]
    return next(iter([*guided, *whole]), None)


def _params_of(run: RunPlan) -> BaseModel:
    from concord.methods.base import get_method, make_params

    assert run.row.method is not None
    return make_params(get_method(run.row.method), run.row.params)


def measure_suite(name: str, results: Path, folder: Path, pool: int | None, trials: int) -> SuiteSensitivity:
    """The sensitivity of one suite."""
    trial, n = open_trial(name, results, folder, pool)
    plain = trial.scored(trial.made(PLAIN))  # type: ignore[arg-type]
    found = {}
    for effect in EFFECTS:
        images = trial.made(effect)
        if images is not None:
            found[effect] = found_shares(trial.metrics, plain, trial.scored(images), trial.reference, n, trials)
            trial.tell(f"{name}: {effect}: " + ", ".join(f"{m} {share:.2f}" for m, share in found[effect].items()))
    return SuiteSensitivity(row=trial.run.row.name, n=n, pool=len(trial.run.requests), trials=trials, found=found)


def main(
    suite: Annotated[list[str] | None, typer.Option(help="Suites; all of them if absent.", show_default=False)] = None,
    pool: Annotated[
        int | None,
        typer.Option(min=20, help="Requests with images; a suite's default n if absent.", show_default=False),
    ] = None,
    trials: Annotated[int, typer.Option(min=10, help="Seed sets that are drawn from the pool.")] = TRIALS,
    results: Annotated[Path, typer.Option(help="Where stored images lie.")] = Path("results"),
    out: Annotated[Path, typer.Option(help="The table.")] = TABLE,
) -> None:
    """Measure in what share of seed sets each suite's metrics find known failures, and keep the table."""
    from concord.benchmarks.store.provenance import git_commit
    from concord.benchmarks.suite import suite_names
    from concord.data.device import use_all_cores

    use_all_cores()
    folder = results / "embedded" / "sensitivity"
    words = [*(f"--suite {name}" for name in suite or ()), *([f"--pool {pool}"] if pool else []), f"--trials {trials}"]
    command = f"python -m concord.reports.validation.sensitivity {' '.join(words)}"
    earlier = read_sensitivity(out)
    kept = dict(earlier.suites) if earlier is not None else {}
    for name in suite or suite_names():
        kept[name] = measure_suite(name, results, folder, pool, trials)
        kept[name] = kept[name].model_copy(update={"command": command, "commit": git_commit() or "unknown"})
        write_sensitivity(
            Sensitivity(profile="embedded", suites=kept), out
        )  # what was measured stays if this is stopped
        typer.echo(f"{name}: written to {out}")


if __name__ == "__main__":
    typer.run(main)

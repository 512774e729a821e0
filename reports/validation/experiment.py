"""Whether the gate keeps what it says, on real images: `python -m concord.reports.validation.experiment`.

A bank of images is made once: one method, many requests, several seed sets, and again with losses built in (a
guidance strength that is 1, 2 or 5 % smaller, masks shifted by one pixel). Each trial then draws n (request,
seed set) pairs from it with replacement, so that the bank is the population, its mean differences are the truth, and
trials are independent. `concord compare`'s own code judges them.

    A/A      base and head: other seeds of the same method. object claim in the whole table is a false alarm.
    losses   base and head: the same seeds, the head with the loss. How often each metric is called worse (or better,
             where the bank says that the true difference is a gain), next to the rate that the stated power
             (`concord.reports.compare.comparison.smallest_loss`) promises for the true difference.
    known    simulated scores, their true loss exactly the smallest that is said to be found with 80 % power.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray

from concord.data.errors import ConcordError
from concord.reports import statistics as st
from concord.reports.compare.comparison import Change, Result, compare_sides, smallest_loss
from concord.reports.compare.margins import Margins, read_margins
from concord.reports.compare.sides import Side, SideRun
from concord.reports.tables.measured import MetricFacts, metric_facts
from concord.reports.tables.pairs import ALPHA

if TYPE_CHECKING:
    from concord.data.request import Request
    from concord.metrics.evaluation import ImageBatch

SUITE = "face-generation"
METRICS = ("fid", "kid", "text-similarity", "mask-accuracy", "mask-miou")
FEATURES = "features"
GROUPS = 32
BATCH = 32
PLAIN = "unchanged"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Loss:
    """A change that is built in: the share of the guidance strength that is taken away, pixels of the mask's shift."""

    name: str
    weaker: float = 0.0
    shift: int = 0


LOSSES = (
    Loss("guidance 1 % weaker", weaker=0.01),
    Loss("guidance 2 % weaker", weaker=0.02),
    Loss("guidance 5 % weaker", weaker=0.05),
    Loss("mask shifted by 1 pixel", shift=1),
)


@dataclass(frozen=True)
class Setting:
    """How the bank is made."""

    items: int = 64
    seeds: int = 8
    loss_seeds: int = 4  # seed sets that each loss is made for
    steps: int = 10
    weight: float = 1.0  # of every condition in Composable Diffusion's conjunction

    @property
    def name(self) -> str:
        return f"composable-{self.items}x{self.seeds}-steps-{self.steps}-weight-{self.weight:g}"


@dataclass(frozen=True)
class Bank:
    """By variant, values: metric -> (seed sets, items), and features: (seed sets, items, D)."""

    values: dict[str, dict[str, Floats]]
    features: dict[str, np.ndarray]
    reference: np.ndarray

    @property
    def items(self) -> int:
        return int(self.features[PLAIN].shape[1])


# ------------------------------------------------------------------------------------------------------------ the bank


def open_bank(setting: Setting, folder: Path, tell: Callable[[str], None] = print) -> Bank:
    """The bank, each part made only where it is not kept in `folder` yet."""
    maker: _Maker | None = None
    values: dict[str, dict[str, list[Floats]]] = {}
    features: dict[str, list[np.ndarray]] = {}
    for loss in (Loss(PLAIN), *LOSSES):
        for seed_set in range(setting.seeds if loss.name == PLAIN else setting.loss_seeds):
            path = folder / setting.name / f"{loss.name.replace(' ', '-').replace('%', 'percent')}-{seed_set}.npz"
            if not path.is_file():
                maker = maker or _Maker(setting)
                seconds = maker.make(loss, seed_set, path)
                tell(f"bank: {loss.name}, seed set {seed_set}: {setting.items} images in {seconds:.0f} s")
            with np.load(path, allow_pickle=False) as file:
                features.setdefault(loss.name, []).append(file[FEATURES])
                for metric in file.files:
                    if metric != FEATURES:
                        values.setdefault(loss.name, {}).setdefault(metric, []).append(file[metric])
    reference = folder / "reference.npy"
    if not reference.is_file():
        (maker or _Maker(setting)).make_reference(reference)
    return Bank(
        {name: {m: np.stack(v) for m, v in found.items()} for name, found in values.items()},
        {name: np.stack(found) for name, found in features.items()},
        np.load(reference, allow_pickle=False),
    )


class _Maker:
    """Makes and scores images of the embedded profile, as the runner does."""

    def __init__(self, setting: Setting) -> None:
        from concord.benchmarks.plan.requests import Options
        from concord.benchmarks.planner import open_items
        from concord.benchmarks.settings import load_settings
        from concord.benchmarks.suite import read_suite
        from concord.data.device import resolve_device
        from concord.metrics.networks.judges import open_judges

        self.setting, self.settings, self.suite = setting, load_settings(), read_suite(SUITE)
        self.profile = self.settings.profile("embedded")
        self.dataset = open_items(self.suite, self.settings, Options())
        self.device = resolve_device("cpu")
        self.judges = open_judges("embedded", self.device)

    def make(self, loss: Loss, seed_set: int, path: Path) -> float:
        """One seed set of a variant, written to `path`; returns the seconds that it took."""
        import time

        from concord.benchmarks.plan.requests import make_request_set
        from concord.data.device import exact_float32
        from concord.data.files import atomic_path
        from concord.data.networks import Networks
        from concord.methods.base import make_method
        from concord.metrics.base import get_metric
        from concord.metrics.evaluation import ImageBatch, Scores, score_batches, to_tensor

        start, size = time.perf_counter(), self.profile.image_size
        requests = make_request_set(SUITE, self.dataset, ["text", "mask"], size, self.setting.items, seed_set)
        params = {
            "combine": "conjunction",
            "weight": self.setting.weight * (1 - loss.weaker),
            "steps": self.setting.steps,
        }
        method = make_method("composable", params, lambda: Networks("embedded", "faces", self.device))

        def batches() -> Iterator[ImageBatch]:
            for first in range(0, len(requests), BATCH):
                planned = requests.requests[first : first + BATCH]
                asked = [requests.request(one, requests.conditions) for one in planned]
                images = method.generate([_shifted(one, loss.shift) for one in asked])
                stored = (images * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
                places = np.arange(first, first + len(planned))
                yield ImageBatch(places, to_tensor(stored), [one.conditions for one in asked])

        scores = Scores(len(requests))
        with exact_float32():
            for batch in score_batches(batches(), [get_metric(name) for name in METRICS], self.judges):
                scores.add(batch)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **{FEATURES: scores.features["pool"]}, **scores.values)  # type: ignore[arg-type]
        return time.perf_counter() - start

    def make_reference(self, path: Path) -> None:
        """Features of the profile's reference images."""
        from concord.benchmarks.run.score import Reference
        from concord.data.datasets.faces.open import open_faces
        from concord.data.device import exact_float32
        from concord.data.files import atomic_path
        from concord.metrics.distribution.fid import FID

        facts = self.profile.datasets[self.suite.dataset]
        assert facts.reference_folder is not None, "the experiment compares with real images"
        real = open_faces(facts.reference_folder, split="all")
        source = Reference(real, path.parent / "reference", self.profile.image_size, facts.reference_n)
        with exact_float32():
            features = source.features(self.judges, [FID()])["pool"]
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.save(file, features)


def _shifted(request: Request, pixels: int) -> Request:
    """The request with its mask moved to the right; the edge's column is repeated."""
    mask = request.conditions.mask
    if not pixels or mask is None:
        return request
    moved = np.concatenate([np.repeat(mask[:, :1], pixels, axis=1), mask[:, :-pixels]], axis=1)
    return replace(request, conditions=request.conditions.replace(mask=moved))


# -------------------------------------------------------------------------------------------------------------- trials


def side_run(bank: Bank, variant: str, seeds: np.ndarray, items: np.ndarray) -> SideRun:
    """One row of a side: the drawn images, each an item of its own."""
    from concord.metrics.base import SetMetric, get_metric

    n = len(items)
    features = bank.features[variant][seeds, items]
    values = {metric: found[seeds, items] for metric, found in bank.values[variant].items()}
    sets = {}
    for name in METRICS:
        metric = get_metric(name)
        if isinstance(metric, SetMetric):
            value = metric.compute(features, bank.reference)
            sets[name] = (value, metric.replicates(features, bank.reference, np.arange(n)))
    return SideRun(
        {"n": n, "data": "", "device": "cpu", "networks": {}},
        [f"{k}-0" for k in range(n)],
        values,
        {metric: np.zeros(n, dtype=bool) for metric in values},
        sets,
        dict.fromkeys(sets, len(bank.reference)),
    )


def as_side(runs: Sequence[SideRun], label: str) -> Side:
    """Runs as one side of a comparison, rows numbered."""
    return Side(label, "embedded", {f"{SUITE}/row-{k}": run for k, run in enumerate(runs)})


def null_trial(bank: Bank, rng: np.random.Generator, n: int, rows: int) -> tuple[Side, Side]:
    """A/A: both sides unchanged, every image with another seed on the other side."""
    sets = bank.features[PLAIN].shape[0]
    base, head = [], []
    for _ in range(rows):
        items = rng.integers(bank.items, size=n)
        first = rng.integers(sets, size=n)
        other = (first + rng.integers(1, sets, size=n)) % sets
        base.append(side_run(bank, PLAIN, first, items))
        head.append(side_run(bank, PLAIN, other, items))
    return as_side(base, "base"), as_side(head, "head")


def loss_trial(bank: Bank, rng: np.random.Generator, n: int, rows: int, loss: str) -> tuple[Side, Side]:
    """The first row has the loss, at the same requests and seeds; the other rows are A/A."""
    base, head = null_trial(bank, rng, n, rows)
    items, seeds = rng.integers(bank.items, size=n), rng.integers(bank.features[loss].shape[0], size=n)
    name = f"{SUITE}/row-0"
    base.runs[name], head.runs[name] = side_run(bank, PLAIN, seeds, items), side_run(bank, loss, seeds, items)
    return base, head


@dataclass(frozen=True)
class Rate:
    """A share of trials with its standard error."""

    hits: int
    trials: int

    @property
    def value(self) -> float:
        """hits / trials, in [0, 1]."""
        return self.hits / self.trials

    def __str__(self) -> str:
        error = math.sqrt(self.value * (1 - self.value) / self.trials)
        return f"{100 * self.value:5.1f} % ± {100 * error:.1f}"


def claims(result: Result) -> bool:
    """Whether anything in the table is said to differ, at whatever size."""
    return any(change.p_holm < ALPHA for change in result.changes)


def stated_rate(change: Change, tests: int, true_loss: float) -> float:
    """The rate at which `smallest_loss` says that a true loss is called worse."""
    from scipy import special

    if not math.isfinite(change.error) or change.error == 0:
        return 0.0
    critical = st.t_quantile(change.df, 1 - ALPHA / max(1, tests)) * change.error
    return float(special.stdtr(change.df, (true_loss - max(critical, change.margin)) / change.error))


def null_rates(
    bank: Bank, trials: int, n: int, rows: int, margins: Margins, seed: int = 0
) -> tuple[Rate, Rate, dict[str, Rate]]:
    """(tables with any claim, tables that end with exit code 1, per metric: uncorrected p < 0.05)."""
    facts, rng = metric_facts(list(METRICS)), np.random.default_rng([seed, 1])
    claimed = failed = 0
    single: dict[str, int] = dict.fromkeys(METRICS, 0)
    for _ in range(trials):
        result = compare_sides(*null_trial(bank, rng, n, rows), margins, facts)
        claimed += claims(result)
        failed += result.exit_code == 1
        for change in result.changes:
            single[change.metric] += change.p < ALPHA
    return Rate(claimed, trials), Rate(failed, trials), {m: Rate(k, trials * rows) for m, k in single.items()}


@dataclass(frozen=True)
class Found:
    """One metric under one loss: its true difference, its margin, and how often the verdict was the true one.

    stated, found: of the verdict 'worse', or 'better' where the true loss is negative. stated_any, differs: of a
    corrected p below 0.05, whatever the margin.
    """

    metric: str
    label: str
    true_loss: float
    margin: float
    stated: float
    found: Rate
    stated_any: float
    differs: Rate
    verdicts: dict[str, int]


def loss_rates(
    bank: Bank, loss: str, trials: int, n: int, rows: int, margins: Margins, seed: int = 0
) -> tuple[list[Found], Rate]:
    """Per metric of the row that has the loss; and the share of trials that end with exit code 1."""
    facts, rng = metric_facts(list(METRICS)), np.random.default_rng([seed, 2, *loss.encode()])
    seen: dict[str, list[tuple[Change, int]]] = {metric: [] for metric in METRICS}
    failed = 0
    for _ in range(trials):
        result = compare_sides(*loss_trial(bank, rng, n, rows, loss), margins, facts)
        failed += result.exit_code == 1
        for change in result.changes:
            if change.run.endswith("/row-0"):
                seen[change.metric].append((change, result.tests))
    found = []
    for metric, changes in seen.items():
        true = _true_loss(bank, loss, facts[metric], [change for change, _ in changes])
        stated, stated_any = (
            float(np.mean([stated_rate(replace(c, margin=c.margin * beyond), k, abs(true)) for c, k in changes]))
            for beyond in (1, 0)
        )
        verdicts = [change.verdict for change, _ in changes]
        counted = {str(verdict): verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}
        differs = sum(change.p_holm < ALPHA for change, _ in changes)
        margin = float(np.mean([change.margin for change, _ in changes]))
        rate = Rate(verdicts.count("worse" if true > 0 else "better"), trials)
        found.append(
            Found(metric, facts[metric].label, true, margin, stated, rate, stated_any, Rate(differs, trials), counted)
        )
    return found, Rate(failed, trials)


def _true_loss(bank: Bank, loss: str, fact: MetricFacts, changes: Sequence[Change]) -> float:
    """Of a metric per image the bank's own mean; of a set metric its mean over the trials (at this n)."""
    if fact.is_set:
        return float(np.mean([change.loss for change in changes]))
    new = bank.values[loss][fact.name]
    old = bank.values[PLAIN][fact.name][: len(new)]
    return float((old - new).mean() if fact.higher_is_better else (new - old).mean())


# -------------------------------------------------------------------------------------------------------- known truth


def known_rates(trials: int, n: int, tests: int, margin: float = 0.0, seed: int = 0) -> tuple[Rate, Rate]:
    """Simulated scores: (found at exactly the smallest visible loss, any false alarm among the other tests).

    Differences are normal with standard deviation 1; the first of `tests` metrics has the loss, the others none.
    """
    rng = np.random.default_rng([seed, 3, n, tests])
    names = [f"m{k}" for k in range(tests)]
    facts = {name: MetricFacts(name, name, True, is_set=False) for name in names}
    whole = Change("", "", "", n, 0, 0, 0, 0, 0, margin, 1, 1 / math.sqrt(n), n - 1)
    effect = smallest_loss(whole, tests)
    from concord.reports.compare.margins import Margin

    margins = Margins(Margin(absolute=margin))
    found = alarms = 0
    for _ in range(trials):
        values = {name: 100 + rng.normal(size=n) for name in names}
        moved = {name: value - rng.normal(effect if name == "m0" else 0, 1, n) for name, value in values.items()}
        result = compare_sides(_simulated(values, n), _simulated(moved, n), margins, facts)
        found += any(change.metric == "m0" and change.verdict == "worse" for change in result.changes)
        alarms += any(change.metric != "m0" and change.p_holm < ALPHA for change in result.changes)
    return Rate(found, trials), Rate(alarms, trials)


def _simulated(values: dict[str, Floats], n: int) -> Side:
    facts = {"n": n, "data": "", "device": "cpu", "networks": {}}
    failed = {name: np.zeros(n, dtype=bool) for name in values}
    run = SideRun(facts, [f"{k}-0" for k in range(n)], values, failed)
    return Side("simulated", "embedded", {f"{SUITE}/row": run})


# -------------------------------------------------------------------------------------------------------------- output


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Markdown with columns that line up in a terminal."""
    widths = [max(len(line[k]) for line in (heads, *rows)) for k in range(len(heads))]
    for line in (heads, ["-" * width for width in widths], *rows):
        yield "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"


def main(
    trials: Annotated[int, "tables of each kind"] = 100,
    n: int = 128,
    rows: int = 6,
    items: int = 64,
    seeds: int = 8,
    steps: int = 10,
    weight: float = 1.0,
    folder: Path = Path("results/experiment"),
    seed: int = 0,
) -> None:
    """Make the bank where it is not there, run all trials, print the tables; exit code 1 where A/A alarms too often."""
    if seeds < 2 or trials < 1 or n < 2 or rows < 1:
        raise ConcordError("expected --seeds 2 or more, --n 2 or more, and at least one trial and one row")
    setting = Setting(items, seeds, min(4, seeds), steps, weight)
    bank, margins = open_bank(setting, folder), read_margins("embedded")
    print(f"\nBank {setting.name}: {items} requests x {seeds} seed sets; n = {n}, {rows} rows x {len(METRICS)} metrics")
    claimed, failed, single = null_rates(bank, trials, n, rows, margins, seed)
    lines = [
        ("any claim in the table (corrected)", str(claimed), "at most 5 %"),
        ("exit code 1", str(failed), "at most 5 %"),
        *((f"{metric} alone, uncorrected", str(rate), "5 %") for metric, rate in single.items()),
    ]
    print(
        f"\nA/A, {trials} tables: same method, other seeds\n",
        *table(("False alarms", "measured", "stated"), lines),
        sep="\n",
    )
    for loss in LOSSES:
        found, ended = loss_rates(bank, loss.name, trials, n, rows, margins, seed)
        lines_ = [
            (
                one.label,
                f"{one.true_loss:+.4g}",
                f"{one.margin:.3g}",
                f"{100 * one.stated:.1f} %",
                str(one.found),
                f"{100 * one.stated_any:.1f} %",
                str(one.differs),
                ", ".join(f"{count} {name}" for name, count in one.verdicts.items()),
            )
            for one in found
        ]
        heads = (
            "Metric",
            "true loss",
            "margin",
            "beyond it, stated",
            "measured",
            "p < 0.05, stated",
            "measured",
            "verdicts",
        )
        print(f"\n{loss.name}, {trials} tables; exit code 1 in {ended}\n", *table(heads, lines_), sep="\n")
    known = [
        (f"n = {size}, {tests} tests, margin {margin:g}", *map(str, known_rates(5 * trials, size, tests, margin, seed)))
        for size, tests, margin in itertools.product((32, 128), (1, 20), (0.0, 0.5))
    ]
    columns = ("Simulated, the loss exactly the smallest visible", "found (stated 80 %)", "false alarms beside it")
    print(f"\nKnown truth, {5 * trials} tables each\n", *table(columns, known), sep="\n")
    raise SystemExit(int(binomial_excess(claimed)))


def binomial_excess(rate: Rate) -> bool:
    """Whether so many alarms are more than 5 % would give one time in a hundred."""
    from scipy.stats import binom

    return bool(binom.sf(rate.hits - 1, rate.trials, ALPHA) < 0.01)


if __name__ == "__main__":
    import typer

    typer.run(main)

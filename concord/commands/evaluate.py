"""`concord score --images` and `concord score --results`: scores of any folder of images, or of one stored row."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from concord.arguments import Device, ProfileName
from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from concord.data.datasets.images.image_sets import ImageSet
    from concord.data.request import Conditions
    from concord.metrics.results import Evaluation, Result
    from concord.reports.statistics import Interval

GROUPS = 32
TABLES = (".parquet", ".csv")

Images = Annotated[
    Path | None,
    typer.Option("--images", help="What is scored: a folder, .tar, .npz or .npy of images.", show_default=False),
]
Row = Annotated[
    Path | None,
    typer.Option(
        "--results", help="What is scored: a stored row, results/<profile>/<request set>/<row>.", show_default=False
    ),
]
Reference = Annotated[
    Path | None,
    typer.Option(
        "--reference", show_default=False,
        help="What it is compared with: likewise, or statistics of clean-fid, pytorch-fid or ADM (.npz). LPIPS, PSNR "
        "and other metrics of pairs take each image's partner in it, by name or in order.",
    ),
]  # fmt: skip
MetricNames = Annotated[str, typer.Option("--metrics", help="Names with commas (see `concord list`).")]
Captions = Annotated[
    Path | None,
    typer.Option("--captions", help=".txt in order, or .json, .jsonl, .csv by image name.", show_default=False),
]
Masks = Annotated[
    Path | None, typer.Option("--masks", help="A folder of index masks, CelebAMask-HQ order.", show_default=False)
]
People = Annotated[
    Path | None,
    typer.Option("--people", help="Pictures of the wanted persons: a folder, or one for all.", show_default=False),
]
Styles = Annotated[
    Path | None, typer.Option("--styles", help="Style pictures: a folder, or one for all.", show_default=False)
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", help="Rows of image, metric, value, status as .parquet or .csv; facts beside it.", show_default=False
    ),
]


def score_images(
    metrics: MetricNames,
    images: Images = None,
    results: Row = None,
    reference: Reference = None,
    captions: Captions = None,
    masks: Masks = None,
    people: People = None,
    styles: Styles = None,
    profile: ProfileName = "paper",
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option("--batch-size", help="Images that a network sees at a time.")] = 32,
    intervals: Annotated[
        bool, typer.Option("--intervals", help="Jackknife intervals of set metrics too: 32 times their cost.")
    ] = False,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Keep the reference's features.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    out: Out = None,
    statistics: Annotated[
        Path | None,
        typer.Option(
            "--save-statistics", help="Write the images' mu and sigma, as other tools read them.", show_default=False
        ),
    ] = None,
) -> None:
    """Score a folder of images, or a stored row, by any metrics; every image is decoded once for all of them.

    Examples:

      concord score --images samples/ --reference celeba/ --metrics fid,kid,inception-score

      concord score --images restored.tar --reference originals/ --metrics lpips,psnr,ssim --out rows.parquet

      concord score --images samples/ --captions captions.json --metrics text-similarity --json

      concord score --images samples/ --reference adm.npz --metrics fid-tf,sfid-tf

      concord score --results results/embedded/faces/composable --metrics text-similarity,mask-accuracy
    """
    if (images is None) == (results is None):
        raise ConcordError("expected --images DIR or --results results/<profile>/<request set>/<row>, one of the two")
    if out is not None and out.suffix not in TABLES:
        raise ConcordError(f"--out {out}: expected a name that ends in {' or '.join(TABLES)}")
    found = evaluate_paths(
        images=images, results=results, metrics=metrics, reference=reference,
        conditions={"captions": captions, "masks": masks, "people": people, "styles": styles},
        profile=profile, device=device, batch_size=batch_size, cache=cache, replicates=GROUPS if intervals else 0,
        statistics=statistics,
    )  # fmt: skip
    if out is not None:
        write_rows(found, out)
    if as_json:
        typer.echo(json.dumps({**found.facts(), "intervals": intervals_of(found)}, indent=1, ensure_ascii=False))
    else:
        show(found)
        if out is not None:
            typer.echo(f"{out}: {sum(len(values) for values, _ in found.samples.values())} rows")


def asks_for_images(arguments: Sequence[str]) -> bool:
    """Whether `concord score ARGUMENTS` means a folder of images or one stored row, and no suite."""
    for number, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--images":
            return True
        if name == "--results":
            value = value or (arguments[number + 1] if number + 1 < len(arguments) else "")
            if (Path(value) / "run.json").is_file():
                return True
    return False


# ------------------------------------------------------------------------------------------------------------- scoring


def evaluate_paths(
    *, images: Path | None, results: Path | None, metrics: str, reference: Path | None,
    conditions: dict[str, Path | None], profile: str, device: str, batch_size: int, cache: bool, replicates: int,
    statistics: Path | None = None,
) -> Evaluation:  # fmt: skip
    """`concord.metrics.evaluate` of what the options name."""
    from concord import metrics as scoring
    from concord.benchmarks.run.image_source import use_all_cores
    from concord.data.datasets.images.condition_files import ConditionFiles
    from concord.data.datasets.images.image_sets import open_images

    generated = open_images(images or _row(results))
    wanted: Sequence[Conditions] | None = None
    if any(conditions.values()):
        wanted = ConditionFiles(generated, **conditions)
    elif results is not None and _needs_conditions(metrics):
        profile, wanted = stored_conditions(results, generated)
    if results is not None:
        profile = _profile(results)
    use_all_cores()
    return scoring.evaluate(
        generated=generated, reference=reference, conditions=wanted, metrics=metrics, profile=profile, device=device,
        cache=cache, batch_size=batch_size, replicates=replicates, bars=bars, statistics=statistics,
    )  # fmt: skip


def _row(path: Path | None) -> Path:
    assert path is not None
    if not (path / "run.json").is_file():
        raise ConcordError(
            f"{path}: no finished row; expected results/<profile>/<request set>/<row> with a run.json in it"
        )
    return path


def _profile(row: Path) -> str:
    from concord.benchmarks.store.run import Run

    return str(Run(row).manifest["profile"])


def _needs_conditions(names: str) -> bool:
    from concord.metrics.base import get_metric
    from concord.metrics.results import ALIASES

    listed = [name.strip() for name in names.split(",") if name.strip()]
    return any(get_metric(ALIASES.get(name, name)).needs for name in listed)


def stored_conditions(row: Path, images: ImageSet) -> tuple[str, list[Conditions]]:
    """The row's profile, and the conditions that its images were asked to agree with, from the suite that planned it.

    Raises ConcordError where no suite plans the same requests any more; the conditions are then to be given as files.
    """
    from concord.arguments import open_plan
    from concord.benchmarks.store.run import Run
    from concord.benchmarks.suite import load_suites

    manifest = Run(row).manifest
    profile, wanted = str(manifest["profile"]), list(images.names)
    for suite in load_suites():
        if suite.request_set != manifest["request_set"]:
            continue
        for size in ("default", "full"):
            plan = open_plan(suite.name, profile=profile, size=size, limit=len(wanted), row="ground-truth")
            requests = plan.requests
            same_data = requests.fingerprint == manifest["data"]["fingerprint"]
            if [request.id for request in requests.requests] == wanted and same_data:
                return profile, [requests.conditions_of(r, requests.conditions) for r in requests.requests]
            if len(requests) >= len(wanted):
                break  # a larger size would draw more data, and not find these requests either
    raise ConcordError(
        f"{row}: no suite plans these {len(wanted)} requests any more; give --captions, --masks and what else is needed"
    )


@contextlib.contextmanager
def bars(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr with images per second; in a log file, one line at the end."""
    start, seen = time.monotonic(), 0

    def rate() -> str:
        return f"{seen / max(time.monotonic() - start, 1e-9):.1f} images/s"

    if not sys.stderr.isatty():

        def count(done: int, total: int) -> None:
            nonlocal seen
            seen = done

        yield count
        if seen:
            print(f"{what}: {seen} images, {time.monotonic() - start:.1f} s, {rate()}", file=sys.stderr, flush=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:12}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TextColumn("left"), TimeRemainingColumn(compact=True),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=120) as progress:
        task = progress.add_task(what, total=None, rate="")

        def show_rate(done: int, total: int) -> None:
            nonlocal seen
            seen = done
            progress.update(task, completed=done, total=total, rate=rate())

        yield show_rate


# ------------------------------------------------------------------------------------------------------------- telling


def interval_of(found: Evaluation, result: Result) -> Interval | None:
    """The 95 % interval of a result; None where there is none (a set metric without replicates, one image).

    Rates get Wilson's, means with failures among them the bootstrap's, other means Student's; of a stored row, images
    of one item count as one.
    """
    from concord.metrics.base import get_metric
    from concord.reports import statistics as st

    bounds = get_metric(result.metric).bounds
    if result.metric not in found.samples:
        return st.jackknife_interval(result.value, result.replicates, bounds) if result.replicates else None
    values = found.samples[result.metric][0]
    clusters = [name.rsplit("-", 1)[0] for name in found.images] if found.generated.get("row") else None
    if len(values) < 2:
        return None
    if set(values.tolist()) <= set(bounds):
        low, high = bounds
        rate = st.rate_interval((values - low) / (high - low), clusters)
        return st.Interval(*(low + (high - low) * end for end in rate))
    method = st.cluster_bootstrap if result.failed else st.mean_interval
    return method(values, clusters, bounds)


def intervals_of(found: Evaluation) -> dict[str, list[float] | None]:
    """metric -> [low, high] of its 95 % interval, or None."""
    made = {result.metric: interval_of(found, result) for result in found.results}
    return {name: None if interval is None else [interval.low, interval.high] for name, interval in made.items()}


def show(found: Evaluation) -> None:
    """The table, and under it the networks and the seconds."""
    from concord.console import table

    rows = []
    for result in found.results:
        interval = interval_of(found, result)
        rows.append((
            result.metric, f"{result.value:.6g} {result.unit}".strip(),
            "higher" if result.higher_is_better else "lower",
            "-" if interval is None else f"{interval.low:.6g} .. {interval.high:.6g}",
            str(result.n), str(result.n_reference or "-"), str(result.failed or "-"), result.features or "-",
        ))  # fmt: skip
    columns = ("metric", "value", "better", "95 % interval", "n", "n reference", "failed", "features")
    table(f"{found.generated['label']} (profile {found.profile})", columns, rows)
    for name, digest in found.networks.items():
        typer.echo(f"{name}: SHA-256 {digest}")
    parts = ", ".join(f"{kind} {seconds:.1f}" for kind, seconds in found.seconds.items() if seconds >= 0.05)
    typer.echo(f"seconds: {parts}")


def write_rows(found: Evaluation, path: Path) -> None:
    """One row per image and sample metric, and `<path>.json` with everything else."""
    from concord.data.files import atomic_path, write_json

    frame: Any = found.frame()
    with atomic_path(path) as temporary:
        if path.suffix == ".csv":
            frame.to_csv(temporary, index=False)
        else:
            frame.to_parquet(temporary, index=False)
    write_json(path.with_name(f"{path.name}.json"), {**found.facts(), "intervals": intervals_of(found)})

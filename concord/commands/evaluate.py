"""`concord evaluate`: scores of any folder of images, or of one stored row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from concord.arguments import Device, ProfileName, grouped
from concord.data.errors import ConcordError, warn

if TYPE_CHECKING:
    from concord.data.request import Conditions
    from concord.metrics.results import Evaluation

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
        "--reference",
        show_default=False,
        help="What it is compared with: likewise, or statistics of clean-fid, pytorch-fid or ADM (.npz). LPIPS, PSNR "
        "and other metrics of pairs take each image's partner in it, by name or in order.",
    ),
]
MetricNames = Annotated[str, typer.Option("--metrics", help="Names with commas (see `concord list`).")]


@dataclass(frozen=True)
class ConditionOptions:
    """What the images were asked to agree with."""

    captions: Annotated[
        Path | None,
        typer.Option("--captions", help=".txt in order, or .json, .jsonl, .csv by image name.", show_default=False),
    ] = None
    masks: Annotated[
        Path | None, typer.Option("--masks", help="A folder of index masks, CelebAMask-HQ order.", show_default=False)
    ] = None
    identities: Annotated[
        Path | None,
        typer.Option("--identities", help="Images of the identities asked for: a folder, or one for all."),
    ] = None
    people: Annotated[Path | None, typer.Option("--people", hidden=True)] = None
    styles: Annotated[
        Path | None, typer.Option("--styles", help="Style images: a folder, or one for all.", show_default=False)
    ] = None


@dataclass(frozen=True)
class ComputeOptions:
    """How it is computed."""

    device: Device = "auto"
    batch_size: Annotated[int, typer.Option("--batch-size", help="Images that a network sees at a time.")] = 32
    intervals: Annotated[
        bool, typer.Option("--intervals", help="Jackknife intervals of set metrics too: 32 times their cost.")
    ] = False
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Keep the reference's features.")] = True


@dataclass(frozen=True)
class OutputOptions:
    """What is written beside the table."""

    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Rows of image, metric, value, status as .parquet or .csv; facts beside it.",
            show_default=False,
        ),
    ] = None
    statistics: Annotated[
        Path | None,
        typer.Option(
            "--save-statistics", help="Write the images' mu and sigma, as other tools read them.", show_default=False
        ),
    ] = None


@grouped
def evaluate(
    metrics: MetricNames,
    conditions: ConditionOptions,
    compute: ComputeOptions,
    output: OutputOptions,
    images: Images = None,
    results: Row = None,
    reference: Reference = None,
    profile: ProfileName = "paper",
) -> None:
    """Score a folder of images, or a stored row, by any metrics; every image is decoded once for all of them.

    Exit code 0: all is done; 1: the scores are there, and something beside them could not be kept; 2: bad input.

    Examples:

      concord evaluate --images samples/ --reference celeba/ --metrics fid,kid,inception-score

      concord evaluate --images restored.tar --reference originals/ --metrics lpips,psnr,ssim --out rows.parquet

      concord evaluate --images samples/ --captions captions.json --metrics text-similarity --json

      concord evaluate --images samples/ --reference adm.npz --metrics fid-tf,sfid-tf

      concord evaluate --results results/embedded/faces/composable --metrics text-similarity,mask-accuracy
    """
    from concord.reports.evaluation import TABLES, intervals_of, write_rows

    if (images is None) == (results is None):
        raise ConcordError("expected --images DIR or --results results/<profile>/<request set>/<row>, one of the two")
    if output.out is not None and output.out.suffix not in TABLES:
        raise ConcordError(f"--out {output.out}: expected a name that ends in {' or '.join(TABLES)}")
    found = _evaluated(images, results, metrics, reference, conditions, compute, profile, output.statistics)
    if output.as_json:
        typer.echo(json.dumps({**found.facts(), "intervals": intervals_of(found)}, indent=1, ensure_ascii=False))
    else:
        _print(found)
    not_done = list(found.notes)
    if output.out is not None:
        try:
            rows = write_rows(found, output.out)
            if not output.as_json:
                typer.echo(f"{output.out}: {rows} rows")
        except (ConcordError, OSError, ValueError) as error:
            not_done.append(f"the rows are not written: {error}")
    for note in not_done:
        typer.echo(note, err=True)
    if not_done:
        raise typer.Exit(1)


def _evaluated(
    images: Path | None,
    results: Path | None,
    metrics: str,
    reference: Path | None,
    conditions: ConditionOptions,
    compute: ComputeOptions,
    profile: str,
    statistics: Path | None,
) -> Evaluation:
    """`concord.metrics.evaluate` of what the options name."""
    from concord import metrics as scoring
    from concord.benchmarks.opening import stored_conditions
    from concord.benchmarks.store.run import Run
    from concord.data.datasets.images.condition_files import ConditionFiles
    from concord.data.datasets.images.image_sets import open_images
    from concord.data.device import use_all_cores
    from concord.data.progress import bar
    from concord.metrics.api import chosen_metrics
    from concord.metrics.evaluation import GROUPS

    if results is not None and not (results / "run.json").is_file():
        raise ConcordError(
            f"{results}: no finished row; expected results/<profile>/<request set>/<row> with a run.json in it"
        )
    generated = open_images(images or results or Path())
    asked: Sequence[Conditions] | None = None
    given = asdict(conditions)
    if (people := given.pop("people")) is not None:
        warn("--people is now called --identities")
        given["identities"] = given["identities"] or people
    if any(given.values()):
        asked = ConditionFiles(generated, **given)
    elif results is not None and any(metric.needs for metric in chosen_metrics(metrics)):
        asked = stored_conditions(results, generated)
    use_all_cores()
    return scoring.evaluate(
        generated=generated,
        reference=reference,
        conditions=asked,
        metrics=metrics,
        profile=profile if results is None else str(Run(results).manifest["profile"]),
        device=compute.device,
        cache=compute.cache,
        batch_size=compute.batch_size,
        replicates=GROUPS if compute.intervals else 0,
        bars=lambda what: bar(what, "images"),
        statistics=statistics,
    )


def _print(found: Evaluation) -> None:
    """The table, and under it what it was compared with, the networks and the seconds."""
    from concord.console import print_table
    from concord.reports.evaluation import interval_of

    rows = []
    for result in found.results:
        interval = interval_of(found, result)
        rows.append(
            (
                result.metric,
                f"{result.value:.6g} {result.unit}".strip(),
                "higher" if result.higher_is_better else "lower",
                "-" if interval is None else f"{interval.low:.6g} .. {interval.high:.6g}",
                str(result.n),
                str(result.n_reference or "-"),
                str(result.failed or "-"),
                result.features or "-",
            )
        )
    columns = ("metric", "value", "better", "95 % interval", "n", "n reference", "failed", "features")
    print_table(f"{found.generated['label']} (profile {found.profile})", columns, rows)
    for side, facts in (("images", found.generated), ("reference", found.reference)):
        if facts is not None:
            number = "statistics" if facts["n"] is None else f"{facts['n']:,} images"
            typer.echo(f"{side}: {number} of {facts['label']}")
    for name, digest in found.networks.items():
        typer.echo(f"{name}: SHA-256 {digest}")
    parts = ", ".join(f"{kind} {seconds:.1f}" for kind, seconds in found.seconds.items() if seconds >= 0.05)
    typer.echo(f"seconds: {parts}")

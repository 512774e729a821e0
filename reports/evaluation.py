"""What `concord.metrics.evaluate` found, as people read and keep it: intervals, and a table with everything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from concord.data.files import atomic_path, write_json
from concord.metrics.base import get_metric
from concord.reports import statistics as st

if TYPE_CHECKING:
    import pandas as pd

    from concord.metrics.results import Evaluation, Result

TABLES = (".parquet", ".csv")


def interval_of(found: Evaluation, result: Result) -> st.Interval | None:
    """The 95 % interval of a result; None where there is none (a set metric without replicates, one image).

    Rates get Wilson's, means with failures among them the bootstrap's, other means Student's; of a stored row, images
    of one item count as one.
    """
    metric = get_metric(result.metric)
    if result.metric not in found.samples:
        return st.jackknife_interval(result.value, result.replicates, metric.bounds) if result.replicates else None
    values = found.samples[result.metric][0]
    clusters = [name.rsplit("-", 1)[0] for name in found.images] if found.generated.get("row") else None
    if len(values) < 2:
        return None
    if metric.is_rate:
        low, high = metric.bounds
        rate = st.rate_interval((values - low) / (high - low), clusters)
        return st.Interval(*(low + (high - low) * end for end in rate))
    method = st.cluster_bootstrap if result.failed else st.mean_interval
    return method(values, clusters, metric.bounds)


def intervals_of(found: Evaluation) -> dict[str, list[float] | None]:
    """metric -> [low, high] of its 95 % interval, or None."""
    made = {result.metric: interval_of(found, result) for result in found.results}
    return {name: None if interval is None else [interval.low, interval.high] for name, interval in made.items()}


def whole_frame(found: Evaluation) -> pd.DataFrame:
    """One row per image and sample metric, then one per set metric, of no image: image, metric, value, status."""
    import pandas as pd

    frame = found.frame()
    sets = [("", result.metric, result.value, "ok") for result in found.results if result.metric not in found.samples]
    return pd.concat([frame, pd.DataFrame(sets, columns=frame.columns)]) if sets else frame


def write_rows(found: Evaluation, path: Path) -> int:
    """`whole_frame` as .parquet or .csv, and `<path>.json` with everything else; returns the number of rows."""
    frame = whole_frame(found)
    with atomic_path(path) as temporary:
        if path.suffix == ".csv":
            from concord.reports.tables.export import frame_csv

            temporary.write_text(frame_csv(frame), encoding="utf-8")
        else:
            frame.to_parquet(temporary, index=False)
    write_json(path.with_name(f"{path.name}.json"), {**found.facts(), "intervals": intervals_of(found)})
    return len(frame)

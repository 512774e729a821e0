"""A small store against its own baseline: what the tests of the gate share."""

from pathlib import Path

from fake_store import FACTS

from concord.benchmarks.store.run import Store
from concord.reports.compare.comparison import Result, compare_sides
from concord.reports.compare.margins import Margins, same_for_all
from concord.reports.compare.sides import baseline_folder, store_side

METRICS = {name: fact for name, fact in FACTS.items() if name != "joint-success"}
SHARE = same_for_all(0.01)
ROW = "face-generation/collaborative"


def compared(store: Store, baseline: Path, margins: Margins = SHARE) -> Result:
    base, head = baseline_folder(baseline, "base"), store_side(store, "embedded")
    return compare_sides(base, head, margins, METRICS)


def reasons(result: Result) -> dict[str, str]:
    return {f"{one.run} {one.metric}".strip(): one.reason for one in result.incomparable}

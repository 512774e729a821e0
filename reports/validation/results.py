"""What the simulations found, kept as tables: `python -m concord.reports.validation.results` runs them and writes both.

    set_metrics.csv   coverage and width of the intervals of set metrics, before and after (set_metrics.py)
    families.csv      family-wise error and power of a table's families (families.py)

The report's page on methodology prints them.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from concord.data.files import atomic_path

FOLDER = Path(__file__).resolve().parent
SET_METRICS = (
    "metric",
    "n",
    "tails",
    "trials",
    "coverage_percent",
    "error_over_truth",
    "coverage_percent_before",
    "error_over_truth_before",
    "width_over_before",
)
FAMILIES = ("what", "percent", "standard_error", "trials")


def read_table(name: str, folder: Path = FOLDER) -> list[dict[str, str]]:
    """The lines of a kept table; none where it was not made."""
    path = folder / f"{name}.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _write(name: str, head: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    with atomic_path(FOLDER / f"{name}.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(lines)


def main(
    trials: Annotated[int, "draws a case of a set metric"] = 400, tables: Annotated[int, "tables a family"] = 2000
) -> None:
    """Run both simulations and keep what they found."""
    from concord.reports.validation import families, set_metrics

    lines = []
    for rate in families.rates(tables):
        print(f"{rate.name:48} {100 * rate.value:6.1f} %", flush=True)
        lines.append((rate.name, f"{100 * rate.value:.2f}", f"{100 * rate.error:.2f}", rate.trials))
        _write("families", FAMILIES, lines)
    found = []
    for one in set_metrics.outcomes(trials):
        print(set_metrics.line(one), flush=True)
        found.append(
            (
                one.metric,
                one.n,
                one.tails,
                one.trials,
                f"{100 * one.coverage:.1f}",
                f"{one.ratio:.3f}",
                f"{100 * one.coverage_before:.1f}",
                f"{one.ratio_before:.3f}",
                f"{one.width:.3f}",
            )
        )
        _write("set_metrics", SET_METRICS, found)


if __name__ == "__main__":
    import typer

    typer.run(main)

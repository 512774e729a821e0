"""The 159 orders of commit d1b44b5, before and after: `python -m concord.reports.validation.orders results/embedded`.

`orders_d1b44b5.csv` holds every order that the papers' tables stated and that profile 'embedded' could test at that
commit, with its verdict then: the denominator does not move with the families of today. Here each is looked up in a
results folder's tables and judged by its family (reports/families.py). Orders whose rows, metric or suite are gone
count as not decided and say why.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated

from concord.data.files import atomic_path
from concord.metrics.base import metric_name
from concord.reports.tables.comparisons import Comparison
from concord.reports.tables.table import Table
from concord.reports.tables.words import paper_verdict

BEFORE = Path(__file__).resolve().parent / "orders_d1b44b5.csv"
DECIDED = ("holds", "reversed")


@dataclass(frozen=True)
class Order:
    """One order of the denominator. p: corrected in its family."""

    suite: str
    paper: str
    table: str
    metric: str
    winner: str
    loser: str
    paper_difference: str
    before: str
    now: str
    family: str = ""
    n: int | None = None
    difference: float | None = None
    p: float | None = None
    n_needed: int | None = None
    why: str = ""


def orders_now(tables: dict[str, Table], before: Path = BEFORE) -> Iterator[Order]:
    """Each order of the file, in its order, as today's tables judge it."""
    with before.open(newline="") as file:
        for entry in csv.DictReader(file):
            yield _order(entry, tables.get(entry["suite"]))


def _order(entry: dict[str, str], table: Table | None) -> Order:
    name, at, level = entry["metric"].partition("@")
    column_name = f"{metric_name(name)}{at}{level}"
    order = Order(
        entry["suite"],
        entry["paper"],
        entry["table"],
        column_name,
        entry["winner"],
        entry["loser"],
        entry["paper_difference"],
        before=entry["verdict"],
        now="cannot tell",
    )

    def gone(why: str) -> Order:
        return replace(order, why=why)

    if table is None:
        return gone("no such suite")
    if table.refusal:
        return gone(f"the table is refused: {table.refusal}")
    column = next((one for one in table.columns if one.name == column_name), None)
    found = next((c for c in table.comparisons if c.column == column_name and _is_of(c, entry)), None)
    if column is None or found is None:
        return gone("no such column" if column is None else "the rows were not tested against each other")
    sign = 1 if found.first == entry["winner"] else -1
    return replace(
        order,
        now=paper_verdict(found, column) or "cannot tell",
        family=found.family,
        n=table.n,
        difference=sign * found.difference,
        p=found.in_family.p_holm,
        n_needed=found.n_needed,
    )


def _is_of(comparison: Comparison, entry: dict[str, str]) -> bool:
    return {comparison.first, comparison.second} == {entry["winner"], entry["loser"]}


def write_orders(orders: list[Order], path: Path) -> None:
    """One line an order."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Order)], lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: "" if v is None else v for k, v in asdict(order).items()} for order in orders)


def summary(orders: list[Order]) -> str:
    """Counts of verdicts before and after, by suite and in all."""
    lines = []
    for suite in [*dict.fromkeys(order.suite for order in orders), ""]:
        some = [order for order in orders if not suite or order.suite == suite]
        decided = [
            sum(verdict in DECIDED for verdict in verdicts)
            for verdicts in ([o.before for o in some], [o.now for o in some])
        ]
        counts = ", ".join(f"{verdict} {count}" for verdict, count in Counter(o.now for o in some).most_common())
        lines.append(f"{suite or 'all':28} {len(some):4d} orders: {decided[0]} -> {decided[1]} decided ({counts})")
    share = sum(order.now in DECIDED for order in orders) / max(1, len(orders))
    return "\n".join([*lines, f"{100 * share:.1f} % decided"])


def main(
    results: Annotated[Path, "a results folder of profile 'embedded', such as results/embedded"],
    out: Annotated[Path | None, "the CSV to write"] = None,
) -> None:
    """Judge the orders by a results folder."""
    from concord.benchmarks.store.run import Store
    from concord.benchmarks.suite import load_suites
    from concord.reports.assemble import build_table

    with BEFORE.open(newline="") as file:
        named = {entry["suite"] for entry in csv.DictReader(file)}
    tables = {
        suite.name: build_table(suite, Store(results), "embedded") for suite in load_suites() if suite.name in named
    }
    orders = list(orders_now(tables))
    if out is not None:
        write_orders(orders, out)
    print(summary(orders))


if __name__ == "__main__":
    import typer

    typer.run(main)

"""The denominator of 159 orders stays what it was, and is judged by today's tables."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from concord.reports.tables.comparisons import Comparisons
from concord.reports.tables.table import Column, Table
from concord.reports.validation.orders import BEFORE, orders_now, summary, write_orders


def test_the_file_holds_the_159_orders_of_that_commit() -> None:
    with BEFORE.open(newline="") as file:
        entries = list(csv.DictReader(file))
    assert Counter(entry["verdict"] for entry in entries) == {"cannot tell": 118, "reversed": 27, "holds": 14}
    assert len({tuple(entry[key] for key in ("suite", "metric", "winner", "loser")) for entry in entries}) == 159


def test_orders_are_looked_up_in_either_direction_and_what_is_gone_says_so(tmp_path: Path) -> None:
    found = Comparisons(50)
    found.add("fid", "single-task-diffusion", "mt-diffusion", -40.0, -50.0, -30.0, 1e-9, "t", 2.8, "claims", 1.0)
    found.correct()
    columns = [Column("fid", "FID", False, paper_label="fid")]
    table = Table("image-from-mask", "I", "embedded", columns, [], found, n=50)
    orders = list(orders_now({"image-from-mask": table}))
    assert len(orders) == 159
    (one,) = [order for order in orders if order.suite == "image-from-mask" and order.metric == "fid"]
    assert (one.before, one.now, one.family, one.n) == ("cannot tell", "reversed", "claims", 50)
    assert one.difference == 40.0  # the paper's winner less its loser
    lost = [order for order in orders if order.suite == "image-from-mask" and order.metric == "inception-score"]
    assert [order.why for order in lost] == ["no such column"]
    write_orders(orders, tmp_path / "orders.csv")
    with (tmp_path / "orders.csv").open(newline="") as file:
        assert sum(1 for _ in csv.DictReader(file)) == 159
    assert summary(orders).endswith("0.6 % decided")

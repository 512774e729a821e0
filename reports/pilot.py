"""The orders of the papers' tables as a pilot run sees them, for the allocation of requests by time."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING

from concord.benchmarks.allocate import Order
from concord.reports.assemble import build_table

if TYPE_CHECKING:
    from concord.benchmarks.store.run import Store
    from concord.benchmarks.suite import Suite

FURTHEST = 1e-15
"""A p-value below it says no more about the effect."""


def pilot_orders(suites: Sequence[Suite], store: Store, profile: str) -> list[Order]:
    """Every order of two rows that a suite's paper states and that the pilot has measured."""
    found = []
    for suite in suites:
        table = build_table(suite, store, profile)
        if table.n is None:
            continue
        for test in table.comparisons:
            if test.paper_difference:
                t = NormalDist().inv_cdf(1 - max(test.p, FURTHEST) / 2) if test.p < 1 else 0.0
                found.append(Order(suite.request_set, t, table.n, "papers"))
    return found

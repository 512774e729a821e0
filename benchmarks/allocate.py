"""How many requests each request set takes, so that a time budget decides as many of the papers' orders as it can.

An order of two rows in one metric has, after a pilot of n_1 requests, a test statistic t. At n requests it is expected
at sqrt((t^2 - 1) n / n_1): t^2 overstates the squared effect by 1, its variance. It is decided with the probability
that a normal value around that is beyond the level of its family, corrected for the orders that are expected to stay
open (Holm). Requests are given, a step at a time, to the request set that decides the most by the second.

All rows of a request set take the same requests, so that set metrics compare. The pilot's images appear in no table,
and n is fixed before the seeds that are reported are drawn.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

from concord.data.errors import ConcordError
from concord.data.files import atomic_path, read_json

ALPHA = 0.05
SCORING = 0.022
"""Seconds to score an image by all metrics of its suite, on two cores: 5,404 images of `make bench` in 120 s."""
LEAST = 20
"""Requests that a default run takes at the least: fewer have no interval worth printing."""
STEP = 10
"""n is a multiple of it: so is the number of levels of layouts, which are asked for equally often."""
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Order:
    """An order that a paper's table states, as a pilot sees it. t: its test statistic with n requests, sign left out.

    family: orders that are corrected together.
    """

    request_set: str
    t: float
    n: int
    family: str = ""

    def power(self, n: int, level: float) -> float:
        """The probability that a two-sided test at `level` decides it with n requests."""
        effect = math.sqrt(max(self.t**2 - 1, 0.0) * n / self.n)
        return 1 - _NORMAL.cdf(_NORMAL.inv_cdf(1 - level / 2) - effect)


def expected_decided(orders: Sequence[Order], n: Mapping[str, int]) -> float:
    """How many of these orders are decided in expectation; n: requests by request set."""
    total = 0.0
    for family in {order.family for order in orders}:
        members = [order for order in orders if order.family == family]
        decided = 0.0
        for _ in range(4):  # Holm: the level of the last decided order follows from how many are decided
            level = ALPHA / max(len(members) - decided, 1.0)
            decided = sum(order.power(n[order.request_set], level) for order in members)
        total += decided
    return total


def seconds_of(n: Mapping[str, int], seconds: Mapping[str, float]) -> float:
    """Seconds of all images. seconds: of one request of each request set, all its rows made and scored."""
    return sum(count * seconds[name] for name, count in n.items())


def allocate(
    orders: Sequence[Order], seconds: Mapping[str, float], now: Mapping[str, int], budget: float
) -> dict[str, int]:
    """n of each request set, never fewer than `now` or `LEAST`.

    budget: seconds of all images. Raises ConcordError where what there is takes more than that already.
    """
    n = {name: max(count, LEAST) for name, count in now.items()}
    if (least := seconds_of(n, seconds)) > budget:
        dear = sorted(n, key=lambda name: -n[name] * seconds[name])[:3]
        listed = ", ".join(f"{name} {n[name] * seconds[name] / 60:.1f}" for name in dear)
        raise ConcordError(
            f"--minutes: today's rows take {least / 60:.1f} minutes, more than {budget / 60:.1f} (the most: {listed}); "
            "give more, or let dear rows run in size 'full' alone (a row's key 'sizes')"
        )
    decided = expected_decided(orders, n)
    while True:
        best: tuple[float, str, int, float] | None = None
        for name, count in n.items():
            # Long steps too: one order that needs 60 more is worth them, though the first 10 decide nothing.
            for more in (STEP, 3 * STEP, 10 * STEP):
                raised = (count + more) // STEP * STEP
                cost = (raised - count) * seconds[name]
                if not any(order.request_set == name for order in orders) or seconds_of(n, seconds) + cost > budget:
                    continue
                reached = expected_decided(orders, {**n, name: raised})
                rate = (reached - decided) / cost
                if reached - decided > 1e-6 and (best is None or rate > best[0]):
                    best = rate, name, raised, reached
        if best is None:
            return n
        _, name, n[name], decided = best


# ------------------------------------------------------------------------------------------------- seconds, and suites


def measured_seconds(results: Path, request_set: str, rows: Sequence[str]) -> tuple[float, list[str]]:
    """Seconds of one request of a request set, its rows made and scored; and the rows that nobody measured.

    results: the folder of a profile's results, whose run.json say how long an image took. Rows that have none count as
    the mean of the others.
    """
    found: list[float] = []
    unknown: list[str] = []
    for row in rows:
        path = results / request_set / row / "run.json"
        if path.is_file():
            found.append(float(read_json(path)["seconds_per_image"]))
        else:
            unknown.append(row)
    if not found:
        raise ConcordError(f"{results / request_set}: no row has been made, so that nothing says what an image takes")
    return sum(found) * len(rows) / len(found) + SCORING * len(rows), unknown


def write_n(path: Path, n: int) -> bool:
    """Set the default n in a suite's file, all else as it is; returns whether that changed it."""
    text = path.read_text(encoding="utf-8")
    changed, count = re.subn(r"(?m)^(n: \{default: )\d+", rf"\g<1>{n}", text)
    if count != 1:
        raise ConcordError(f"{path}: expected one line 'n: {{default: ..., full: ...}}' to write n = {n} into")
    if changed == text:
        return False
    with atomic_path(path) as temporary:
        temporary.write_text(changed, encoding="utf-8")
    return True

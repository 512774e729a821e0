"""Families of tests: what a paper claims, what else its table states, and every pair there is.

Holm's correction (1979) keeps the chance of one false verdict in a family at 5 %, whatever the tests' dependence. It
costs power with every test, so a table's tests are three families, each corrected by itself and stated beforehand, in
reports/papers and in the suite, never after a look at results:

    claims      the orders that the paper makes a claim of: in each column its best row against every other row, and
                each of its own rows against each of its stated baselines (`own` and `baselines` of a table), and what
                the suite or the user registers (`claims`, reports/claims.py)
    orders      every other order that the table's numbers state
    all pairs   every pair of rows in every column, which nobody asked about: exploration, and the table's marks

Verdicts of an order: *holds* or *reversed*, where the corrected two-sided test finds a difference; *equivalent*, where
it finds none and two one-sided tests (Schuirmann 1987), Holm-corrected in the same family, find the difference inside
the metric's margin of reports/margins.yaml; otherwise *cannot tell*, with the n that would.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from scipy import special

from concord.reports import statistics as st
from concord.reports.published import PublishedTable

ALPHA = 0.05
POWER = 0.8
MOST_N = 1_000_000

Family = Literal["claims", "orders", ""]
FAMILIES: tuple[Family, ...] = ("claims", "orders")


def family_of(declared: PublishedTable, key: str, first: str, second: str) -> Family:
    """The family that a table's numbers put a pair of rows into; '' where they state no order of the two."""
    a, b = declared.value(first, key or None), declared.value(second, key or None)
    if a is None or b is None or a == b:
        return ""
    return "claims" if declared.claims(key, first, second) else "orders"


def equivalence_p(difference: float, error: float, df: int, margin: float) -> float:
    """p of the two one-sided tests that the true difference lies inside (-margin, margin); 1 where none can be made."""
    if margin <= 0 or df < 1 or not math.isfinite(error):
        return 1.0
    if error == 0:
        return 0.0 if abs(difference) < margin else 1.0
    return float(special.stdtr(df, -(margin - abs(difference)) / error))


def step_level(p_adjusted: np.ndarray, alpha: float = ALPHA) -> float:
    """The level at which Holm's procedure stopped: alpha over the number of hypotheses that it did not reject."""
    return alpha / max(1, int((p_adjusted >= alpha).sum()))


def n_to_tell(n: int, difference: float, error: float, level: float, power: float = POWER) -> int | None:
    """The n at which a two-sided test at `level` finds a difference of the size seen, with that power.

    Standard errors fall as n^(-1/2), by their measured size at n. None where no n up to `MOST_N` would do, or nothing
    was measured. FID's own bias changes with n too; of two rows at equal n most of it cancels.
    """
    if not math.isfinite(error) or error <= 0 or difference == 0 or not math.isfinite(difference):
        return None
    reach = float(special.ndtri(1 - level / 2) + special.ndtri(power))
    wanted = n * (reach * error / abs(difference)) ** 2
    return math.ceil(max(wanted, n + 1)) if wanted <= MOST_N else None


def error_of(low: float, high: float, df: int) -> float:
    """The standard error that a 95 % interval of Student's t was made of."""
    return (high - low) / (2 * st.t_quantile(df)) if df >= 1 else float("nan")

"""Families of tests: which order belongs where, Holm in each, equivalence, and the n that would tell."""

from __future__ import annotations

import math

import numpy as np
import pytest

from concord.reports import statistics as st
from concord.reports.families import equivalence_p, error_of, family_of, n_to_tell, step_level
from concord.reports.published import PublishedTable, load_paper, paper_names, published_table
from concord.reports.tables.comparisons import Comparisons
from concord.reports.tables.table import Column
from concord.reports.tables.words import n_words, paper_verdict

TABLE = PublishedTable(
    name="t",
    label="Table 1",
    title="T",
    metrics={"acc": "higher"},
    titles={},
    rows={"best": {"acc": 9.0}, "own": {"acc": 8.0}, "base": {"acc": 7.0}, "other": {"acc": 6.0}, "same": {"acc": 6.0}},
    own=["own"],
    baselines=["base"],
)


def test_a_paper_claims_its_best_row_and_its_own_against_its_baselines() -> None:
    assert family_of(TABLE, "acc", "best", "other") == family_of(TABLE, "acc", "base", "best") == "claims"
    assert family_of(TABLE, "acc", "base", "own") == "claims"
    assert family_of(TABLE, "acc", "base", "other") == family_of(TABLE, "acc", "own", "other") == "orders"
    assert family_of(TABLE, "acc", "other", "same") == ""  # the table states no order of equals
    assert family_of(TABLE, "acc", "best", "plugin") == family_of(TABLE, "", "best", "own") == ""


def test_own_rows_and_baselines_are_rows_of_their_table() -> None:
    for paper in paper_names():
        for table in load_paper(paper).tables.values():
            assert {*table.own, *table.baselines} <= set(table.rows)
    with pytest.raises(ValueError, match="'baselines': unknown row 'nobody'"):
        PublishedTable.model_validate({**TABLE.model_dump(), "baselines": ["nobody"]})


def test_joint_generation_claims_x_over_all_and_its_variants_over_adm() -> None:
    table = published_table("mt-diffusion", "table-2")
    assert family_of(table, "fid", "mt-diffusion-x", "mt-diffusion-e") == "claims"
    assert family_of(table, "fid", "mt-diffusion-u", "adm-unconditional") == "claims"
    assert family_of(table, "fid", "mt-diffusion-m", "mt-diffusion-e") == "orders"


def judged(rows: list[tuple[str, str, str, float, float, str, float]], n: int = 100) -> Comparisons:
    """column, first, second, difference, standard error, family, margin."""
    found = Comparisons(n)
    for column, first, second, difference, error, family, margin in rows:
        reach = st.t_quantile(n - 1) * error
        p = st.t_p_value(difference / error, n - 1)
        found.add(
            column,
            first,
            second,
            difference,
            difference - reach,
            difference + reach,
            p,
            "t",
            difference,
            family,
            margin,
        )
    found.correct()
    return found


def test_each_family_is_corrected_by_itself() -> None:
    found = judged(
        [("m", "a", "b", 2.6, 1.0, "claims", 0), ("m", "a", "c", 2.4, 1.0, "claims", 0)]
        + [("m", "x", f"y{k}", 0.1, 1.0, "", 0) for k in range(60)]
        + [("m", "b", "c", 2.2, 1.0, "orders", 0)]
    )
    column = Column("m", "M", True)
    assert [paper_verdict(one, column) for one in (found[0], found[1], found[-1])] == ["holds"] * 3
    assert found[0].p_holm > 0.5  # over all 63 pairs, which are exploration
    assert found[0].p_family == pytest.approx(2 * found[0].p)
    assert found[-1].p_family == pytest.approx(found[-1].p)
    assert math.isnan(found[5].p_family)
    assert found[5].family == ""


def test_rows_inside_the_margin_are_equivalent_and_the_others_say_their_n() -> None:
    found = judged([("m", "a", "b", 0.1, 0.5, "claims", 2.0), ("m", "a", "c", 1.0, 0.8, "claims", 0.1)])
    column = Column("m", "M", True)
    assert [paper_verdict(one, column) for one in found] == ["equivalent", "cannot tell"]
    needed = found[1].n_needed
    assert needed is not None
    level = 0.05 / 2
    assert pytest.approx(needed, abs=1) == 100 * (0.8 * (2.2414 + 0.8416) / 1.0) ** 2  # z of level / 2, z of 80 %
    assert n_to_tell(100, 1.0, 0.8, level) == needed
    assert n_words(found[1], "cannot tell") == f" (n = {needed:,} would tell)"
    assert n_words(found[0], "equivalent") == ""


def test_no_n_is_promised_where_nothing_was_seen() -> None:
    assert n_to_tell(50, 0.0, 1.0, 0.05) is None
    assert n_to_tell(50, 1e-9, 1.0, 0.05) is None
    assert n_to_tell(50, 1.0, float("nan"), 0.05) is None
    assert n_to_tell(50, 5.0, 1.0, 0.05) == 51  # never fewer than did not tell


def test_equivalence_needs_a_margin_and_an_error() -> None:
    assert equivalence_p(0.0, 1.0, 10, 0.0) == 1.0
    assert equivalence_p(0.0, float("nan"), 10, 1.0) == 1.0
    assert equivalence_p(3.0, 1.0, 10, 2.0) > 0.5
    assert equivalence_p(0.0, 0.1, 50, 1.0) < 1e-6
    assert (equivalence_p(0.5, 0.0, 50, 1.0), equivalence_p(2.0, 0.0, 50, 1.0)) == (0.0, 1.0)


def test_the_level_is_where_holm_stopped() -> None:
    assert step_level(np.array([0.001, 0.2, 0.9])) == 0.025
    assert step_level(np.array([0.001])) == 0.05
    interval = st.mean_interval(np.random.default_rng(0).normal(size=40))
    assert error_of(interval.low, interval.high, 39) == pytest.approx(interval.half_width / st.t_quantile(39))

"""Tables from a store with known differences: what is marked, what is refused, what is printed."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_store import FACTS, JUDGES, make_suite, sign, write_run, write_store
from rich.console import Console

from concord.benchmarks.store.run import Store
from concord.benchmarks.suite import Row
from concord.data.errors import ConcordError
from concord.reports import statistics as st
from concord.reports.assemble import build_table
from concord.reports.published import published_table
from concord.reports.tables.export import to_frame, to_terminal
from concord.reports.tables.markdown import to_markdown
from concord.reports.tables.pairs import mark_rows
from concord.reports.tables.table import BEST, SECOND, TIED, Cell, Column, Comparison, Table
from concord.reports.tables.table import Row as TableRow
from concord.reports.tables.words import cell_parts, decimals_for, format_paper, judge_sentence, paper_verdict


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("results") / "embedded")


@pytest.fixture(scope="module")
def table(store: Store) -> Table:
    return build_table(make_suite(), store, "embedded", FACTS)


# ------------------------------------------------------------------------------------------------------ what is marked


def test_best_is_marked_where_the_difference_is_real(table: Table) -> None:
    assert table.row("collaborative").cells["mask-accuracy"].mark == BEST
    assert table.row("collaborative").cells["fid"].mark == BEST
    assert table.row("composable").cells["mask-accuracy"].mark == SECOND
    assert table.row("text-only").cells["mask-accuracy"].mark == ""


def test_no_best_where_the_leader_does_not_beat_the_others(store: Store) -> None:
    """In the text column composable and collaborative have the same true mean."""
    rows = [row for row in make_suite().rows if row.name != "text-only"]
    two = build_table(make_suite(rows=rows), store, "embedded", FACTS)
    marks = {row.name: row.cells["text-similarity"].mark for row in two.methods}
    assert marks == {"tedigan": "", "composable": TIED, "collaborative": TIED}


def test_two_tied_leaders_share_the_mark_and_a_clear_third_does_not() -> None:
    column = Column("m", "M", True)
    rows = [TableRow(name, name, "method", {"m": Cell(value)}) for name, value in (("a", 3.0), ("b", 2.9), ("c", 1.0))]
    pairs = [("a", "b", 0.1, 0.4), ("a", "c", 2.0, 0.001), ("b", "c", 1.9, 0.001)]
    tests = [Comparison("m", x, y, d, d - 1, d + 1, p, p, "t") for x, y, d, p in pairs]
    assert [r.cells["m"].mark for r in mark_rows(rows, [column], tests)] == [TIED, TIED, ""]
    sure = [replace(t, p_holm=0.01) for t in tests]
    assert [r.cells["m"].mark for r in mark_rows(rows, [column], sure)] == [BEST, SECOND, ""]
    lower = Column("m", "M", False)
    assert [r.cells["m"].mark for r in mark_rows(rows, [lower], sure)] == ["", SECOND, BEST]
    unsure = [replace(t, p_holm=0.2 if (t.first, t.second) == ("b", "c") else 0.01) for t in tests]
    assert [r.cells["m"].mark for r in mark_rows(rows, [column], unsure)] == [BEST, "", ""]


def test_without_a_test_nothing_is_marked_best() -> None:
    column = Column("m", "M", True)
    rows = [TableRow(name, name, "method", {"m": Cell(value)}) for name, value in (("a", 3.0), ("b", 1.0))]
    assert [r.cells["m"].mark for r in mark_rows(rows, [column], [])] == [TIED, TIED]


def test_a_method_without_conditions_is_a_floor_that_does_not_compete() -> None:
    column = Column("m", "M", True)
    rows = [
        TableRow("free", "free", "method", {"m": Cell(9.0)}, floor=True),
        *(TableRow(name, name, "method", {"m": Cell(value)}) for name, value in (("a", 3.0), ("b", 1.0))),
    ]
    tests = [
        Comparison("m", "a", "b", 2.0, 1.0, 3.0, 0.001, 0.01, "t"),
        Comparison("m", "free", "a", 6.0, 5.0, 7.0, 0.001, 0.01, "t"),
    ]
    assert [r.cells["m"].mark for r in mark_rows(rows, [column], tests)] == ["", BEST, ""]
    assert [r.role for r in rows] == ["floor", "", ""]


def test_reference_rows_never_compete(table: Table) -> None:
    truth, best = table.row("ground-truth").cells["mask-accuracy"], table.row("collaborative").cells["mask-accuracy"]
    assert truth.value is not None
    assert best.value is not None
    assert truth.value > best.value
    assert all(cell.mark == "" for row in table.references for cell in row.cells.values())
    assert {name for c in table.comparisons for name in (c.first, c.second)} == {
        "text-only",
        "composable",
        "collaborative",
    }


def test_all_pairs_of_all_columns_are_corrected_together(table: Table) -> None:
    assert len(table.comparisons) == 3 * len(table.columns)
    assert [c.p_holm for c in table.comparisons] == pytest.approx(st.holm([c.p for c in table.comparisons]))


def test_under_the_null_tables_claim_a_winner_at_most_one_time_in_twenty(tmp_path: Path) -> None:
    """Three methods with the same true quality in every column, 16 tables: any mark of best is a false claim."""
    suite = make_suite(rows=[Row(name=name, method=name) for name in ("text-only", "composable", "collaborative")])
    same, claims = (27.0, 88.0, 6.0), 0
    write_run(tmp_path, "ground-truth", 40)
    for seed in range(16):
        for row in ("text-only", "composable", "collaborative"):
            write_run(tmp_path, row, 40, levels=same, seed=seed, images=False)
        table = build_table(suite, Store(tmp_path), "embedded", FACTS)
        claims += any(cell.mark == BEST for row in table.rows for cell in row.cells.values())
        assert any(c.p < 0.9 for c in table.comparisons)  # the rows do differ
    assert claims <= 3  # binomial(16, 0.05) exceeds 3 in 1 of 140


# -------------------------------------------------------------------------------------------------------- what it says


def test_cells_hold_mean_interval_and_the_papers_value(table: Table, store: Store) -> None:
    cell = table.row("collaborative").cells["mask-accuracy"]
    scores = store.run("face-generation", "collaborative").scores()
    values = scores[scores["metric"] == "mask-accuracy"]["value"]
    assert (cell.value, cell.low, cell.high) == pytest.approx(tuple(st.mean_interval(values, bounds=(0, 100))))
    assert cell.paper == 80.25
    fid = table.row("collaborative").cells["fid"]
    assert fid.low < fid.value < fid.high  # type: ignore[operator]
    assert fid.paper == 111.36


def test_images_of_one_item_are_one_unit_of_sampling(tmp_path: Path) -> None:
    ids = [f"{27000 + i // 4}-{i % 4}" for i in range(64)]
    for row in ("composable", "collaborative"):
        write_run(tmp_path, row, ids=ids)
    table = build_table(make_suite(), Store(tmp_path), "embedded", FACTS)
    scores = Store(tmp_path).run("face-generation", "composable").scores()
    values = scores[scores["metric"] == "mask-accuracy"]["value"]
    cell = table.row("composable").cells["mask-accuracy"]
    expected = st.mean_interval(values, [request.split("-")[0] for request in ids], (0, 100))
    assert (cell.low, cell.high) == pytest.approx((expected.low, expected.high))
    assert cell.high - cell.low != pytest.approx(2 * st.mean_interval(values).half_width, rel=0.01)


def test_joint_success_is_both_metrics_on_the_same_image(table: Table, store: Store) -> None:
    def values(row: str, metric: str) -> np.ndarray:
        scores = store.run("face-generation", row).scores()
        return scores[scores["metric"] == metric].set_index("request")["value"].to_numpy()

    limits = {m: np.quantile(values("ground-truth", m), 0.05) for m in ("text-similarity", "mask-accuracy")}
    expected = np.mean(np.all([values("composable", m) >= limit for m, limit in limits.items()], axis=0)) * 100
    cell = table.row("composable").cells["joint-success"]
    assert cell.value == pytest.approx(expected)
    low, high = (
        100 * end for end in st.rate_interval([1] * round(expected * 0.64) + [0] * (64 - round(expected * 0.64)))[1:]
    )
    assert (cell.low, cell.high) == pytest.approx((low, high))


def test_planned_rows_show_the_papers_value_and_not_yet(table: Table) -> None:
    row = table.row("tedigan")
    assert row.absent.startswith("not yet")
    line = next(line for line in to_markdown(table).splitlines() if line.startswith("| TediGAN"))
    assert "not yet<br>paper: 157.81" in line
    assert "paper: 24.27" in line


def test_markdown_cells(table: Table) -> None:
    markdown = to_markdown(table)
    cell = table.row("collaborative").cells["mask-accuracy"]
    column = table.column("mask-accuracy")
    expected = (
        f"**{column.format(cell.value)}** ★<br>"  # type: ignore[arg-type]
        f"[{column.format(cell.low)}, {column.format(cell.high)}]<br>paper: 80.25 |"
    )
    assert expected in markdown
    assert "difference: " not in markdown
    assert "ours less the paper's" not in markdown
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {line.replace(r"\|", "").count("|") for line in lines} == {len(table.columns) + 7}
    heads = (
        "Worst condition ↑",
        "FID ↓",
        "Text (%) ↑",
        "Mask (%) ↑",
        "Joint success (%) ↑",
        "n",
        "failed",
        "s / image",
    )
    assert f"| Method | {' | '.join(heads)} |" in markdown
    assert "paper: pytorch-fid (said by an author), 50 images; here: judge-features, 16x16 pixels, n = 64" in markdown


def test_ours_less_the_papers_only_where_both_stand_on_one_scale() -> None:
    cell = Cell(value=84.0, low=83.0, high=85.0, paper=80.25)
    column = Column("m", "M", True, paper_label="m")
    assert cell.difference is None
    assert cell_parts(cell, column)["difference"] == ""
    assert cell_parts(replace(cell, one_scale=True), column)["difference"] == "difference: +3.75"


def test_the_profile_and_the_papers_file_say_which_columns_stand_on_the_papers_scale() -> None:
    from concord.data.profile import load_profile

    assert load_profile("paper").papers_scale
    assert not load_profile("embedded").papers_scale
    declared = published_table("z-magic", "table-2")
    assert declared.other_scale == ["style_loss", "content_loss"]  # 'style-loss' beside 10.14 is no difference
    with pytest.raises(ValueError, match="unknown key 'speed'"):
        type(declared)(**{**declared.model_dump(), "other_scale": ["speed"]})


def test_under_the_table_stands_what_one_must_know(table: Table) -> None:
    markdown = to_markdown(table)
    for needed in (
        "n = 64",
        "Profile `embedded`",
        "never comparable with the paper's in absolute terms",
        "The paper's images have 256x256 pixels; here 64x64.",
        "50 test images",
        "64 generated against 1000 reference",
        "judge-parser: pixel accuracy 0.973 (n = 1000)",
        "Text (%) &gt;= ",
        "Every metric gave a value on every image",
        "eeeeeeee",
        "text-unet dddddddddddd",
        "parser aaaaaaaaaaaa",
    ):
        assert needed in markdown, needed
    assert "| 64 | 0 | 0.61 | 700 | 100 |" in markdown


def test_the_terminal_shows_the_same_cells(table: Table) -> None:
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(to_terminal(table))
    text = console.export_text()
    for needed in (
        "Face generation from text and mask",
        "paper: 80.25",
        "not yet",
        "Ground truth",
        "(ceiling)",
        "0.61",
    ):
        assert needed in text


def test_the_data_frame_has_every_cell(table: Table) -> None:
    frame = to_frame(table)
    assert len(frame) == len(table.rows) * len(table.columns)
    line = frame[(frame["row"] == "collaborative") & (frame["metric"] == "fid")].iloc[0]
    assert line["value"] == table.row("collaborative").cells["fid"].value
    assert line["paper_value"] == 111.36
    assert np.isnan(line["difference"])  # profile 'embedded' is on another scale
    assert (line["unit"], line["direction"], line["n"], line["failures"]) == ("", "lower", 64, 0)
    assert line["protocol"].startswith("paper: pytorch-fid")
    assert frame[frame["row"] == "tedigan"]["value"].isna().all()


def test_failures_are_counted_and_printed(tmp_path: Path) -> None:
    store = write_store(tmp_path)
    write_run(tmp_path, "composable", failures=5)
    table = build_table(make_suite(), store, "embedded", FACTS)
    assert table.row("composable").cells["mask-accuracy"].failures == 5
    markdown = to_markdown(table)
    assert "5 failed" in markdown
    assert "Composable, Mask (%): 5 of 64 images" in markdown
    assert any("worst value" in warning and "Composable 5" in warning for warning in table.warnings)


def test_whether_the_papers_order_holds() -> None:
    column = Column("m", "M", True)
    claim = Comparison("m", "a", "b", 2.0, 1.0, 3.0, 0.001, 0.01, "t", paper_difference=5.0)
    assert paper_verdict(claim, column) == "holds"
    assert paper_verdict(replace(claim, difference=-2.0), column) == "reversed"
    assert paper_verdict(replace(claim, p_holm=0.2), column) == "cannot tell"
    assert paper_verdict(replace(claim, paper_difference=None), column) == ""
    assert paper_verdict(claim, Column("m", "M", False)) == "holds"  # both say: b is better


# ------------------------------------------------------------------------------------------------------ what is refused


def test_unequal_n_refuses_the_table(tmp_path: Path) -> None:
    store = write_store(tmp_path)
    write_run(tmp_path, "composable", n=32)
    table = build_table(make_suite(), store, "embedded", FACTS)
    assert "unequal n in one table" in table.refusal
    assert "composable 32" in table.refusal
    assert table.comparisons == []
    assert all(cell.value is None for row in table.rows for cell in row.cells.values())
    assert "REFUSED: unequal n" in to_markdown(table)


def test_other_requests_or_other_judges_refuse_the_table(tmp_path: Path) -> None:
    store = write_store(tmp_path)
    write_run(tmp_path, "composable", ids=[f"{10 + i}-0" for i in range(64)])
    assert "different requests" in build_table(make_suite(), store, "embedded", FACTS).refusal
    write_run(tmp_path, "composable", judges={**JUDGES, "parser": "9" * 64})
    assert "different weights of 'parser'" in build_table(make_suite(), store, "embedded", FACTS).refusal
    write_run(tmp_path, "composable")
    assert build_table(make_suite(), store, "embedded", FACTS).refusal == ""


def test_two_images_are_said_loudly_and_refused_cells_give_their_reason(tmp_path: Path) -> None:
    store = write_store(tmp_path, n=2, refused=["fid"])
    table = build_table(make_suite(), store, "embedded", FACTS)
    assert table.warnings[0].startswith("n = 2: far too few images to say which method is better")
    markdown = to_markdown(table)
    assert "**refused: n = 2, at least 65 needed**" in markdown
    assert markdown.index("n = 2: far too few") < markdown.index("| Method")
    assert all(cell.mark != BEST for row in table.rows for cell in row.cells.values())
    assert table.row("composable").cells["mask-accuracy"].value is not None


@pytest.mark.parametrize("n", [1, 2, 5, 8, 12, 20, 29])
def test_the_sentence_of_a_small_n_agrees_with_the_tests_under_it(tmp_path: Path, n: int) -> None:
    """It said "no test can find a difference" above a best value with p = 0.023."""
    table = build_table(make_suite(), write_store(tmp_path, n=n, refused=["fid"]), "embedded", FACTS)
    found = [one for one in table.comparisons if one.p_holm < 0.05]
    promised = "none can be marked as a difference" not in table.warnings[0]
    assert promised or not found
    assert promised == (len(table.comparisons) * 2.0 ** (1 - n) < 0.05)
    assert all(one.p >= 2.0 ** (1 - n) for one in table.comparisons)
    if n >= 12:
        assert found, "the mask tells composable from collaborative on every image"


def test_a_set_metric_of_few_images_has_no_interval(tmp_path: Path) -> None:
    table = build_table(make_suite(), write_store(tmp_path, n=63), "embedded", FACTS)
    assert not table.row("composable").cells["fid"].has_interval
    table = build_table(make_suite(), write_store(tmp_path / "more", n=64), "embedded", FACTS)
    assert table.row("composable").cells["fid"].has_interval


def test_a_trial_shows_what_was_run_and_nothing_else(tmp_path: Path) -> None:
    whole = build_table(make_suite(), write_store(tmp_path / "embedded", n=8), "embedded", FACTS)
    assert whole.row("tedigan").absent
    trial = build_table(make_suite(), write_store(tmp_path / "limit-8", n=8), "embedded", FACTS)
    assert [row.name for row in trial.rows if row.absent] == []
    assert {row.name for row in trial.rows} == {row.name for row in whole.rows if not row.absent}
    (tmp_path / "limit-8/face-generation/tedigan/images").mkdir(parents=True)
    begun = build_table(make_suite(), write_store(tmp_path / "limit-8", n=8), "embedded", FACTS)
    assert begun.row("tedigan").absent.startswith("half-made")


def test_a_suite_without_a_paper_has_a_table(tmp_path: Path) -> None:
    table = build_table(make_suite(paper="", table=""), write_store(tmp_path), "embedded", FACTS)
    assert table.row("composable").cells["mask-accuracy"].value is not None
    assert (table.paper_title, table.paper_url) == ("", "")
    text = to_markdown(table)
    assert "Answers" not in text
    assert "**The paper**" not in text


def test_one_image_has_no_interval(tmp_path: Path) -> None:
    table = build_table(make_suite(), write_store(tmp_path, n=1, refused=["fid"]), "embedded", FACTS)
    cell = table.row("composable").cells["mask-accuracy"]
    assert cell.value is not None
    assert math.isnan(cell.low)
    assert "[no interval]" in to_markdown(table)


def test_a_reference_of_the_requests_own_images_is_said(tmp_path: Path) -> None:
    store = write_store(tmp_path)
    said = "its values are no ceiling"
    assert said not in to_markdown(build_table(make_suite(), store, "embedded", FACTS))
    for file in tmp_path.glob("*/*/score.json"):
        info = json.loads(file.read_text())
        file.write_text(json.dumps({**info, "reference": {**info["reference"], "own": True}}))
        sign(file.parent)
    assert said in to_markdown(build_table(make_suite(), store, "embedded", FACTS))


def test_joint_success_needs_the_ground_truth_row(tmp_path: Path) -> None:
    for row in ("composable", "collaborative"):
        write_run(tmp_path, row)
    table = build_table(make_suite(), Store(tmp_path), "embedded", FACTS)
    assert "no ground-truth row" in table.row("composable").cells["joint-success"].refused
    assert table.row("ground-truth").absent == "not run yet: concord run face-generation"


def test_an_empty_store_gives_a_table_of_the_papers_values(tmp_path: Path) -> None:
    table = build_table(make_suite(), Store(tmp_path), "embedded", FACTS)
    assert table.n is None
    assert all(row.absent for row in table.rows)
    assert "not yet<br>paper: 111.36" in to_markdown(table)


def test_missing_and_doubled_scores_are_errors_that_name_the_file(tmp_path: Path) -> None:
    import pandas as pd

    store = write_store(tmp_path)
    file = tmp_path / "face-generation" / "composable" / "scores.parquet"
    scores = pd.read_parquet(file)
    scores.iloc[:-3].to_parquet(file)
    sign(file.parent)
    with pytest.raises(ConcordError, match=r"composable/scores.parquet: 3 of 64 requests have no 'mask-accuracy'"):
        build_table(make_suite(), store, "embedded", FACTS)
    pd.concat([scores, scores.iloc[:1]]).to_parquet(file)
    sign(file.parent)
    with pytest.raises(ConcordError, match="scored twice"):
        build_table(make_suite(), store, "embedded", FACTS)


def test_text_cannot_become_html_or_break_a_cell(tmp_path: Path) -> None:
    suite = make_suite(title="a | b <script>alert(1)</script>", differences=["<img src=x onerror=y> | &amp;"])
    markdown = to_markdown(build_table(suite, Store(tmp_path), "embedded", FACTS))
    assert "<script" not in markdown
    assert "<img src=x" not in markdown


# ----------------------------------------------------------------------------------------------------- numbers as words


def test_judge_errors_in_groups_stay_readable() -> None:
    judge = {"name": "features", "held_out": {"accuracy": {"Smiling": 0.99512, "Young": 1.0}, "r2": 0.53, "n": 1000}}
    assert judge_sentence(judge) == "features: accuracy (Smiling 0.9951, Young 1), r2 0.53 (n = 1000)"
    assert judge_sentence({"name": "a", "held_out": {}}) == "a: no held-out measurement in its card"


def test_decimals_follow_the_interval() -> None:
    assert decimals_for([0.53], [80.2]) == 2
    assert decimals_for([12.0], [111.0]) == 0
    assert decimals_for([0.0004], [0.001]) == 5
    assert decimals_for([], [80.0]) == 1
    assert Column("m", "M", True, 2).format(-0.001) == "0.00"
    assert [format_paper(v) for v in (111.36, 80.2, 2344, 0.7475, 136)] == [
        "111.36",
        "80.20",
        "2344",
        "0.7475",
        "136.00",
    ]

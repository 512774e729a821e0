"""Tables as files: every format holds the same cells, LaTeX stands whatever a text holds, bad results are told."""

import inspect
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from fake_store import FACTS, make_suite, sign, write_run, write_store
from rich.console import Console
from tex_reader import check
from typer.testing import CliRunner

from concord.benchmarks.store.run import Store
from concord.benchmarks.suite import Row as BenchRow
from concord.cli import app
from concord.data.errors import ConcordError
from concord.metrics.base import all_metrics
from concord.reports import statistics as st
from concord.reports.assemble import build_table, unanswered_tables
from concord.reports.tables.export import NUMBERS, render, to_csv, to_frame, to_terminal, write_table, write_tables
from concord.reports.tables.latex import escape, to_fragment, to_latex, to_notes
from concord.reports.tables.markdown import to_markdown
from concord.reports.tables.measured import BOOTSTRAP_FAILURES, metric_facts, sample_interval
from concord.reports.tables.table import Cell, Column, Cost, Row, Table
from concord.reports.tables.words import COST_CAPTION, GUIDED, cell_parts, cost_parts

JOINT = {"joint-success": FACTS["joint-success"]}
EVIL = '<script>alert("x")</script> & $math$ | ünïcödé 顔 \\input{x} 100% #1 _a_ ^b~ {c} -- [d] *e* \u202e"q" \x00\n`f`'


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("results") / "embedded")


@pytest.fixture(scope="module")
def table(store: Store) -> Table:
    return build_table(make_suite(), store, "embedded", FACTS)


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    sign(path.parent)


def evil_table() -> Table:
    column = Column("m", f"M {EVIL}", True, 2, "sample", "m", "%", EVIL)
    rows = [
        Row("a", EVIL, "method", {"m": Cell(1.0, 0.5, 1.5, 2.0, mark="best")}, n=2, cost=Cost(1.0, 2**20, {"x": 3.0})),
        Row("b", "B", "method", {"m": Cell(refused=EVIL)}, n=2),
        Row("c", "C", "method", {"m": Cell(paper=1.0)}, absent=f"not run: {EVIL}"),
        Row("t", EVIL, "ceiling", {"m": Cell(-3.0)}, n=2),
    ]
    return Table(
        f"evil {EVIL}"[:9],
        EVIL,
        "embedded",
        [column],
        rows,
        n=2,
        paper_title=EVIL,
        warnings=[EVIL],
        refusal=EVIL,
        notes={EVIL: [EVIL]},
        provenance={EVIL: EVIL},
        judges=[{"name": EVIL}],
    )


# -------------------------------------------------------------------------------------------------------------- LaTeX


def test_latex_holds_every_cell(table: Table) -> None:
    tex = to_latex(table)
    found = check(tex)
    assert (found["document"], found["table"]) == (1, 1)
    cell, column = table.row("collaborative").cells["mask-accuracy"], table.column("mask-accuracy")
    assert cell.value is not None
    assert rf"\textbf{{{column.format(cell.value)}}}\,$\star$" in tex
    for text in ("paper: 80.25", "TediGAN", "not yet", r"Mask (\%) $\uparrow$", r"FID $\downarrow$", "64 & 0 & 0.61"):
        assert text in tex, text
    assert r"\emph{Ground truth (ceiling)}" in tex
    assert f"{{[}}{column.format(cell.low)}, {column.format(cell.high)}{{]}}" in tex


def test_a_fragment_is_the_float_alone(table: Table) -> None:
    tex = to_fragment(table)
    assert r"\documentclass" not in tex
    assert check(tex)["table"] == 1
    assert not {r"\parbox", r"\subsection", "itemize"} & set(re.findall(r"\\?[a-z]+", tex))
    (caption,) = re.findall(r"\\caption\{(.*)\}", tex)
    assert len(caption) < 300
    assert "not yet" not in tex  # rows that were not run
    cell, column = table.row("collaborative").cells["mask-accuracy"], table.column("mask-accuracy")
    assert cell.value is not None
    assert rf"\textbf{{{column.format(cell.value)}}}\,$\star$ {{\scriptsize {{[}}{column.format(cell.low)}" in tex
    assert "Differences from" in to_notes(table)
    check(to_notes(table))


def test_a_fragment_has_the_columns_that_are_asked_for(table: Table) -> None:
    tex = to_fragment(table, ["mask-accuracy", "seconds", "passes"])
    assert r"Method & Mask (\%) $\uparrow$ & s / image & NFE \\" in tex
    assert "& 0.61 & 100" in tex
    assert "FID" not in tex
    with pytest.raises(ConcordError, match=r"has no column 'beauty': expected one of worst-condition, fid, .*seconds"):
        to_fragment(table, ["beauty"])
    check(to_fragment(evil_table()))


def test_every_table_of_the_papers_is_sound_latex() -> None:
    for one in unanswered_tables("embedded", suites=[]):
        assert check(to_latex(one))["table"] == 1, one.name


def test_no_text_can_break_latex() -> None:
    tex = to_latex(evil_table())
    check(tex)
    assert r"\input" not in tex.replace(r"\textbackslash{}input", "")
    assert r"\uni{9854}{顔}" in tex
    assert "ünïcödé" in tex
    assert "\x00" not in tex
    assert "\u202e" not in tex


def test_signs_are_escaped_one_by_one() -> None:
    assert escape("50% & $x_1$ {a} #2 ~b^c \\d") == (
        r"50\% \& \$x\_1\$ \{a\} \#2 \textasciitilde{}b\textasciicircum{}c \textbackslash{}d"
    )
    assert escape("a--b '' [c]") == "a-{}-b '{}' {[}c{]}"
    assert escape("e\u0301") == "é"  # composed: T1 has the letter
    assert escape("↑ ≈ ×") == r"$\uparrow$ $\approx$ $\times$"


@pytest.mark.parametrize(
    "broken",
    [
        "a_b",
        "a & b",
        "{a",
        "a}",
        "$a",
        r"\input{x}",
        "x^2",
        "#3",
        r"a \\ b",
        "顔",
        r"\begin{table}",
        r"\begin{a}\end{b}",
    ],
)
def test_the_reader_of_latex_sees_what_would_stop_a_run(broken: str) -> None:
    with pytest.raises(AssertionError):
        check(broken)


def test_the_reader_of_latex_counts_the_cells_of_a_row() -> None:
    sound = "\\begin{tabular}{@{}lr@{}}\na & b \\\\\n\\end{tabular}"
    assert check(sound) == {"tabular": 1}
    with pytest.raises(AssertionError, match="3 cells in a row of 2"):
        check(sound.replace("a & b", "a & b & c"))
    with pytest.raises(AssertionError, match="begins with an option"):
        check(sound.replace("b \\\\\n", "b \\\\\n[c] & d \\\\\n"))


@pytest.mark.parametrize("which", ["table", "evil", "paper"])
def test_latex_compiles_alone(which: str, table: Table, tmp_path: Path) -> None:
    engine = shutil.which("pdflatex") or shutil.which("xelatex") or shutil.which("lualatex") or shutil.which("tectonic")
    if engine is None:
        pytest.skip("no LaTeX on this machine; the structure is checked by the tests above")
    made = {"table": table, "evil": evil_table(), "paper": unanswered_tables("embedded", suites=[])[0]}[which]
    (tmp_path / "t.tex").write_text(to_latex(made), encoding="utf-8")
    flags = [] if "tectonic" in engine else ["-interaction=nonstopmode", "-halt-on-error"]
    done = subprocess.run([engine, *flags, "t.tex"], cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-3000:]
    assert (tmp_path / "t.pdf").stat().st_size > 1000


# ------------------------------------------------------------------------------------------------------------ the data


def test_the_frame_is_tidy_and_typed(table: Table) -> None:
    frame = to_frame(table)
    assert len(frame) == len(table.rows) * len(table.columns)
    assert not frame.duplicated(["suite", "row", "metric"]).any()
    assert {str(frame[name].dtype) for name in NUMBERS} == {"float64"}
    line = frame[(frame["row"] == "collaborative") & (frame["metric"] == "fid")].iloc[0]
    cell = table.row("collaborative").cells["fid"]
    assert (line["value"], line["low"], line["high"], line["paper_value"]) == (cell.value, cell.low, cell.high, 111.36)
    assert np.isnan(line["difference"])
    assert (line["direction"], line["n"], line["failures"], line["status"]) == ("lower", 64, 0, "ok")
    assert line["forward_per_image"] == 100
    absent = frame[frame["row"] == "tedigan"]
    assert absent["value"].isna().all()
    assert set(absent["status"]) == {"not yet: arrives with its baseline"}
    assert set(frame[frame["row"] == "shuffled"]["role"]) == {"floor"}


def test_files_hold_the_same_numbers(table: Table, tmp_path: Path) -> None:
    write_table(table, tmp_path, [("An image", "grid.png")])
    frame = to_frame(table)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "face-generation.parquet"), frame)
    read = pd.read_csv(tmp_path / "face-generation.csv")
    np.testing.assert_allclose(read[list(NUMBERS)].to_numpy(float), frame[list(NUMBERS)].to_numpy(float))
    assert (tmp_path / "face-generation.md").read_text().startswith(to_markdown(table).rstrip()[:200])
    assert "![An image](grid.png)" in (tmp_path / "face-generation.md").read_text()
    assert (tmp_path / "face-generation.tex").read_text() == to_latex(table)


def test_all_tables_lie_below_each_other(table: Table, tmp_path: Path) -> None:
    others = unanswered_tables("embedded", suites=[])
    write_tables([table], others, tmp_path)
    frame = pd.read_parquet(tmp_path / "tables.parquet")
    assert set(frame["suite"]) == {table.name} | {one.name for one in others if one.columns}
    assert {path.suffix for path in tmp_path.glob("amdm-table-1.*")} == {".md", ".tex", ".csv", ".parquet"}
    assert (tmp_path / "face-generation.tex").is_file()
    assert len(pd.read_csv(tmp_path / "mt-diffusion-figure-6.csv")) == 0  # a figure without numbers has its page too


def test_an_unknown_format_lists_the_known(table: Table) -> None:
    with pytest.raises(ConcordError, match="format 'word': expected one of markdown, latex, csv"):
        render(table, "word")


def test_captions_with_specials_stay_text_in_every_format() -> None:
    evil = evil_table()
    markdown, csv = to_markdown(evil), to_csv(evil)
    assert "<script" not in markdown
    assert all(line.replace(r"\|", "").count("|") == 8 for line in markdown.splitlines() if line.startswith("|"))
    (line,) = [line for line in pd.read_csv(pd.io.common.StringIO(csv)).itertuples() if line.row == "a"]
    assert line.title.startswith('<script>alert("x")</script> & $math$ | ünïcödé 顔')
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(to_terminal(evil))
    assert "顔" in console.export_text()


# -------------------------------------------------------------------------------------------------------------- words


def test_passes_are_named_as_what_they_are() -> None:
    cost = Cost(1.0, 2**20, {"eps-unconditional": 76.0, "backward": 92.0, "second-order": 20.0})
    assert (cost.forward, cost.backward, cost.second_order, cost.total_evaluations) == (76, 92, 20, 188)
    assert cost_parts(cost)[2] == "76 + 92 back + 20 second-order"
    assert cost_parts(Cost(1.0, 2**20, {"eps-text": 50.0, "eps-mask": 50.0}))[2] == "100"
    assert cost_parts(Cost(1.0, 2**20, {"eps-unconditional": 30.0, "backward": 0.0}))[2] == "30"
    assert cost_parts(Cost())[2] == "–"
    assert cost_parts(Cost(paper_seconds=18.76))[0] == "– (paper: 18.76)"


def test_a_guided_row_says_its_hessian_product_and_its_own_judge(tmp_path: Path) -> None:
    store = write_store(tmp_path)
    run = tmp_path / "face-generation" / "composable"
    change(
        run / "run.json",
        params={"hvp": "finite-difference", "hvp_step": 0.03, "steps": 20},
        evaluations_per_image={"eps-unconditional": 60.0, "backward": 40.0},
        weights={"a-parser": "a" * 64},
    )  # the parser that scores, see fake_store.JUDGES
    table = build_table(make_suite(), store, "embedded", FACTS)
    assert table.notes["Guidance"] == ["hvp: finite-difference, h = 0.03 (Composable)."]
    assert "hvp: finite-difference, h = 0.03" in to_latex(table).partition(r"\label")[0]
    marked = {(row.name, name) for row in table.rows for name, cell in row.cells.items() if cell.own_guide}
    assert marked == {("composable", "mask-accuracy")}
    assert table.notes["Scored by their own guide"] == ["Mask (%): Composable scored by the network that guided."]
    markdown = to_markdown(table)
    assert f"{GUIDED}: scored by the very network that guided" in markdown
    assert "60 + 40 back" in markdown
    assert COST_CAPTION in markdown
    change(run / "run.json", params={"hvp": "exact", "hvp_step": 0.03})
    exact = build_table(make_suite(), Store(tmp_path), "embedded", FACTS)
    assert exact.notes["Guidance"] == ["hvp: exact (Composable)."]


def test_the_metrics_that_look_through_guides_say_so() -> None:
    looking = {
        name for name, metric in all_metrics().items() if '"freedom/' in Path(inspect.getfile(metric)).read_text()
    }
    assert {name for name, metric in all_metrics().items() if metric.through_guide} == looking
    assert len(looking) == 5


@pytest.mark.parametrize(("metric", "value"), [("mask-accuracy", 5000.0), ("fid", -5.0), ("text-similarity", -101.0)])
def test_a_stored_score_outside_of_its_bounds_is_refused(tmp_path: Path, metric: str, value: float) -> None:
    store = write_store(tmp_path)
    path = tmp_path / "face-generation" / "composable" / ("sets" if metric == "fid" else "scores")
    path = path.with_suffix(".parquet")
    frame = pd.read_parquet(path)
    frame.loc[frame.index[frame["metric"] == metric][0], "value"] = value
    frame.to_parquet(path, index=False)
    sign(path.parent)
    with pytest.raises(ConcordError, match=f"{path.name}: '{metric}' has the value {value:g}, expected"):
        build_table(make_suite(), store, "embedded", metric_facts(["fid", "mask-accuracy", "text-similarity"]) | JOINT)


def test_freedoms_own_networks_are_looked_for_by_their_own_names(tmp_path: Path) -> None:
    store = write_store(tmp_path)
    facts = dict(FACTS)
    facts["mask-accuracy"] = replace(facts["mask-accuracy"], name="segmentation-distance", through_guide=True)
    suite = make_suite(metrics=["fid", "segmentation-distance"], joint=None)
    facts["segmentation-distance"] = facts.pop("mask-accuracy")
    for row in ("composable", "collaborative", "text-only", "ground-truth", "shuffled"):
        path = tmp_path / "face-generation" / row
        scores = pd.read_parquet(path / "scores.parquet").replace(
            {"metric": {"mask-accuracy": "segmentation-distance"}}
        )
        scores.to_parquet(path / "scores.parquet", index=False)
        change(path / "score.json", networks={"parser": "a" * 64, "freedom-parser": "7" * 64, "features": "c" * 64})
    change(tmp_path / "face-generation" / "composable" / "run.json", weights={"bisenet": "7" * 64})
    change(tmp_path / "face-generation" / "collaborative" / "run.json", weights={"parsenet": "a" * 64})
    table = build_table(suite, store, "embedded", facts)
    marked = {row.name for row in table.rows if row.cells["segmentation-distance"].own_guide}
    assert marked == {"composable"}  # 'parser' is the judge, which this metric does not look through


def test_columns_that_only_the_paper_has_are_shown(tmp_path: Path) -> None:
    suite = make_suite(metrics=["fid"], joint=None)
    table = build_table(suite, write_store(tmp_path), "embedded", FACTS)
    assert [column.label for column in table.columns] == ["FID", "Text (%)", "Mask (%)"]
    assert table.column("paper:mask_percent").protocol == (
        "paper: inferred: parsenet, CelebAMask-HQ's parser, at 512x512; the paper says no size, n not stated; "
        "here: not measured"
    )
    cell = table.row("collaborative").cells["paper:mask_percent"]
    assert (cell.value, cell.paper) == (None, 80.25)
    assert cell_parts(cell, table.column("paper:mask_percent"))["value"] == "not measured"
    assert cell_parts(table.row("shuffled").cells["paper:mask_percent"], table.columns[2])["value"] == ""
    assert {c.column for c in table.comparisons} == {"fid"}


def test_a_suite_beside_the_papers_table_shows_nothing_of_it(tmp_path: Path) -> None:
    suite = make_suite(rows=[BenchRow(name="text-only", method="text-only", conditions=["text"])])
    table = build_table(suite, write_store(tmp_path), "embedded", FACTS)
    assert [row.name for row in table.rows] == ["text-only", "ground-truth", "shuffled"]
    assert all(cell.paper is None for row in table.rows for cell in row.cells.values())
    assert all(column.protocol == "" for column in table.columns)


def test_a_method_without_conditions_is_a_floor_where_others_have_some(tmp_path: Path) -> None:
    free, given = BenchRow(name="composable", method="m", conditions=[]), BenchRow(name="collaborative", method="m")
    store = write_store(tmp_path)
    for row in ("composable", "collaborative"):
        change(tmp_path / "face-generation" / row / "run.json", conditions=[] if row == "composable" else ["text"])
    table = build_table(make_suite(rows=[free, given]), store, "embedded", FACTS)
    assert [row.role for row in table.methods[:2]] == ["floor", ""]
    note = table.notes["Reference rows"][0]
    assert "; a method that is given no condition (Composable), which does not compete" in note
    alone = build_table(make_suite(rows=[free]), store, "embedded", FACTS)
    assert alone.row("composable").role == ""


def test_rows_that_only_the_paper_has_are_shown(tmp_path: Path) -> None:
    suite = make_suite(rows=[row for row in make_suite().rows if row.name != "tedigan"])
    table = build_table(suite, write_store(tmp_path), "embedded", FACTS)
    row = table.row("tedigan")
    assert row.absent == "not run: the suite has no such row"
    assert row.cells["fid"].paper == 157.81
    assert row.title == "TediGAN"


# ---------------------------------------------------------------------------------------------------------- intervals


def test_columns_with_failures_get_the_bootstrap_over_items(tmp_path: Path) -> None:
    store = write_store(tmp_path)
    ids = [f"{27000 + i // 2}-{i % 2}" for i in range(64)]
    for row in ("ground-truth", "shuffled", "text-only", "composable", "collaborative"):
        write_run(tmp_path, row, ids=ids, failures=8 if row == "composable" else 0)
    table = build_table(make_suite(), store, "embedded", FACTS)
    items = [name.split("-")[0] for name in ids]

    def values(row: str) -> np.ndarray:
        scores = store.run("face-generation", row).scores()
        return scores[scores["metric"] == "mask-accuracy"]["value"].to_numpy()

    cell = table.row("composable").cells["mask-accuracy"]
    expected = st.cluster_bootstrap(values("composable"), items, (0, 100))
    assert (cell.value, cell.low, cell.high) == pytest.approx(tuple(expected))
    assert cell.failures == 8
    other = table.row("collaborative").cells["mask-accuracy"]
    assert (other.value, other.low, other.high) == pytest.approx(
        tuple(st.mean_interval(values("collaborative"), items, (0, 100)))
    )
    (pair,) = [
        c
        for c in table.comparisons
        if (c.column, c.first, c.second) == ("mask-accuracy", "composable", "collaborative")
    ]
    difference = st.cluster_bootstrap(values("composable") - values("collaborative"), items)
    assert (pair.difference, pair.low, pair.high) == pytest.approx(tuple(difference))


def test_few_failures_few_items_or_many_keep_students_t() -> None:
    rng = np.random.default_rng(0)
    for n, failures in ((40, BOOTSTRAP_FAILURES - 1), (7, 5), (2000, 200)):
        failed = np.arange(n) < failures
        values, items = np.where(failed, 100.0, rng.normal(2, 1, n)), [str(i) for i in range(n)]
        assert sample_interval(values, items, failed=failed) == st.mean_interval(values, items)


# ---------------------------------------------------------------------------------------------------------- bad input


def test_half_written_results_name_the_file(tmp_path: Path) -> None:
    store = write_store(tmp_path)
    run = tmp_path / "face-generation" / "composable"
    whole = {name: (run / name).read_bytes() for name in ("run.json", "score.json", "scores.parquet", "sets.parquet")}

    def fails(name: str, content: bytes | None, words: str) -> None:
        (run / name).write_bytes(content) if content is not None else (run / name).unlink()
        with pytest.raises(ConcordError, match=words) as error:
            build_table(make_suite(), Store(tmp_path), "embedded", FACTS)
        assert "\n" not in str(error.value)
        (run / name).write_bytes(whole[name])

    fails("scores.parquet", None, r"composable/scores.parquet: is missing, though it was written")
    fails("scores.parquet", whole["scores.parquet"][:200], r"composable/scores.parquet: has changed")
    fails("sets.parquet", b"", r"composable/sets.parquet: has changed")
    fails("score.json", whole["score.json"][:20], r"composable/score.json: not valid JSON")
    fails("run.json", whole["run.json"][:40], r"composable/run.json: not valid JSON")
    fails("run.json", b"{}", r"composable/run.json: field 'finished' is missing")
    assert build_table(make_suite(), store, "embedded", FACTS).refusal == ""


def test_unfinished_rows_say_how_to_go_on(tmp_path: Path) -> None:
    store = write_store(tmp_path)
    (tmp_path / "face-generation" / "composable" / "score.json").unlink()
    (tmp_path / "face-generation" / "text-only" / "run.json").unlink()
    table = build_table(make_suite(), store, "embedded", FACTS)
    gone = "was removed after it was made; `concord run face-generation` makes it again"
    assert table.row("composable").absent == f"missing: score.json {gone}"
    assert table.row("text-only").absent == f"missing: run.json {gone}"
    assert any("are missing" in warning and "Composable" in warning for warning in table.warnings)
    for row in ("composable", "text-only"):  # as a killed run leaves it
        (tmp_path / "face-generation" / row / "digests.json").unlink()
    sign(tmp_path / "face-generation" / "composable")
    table = build_table(make_suite(), store, "embedded", FACTS)
    assert table.row("composable").absent == "made, not scored yet: concord score face-generation composable"
    assert table.row("text-only").absent == "half-made, goes on where it stopped: concord run face-generation"
    assert table.row("collaborative").absent == ""


def test_unequal_n_refuses_the_table_in_every_format(tmp_path: Path) -> None:
    store = write_store(tmp_path)
    write_run(tmp_path, "composable", n=32)
    table = build_table(make_suite(), store, "embedded", FACTS)
    assert "composable 32" in table.refusal
    assert "REFUSED: unequal n in one table" in to_latex(table)
    check(to_latex(table))
    frame = to_frame(table)
    assert frame["value"].isna().all()
    assert set(frame[frame["row"] == "composable"]["n"]) == {32}
    assert set(frame[frame["row"] == "collaborative"]["status"]) == {"refused: the table is refused, see above"}


def test_one_sample(tmp_path: Path) -> None:
    table = build_table(make_suite(), write_store(tmp_path, n=1, refused=["fid"]), "embedded", FACTS)
    check(to_latex(table))
    frame = to_frame(table)
    line = frame[(frame["row"] == "composable") & (frame["metric"] == "mask-accuracy")].iloc[0]
    assert line["n"] == 1
    assert math.isfinite(line["value"])
    assert math.isnan(line["low"])
    assert not set(frame["mark"]) & {"best", "second"}


def test_ten_thousand_samples(tmp_path: Path) -> None:
    for row in ("ground-truth", "composable", "collaborative"):
        write_run(tmp_path, row, n=10_000, images=False, failures=20 if row == "composable" else 0)
    suite = make_suite(metrics=["fid", "mask-accuracy"], joint=None)
    table = build_table(suite, Store(tmp_path), "embedded", FACTS)
    assert table.n == 10_000
    assert table.row("collaborative").cells["mask-accuracy"].mark == "best"
    assert len(to_latex(table)) < 60_000
    assert len(to_markdown(table)) < 60_000


# ------------------------------------------------------------------------------------------------------- the commands


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_concord_table_prints_one_table(store: Store) -> None:
    where = ("--results", store.root.parent)
    found = call("table", "face-generation", "--format", "latex", "--fragment", *where)
    assert found.exit_code == 0, found.output
    assert check(found.output)["table"] == 1
    alone = call("table", "collaborative-diffusion-table-a4", "--format", "csv", *where)
    frame = pd.read_csv(pd.io.common.StringIO(alone.output))
    printed = frame[frame["metric"] == "paper:parameters_millions"]["paper_value"].tolist()
    assert printed == [403.6, 403.6, 13.1, 13.1]
    assert call("table", "z-magic-figure-1", *where).output.startswith("# Cosine of the gradients")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["table", "nothing"], "unknown table 'nothing': expected one of"),
        (["table", "face-generation", "--format", "word"], "format 'word': expected one of markdown, latex, csv"),
        (["table", "face-generation", "--fragment"], "--fragment: goes with --format latex"),
    ],
)
def test_mistakes_end_with_two_and_one_line(store: Store, arguments: list[str], words: str) -> None:
    found = call(*arguments, "--results", store.root.parent)
    assert found.exit_code == 2
    assert words in found.output
    assert found.output.strip().count("\n") == 0

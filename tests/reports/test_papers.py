"""The papers' numbers: the files read, hold together, and every table and figure has its page or says why not."""

from itertools import pairwise
from pathlib import Path

import pytest

from concord.benchmarks.suite import read_suite, suite_names
from concord.data.errors import ConcordError
from concord.metrics.base import all_metrics
from concord.metrics.layout.instances import by_level
from concord.reports.assemble import unanswered_tables
from concord.reports.published import PAPERS, load_paper, paper_names, published_table
from concord.reports.tables.markdown import to_markdown

NAMES = paper_names()
EVERY = [(name, key) for name in NAMES for key in load_paper(name).tables]


@pytest.mark.parametrize("name", NAMES)
def test_every_paper_file_reads(name: str) -> None:
    paper = load_paper(name)
    assert paper.name == name
    assert paper.citation.endswith(f"arXiv:{paper.arxiv}")
    assert paper.protocol
    for table in paper.tables.values():
        assert set(table.n) <= set(table.metrics)
        assert all(count > 1 for count in table.n.values())
        assert table.rows
        printed = any(value is not None for row in table.rows.values() for value in row.values())
        assert printed or (table.label.startswith("Figure") and not table.metrics and table.note)
        for place, why in table.unclear.items():
            row, _, metric = place.rpartition(".")
            assert table.value(row, metric) is not None
            assert len(why) > 20


@pytest.mark.parametrize(("name", "key"), EVERY)
def test_every_table_is_answered_by_a_suite_or_says_why_not(name: str, key: str) -> None:
    answered = {(suite.paper, suite.table) for suite in map(read_suite, suite_names())}
    table = load_paper(name).tables[key]
    assert (name, key) in answered or table.not_run


@pytest.mark.parametrize(("name", "key"), EVERY)
def test_what_answers_a_column_is_a_metric_of_the_same_direction(name: str, key: str) -> None:
    table, metrics = load_paper(name).tables[key], all_metrics()
    assert set(table.scale) <= set(table.ours)
    for column, names in table.ours.items():
        for metric in names:
            assert metrics[metric].higher_is_better == (table.metrics[column] == "higher"), metric


def test_numbers_that_the_papers_print_twice_agree() -> None:
    first, second = (published_table("collaborative-diffusion", key) for key in ("table-1", "table-2"))
    assert first.rows["collaborative"] == second.rows["collaborative"]


@pytest.mark.parametrize("row", ["interactdiffusion", "amdm-interactdiffusion-migc"])
@pytest.mark.parametrize("metric", ["success", "miou"])
def test_amdms_averages_weigh_every_instance_alike(row: str, metric: str) -> None:
    values = published_table("amdm", "table-1").rows[row]
    levels = by_level([values[f"{metric}_L{n}"] for n in range(2, 7)], list(range(2, 7)))
    assert levels["avg"] == pytest.approx(values[f"{metric}_avg"], abs=0.011)
    assert abs(levels["avg-level"] - levels["avg"]) > 0.05


def test_restoring_more_patches_is_harder_in_every_row() -> None:
    table = published_table("mt-diffusion", "table-1")
    for row in table.rows.values():
        values = [row[f"mask_{m}"] for m in (5, 10, 15, 20)]
        assert all(a < b for a, b in pairwise(values))  # type: ignore[operator]


def test_shares_and_percentages_are_in_range() -> None:
    for name, key in EVERY:
        table = load_paper(name).tables[key]
        for row in table.rows.values():
            for metric, value in row.items():
                if value is not None and (metric in ("precision", "recall") or metric.startswith(("class_", "pixel_"))):
                    assert 0 < value < 1
                elif value is not None and ("percent" in metric or metric.startswith(("success", "miou"))):
                    assert 1 < value < 100


def test_a_printed_share_is_put_beside_our_percentage() -> None:
    """Table 4 of MT-Diffusion prints pixel accuracy as a share of 1, `pixel-accuracy` is a percentage.

    What scores images made from masks (`mask-class-accuracy`) answers none of its columns.
    """
    table = published_table("mt-diffusion", "table-4")
    assert table.value("mt-diffusion", "pixel_accuracy") == pytest.approx(95.0)
    assert table.value("mt-diffusion", "class_accuracy") == 0.85
    keys = {"mask-accuracy": "mask_percent", "mask-class-accuracy": "class_accuracy", "mask-class-iou": "class_iou"}
    assert table.keys_of(keys) == {}
    drawn = {"pixel-accuracy": None, "drawn-class-accuracy": None, "drawn-class-iou": None}
    assert list(table.keys_of(drawn).values()) == ["pixel_accuracy", "class_accuracy", "class_iou"]


def test_the_papers_digits_are_printed_as_in_the_paper() -> None:
    tables = {table.name: to_markdown(table) for table in unanswered_tables("embedded", suites=[])}
    assert "paper: 136<br>" not in tables["z-magic-table-4"]
    for name, printed in (
        ("z-magic-table-4", ("paper: 134 ", "paper: 0.740 ", "paper: 1.167 ")),
        ("mt-diffusion-table-1", ("paper: 0.400 ",)),
        ("mt-diffusion-table-4", ("paper: 58 ", "paper: 0.40 ")),
        ("collaborative-diffusion-figure-7", ("paper: 69.40 ",)),
    ):
        for text in printed:
            assert text in tables[name], text


def test_a_paper_value_stands_at_the_nearest_metric_of_the_suite_alone() -> None:
    """Collaborative Diffusion's FID is pytorch-fid's: it stands at 'fid-legacy' where a suite has it, else at 'fid'."""
    table = published_table("collaborative-diffusion", "table-1")
    assert table.keys_of({"fid": "fid", "fid-legacy": None, "kid": None}) == {"fid-legacy": "fid"}
    assert table.keys_of({"fid": "fid", "kid": None, "mask-accuracy": "mask_percent"}) == {
        "fid": "fid",
        "mask-accuracy": "mask_percent",
    }


# --------------------------------------------------------------------------------------------- tables without a suite


def test_tables_without_a_suite_show_the_papers_values_and_the_reason() -> None:
    tables = {table.name: table for table in unanswered_tables("embedded", suites=[])}
    assert len(tables) == len(EVERY)
    table = tables["mt-diffusion-table-2"]
    markdown = to_markdown(table)
    assert "MT-Diffusion-X<br>not run: no suite" in markdown
    assert "paper: 9.85" in markdown
    assert "FID ↓" in markdown
    assert "IS ↑" in markdown
    assert "paper: 0.43 (?)" in markdown
    assert "(?): the paper's print cannot be read for certain, see below." in markdown
    assert "Recall of MT-Diffusion-E cannot be read for certain: the last digits" in markdown
    assert "arXiv:2407.17571" in markdown
    assert "18.76" in to_markdown(tables["amdm-table-1"])  # the paper's seconds stand in the column of costs
    assert tables["mt-diffusion-night2day"].row("ground-truth").kind == "ceiling"


def test_a_suite_takes_its_table_over() -> None:
    suite = read_suite("face-generation")
    names = {table.name for table in unanswered_tables("embedded", [suite])}
    assert "collaborative-diffusion-table-1" not in names
    assert "collaborative-diffusion-figure-7" in names
    assert len(names) == len(EVERY) - 1


# ---------------------------------------------------------------------------------------------------------- bad input


def test_paper_files_with_mistakes_name_them(tmp_path: Path) -> None:
    text = (PAPERS / "amdm.yaml").read_text(encoding="utf-8")

    def wrong(name: str, old: str, new: str) -> None:
        assert text.count(old) == 1
        (tmp_path / f"{name}.yaml").write_text(text.replace(old, new), encoding="utf-8")

    wrong("wrong", "31.87\n", "many\n")
    with pytest.raises(ConcordError, match=r"interactdiffusion.success_L2': expected a number or null"):
        load_paper("wrong", tmp_path)
    wrong("extra", "authors:", "writers:")
    with pytest.raises(ConcordError, match="unknown key 'writers'"):
        load_paper("extra", tmp_path)
    wrong("unclear", "    metrics:\n", "    unclear: {interactdiffusion.nothing: smudged}\n    metrics:\n")
    with pytest.raises(ConcordError, match=r"'unclear': unknown key 'interactdiffusion.nothing'"):
        load_paper("unclear", tmp_path)
    wrong("n", "n: {success_avg: 3200,", "n: {success: 3200,")
    with pytest.raises(ConcordError, match=r"'n': unknown key 'success'"):
        load_paper("n", tmp_path)
    with pytest.raises(ConcordError, match="unknown paper 'none': expected one of extra, n, unclear, wrong"):
        load_paper("none", tmp_path)

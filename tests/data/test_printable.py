"""Text that others execute: no title or name orders a spreadsheet, a terminal or a Markdown reader about."""

import csv
import io
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import typer
from fake_store import FACTS, make_suite, write_store
from typer.testing import CliRunner

from concord.benchmarks.store.run import Store
from concord.cli import app, check_address_space
from concord.console import safe_streams
from concord.data.errors import ConcordError
from concord.data.printable import for_stream, printable, sheet_cell
from concord.reports.assemble import build_table
from concord.reports.tables.export import to_csv
from concord.reports.tables.markdown import to_markdown
from concord.reports.tables.table import Table

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1"]
ORDERS = ["\x1b[31m", "\x1b]0;title\x07", "\x07", "\x9b2J", "\x00", "\u202e", "\x7f"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    store: Store = write_store(tmp_path_factory.mktemp("results") / "embedded", n=8)
    return build_table(make_suite(), store, "embedded", FACTS)


def titled(table: Table, title: str) -> Table:
    return replace(table, rows=[replace(row, title=title) for row in table.rows])


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_of_a_csv_is_a_formula(table: Table, text: str) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(titled(table, text)))))
    assert {row["title"].lstrip()[0] for row in rows} == {"'"}
    assert any(float(row["value"]) > 0 for row in rows if row["value"])  # numbers stay numbers


def test_negative_numbers_of_a_csv_stay_numbers(table: Table) -> None:
    shifted = replace(
        table,
        rows=[
            replace(row, cells={name: replace(cell, value=-2.5) for name, cell in row.cells.items()})
            for row in table.rows
        ],
    )
    rows = list(csv.DictReader(io.StringIO(to_csv(shifted))))
    assert {row["value"] for row in rows} == {"-2.5"}


@pytest.mark.parametrize("text", ["a\rb", "a\nb", "a\r\nb", "a\x0bb", "a\u2028b", "a\x85b"])
def test_a_line_break_in_a_title_makes_no_line_of_a_csv(table: Table, text: str) -> None:
    written = to_csv(titled(table, text))
    assert len(written.splitlines()) == 1 + len(table.rows) * len(table.columns)
    assert "a b" in written or "a  b" in written


@pytest.mark.parametrize("text", ORDERS)
@pytest.mark.parametrize("colours", [False, True])
def test_a_stream_gets_no_orders(text: str, colours: bool) -> None:
    shown = for_stream(f"before {text} after\n", colours)
    passes = colours and text == "\x1b[31m"  # colours are drawn by the tables themselves
    assert (text in shown) == passes
    assert shown.startswith("before ")
    assert shown.endswith(" after\n")
    assert printable(text).isprintable()


def test_what_is_printed_goes_through_the_safe_stream(capsys: pytest.CaptureFixture[str]) -> None:
    with safe_streams():
        typer.echo("a\x1b]0;owned\x07b")
        print("c\x07d", file=sys.stderr)
    out, err = capsys.readouterr()
    assert out == "a\\u001b]0;owned\\u0007b\n"
    assert err == "c\\u0007d\n"


def test_errors_and_usage_errors_order_nothing() -> None:
    for arguments in (
        ["run", "no\x1b]0;x\x07suite"],
        ["table", "collaborative-diffusion-table-a4", "--format", "\x1b[2J"],
    ):
        said = CliRunner().invoke(app, arguments)
        assert said.exit_code == 2
        assert not {"\x1b", "\x07"} & set(said.output)
        assert "\\u001b" in said.output or "\\x1b" in said.output


@pytest.mark.parametrize(
    "text",
    ["[c](javascript:alert(1))", "[c][d]", "[d]: javascript:alert(1)", "\\[c\\](javascript:alert(1))", "![c](//x)"],
)
def test_markdown_holds_no_link_of_a_title(table: Table, text: str) -> None:
    shown = to_markdown(replace(titled(table, text), title=text, notes={text: [text]}))
    assert "](" not in shown
    assert "][" not in shown
    assert "]:" not in shown
    assert "&#93;" in shown


def test_text_without_orders_is_left_as_it_is() -> None:
    for text in ("Collaborative Diffusion", "ünïcödé 顔", "a - b", "[0.5, 2.0]", ""):
        assert printable(text) == text
        assert sheet_cell(text) == text


def test_a_closed_output_is_no_traceback() -> None:
    """In a shell, `>&-`: the process begins without the file."""
    for closed in (">&-", "2>&-", "<&-", ">&- 2>&-"):
        script = f'"{sys.executable}" -m concord list --help {closed}'
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False, timeout=60)
        assert "Traceback" not in done.stdout + done.stderr
        assert done.returncode == 0


def test_a_backend_of_figures_that_does_not_exist_is_no_matter() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "concord", "list", "--help"],
        env={**os.environ, "MPLBACKEND": "no-such"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    script = "import sys; sys.argv = ['concord', '--help']\ntry:\n    import concord.cli; concord.cli.main()\n"
    script += "finally:\n    import matplotlib.figure; print(matplotlib.rcParams['backend'])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "MPLBACKEND": "no-such"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.split()[-1] == "agg", done.stderr


def test_too_little_address_space_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda kind: (3 * 2**30, 3 * 2**30))
    with pytest.raises(ConcordError, match=r"limited to 3.0 GiB .*needs 4 GiB or more"):
        check_address_space("run")
    check_address_space("fetch")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (-1, -1))
    check_address_space("run")

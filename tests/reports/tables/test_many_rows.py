"""Tables of very many rows: their memory and time are bounded, and they say what is approximate in them."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fake_store import FACTS, make_suite, write_run

from concord.benchmarks.settings import ROOT
from concord.benchmarks.store.digests import record
from concord.benchmarks.store.run import Store
from concord.benchmarks.suite import Row
from concord.data.files import read_json, write_json
from concord.reports.assemble import build_table
from concord.reports.tables import pairs

CODE = """
import resource, sys
sys.path.insert(0, {support!r})
from pathlib import Path
from fake_store import FACTS
from test_many_rows import suite_of
from concord.benchmarks.store.run import Store
from concord.reports.assemble import build_table
table = build_table(suite_of({rows}), Store(Path({root!r})), "embedded", FACTS)
print(len(table.comparisons), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def suite_of(rows: int):  # type: ignore[no-untyped-def]
    return make_suite(rows=[Row(name=f"row-{k}", method="composable") for k in range(rows)], reference=["ground-truth"])


def write_rows(root: Path, rows: int) -> None:
    rng = np.random.default_rng(0)
    write_run(root, "ground-truth", images=False)
    for k in range(rows):
        levels = (27 + 0.5 * rng.normal(), 80 + 3 * rng.normal(), 6 + rng.normal())
        write_run(root, f"row-{k}", levels=levels, seed=k, images=False, failures=int(rng.integers(0, 3)))


@pytest.mark.parametrize(("rows", "mebibytes", "seconds"), [pytest.param(1_000, 1024, 300, marks=pytest.mark.long)])
def test_a_thousand_rows_fit(tmp_path: Path, rows: int, mebibytes: int, seconds: int) -> None:
    write_rows(tmp_path / "embedded", rows)
    here = Path(__file__).parent
    code = CODE.format(support=str(here.parents[1] / "support"), rows=rows, root=str(tmp_path / "embedded"))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={"PYTHONPATH": f"{ROOT}:{here}"}, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    comparisons, peak = map(int, done.stdout.split())
    assert comparisons >= 3 * rows * (rows - 1) // 2
    assert peak < mebibytes
    assert after.ru_utime - before.ru_utime < seconds


def test_many_rows_say_what_is_approximate_and_mark_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path / "embedded", 12)
    store = Store(tmp_path / "embedded")
    exact = build_table(suite_of(12), store, "embedded", FACTS)
    monkeypatch.setattr(pairs, "EXACT_PAIRS", 60)  # 12 rows are 66 pairs
    began = time.process_time()
    fast = build_table(suite_of(12), store, "embedded", FACTS)
    assert time.process_time() - began < 10
    assert "Pairs" not in exact.notes
    assert "12 methods are 66 pairs a column" in fast.notes["Pairs"][0]
    for one, other in zip(exact.comparisons, fast.comparisons, strict=True):
        assert (one.first, one.second, one.difference) == (other.first, other.second, other.difference)
        assert other.p == pytest.approx(one.p, rel=0.1)
    marks = [[[cell.mark for cell in row.cells.values()] for row in table.rows] for table in (exact, fast)]
    assert marks[0] == marks[1]


def change(path: Path, **facts: object) -> None:
    manifest = read_json(path / "run.json")
    for name, value in facts.items():
        if isinstance(value, dict) and value:
            manifest[name] = {**manifest[name], **value}
        else:
            manifest[name] = value
    write_json(path / "run.json", manifest)
    record(path, ["run.json"])


def test_rows_of_other_machines_are_said(tmp_path: Path) -> None:
    write_rows(tmp_path / "embedded", 2)
    store = Store(tmp_path / "embedded")
    assert "Machines" not in build_table(suite_of(2), store, "embedded", FACTS).notes
    for k in (0, 1):
        change(tmp_path / f"embedded/face-generation/row-{k}", provenance={"threads": k + 1}, batch_size=32 - k)
    table = build_table(suite_of(2), store, "embedded", FACTS)
    assert "The rows differ in threads, batch size" in table.notes["Machines"][0]
    assert table.provenance["Threads"] == "1 (row-0); 2 (row-1)"
    assert table.provenance["Batch size"] == "32 (row-0); 31 (row-1)"


def test_rows_of_other_data_share_no_table(tmp_path: Path) -> None:
    write_rows(tmp_path / "embedded", 2)
    change(tmp_path / "embedded/face-generation/row-1", data={"fingerprint": "0" * 64})
    refusal = build_table(suite_of(2), Store(tmp_path / "embedded"), "embedded", FACTS).refusal
    assert "made from different data" in refusal
    assert "'row-1'" in refusal


def test_a_method_of_others_shows_its_seconds_though_it_counts_nothing(tmp_path: Path) -> None:
    write_rows(tmp_path / "embedded", 2)
    change(tmp_path / "embedded/face-generation/row-1", method="somebody's", evaluations_per_image={})
    table = build_table(suite_of(2), Store(tmp_path / "embedded"), "embedded", FACTS)
    (row,) = [one for one in table.rows if one.name == "row-1"]
    assert row.cost.seconds_per_image == 0.61

"""What rows cost, and why they were made anew, in a comparison: passes exact, seconds on the same machine alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from compare_world import METRICS, ROW, SHARE, compared
from fake_store import sign, write_store

from concord.benchmarks.store.run import Store
from concord.data.files import read_json, write_json
from concord.reports.compare.baseline import renew
from concord.reports.compare.costs import packed, unpacked
from concord.reports.compare.render import to_html, to_json, to_markdown
from concord.reports.compare.sides import baseline_folder, seal, store_side

CODE = {f"concord.methods.core.part{i}": f"{i:064x}" for i in range(40)}
PARTS = {"params": {"preset": "paper", "steps": 50}, "conditions": ["text", "mask"], "code": CODE, "data": "d" * 64}
Edit = Callable[[Callable[[dict[str, Any]], None]], None]


def edit_rows(root: Path, change: Callable[[dict[str, Any]], None], rows: str = "*") -> None:
    for path in root.glob(f"*/{rows}/run.json"):
        manifest = read_json(path)
        change(manifest)
        write_json(path, manifest)
        sign(path.parent)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("costs")
    store = write_store(root / "embedded", images=False)

    def known(manifest: dict[str, Any]) -> None:
        manifest["key_parts"] = PARTS
        manifest["provenance"] |= {"cpu": "A processor", "cores": 2}

    edit_rows(store.root, known)
    renew(store_side(store, "embedded"), root / "b", SHARE, facts=METRICS)
    return root


@pytest.fixture
def store(written: Path, tmp_path: Path) -> Store:
    shutil.copytree(written / "embedded", tmp_path / "embedded")
    return Store(tmp_path / "embedded")


@pytest.fixture
def edit(store: Store) -> Edit:
    """Call it with what to do to the manifest of the row `collaborative`."""
    return lambda change: edit_rows(store.root, change, ROW.partition("/")[2])


def test_costs_that_did_not_change_say_nothing(store: Store, written: Path) -> None:
    result = compared(store, written / "b")
    assert (result.exit_code, list(result.costs), dict(result.anew)) == (0, [], {})
    assert "## Costs" not in to_markdown(result)


def test_a_method_with_doubled_passes_is_costlier(store: Store, written: Path, edit: Edit) -> None:
    edit(lambda manifest: manifest["evaluations_per_image"].update({"text-unet": 100.0}))
    result = compared(store, written / "b")
    (change,) = result.costs
    assert (change.run, change.what, change.before, change.now) == (ROW, "passes of text-unet", 50.0, 100.0)
    assert change.verdict == "costlier"
    assert result.exit_code == 1
    text = to_markdown(result)
    assert text.startswith("# Comparison: costlier")
    assert f"| {ROW} | passes of text-unet | 50 | 100 | +100% | costlier |" in text
    assert json.loads(to_json(result))["costs"][0]["verdict"] == "costlier"
    assert "costlier" in to_html(result)


def test_one_pass_more_counts_and_fewer_are_no_loss(store: Store, written: Path, edit: Edit) -> None:
    edit(lambda manifest: manifest["evaluations_per_image"].update({"text-unet": 50.5}))
    assert compared(store, written / "b").exit_code == 1
    edit(lambda manifest: manifest["evaluations_per_image"].update({"text-unet": 49.0}))
    result = compared(store, written / "b")
    assert [(one.verdict, one.is_exact) for one in result.costs] == [("cheaper", True)]
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("key", "factor", "verdict"),
    [
        ("seconds_per_image", 1.4, ""),
        ("seconds_per_image", 1.6, "costlier"),
        ("seconds_per_image", 0.7, ""),
        ("seconds_per_image", 0.6, "cheaper"),
        ("peak_memory_bytes", 1.2, ""),
        ("peak_memory_bytes", 1.3, "costlier"),
    ],
)
def test_seconds_and_memory_have_a_tolerance_and_decide_nothing(
    store: Store, written: Path, edit: Edit, key: str, factor: float, verdict: str
) -> None:
    edit(lambda manifest: manifest.update({key: type(manifest[key])(manifest[key] * factor)}))
    result = compared(store, written / "b")
    assert [one.verdict for one in result.costs] == ([verdict] if verdict else [])
    assert result.exit_code == 0


def test_seconds_of_another_machine_are_not_compared(store: Store, written: Path, edit: Edit) -> None:
    def moved(manifest: dict[str, Any]) -> None:
        manifest["seconds_per_image"] *= 10
        manifest["provenance"]["cpu"] = "Another processor"
        manifest["evaluations_per_image"]["text-unet"] = 51.0  # are the method's own, on every machine

    edit(moved)
    result = compared(store, written / "b")
    assert [one.what for one in result.costs] == ["passes of text-unet"]
    assert any(ROW in note and "another machine" in note for note in result.notes)


def test_a_row_that_was_made_anew_says_why(store: Store, written: Path, edit: Edit) -> None:
    def changed(manifest: dict[str, Any]) -> None:
        code = {**CODE, "concord.methods.core.part7": "f" * 64, "concord.methods.extra": "a" * 64}
        manifest["key_parts"] = {**PARTS, "params": {"preset": "paper", "steps": 12}, "code": code}

    edit(changed)
    result = compared(store, written / "b")
    assert result.anew == {
        ROW: [
            "parameter steps 50 -> 12",
            "code of methods/core/part7.py changed",
            "code of methods/extra.py is new",
        ]
    }
    assert f"- {ROW}: parameter steps 50 -> 12; code of methods/core/part7.py changed" in to_markdown(result)
    assert json.loads(to_json(result))["made_anew"][ROW][0] == "parameter steps 50 -> 12"


def test_a_base_without_costs_is_said_once(store: Store, written: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(written / "b", old)
    content = read_json(old / "baseline.json")
    for facts in content["runs"].values():
        facts.pop("cost")
        facts.pop("made")
    files = {name: (old / name).read_bytes() for name in content["files"]}
    bare = {key: value for key, value in content.items() if key not in ("files", "sha256")}
    write_json(old / "baseline.json", seal(bare, files))
    result = compared(store, old)
    assert result.exit_code == 0
    assert [note for note in result.notes if "renew the baseline" in note] == [
        "the costs of 3 rows are not in both sides: renew the baseline to compare them"
    ]


def test_code_that_rows_share_stands_once_in_the_file(written: Path) -> None:
    content = read_json(written / "b/baseline.json")
    assert len(content["code"]) == len(CODE)
    (first, *_) = content["runs"].values()
    assert sorted(first["made"]["code"]) == list(range(len(CODE)))
    side = baseline_folder(written / "b", "b")
    assert all(
        run.facts["made"]["code"]["concord.methods.core.part7"] == f"{7:064x}"[:12] for run in side.runs.values()
    )


def test_rows_of_different_code_keep_their_own() -> None:
    runs = {
        "a": {"n": 1, "made": {"code": {"x": "1", "y": "2"}}},
        "b": {"n": 1, "made": {"code": {"x": "1", "y": "3"}, "params": {"steps": 2}}},
        "c": {"n": 2, "made": {"code": {"y": "2"}}},
        "d": {"n": 3},
    }
    facts, table = packed(runs)
    assert {name: unpacked(one, table) for name, one in facts.items()} == runs


def test_a_renewal_with_other_seconds_alone_writes_nothing(store: Store, written: Path, tmp_path: Path) -> None:
    shutil.copytree(written / "b", tmp_path / "b")
    edit_rows(store.root, lambda manifest: manifest.update(seconds_per_image=0.9))
    assert not renew(store_side(store, "embedded"), tmp_path / "b", SHARE, facts=METRICS).written
    edit_rows(store.root, lambda manifest: manifest["evaluations_per_image"].update({"text-unet": 60.0}))
    assert renew(store_side(store, "embedded"), tmp_path / "b", SHARE, facts=METRICS).written

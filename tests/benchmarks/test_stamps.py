"""Marks: what DVC watches in place of a method's manifests."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from concord.benchmarks.stamps import is_valid, remove_stale, write_stamp


def runs(root: Path) -> list[SimpleNamespace]:
    found = []
    for name in ("a", "b"):
        (root / "set" / name).mkdir(parents=True, exist_ok=True)
        (root / "set" / name / "run.json").write_text(name)
        row, requests = SimpleNamespace(name=name), SimpleNamespace(name="set")
        found.append(SimpleNamespace(requests=requests, row=row, path=root / "set" / name))
    return found


def test_a_mark_is_true_until_a_manifest_changes(tmp_path: Path) -> None:
    mark = tmp_path / "stages" / "generate-m.json"
    mark.parent.mkdir()
    write_stamp(mark, runs(tmp_path), "run.json")  # type: ignore[arg-type]
    content = mark.read_bytes()
    assert is_valid(mark, tmp_path)
    assert remove_stale(mark.parent, tmp_path) == []
    write_stamp(mark, runs(tmp_path)[::-1], "run.json")  # type: ignore[arg-type]
    assert mark.read_bytes() == content  # whatever the order
    (tmp_path / "set" / "b" / "run.json").write_text("other")
    assert not is_valid(mark, tmp_path)
    assert remove_stale(mark.parent, tmp_path) == ["generate-m"]
    assert not mark.exists()


def test_a_missing_row_or_a_broken_mark_is_untrue(tmp_path: Path) -> None:
    mark = tmp_path / "stages" / "score-m.json"
    mark.parent.mkdir()
    write_stamp(mark, runs(tmp_path), "run.json")  # type: ignore[arg-type]
    (tmp_path / "set" / "a" / "run.json").unlink()
    assert not is_valid(mark, tmp_path)
    mark.write_text("[]")
    assert not is_valid(mark, tmp_path)
    mark.write_text("{")
    assert remove_stale(mark.parent, tmp_path) == ["score-m"]
    assert remove_stale(tmp_path / "none", tmp_path) == []

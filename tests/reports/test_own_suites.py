"""A suite of the user's own stays in the report until its copy is removed; a copy that is broken stops nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import toy_world
from fake_store import write_store

from concord.benchmarks.store.run import Store
from concord.data import notes
from concord.data.errors import ConcordError
from concord.reports.own_suites import FOLDER, keep_suite, kept_suites
from concord.reports.stored import find_table


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(notes, "_said", set())
    return write_store(tmp_path / "embedded", n=64)


def write(folder: Path, name: str = "my-suite") -> Path:
    """A suite without a paper over the requests that the store has."""
    text = toy_world.SUITE.strip().replace("name: toys", f"name: {name}\nrequests: face-generation")
    text = text.replace("{name: toy, method: toy}", "{name: composable, method: composable}").replace("kid, ", "")
    lines = [line for line in text.splitlines() if not line.startswith(("paper:", "table:"))]
    path = folder / f"{name}.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_it_stays_until_its_copy_is_removed(store: Store, tmp_path: Path) -> None:
    file = write(tmp_path)
    with pytest.warns(notes.Note, match="stays in the report until .*my-suite.yaml is removed"):
        keep_suite(store, file)
    file.unlink()  # the user's own may go
    assert [suite.name for suite in kept_suites(store)] == ["my-suite"]
    table = find_table("my-suite", store, "embedded")
    assert table.row("composable").cells["mask-accuracy"].value is not None
    (store.root / FOLDER / "my-suite.yaml").unlink()
    assert kept_suites(store) == []
    with pytest.raises(ConcordError, match="unknown table 'my-suite'"):
        find_table("my-suite", store, "embedded")


def test_a_newer_file_takes_the_place_of_its_copy(store: Store, tmp_path: Path) -> None:
    file = write(tmp_path)
    with pytest.warns(notes.Note):
        keep_suite(store, file)
    file.write_text(file.read_text().replace("title: Toys", "title: Other toys"))
    keep_suite(store, file)
    assert [suite.title for suite in kept_suites(store)] == ["Other toys"]


def test_a_copy_that_cannot_be_read_is_named_and_left_out(store: Store, tmp_path: Path) -> None:
    with pytest.warns(notes.Note):
        keep_suite(store, write(tmp_path))
    (store.root / FOLDER / "broken.yaml").write_text("name: broken\n")
    with pytest.warns(notes.Note, match=r"broken\.yaml: .*left out of the report"):
        found = kept_suites(store)
    assert [suite.name for suite in found] == ["my-suite"]


def test_a_suite_of_the_repository_is_not_kept(store: Store, tmp_path: Path) -> None:
    keep_suite(store, write(tmp_path, "face-generation"))
    assert not (store.root / FOLDER).exists()

"""A report's tables come first; a page that cannot be made, or a broken cache, costs a line and nothing else."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from fake_store import write_store
from typer.testing import CliRunner

from concord.cli import app
from concord.data import notes
from concord.data.lock import hold
from concord.data.request import Conditions
from concord.reports.figures.conditions import keep_conditions
from concord.reports.site import drawn, html

ASKED = ("report", "face-generation", "--results")


def call(results: Path) -> Result:
    return CliRunner().invoke(app, [*ASKED, str(results)])


@pytest.fixture(autouse=True)
def fresh_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "_said", set())


@pytest.fixture(autouse=True, scope="module")
def few_pages() -> Iterator[None]:
    """The papers' other tables and the suites without results are not what is looked at here."""
    patch = pytest.MonkeyPatch()
    patch.setattr(html, "unanswered_tables", lambda profile: [])
    yield
    patch.undo()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with its report."""
    root = tmp_path_factory.mktemp("results")
    store = write_store(root / "embedded", n=4)
    mask = np.zeros((16, 16), np.int64)
    given = {f"{27000 + i}-0": Conditions(text="A man with a beard.", mask=mask) for i in range(4)}
    keep_conditions(store.root / "report", "face-generation", given)
    done = call(root)
    assert done.exit_code == 0, done.output
    return root


@pytest.fixture
def results(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "results")
    return tmp_path / "results"


def numbers(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|")]


FAULTS: dict[str, tuple[str, str]] = {
    "samples": ("write_samples", "face-generation: samples"),
    "figures": ("draw_figures", "face-generation: figures"),
    "viewer": ("write_viewer", "face-generation: viewer"),
    "history": ("draw_histories", "history of methods"),
    "a page": ("listed_papers", "pages and figures"),
}


@pytest.mark.parametrize(("name", "said"), FAULTS.values(), ids=FAULTS)
def test_what_cannot_be_made_costs_a_line(
    name: str, said: str, results: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = {"write_viewer": MemoryError(), "draw_histories": OSError(28, "No space left")}.get(
        name, ValueError("cannot be drawn")
    )

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(html, name, fail)
    done = call(results)
    assert done.exit_code == 2, done.output
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert f"the report lacks what could not be made: {said}" in line
    assert "Traceback" not in done.output
    monkeypatch.undo()
    monkeypatch.setattr(html, "unanswered_tables", lambda profile: [])
    assert numbers(done.stdout) == numbers(call(whole).stdout)
    if name != "listed_papers":
        assert f"Not made: {said}" in (results / "embedded/report/index.html").read_text(encoding="utf-8")
    assert call(results).exit_code == 0  # and the next one is whole
    assert "Not made" not in (results / "embedded/report/index.html").read_text(encoding="utf-8")


def test_one_figure_leaves_the_others(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once = drawn.FigureCache.once

    def fail(self: drawn.FigureCache, file: str, *rest: object) -> None:
        if file.endswith("grid.png"):
            raise ValueError("no such colour")
        once(self, file, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(drawn.FigureCache, "once", fail)
    shutil.rmtree(results / "embedded/report/face-generation")
    done = call(results)
    assert done.exit_code == 2
    assert "face-generation/grid.png: ValueError: no such colour" in done.stderr
    there = {path.name for path in (results / "embedded/report/face-generation").glob("*.png")}
    assert "grid.png" not in there
    assert {"influence-collaborative.png", "influence-mean.png"} <= there


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 8, len(content), len(content) // 8):
        content[place] ^= 0x10
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link(path: Path) -> None:
    shutil.move(path, path.with_name("aside"))
    path.symlink_to(path.with_name("aside"))


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


CACHES = (
    "conditions-face-generation.npz",
    "figures.json",
    "face-generation/grid.png",
    "face-generation/*.svg",
    "face-generation/samples.json",
    "face-generation/samples/*.webp",
    "face-generation/tiles.json",
    "face-generation/tiles/*-0000.webp",
)


MORE = [empty, Path.unlink, link, pipe]
DAMAGES = [(name, one) for one in (flip, folder, *MORE) for name in CACHES]
SHORT = [*((name, flip) for name in CACHES), *zip(CACHES, (folder, *MORE, *MORE), strict=False)]


@pytest.mark.parametrize(
    ("name", "damage"),
    [pytest.param(*one, marks=() if one in SHORT else pytest.mark.long) for one in DAMAGES],
)
def test_a_broken_cache_is_made_anew(
    name: str, damage: Callable[[Path], None], results: Path, recwarn: pytest.WarningsRecorder
) -> None:
    report = results / "embedded/report"
    path = sorted(report.glob(name))[0]
    before = {one.relative_to(report): one.read_bytes() for one in report.rglob("*.*p*g") if one.is_file()}
    damage(path)
    done = call(results)
    assert done.exit_code == 0, done.output
    assert "Traceback" not in done.output
    told = [str(one.message) for one in recwarn if isinstance(one.message, notes.Note)]
    if damage is not Path.unlink:
        assert any(path.name in line and "made anew" in line for line in told), told
    if not name.startswith("conditions"):  # there is no dataset to read them from again
        assert {key: (report / key).read_bytes() for key in before} == before
        assert path.is_file()
        assert not path.is_symlink()
        recwarn.clear()
        notes._said.clear()
        assert call(results).exit_code == 0
        assert not [one for one in recwarn if "made anew" in str(one.message)]


def test_two_reports_at_once_wait_for_each_other(results: Path) -> None:
    report, codes = results / "embedded/report", list[int]()
    (report / "face-generation" / ".grid.png.0123abcd.part").write_bytes(b"of a killed one")
    with hold(report / ".lock"):
        second = threading.Thread(target=lambda: codes.append(call(results).exit_code))
        second.start()
        second.join(2)
        assert second.is_alive()
        assert list(report.rglob("*.part"))  # another's files are not touched while it writes
    second.join(60)
    assert codes == [0]
    assert not list(report.rglob("*.part"))


def test_a_suite_that_cannot_be_read_costs_the_others_nothing(results: Path) -> None:
    other = results / "embedded" / "text-style"
    other.mkdir()
    (other / "index.json").write_text("{}")
    done = CliRunner().invoke(app, ["report", "--results", str(results)])
    assert done.exit_code == 2
    assert "index.json" in done.stderr
    assert "| Composable" in done.stdout
    assert (results / "embedded/report/face-generation.html").is_file()


def test_a_write_through_a_link_is_refused_after_the_tables(results: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "0123456789abcdef.png").write_bytes(b"kept")
    samples = results / "embedded/report/face-generation/samples"
    shutil.rmtree(samples)
    samples.symlink_to(tmp_path / "theirs")
    done = call(results)
    assert done.exit_code == 2
    assert "is a link" in done.stderr
    assert "| Composable" in done.stdout
    assert (tmp_path / "theirs" / "0123456789abcdef.png").read_bytes() == b"kept"

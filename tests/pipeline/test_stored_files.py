"""Every stored file of a finished run, damaged in every way: no other number is shown, and `run` heals all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy_world

LIMIT = 6
ROW = "toy"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x01
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "somebody's file").write_text("kept")


def link(path: Path) -> None:
    aside = path.parents[3] / f"aside-{path.name}"
    shutil.move(path, aside)
    path.symlink_to(aside)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES = [
    flip,
    Path.unlink,
    folder,
    *(pytest.param(one, marks=pytest.mark.long) for one in (truncate, empty, link, pipe)),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished small run, made once; tests work on copies of it."""
    return tmp_path_factory.mktemp("finished")


@pytest.fixture
def world(finished: Path, concord: Any, toy_tree: Path, tmp_path: Path) -> tuple[Callable[..., Any], Path]:
    """(run a verb on the results, the row's folder): a copy of the finished run."""
    suite = toy_world.write_suite(finished, grid="grid: 1")
    common = ("--data", toy_tree, "--limit", LIMIT)

    def verb(name: str, results: Path) -> Any:
        more = ("--plugin", toy_world.TOY) if name == "run" else ()
        return concord(name, suite, *common, "--results", results, *more)

    if not (finished / "results").is_dir():
        done = verb("run", finished / "results")
        assert done.exit_code == 0, done.output
        shown = verb("table", finished / "results")
        assert shown.exit_code == 0, shown.output
        (finished / "numbers.json").write_text(json.dumps(numbers(shown.stdout)))
    shutil.copytree(finished / "results", tmp_path / "results")
    return (lambda name: verb(name, tmp_path / "results")), _root(tmp_path / "results") / "toys" / ROW


def _root(results: Path) -> Path:
    (found,) = (results / "embedded").glob("data-*")
    return found


def numbers(text: str) -> list[str]:
    """The lines of a printed table that hold its values, without what they cost."""
    return [line.rsplit("|", 5)[0] for line in text.splitlines() if line.startswith(("| Toy", "| *"))]


def stored(row: Path) -> list[str]:
    return sorted(
        str(path.relative_to(row.parent)) for path in row.rglob("*") if path.is_file() and path.name[0] != "."
    )


NAMES = (
    "run.json",
    "score.json",
    "scores.parquet",
    "sets.parquet",
    "features.npz",
    "trace.npz",
    "digests.json",
    "images/00000.tar",
    "images/00000.json",
    "../index.json",
)


def test_the_names_are_all_that_there_are(world: tuple[Callable[..., Any], Path]) -> None:
    assert {f"{ROW}/{name}" for name in NAMES if not name.startswith("..")} == set(stored(world[1]))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", NAMES)
def test_no_damaged_file_gives_another_number(
    name: str, damage: Callable[[Path], None], world: tuple[Callable[..., Any], Path], finished: Path
) -> None:
    verb, row = world
    before = json.loads((finished / "numbers.json").read_text())
    assert before
    damage((row / name).resolve() if ".." in name else row / name)
    for shown in (verb("table"), verb("report")) if damage is flip else (verb("table"),):  # one reader, two verbs
        assert "Traceback" not in shown.output
        assert shown.exception is None or isinstance(shown.exception, SystemExit)
        if shown.exit_code == 0:  # nothing of the table comes from this file
            assert numbers(shown.stdout) == before
        else:
            assert shown.exit_code == 2
            (last,) = [line for line in shown.stderr.splitlines() if line.startswith("error: ")]
            assert Path(name).name in last
    healed = verb("run")
    assert healed.exit_code == 0, healed.output
    after = verb("table")
    assert after.exit_code == 0, after.output
    assert numbers(after.stdout) == before
    again = verb("run")
    assert "everything is up to date" in again.stdout, again.output
    if damage is folder:
        assert [path.read_text() for path in row.parent.rglob("somebody's file")] == ["kept"]

"""Fixtures of the machinery's tests: a toy method, a toy tree of faces, judges without weights, the command line."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import outside
import pytest
import toy_world
from given_networks import seen_by
from PIL import Image

if TYPE_CHECKING:
    from concord.benchmarks.plan.runs import Plan

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as concord/__init__.py does, before torch is imported
if "PYTEST_XDIST_WORKER" in os.environ:  # each has a core; more threads would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["CONCORD_HASHES"] = tempfile.mkdtemp(prefix="concord-hashes-")  # of files of tests; gone with them
atexit.register(shutil.rmtree, os.environ["CONCORD_HASHES"], ignore_errors=True)


# ------------------------------------------------------------------------------------------- skips, where they count
# On a user's machine a test that lacks a program is skipped and says why. Continuous integration installs the programs
# (.ci/run), so a skip there means that a part of the repository is no longer tested: it fails.

IN_CI = os.environ.get("CI", "").lower() in ("1", "true")
MAY_SKIP = {"gpu", "own_files", "root"}  # markers of what no continuous integration has


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    allowed = hasattr(report, "wasxfail") or MAY_SKIP & {mark.name for mark in item.iter_markers()}
    return report if allowed else _counted(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _counted((yield))


def _counted(report: Report) -> Report:
    """The report, failed where it says that something was skipped and this is continuous integration."""
    if IN_CI and report.skipped:
        report.longrepr = f"skipped, which is a failure where CI is set: {report.longrepr}"
        report.outcome = "failed"
    return report


# ------------------------------------------------------------------------------------------------- which files are dear
# `make test` has a budget of 8 minutes on two cores: whoever adds a test sees at once which files use it up.

SHOWN = 15


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    seconds, tests = Counter[str](), Counter[str]()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                file = report.nodeid.partition("::")[0]
                seconds[file] += report.duration
                tests[file] += report.when == "call"
    if len(seconds) < 2:
        return
    terminalreporter.section(f"slowest {min(SHOWN, len(seconds))} files of {len(seconds)}", sep="=")
    for file, spent in seconds.most_common(SHOWN):
        terminalreporter.write_line(f"{spent:7.1f} s  {tests[file]:4d} tests  {file}")
    terminalreporter.write_line(
        f"{seconds.total():7.1f} s  {tests.total():4d} tests  together, before the workers share them"
    )


# ----------------------------------------------------------------------------------------------------------- fixtures


@pytest.fixture(scope="session")
def toy_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CelebAMask-HQ tree of 12 faces, not to be changed."""
    return toy_world.write_tree(tmp_path_factory.mktemp("toys") / "tree", 12)


@pytest.fixture
def toy() -> Iterator[str]:
    """The toy method, registered for one test; its name."""
    from concord.methods import base, plugins

    before = base.all_methods()  # imports every method first, so that none is lost with the toy
    (name,) = plugins.load_plugin(toy_world.TOY)
    yield name
    base._REGISTRY.methods.clear()
    base._REGISTRY.methods.update(before)


@pytest.fixture
def toy_suite(tmp_path: Path) -> Path:
    """A suite file of the user's with the toy method."""
    return toy_world.write_suite(tmp_path)


@pytest.fixture
def judges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judges without weights in place of the trained ones."""
    from concord.metrics.networks import judges as seam

    monkeypatch.setattr(seam, "open_judges", lambda *_: seen_by(toy_world.make_judges()))


@pytest.fixture
def concord(toy: str, judges: None) -> Callable[..., Any]:
    """Call it with arguments of the command line: it runs `concord` in this process; exit_code, stdout, stderr."""
    from typer.testing import CliRunner

    from concord.cli import app

    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args])


# ------------------------------------------------------------- small trees of faces in the real datasets' formats

SIDE = 16  # of a mask; images have twice that


def _boxes(i: int) -> dict[str, tuple[slice, slice]]:
    """Parts of face i as (rows, columns); nose and eyes lie inside the skin, hair covers the skin's upper rows."""
    return {
        "skin": (slice(2, 14), slice(3, 13)),
        "nose": (slice(7, 10), slice(7, 9)),
        "l_eye": (slice(5, 6), slice(9, 11)),
        "r_eye": (slice(5, 6), slice(5, 7)),
        "hair": (slice(0, 4 + i % 2), slice(2, 14)),
    }


def write_part(path: Path, on: np.ndarray, mode: str = "L") -> None:
    """A part file: bool (H, H) as a PNG of that mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(on.astype(np.uint8) * 255).convert(mode).save(path)


@pytest.fixture
def face_tree(tmp_path: Path) -> Callable[..., Path]:
    """Call it with a number of faces: it writes a clean CelebAMask-HQ tree and gives its root."""

    def make(n: int = 3, name: str = "tree") -> Path:
        root = tmp_path / name
        (root / "CelebA-HQ-img").mkdir(parents=True)
        rng = np.random.default_rng(5)
        for i in range(n):
            pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(SIDE // 2, 0).repeat(SIDE // 2, 1)
            Image.fromarray(pixels).save(root / f"CelebA-HQ-img/{i}.jpg", quality=95)
            for part, box in _boxes(i).items():
                on = np.zeros((SIDE, SIDE), bool)
                on[box] = True
                write_part(root / f"CelebAMask-HQ-mask-anno/{i // 2000}/{i:05d}_{part}.png", on)
        dialog = {
            f"{i}.jpg": {"attribute_wise_captions": {"Young": "Old."}, "overall_caption": f"Face {i}."}
            for i in range(n)
        }
        beard = {f"{i}.jpg": {"Beard_and_Age": f"Person {i} has no beard."} for i in range(n)}
        (root / "captions_hq.json").write_text(json.dumps(dialog))
        (root / "captions_hq_beard_and_age_2022-08-19.json").write_text(json.dumps(beard))
        return root

    return make


# ------------------------------------------------------------------------------------------ methods that live outside

OUTSIDE_N = 6  # requests of `planned` and `answered`


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """The toy suite without a method of its own, and without figures."""
    path = toy_world.write_suite(tmp_path, grid="grid: 0")
    path.write_text(path.read_text().replace("  - {name: toy, method: toy}\n", ""))
    return path


@pytest.fixture
def planned(suite: Path, toy_tree: Path, tmp_path: Path) -> Callable[..., Plan]:
    """Call it for the plan of the toy suite; options replace or follow."""
    from concord.benchmarks.plan.requests import Options
    from concord.benchmarks.planner import make_plan
    from concord.benchmarks.settings import load_settings
    from concord.benchmarks.suite import load_suite, read_suite

    def make(**options: Any) -> Plan:
        given = Options(**{"data": toy_tree, "limit": OUTSIDE_N, "results": tmp_path / "results", **options})
        return make_plan(load_suite(str(suite)), load_settings(), given, related=[read_suite(str(suite))])

    return make


@pytest.fixture
def answered(planned: Callable[..., Plan], suite: Path, tmp_path: Path) -> Path:
    """An export of `planned` with all of its images."""
    from concord.benchmarks.external.transfer import export_suite

    folder = tmp_path / "exchange"
    export_suite(planned(), folder, str(suite))
    outside.answer(folder / "requests.jsonl", folder)
    return folder

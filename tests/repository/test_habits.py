"""What surrounds the code: hooks, citation, changelog, templates, and that a skip counts where CI is set."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_hooks_run_the_tools_of_the_lock_alone() -> None:
    config = ROOT / ".pre-commit-config.yaml"
    checked = subprocess.run([sys.executable, "-m", "pre_commit", "validate-config", config], capture_output=True)
    assert checked.returncode == 0, checked.stdout
    (repo,) = yaml.safe_load(config.read_text())["repos"]
    assert repo["repo"] == "local"
    entries = [hook["entry"] for hook in repo["hooks"]]
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert lint is not None
    assert len(entries) == len(lint[1].splitlines())
    for entry in entries:
        assert entry.startswith(".venv/bin/")


def test_lines_packed_by_hand_are_tables_and_say_so() -> None:
    skipped = re.compile(r"#\s*fmt: *(?:skip|off)(.*)")
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = [
        (name, line)
        for name in listed.splitlines()
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
        if skipped.search(line) and name != "tests/repository/test_habits.py"
    ]
    assert found, "nothing was read"
    assert [one for one in found if not one[1].endswith("# fmt: skip  # a table")] == []
    assert len(found) <= 405 // 3


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= set(citation)
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]["text"]


def test_the_changelog_begins_with_what_is_new_and_has_this_version() -> None:
    heads = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heads[0] == "Unreleased"
    assert PROJECT["version"] in heads


@pytest.mark.parametrize("path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem)
def test_a_template_can_be_read(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    if path.stem != "config":
        assert {"name", "description", "body"} <= set(content)
        assert all(part["type"] in ("input", "textarea", "dropdown", "markdown") for part in content["body"])


def test_types_are_published() -> None:
    assert (ROOT / "concord/py.typed").is_file()


TESTS = """
import pytest

def test_without_a_program():
    pytest.skip("no browser")

@pytest.mark.gpu
def test_without_a_gpu():
    pytest.skip("no GPU")

@pytest.mark.xfail(reason="known")
def test_of_a_known_fault():
    raise AssertionError
"""


@pytest.mark.parametrize(
    ("ci", "counts"), [("true", "1 failed, 1 passed, 1 skipped, 1 xfailed"), ("", "1 passed, 2 skipped, 1 xfailed")]
)
def test_a_skip_is_a_failure_where_it_counts(tmp_path: Path, ci: str, counts: str) -> None:
    (tmp_path / "test_skips.py").write_text(TESTS)
    (tmp_path / "test_dear.py").write_text("import time\n\ndef test_that_sleeps():\n    time.sleep(0.3)\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: x\n")
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-q", "test_skips.py", "test_dear.py"]
    environment = os.environ | {
        "CI": ci,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT / "tests/support")]),
    }
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == (1 if ci else 0), done.stdout
    assert counts in done.stdout
    assert ("skipped, which is a failure where CI is set" in done.stdout) == bool(ci)
    told = done.stdout[done.stdout.index("slowest 2 files of 2") :].splitlines()
    assert re.match(r" +0\.\d s +1 tests  test_dear\.py", told[1])
    assert re.match(r" +0\.\d s +3 tests  test_skips\.py", told[2])


def test_a_module_that_is_skipped_is_a_failure_where_it_counts(tmp_path: Path) -> None:
    (tmp_path / "test_module.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-q", "test_module.py"]
    environment = os.environ | {
        "CI": "true",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT / "tests/support")]),
    }
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "could not import 'no_such_module'" in done.stdout

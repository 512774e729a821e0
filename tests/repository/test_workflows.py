"""The forge's workflow files: what they run exists, they name no package index, and exit codes mean what they say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / ".github/workflows").glob("*.yml"))
STAND_IN = """#!/bin/sh
echo "$@" > asked
while [ $# -gt 0 ]; do if [ "$1" = --markdown ]; then echo "the table" > "$2"; fi; shift; done
exit {status}
"""


def steps(name: str) -> list[dict[str, Any]]:
    (job,) = yaml.safe_load((ROOT / f".github/workflows/{name}.yml").read_text())["jobs"].values()
    return list(job["steps"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_workflow_names_no_index_and_asks_for_no_rights(path: Path) -> None:
    text = path.read_text()
    content = yaml.safe_load(text)
    assert content["permissions"] == {"contents": "read"}
    assert "pull_request" in content[True]  # YAML reads the key `on` as true
    assert "pull_request_target" not in text  # which would run strangers' code with rights
    assert not re.search(r"--(extra-)?index|https?://", text)
    for step in steps(path.stem):
        if "uses" in step:
            assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"])


def test_what_the_workflows_run_exists() -> None:
    assert {path.stem for path in FILES} == {"compare", "test"}
    targets = set(re.findall(r"^([\w-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in FILES:
        for step in steps(path.stem):
            asked = re.findall(r"(?:^|[^\w`])make ([\w-]+)", step.get("run", "").split("concord")[0])
            assert set(asked) <= targets
    assert any(step.get("run") == ".ci/run" for step in steps("test"))
    for name in ("compare", "test"):
        checkout = next(step for step in steps(name) if step.get("uses", "").startswith("actions/checkout"))
        assert checkout["with"]["fetch-depth"] == 0  # a shallow clone has no baseline of the target branch


@pytest.mark.parametrize(
    ("status", "ends", "says"),
    [
        (0, 0, ""),
        (1, 1, "::error title=Worse beyond the margin"),
        (3, 0, "::warning title=Cannot be compared"),
        (2, 2, "::error title=No comparison"),
    ],
)
def test_the_gate_fails_on_one_and_explains_three(tmp_path: Path, status: int, ends: int, says: str) -> None:
    (script,) = [step["run"] for step in steps("compare") if "concord compare" in step.get("run", "")]
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/concord").write_text(STAND_IN.format(status=status))
    (tmp_path / ".venv/bin/concord").chmod(0o755)
    environment = {**os.environ, "BASE": "abc123", "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == ends, done.stderr
    assert done.stdout.startswith(says)
    assert (tmp_path / "asked").read_text().startswith("compare abc123 results --markdown compare.md")
    summary = (tmp_path / "summary.md").read_text()
    assert summary.startswith("the table\n")
    assert ("make baseline" in summary) == (status == 3)


def test_every_supported_python_is_tested() -> None:
    (job,) = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"].values()
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    supported = [f"3.{minor}" for minor in range(8, 30) if SpecifierSet(requires).contains(f"3.{minor}.5")]
    assert job["strategy"]["matrix"]["python"] == supported
    setup = next(step for step in job["steps"] if step.get("uses", "").startswith("actions/setup-python"))
    assert setup["with"]["python-version"] == "${{ matrix.python }}"


# ------------------------------------------------------------------------------------------------------------- .ci/run

PROGRAMS = ("bash", "dirname", "mktemp", "tail", "env", "sh")


def ci_run(tmp_path: Path, root: bool = True, apt: str | None = "exit 0", there: tuple[str, ...] = ()) -> Any:
    """`.ci/run` on a machine that has these programs alone, and what `make` and `apt-get` were asked there."""
    programs, asked = tmp_path / "bin", tmp_path / "asked"
    programs.mkdir()
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    for name in PROGRAMS:
        (programs / name).symlink_to(str(shutil.which(name)))
    stand_ins = {"make": "exit 0", "id": f"echo {0 if root else 1000}", **dict.fromkeys(there, "exit 0")}
    if apt is not None:
        stand_ins["apt-get"] = f"echo E: told >&2; {apt}"
    for name, ends in stand_ins.items():
        (programs / name).write_text(f'#!/bin/sh\n[ {name} = id ] || echo {name} "$@" >> {asked}\n{ends}\n')
        (programs / name).chmod(0o755)
    done = subprocess.run(
        [tmp_path / ".ci/run"], env={"PATH": str(programs)}, capture_output=True, text=True, timeout=30
    )
    return done, asked.read_text().splitlines()


def test_what_tests_can_use_is_installed_first(tmp_path: Path) -> None:
    done, asked = ci_run(tmp_path)
    assert done.returncode == 0
    assert done.stdout + done.stderr == ""
    packages = "chromium nodejs texlive-latex-base texlive-latex-recommended"
    assert asked == ["apt-get -qq update", f"apt-get -qq -y --no-install-recommends install {packages}", "make test"]


def test_what_is_there_is_not_installed(tmp_path: Path) -> None:
    done, asked = ci_run(tmp_path, there=("google-chrome", "node", "pdflatex", "kpsewhich"))
    assert done.returncode == 0
    assert [line for line in asked if "kpsewhich" not in line] == ["make test"]


@pytest.mark.parametrize(
    ("root", "apt", "says"),
    [
        (
            True,
            None,
            "cannot install chromium nodejs texlive-latex-base texlive-latex-recommended (no apt-get, or not root)",
        ),
        (False, "exit 0", "(no apt-get, or not root)"),
        (
            True,
            "exit 100",
            "apt-get could not install chromium nodejs texlive-latex-base texlive-latex-recommended (E: told)",
        ),
    ],
)
def test_what_cannot_be_installed_is_told_and_the_tests_still_run(
    tmp_path: Path, root: bool, apt: str | None, says: str
) -> None:
    done, asked = ci_run(tmp_path, root, apt)
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith(".ci/run: ")
    assert says in line
    assert asked[-1] == "make test"


def test_a_new_pull_request_finds_the_results_of_the_main_branch() -> None:
    """A forge shows a cache to the branch that wrote it, and that of the default branch to all: so main writes one."""
    content = yaml.safe_load((ROOT / ".github/workflows/compare.yml").read_text())
    assert content[True]["push"] == {"branches": ["main"]}
    (cache,) = [one["with"] for one in steps("compare") if "results" in one.get("with", {}).get("path", "")]
    assert "|| 'main'" in cache["key"]
    assert cache["restore-keys"].splitlines()[-1] == "results-${{ runner.os }}-main-"
    (gate,) = [one for one in steps("compare") if "concord compare" in one.get("run", "")]
    assert gate["if"] == "github.event_name == 'pull_request'"

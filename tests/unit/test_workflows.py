"""The forge's workflow files: what they run exists, they name no package index, and exit codes mean what they say."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

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
    targets = set(re.findall(r"^(\w+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in FILES:
        for step in steps(path.stem):
            asked = re.findall(r"(?:^|[^\w`])make (\w+)", step.get("run", "").split("concord")[0])
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

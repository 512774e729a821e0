"""dvc.yaml as a graph, with a stand-in for `concord` that only leaves the files of each stage: what runs again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from concord.benchmarks.dvc import AROUND, MATRIX, STAGES, make_matrix, write_matrix
from concord.benchmarks.settings import load_settings
from concord.benchmarks.suite import load_suites
from concord.data.files import write_json

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("benchmarks", "data", "methods", "metrics", "reports", "concord")
STAND_IN = """#!{python}
import ast, pathlib, sys
verb, rest = sys.argv[1], sys.argv[2:]
option = lambda name: rest[rest.index("--" + name) + 1]
with open("log.txt", "a") as log:
    print(verb, *rest[:1] if verb in ("generate", "score") else [], file=log)
place = lambda: pathlib.Path(option("results"), option("profile"))
if verb == "data":
    target = pathlib.Path(option("out"), "world.json")
elif verb == "keys":
    code = lambda suite: [ast.dump(ast.parse(p.read_text())) for p in sorted(pathlib.Path("methods").glob("*.py"))
                          if "method: " + p.stem in suite.read_text()]
    for suite in pathlib.Path("benchmarks/suites").glob("*.yaml"):
        for name, content in (("generate", str(code(suite))), ("score", "1")):
            path = place() / "keys" / f"{{name}}-{{suite.stem}}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
    target = place() / "keys" / "reference.json"
elif verb == "report":
    target = place() / "report" / "index.html"
    summary = pathlib.Path(option("results"), "metrics", option("profile"))
    (summary / "plots").mkdir(parents=True, exist_ok=True)
    (summary / "metrics.json").write_text('{{"face-generation": {{"composable": {{"fid": 12.5}}}}}}')
    (summary / "plots/fid.csv").write_text("row,value,low,high,n\\nface-generation/composable,12.5,11,14,128\\n")
elif "--reference" in rest:
    target = place() / "reference" / "features.npz"
else:
    target = pathlib.Path(option("stamp"))
target.parent.mkdir(parents=True, exist_ok=True)
if verb == "generate" and pathlib.Path("die").exists():
    (target.parent.parent / "shard").write_text("kept")
    sys.exit(137)
made = [ast.dump(ast.parse(p.read_text())) for p in pathlib.Path("methods").glob("*.py")] if verb == "generate" else []
target.write_text("1" if verb == "keys" else str([sys.argv[1:], made]))
"""

SUITES = ("face-generation", "coco-mig", "mask-from-image", "restoration-5", "restoration-10")

Repro = Callable[[], list[str]]


@pytest.fixture(scope="module")
def matrix() -> dict[str, Any]:
    """What `concord plan` finds for every suite, made once."""
    return make_matrix(load_suites(), load_settings(), profile="embedded", size="default")


@pytest.fixture
def project(tmp_path: Path, matrix: dict[str, Any]) -> Path:
    """A copy of what dvc.yaml stands on, weights left out, with the stand-in on its PATH."""
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in SOURCES:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    (tmp_path / "data/weights/embedded").mkdir(parents=True, exist_ok=True)
    (tmp_path / "data/weights/embedded/faces-features-judge.safetensors").write_bytes(b"0")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text(
        "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"
    )
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/concord").write_text(STAND_IN.format(python=sys.executable))
    (tmp_path / "bin/concord").chmod(0o755)
    write_matrix(matrix, tmp_path / "benchmarks/matrix.yaml")
    return tmp_path


@pytest.fixture
def repro(project: Path) -> Repro:
    """Runs `dvc repro` and gives the commands that it started."""
    environment = os.environ | {
        "PATH": f"{project / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "DVC_SITE_CACHE_DIR": str(project / "site"),
        "DVC_NO_ANALYTICS": "1",
    }

    def call() -> list[str]:
        (project / "log.txt").unlink(missing_ok=True)
        result = subprocess.run(
            [sys.executable, "-m", "dvc", "repro"], cwd=project, env=environment, capture_output=True, text=True
        )
        assert result.returncode == 0 or (project / "die").exists(), result.stdout + result.stderr
        return (project / "log.txt").read_text().splitlines() if (project / "log.txt").exists() else []

    return call


def test_what_the_stages_depend_on_is_in_the_repo() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for stage in stages.values():
        for path in stage.get("do", stage).get("deps", []):
            assert "${" in path or path.startswith("data/weights/") or (ROOT / path).exists(), path


def test_stages_are_few_enough(matrix: dict[str, Any]) -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    groups = {"generate", "score", "trees", "fetch", "fetched"}
    assert len(stages.keys() - groups) + len(matrix["trees"]) == AROUND
    assert 2 * len(matrix["suites"]) + AROUND <= STAGES
    assert matrix["fetch"] == matrix["fetched"] == {}  # profile 'embedded' fetches nothing


def test_matrix_is_ignored_by_git() -> None:
    assert f"/{MATRIX.relative_to(ROOT)}" in (ROOT / ".gitignore").read_text().split()


@pytest.mark.slow
def test_only_what_changed_runs_again(project: Path, repro: Repro, matrix: dict[str, Any]) -> None:
    """With five of the suites; `test_stages_are_few_enough` counts those of all."""
    few = {name: matrix["suites"][name] for name in SUITES}
    write_matrix({**matrix, "suites": few}, project / "benchmarks/matrix.yaml")
    first = repro()
    suites = [line.split()[1] for line in first if line.startswith("generate")]
    assert sorted(suites) == sorted(SUITES)
    assert first[-1] == "report"
    assert len(first) == 2 * len(suites) + AROUND

    # A trial beside the benchmark's own results, a lock file, compiled Python, a comment: nothing to DVC, but it is
    # always looked whether the code has changed.
    (project / "results/embedded/limit-4").mkdir()
    (project / "results/embedded/stages/.lock").write_text("1")
    (project / "methods/core/__pycache__").mkdir()
    (project / "methods/core/__pycache__/x.pyc").write_bytes(b"1")
    with (project / "methods/sdedit.py").open("a") as file:
        file.write("# a comment\n")
    assert repro() == ["keys"]
    using = [name for name in SUITES if "method: sdedit" in (ROOT / f"benchmarks/suites/{name}.yaml").read_text()]
    assert using == ["restoration-5", "restoration-10"]
    with (project / "methods/sdedit.py").open("a") as file:
        file.write("CHANGED = True\n")
    again = repro()
    assert [line.split()[1] for line in again if line.startswith("generate")] == sorted(using, key=suites.index)
    assert [line.split()[1] for line in again if line.startswith("score")] == sorted(using, key=suites.index)
    assert again[-1] == "report"

    with (project / "reports/tables/table.py").open("a") as file:
        file.write("# changed\n")
    assert repro() == ["keys", "report"]


@pytest.mark.slow
def test_a_stage_that_died_finds_its_work_again(project: Path, repro: Repro, matrix: dict[str, Any]) -> None:
    two = dict(list(matrix["suites"].items())[:2])
    write_matrix({**matrix, "suites": two}, project / "benchmarks/matrix.yaml")
    (project / "die").touch()
    repro()
    shards = list(project.glob("results/embedded/shard"))
    assert len(shards) == 1
    (project / "die").unlink()
    assert repro()
    assert shards[0].read_text() == "kept"


@pytest.mark.slow
def test_dvc_shows_metrics_and_plots_and_compares_commits(project: Path) -> None:
    """Of the outputs as they are, and of the committed baseline between a commit and the working tree."""

    def call(*command: str) -> str:
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def baseline(value: float) -> None:
        write_json(
            project / "reports/baseline/embedded/metrics.json", {"face-generation": {"composable": {"fid": value}}}
        )

    environment = os.environ | {
        "DVC_SITE_CACHE_DIR": str(project / "site"),
        "DVC_NO_ANALYTICS": "1",
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    baseline(12.0)
    call(str(project / "bin/concord"), "report", "--results", "results", "--profile", "embedded")
    dvc = (sys.executable, "-m", "dvc")
    (project / ".dvc/config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    call("git", "init", "-q")
    (project / ".gitignore").write_text("/results/\n/datasets/\n/bin/\n/site/\n/.dvc/tmp/\n/.dvc/cache/\n")
    call("git", "add", "-A")
    call("git", "commit", "-q", "-m", "first")

    shown = json.loads(call(*dvc, "metrics", "show", "--json"))[""]["data"]
    assert shown["results/metrics/embedded/metrics.json"]["data"]["face-generation"]["composable"]["fid"] == 12.5
    assert shown["reports/baseline/embedded/metrics.json"]["data"]["face-generation"]["composable"]["fid"] == 12.0

    baseline(13.0)
    changes = json.loads(call(*dvc, "metrics", "diff", "HEAD", "--json"))
    change = changes["reports/baseline/embedded/metrics.json"]["face-generation.composable.fid"]
    assert (change["old"], change["new"], change["diff"]) == (12.0, 13.0, 1.0)

    call(*dvc, "plots", "show", "--out", "drawn")
    page = (project / "drawn/index.html").read_text()
    assert "fid.csv" in page
    assert "face-generation/composable" in page

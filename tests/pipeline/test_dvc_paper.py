"""dvc.yaml in profile 'paper', with a stand-in for `concord`: what is fetched, what is frozen, what dvc.lock keeps."""

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

from concord.benchmarks import generators
from concord.benchmarks.dvc import ENDS, STAGES, make_matrix, write_matrix
from concord.benchmarks.settings import load_settings
from concord.benchmarks.suite import load_suites

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = """#!{python}
import json, pathlib, sys
verb, rest = sys.argv[1], sys.argv[2:]
option = lambda name: rest[rest.index("--" + name) + 1]
place = lambda: pathlib.Path(option("results"), option("profile"))
with open("log.txt", "a") as log:
    print(verb, *rest[: 2 if verb in ("data", "weights") else 0], file=log)
content = json.dumps(rest)
if "--note" in rest:
    target = pathlib.Path(option("note"))
elif verb == "data":
    target = pathlib.Path("cache/data/celebamask-hq/prepared/prepared.json")
    (target.parent).mkdir(parents=True, exist_ok=True)
    (target.parent / "captions.json").write_text("captions")
elif verb == "keys":
    for suite in pathlib.Path("benchmarks/suites").glob("*.yaml"):
        for name in ("generate", "score"):
            path = place() / "keys" / f"{{name}}-{{suite.stem}}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("1")
    target = place() / "keys" / "reference.json"
elif verb == "report":
    target = place() / "report" / "index.html"
    summary = pathlib.Path(option("results"), "metrics", option("profile"))
    (summary / "plots").mkdir(parents=True, exist_ok=True)
    (summary / "metrics.json").write_text("1")
    (summary / "plots/fid.csv").write_text("row,value")
elif "--reference" in rest:
    target = place() / "reference" / "features.npz"
else:
    target = pathlib.Path(option("stamp"))
target.parent.mkdir(parents=True, exist_ok=True)
target.write_text(content)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONCORD_CACHE", str(tmp_path / "cache"))
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("benchmarks", "data", "methods", "metrics", "reports", "concord"):
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
    return tmp_path


def matrix(project: Path, suites: list[str] | None = None) -> dict[str, Any]:
    chosen = [suite for suite in load_suites() if suites is None or suite.name in suites]
    found = make_matrix(chosen, load_settings(), profile="paper", size="default")
    write_matrix(found, project / "benchmarks/matrix.yaml")
    return found


def repro(project: Path) -> list[str]:
    (project / "log.txt").unlink(missing_ok=True)
    environment = os.environ | {
        "PATH": f"{project / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "DVC_SITE_CACHE_DIR": str(project / "site"),
        "DVC_NO_ANALYTICS": "1",
    }
    command = [sys.executable, "-m", "dvc", "repro"]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return (project / "log.txt").read_text().splitlines() if (project / "log.txt").exists() else []


def test_stages_are_few_enough_and_the_data_come_first(project: Path) -> None:
    found = matrix(project)
    stages = 2 * len(found["suites"]) + len(found["trees"]) + len(found["fetch"]) + len(found["fetched"]) + ENDS
    assert stages <= STAGES
    assert found["fetched"] == {}
    named = " ".join(stage["names"] for stage in found["fetch"].values()).split()
    assert {"celebamask-hq", "collab-captions", "celeba-hq-ddpm", "stable-diffusion-v1-4", "bisenet"} <= set(named)
    assert len(named) == len(set(named))
    assert found["trees"]["prepared"]["cmd"] == "concord data prepare celebamask-hq"


def test_too_many_names_share_stages(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from concord.benchmarks import dvc as module

    found = matrix(project)
    single = {n for stage in found["fetch"].values() for n in stage["names"].split()}
    monkeypatch.setattr(module, "STAGES", 2 * len(found["suites"]) + len(found["trees"]) + ENDS + 4)
    merged = matrix(project)["fetch"]
    assert set(merged) == {"datasets", "generators", "guides", "judges"}
    assert {n for stage in merged.values() for n in stage["names"].split()} == single


def test_what_was_fetched_by_hand_gets_its_note_before_it_is_frozen(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `concord fetch --for paper` all files are here and no stage has run: a frozen one would lack its output."""
    monkeypatch.chdir(project)
    monkeypatch.setattr(generators, "lacking", lambda names, profile: {})
    found = matrix(project, ["face-generation"])
    assert found["fetched"] == {}
    noted, *others = found["fetch"].values()
    Path(noted["note"]).parent.mkdir(parents=True)
    Path(noted["note"]).write_text("{}")
    again = matrix(project, ["face-generation"])
    assert list(again["fetched"].values()) == [noted]
    assert list(again["fetch"].values()) == others


@pytest.mark.slow
def test_what_is_here_is_frozen_and_kept_in_the_lock(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)  # where the notes of the fetches lie
    found = matrix(project, ["face-generation"])
    first = repro(project)
    fetches = [line for line in first if " fetch" in line]
    assert len(fetches) == len(found["fetch"])
    prepared = first.index("data prepare celebamask-hq")
    assert all(first.index(line) < prepared for line in fetches)
    assert first[-1] == "report"
    assert repro(project) == ["keys"]

    lock: Callable[[], dict[str, Any]] = lambda: yaml.safe_load((project / "dvc.lock").read_text())["stages"]  # noqa: E731
    assert {f"fetch@{name}" for name in found["fetch"]} <= set(lock())

    monkeypatch.setattr(generators, "lacking", lambda names, profile: {})  # everything is here and verified now
    again = matrix(project, ["face-generation"])
    assert again["fetch"] == {}
    assert set(again["fetched"]) == set(found["fetch"])
    assert not [line for line in repro(project) if " fetch" in line]
    entry = lock()["fetched@celebamask-hq"]["outs"][0]
    assert entry["path"].endswith("celebamask-hq.json")
    assert len(entry["md5"]) == 32
    note = project / again["fetched"]["celebamask-hq"]["note"]
    assert json.loads(note.read_text())[0] == "fetch"

"""The package as others install it: a wheel, unpacked outside the checkout, runs with the weights and suites in it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("concord-*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "site")
    return folder / "site"


def run(site: Path, folder: Path, *arguments: object) -> str:
    """`python -m concord` of the wheel, in a folder of its own, with a cache of its own."""
    environment = {**os.environ, "PYTHONPATH": str(site), "XDG_CACHE_HOME": str(folder / "cache")}
    environment.pop("CONCORD_CACHE", None)
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def files(site: Path) -> set[Path]:
    return {path for path in site.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def test_the_wheel_holds_the_package_once_and_no_test(site: Path) -> None:
    names = {path.relative_to(site).parts[0] for path in files(site)}
    assert names == {"concord", next(name for name in names if name.endswith(".dist-info"))}
    held = {path.relative_to(site / "concord").parts[0] for path in files(site) if "concord" in path.parts}
    assert {"data", "metrics", "methods", "benchmarks", "reports", "params.yaml", "py.typed"} <= held
    assert list(site.rglob("*.safetensors"))
    assert list((site / "concord/benchmarks/suites").glob("*.yaml"))


def test_it_runs_outside_the_checkout_and_leaves_itself_alone(site: Path, toy_tree: Path, tmp_path: Path) -> None:
    before = files(site)
    where = run(site, tmp_path, "-c", "import concord; print(concord.__file__)").strip()
    assert Path(where) == site / "concord/__init__.py"
    few = ("--data", toy_tree, "--limit", 2)
    said = run(
        site, tmp_path, "-m", "concord", "run", "face-generation", *few, "--methods", "composable", "--set", "steps=1"
    )
    assert "composable+steps=1" in said
    assert list((tmp_path / "results/embedded").glob("*/report/face-generation.html"))
    assert "face-generation" in run(site, tmp_path, "-m", "concord", "list")
    code = "import concord; print(len(concord.results('face-generation', data_set='tree').samples))"
    assert int(run(site, tmp_path, "-c", code)) > 0
    assert files(site) == before

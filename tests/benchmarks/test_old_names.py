"""Plugins beside folders that are called as Concord's are: whose `data` is imported, and old names of Concord's."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from concord.benchmarks.settings import ROOT
from concord.data.code import imports
from concord.methods.old_names import FOLDERS, moved, today

RUN = """
import sys
from concord.methods.plugins import load_plugin
from concord.methods.base import Request, registered, Conditions
(name,) = load_plugin(sys.argv[1])
method = registered()[name]
print(method.conditions, method.told)
import concord.data.request
assert isinstance(Request("a", 1, Conditions(text="x")), concord.data.request.Request)
twice = [n for n in sys.modules if n.split(".")[0] in ("data", "metrics", "methods", "benchmarks", "reports")
         and getattr(sys.modules[n], "__file__", None) and "concord." + n in sys.modules
         and sys.modules[n] is not sys.modules["concord." + n]
         and sys.modules[n].__file__ == sys.modules["concord." + n].__file__]
assert not twice, twice
"""
NEW = """
from concord.methods.base import Method, register
{imports}

@register
class Mine(Method):
    "A plugin."
    name, title, paper, conditions, training_free = "mine", "Mine", "none", frozenset({{"text"}}), True
    told = {told}

    def sample(self, batch, trace):
        return None
"""
OLD = NEW.replace("from concord.methods.base import", "from methods.base import")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an installed wheel."""
    out = tmp_path_factory.mktemp("wheel")
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "build", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", str(out)]
    done = subprocess.run([*command, str(ROOT)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(out / "site")
    assert not (out / "site" / "data").exists(), "the wheel has one top-level package, concord"
    return out / "site"


@pytest.fixture(params=["checkout", pytest.param("wheel", marks=pytest.mark.slow)])
def path(request: pytest.FixtureRequest) -> str:
    """What PYTHONPATH has to hold, so that the one Concord or the other is imported."""
    return str(ROOT) if request.param == "checkout" else str(request.getfixturevalue("wheel"))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A user's repository, with folders of the very names of Concord's, each with code of his own."""
    root = tmp_path / "theirs"
    for name in FOLDERS:
        (root / name).mkdir(parents=True)
        (root / name / "__init__.py").write_text(f"WHO = 'their {name}'\n")
        (root / name / "loader.py").write_text(f"X = 'their {name}.loader'\n")
    (root / "beside.py").write_text("Y = 'beside'\n")
    return root


def run(plugin: Path, folder: Path, path: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-c", RUN, str(plugin)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("place", ["repository", pytest.param("elsewhere", marks=pytest.mark.long), "checkout"])
def test_a_users_own_folders_are_his(repository: Path, path: str, place: str, tmp_path: Path) -> None:
    names = "\n".join(f"import {name}.loader" for name in FOLDERS)
    told = f"[{', '.join(f'{name}.WHO, {name}.loader.X' for name in FOLDERS)}, beside.Y]"
    (repository / "mine.py").write_text(NEW.format(imports=f"{names}\nimport beside", told=told))
    if place == "checkout" and path == str(ROOT):
        path = ""  # as one who runs from the checkout itself
    folder = {"repository": repository, "elsewhere": tmp_path, "checkout": ROOT}[place]
    done = run(repository / "mine.py", folder, path)
    assert done.returncode == 0, done.stderr
    for name in FOLDERS:
        assert f"'their {name}', 'their {name}.loader'" in done.stdout
    assert "'beside'" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("place", ["repository", pytest.param("checkout", marks=pytest.mark.long)])
def test_old_names_work_with_one_warning(path: str, place: str, tmp_path: Path) -> None:
    old = (
        "import data, metrics.fid\nfrom data.requests import Conditions as C\nfrom methods.core.noise import draw_noise"
    )
    told = "[C.__module__, data.__name__, metrics.fid.__name__, draw_noise.__module__]"
    (tmp_path / "mine.py").write_text(OLD.format(imports=old, told=told))
    done = run(tmp_path / "mine.py", tmp_path if place == "repository" else ROOT, path)
    assert done.returncode == 0, done.stderr
    assert "'concord.data', 'concord.metrics.distribution.fid', 'concord.methods.core.noise'" in done.stdout
    (line,) = done.stderr.splitlines()
    assert (
        line
        == f"warning: plugin {tmp_path / 'mine.py'} imports 'methods.base', an old name; write 'concord.methods.base'"
    )


def test_a_folder_of_images_is_no_package(path: str, tmp_path: Path) -> None:
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "images" / "1.png").write_bytes(b"")
    (tmp_path / "mine.py").write_text(OLD.format(imports="from data.request import Request", told="[1]"))
    done = run(tmp_path / "mine.py", tmp_path, path)
    assert done.returncode == 0, done.stderr


def test_a_name_that_neither_has_is_one_line(repository: Path) -> None:
    (repository / "mine.py").write_text(OLD.format(imports="", told="[1]"))
    done = run(repository / "mine.py", repository, str(ROOT))
    assert done.returncode == 1
    assert f"--plugin {repository / 'mine.py'}: ModuleNotFoundError: No module named 'methods.base'" in done.stderr


def test_every_old_name_leads_somewhere() -> None:
    gone = {old: new for old, new in moved().items() if new not in imports()}
    assert gone == {}, "a module has moved: write its new place into methods/old_names.yaml"
    assert today("data.faces") != "concord.data.faces"
    assert today("methods.base") == "concord.methods.base"
    assert {name.split(".")[0] for name in moved()} <= set(FOLDERS)

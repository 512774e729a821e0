"""Keys: which parts differ, in words; what a plugin stands on; why a run is made again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import toy_world

from concord.benchmarks.image_sources import open_image_source
from concord.benchmarks.plan.keys import differences, digest
from concord.benchmarks.plan.requests import Options
from concord.benchmarks.plan.runs import Plan, RunPlan
from concord.benchmarks.plan.sources import Sources, changed_files, method_sources
from concord.benchmarks.planner import make_plan
from concord.benchmarks.run.generate import generate_run, is_current, run_status, stale_reasons
from concord.benchmarks.settings import load_settings
from concord.benchmarks.store.digests import record
from concord.benchmarks.suite import load_suite
from concord.data.errors import ConcordError
from concord.data.files import read_json, write_json
from concord.methods import base, plugins

# ---------------------------------------------------------------------------------------------------------- differences


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ({"params": {"steps": 50}}, {"params": {"steps": 12}}, ["parameter steps 50 -> 12"]),
        (
            {"params": {"strengths": {"text": 1.0}}},
            {"params": {"strengths": {"text": 2.0, "mask": 1}}},
            ["parameter strengths.mask none -> 1", "parameter strengths.text 1.0 -> 2.0"],
        ),
        ({"versions": {"torch": "2.1"}}, {"versions": {"torch": "2.2"}}, ["torch 2.1 -> 2.2"]),
        (
            {"code": {"concord.methods.freedom": "a", "mine.py": "b"}},
            {"code": {"concord.methods.freedom": "c", "mine.py": "d"}},
            ["code of methods/freedom.py changed", "code of mine.py changed"],
        ),
        ({"code": {"concord.data.a": "1"}}, {"code": {}}, ["code of data/a.py is no longer used"]),
        ({"code": {}}, {"code": {"concord.data.a": "1"}}, ["code of data/a.py is new"]),
        ({"files": {"w.pt": "1"}}, {"files": {"w.pt": "2"}}, ["file w.pt changed"]),
        ({"metrics": {"fid": "version 1"}}, {"metrics": {"fid": "version 2"}}, ["metric fid version 1 -> version 2"]),
        ({"data": "a", "n": 8}, {"data": "b", "n": 9}, ["the data changed", "n 8 -> 9"]),
        ({"image_size": 64}, {"image_size": 128}, ["image size 64 -> 128"]),
        (
            {"networks": {"space": {"loader": "a:f"}}},
            {"networks": {"space": {"loader": "b:f"}}},
            ["networks space.loader a:f -> b:f"],
        ),
        ({"conditions": ["text"]}, {"conditions": ["text", "mask"]}, ['conditions ["text"] -> ["text", "mask"]']),
        ({"conditions": ("text",), "x": 1}, {"x": 1, "conditions": ["text"]}, []),
    ],
)
def test_what_differs_is_named(old: dict[str, object], new: dict[str, object], said: list[str]) -> None:
    assert differences(old, new) == said
    assert (digest(old) == digest(new)) == (said == [])


def test_many_files_are_counted() -> None:
    old = {"code": {f"concord.data.f{i}": "1" for i in range(9)}}
    new = {"code": {f"concord.data.f{i}": "2" for i in range(9)}}
    said = differences(old, new)
    assert said[:3] == [f"code of data/f{i}.py changed" for i in range(3)]
    assert said[3:] == ["and 6 more"]


# ------------------------------------------------------------------------------------------------------------- reasons


@pytest.fixture
def plan(toy: str, toy_suite: Path, toy_tree: Path, tmp_path: Path) -> Plan:
    return open_plan(toy_suite, toy_tree, tmp_path / "results")


def open_plan(suite: Path, tree: Path, results: Path) -> Plan:
    return make_plan(load_suite(str(suite)), load_settings(), Options(data=tree, limit=8, results=results))


def make(run: RunPlan) -> None:
    generate_run(run, partial(open_image_source, run, "cpu"), 8)


def store(folder: Path, manifest: dict[str, Any]) -> None:
    write_json(folder / "run.json", manifest)
    record(folder, ["run.json"])


def test_a_run_says_why_it_is_to_be_made(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    run = plan.run("toy")
    assert stale_reasons(run) == ["not made yet"]
    make(run)
    assert stale_reasons(run) == []
    changed = replace(run, params={**run.params, "steps": 3})
    assert stale_reasons(changed) == ["parameter steps 2 -> 3"]
    assert run_status(changed).reasons == ("parameter steps 2 -> 3",)
    found = stale_reasons(replace(run, sources=run.sources | Sources(alone=frozenset(["concord.benchmarks.tune"]))))
    assert found == ["code of benchmarks/tune.py is new"]
    manifest = read_json(run.path / "run.json")
    store(run.path, {**manifest, "key": "0", "key_parts": {**manifest["key_parts"], "n": 1}})
    assert stale_reasons(run) == [f"n 1 -> {len(run.requests)}"]
    store(run.path, {name: value for name, value in manifest.items() if "key" not in name})
    assert stale_reasons(run) == ["made by a version of Concord that did not keep what its images follow from"]
    store(run.path, manifest)
    (run.path / "images/00000.tar").write_bytes(b"")
    assert stale_reasons(run) == ["shard 0 is missing or damaged"]


# ------------------------------------------------------------------------------------------------------------- plugins

PLUGIN = '''
from pathlib import Path
import torch
from concord.methods.base import Method, register
{top}

@register
class Mine(Method):
    """Grey."""
    name, title, paper = "mine", "Mine", "none"
    conditions = frozenset({{"text", "mask"}})
    training_free = True
    {facts}

    def sample(self, batch, trace):
        {inner}
        return torch.full((len(batch), 3, 64, 64), {value})
'''


@pytest.fixture
def registry() -> Iterator[None]:
    before, path, modules = dict(base.all_methods()), list(sys.path), set(sys.modules)
    yield
    base.registered().clear()
    base.registered().update(before)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if not name.startswith("concord."):
            del sys.modules[name]
    plugins._PLUGINS.clear()


def plugin(folder: Path, top: str = "", facts: str = "", inner: str = "pass", value: str = "0.5") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mine.py"
    path.write_text(PLUGIN.format(top=top, facts=facts, inner=inner, value=value))
    return path


def sources_of(path: Path) -> Sources:
    (name,) = plugins.load_plugin(path)
    return method_sources(base.get_method(name))


def planned(path: Path, toy_tree: Path, folder: Path) -> Plan:
    plugins.load_plugin(path)
    suite = toy_world.write_suite(folder)
    suite.write_text(suite.read_text().replace("{name: toy, method: toy}", "{name: mine, method: mine}"))
    return open_plan(suite, toy_tree, folder / "results")


def test_modules_behind_modules_of_a_plugin(registry: None, tmp_path: Path) -> None:
    (tmp_path / "keys_helper.py").write_text("import importlib\nX = importlib.import_module('keys_hidden').X\n")
    (tmp_path / "keys_hidden.py").write_text("from keys_last import X\n")
    (tmp_path / "keys_last.py").write_text("X = 0.5\n")
    (tmp_path / "keys_lazy.py").write_text("Y = 1\n")
    found = sources_of(plugin(tmp_path, "from keys_helper import X", inner="import keys_lazy", value="X"))
    assert {"mine.py", "keys_helper.py", "keys_hidden.py", "keys_last.py", "keys_lazy.py"} <= set(found.code)
    assert "concord.methods.base" in found.code


def test_declared_files_are_part_of_the_key(registry: None, tmp_path: Path) -> None:
    path = plugin(tmp_path, facts='files = ("w.bin",)')
    with pytest.raises(ConcordError, match=r"method 'mine' declares file 'w\.bin', which is not at .*put it there, or"):
        sources_of(path)
    (tmp_path / "w.bin").write_bytes(b"1")
    before = sources_of(path).data
    (tmp_path / "w.bin").write_bytes(b"2")
    assert list(before) == ["w.bin"]
    assert sources_of(path).data != before


def test_a_file_named_in_the_code_needs_no_declaring(registry: None, tmp_path: Path) -> None:
    """As `safe_open(here / "w.safetensors")`, which no hook of Python sees."""
    (tmp_path / "w.safetensors").write_bytes(b"1")
    found = sources_of(plugin(tmp_path, inner='name = "w.safetensors"'))
    assert list(found.data) == ["w.safetensors"]


def test_a_file_that_is_read_while_the_plugin_loads_is_part_of_the_key(registry: None, tmp_path: Path) -> None:
    (tmp_path / "w-1.bin").write_bytes(b"1")
    found = sources_of(plugin(tmp_path, 'X = (Path(__file__).parent / ("w-1" + ".bin")).read_bytes()'))
    assert [Path(name).name for name in found.data] == ["w-1.bin"]


def test_a_file_that_is_read_while_images_are_made_is_recorded(registry: None, toy_tree: Path, tmp_path: Path) -> None:
    """The reviewers' plugin reads weights that it does not declare: other weights, other images."""
    folder = tmp_path / "theirs"
    weights = folder / "weights" / "w.bin"
    inner = 'level = float((Path(__file__).parent / "weights" / ("w" + ".bin")).read_text())'
    path = plugin(folder, inner=inner, value="level")
    weights.parent.mkdir()
    weights.write_text("0.25")
    run = planned(path, toy_tree, tmp_path).run("mine")
    assert run.sources.data == {}
    make(run)
    assert is_current(run)
    recorded = read_json(run.path / "images/00000.json")
    assert list(recorded["files"]) == [str(weights)]
    images = recorded["sha256"]
    weights.write_text("0.75")
    assert changed_files(recorded["files"]) == [str(weights)]
    assert stale_reasons(run) == [f"file {weights} changed"]
    make(run)
    assert read_json(run.path / "images/00000.json")["sha256"] != images
    assert is_current(run)
    weights.unlink()
    assert stale_reasons(run) == [f"file {weights} changed"]


def test_a_file_that_the_plugin_wrote_itself_is_none_that_it_follows_from(
    registry: None, toy_tree: Path, tmp_path: Path
) -> None:
    inner = 'place = Path(__file__).parent / "cache"; place.write_text("1"); place.read_text()'
    run = planned(plugin(tmp_path / "theirs", inner=inner), toy_tree, tmp_path).run("mine")
    make(run)
    assert read_json(run.path / "images/00000.json")["files"] == {}


def test_a_methods_own_run_records_no_files(plan: Plan) -> None:
    run = plan.run("ground-truth")
    make(run)
    assert read_json(run.path / "images/00000.json")["files"] == {}


def test_two_plugins_with_modules_of_one_name(registry: None, tmp_path: Path) -> None:
    for name in ("a", "b"):
        plugin(tmp_path / name, "import keys_twin")
        (tmp_path / name / "keys_twin.py").write_text(f"X = '{name}'\n")
    plugins.load_plugin(tmp_path / "a/mine.py")
    base.registered().pop("mine")
    with pytest.raises(ConcordError, match=r"imports 'keys_twin' of .*b/keys_twin\.py, but .* rename one of them"):
        plugins.load_plugin(tmp_path / "b/mine.py")


def test_an_edit_of_a_plugin_is_named(registry: None, toy_tree: Path, tmp_path: Path) -> None:
    path = plugin(tmp_path / "theirs")
    make(planned(path, toy_tree, tmp_path).run("mine"))
    plugin(tmp_path / "theirs", value="0.25")
    assert stale_reasons(planned(path, toy_tree, tmp_path).run("mine")) == ["code of mine.py changed"]

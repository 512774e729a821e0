"""Rows of methods outside Concord: they stay in the suite, their YAML is checked, the command line leads them in."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import outside
import pytest
import toy_world

from concord.benchmarks.external.method import Spec, external_runs, load_external
from concord.benchmarks.external.transfer import export_suite, import_folder
from concord.benchmarks.plan.requests import Options
from concord.benchmarks.plan.runs import Plan
from concord.benchmarks.planner import make_plan
from concord.benchmarks.run.generate import is_current, run_status
from concord.benchmarks.settings import load_settings
from concord.benchmarks.suite import load_suite, read_suite, related_suites
from concord.data.errors import ConcordError

N = 6


# ------------------------------------------------------------------------------------------------------- rows that stay


def test_later_plans_find_the_row(planned: Callable[..., Plan], answered: Path) -> None:
    run, _ = import_folder(planned(), answered, "mine")
    plan = planned()
    assert [found.row.name for found in plan.runs] == ["ground-truth", "shuffled", "mine"]
    found = plan.run("mine")
    assert (found.key, found.conditions) == (run.key, ("text", "mask"))
    assert run_status(found).state == "up to date"
    assert [r.row.name for r in plan.select(["mine"])] == ["ground-truth", "shuffled", "mine"]


def test_a_row_of_other_data_is_left_out_and_told(planned: Callable[..., Plan], suite: Path, tmp_path: Path) -> None:
    tree = toy_world.write_tree(tmp_path / "own", N)
    folder = tmp_path / "exchange"
    plan = planned(data=tree)
    export_suite(plan, folder, str(suite))
    outside.answer(folder / "requests.jsonl", folder)
    import_folder(plan, folder, "mine")
    path = tree / "captions_hq_beard_and_age_2022-08-19.json"
    path.write_text(path.read_text().replace("old person", "aged person"))
    later = make_plan(plan.suite, load_settings(), replace(plan.options, data=tree), related=plan.related)
    outside_runs, left = external_runs(plan.suite, later.requests, plan.root, "embedded")
    assert outside_runs == []
    assert "import it again" in left["mine"]


def test_a_method_that_is_registered_later_under_the_name(
    planned: Callable[..., Plan], answered: Path, suite: Path
) -> None:
    from concord.methods import base, plugins

    plan = planned()
    run, _ = import_folder(plan, answered, "toy")
    before = base.all_methods()
    plugins.load_plugin(toy_world.TOY)
    try:
        with pytest.raises(ConcordError, match="holds images of an external method named as the row 'toy'"):
            make_plan(load_suite(str(suite), extra=["toy"]), load_settings(), plan.options)
    finally:
        base._REGISTRY.methods.clear()
        base._REGISTRY.methods.update(before)
    assert is_current(run)


def test_a_command_never_replaces_an_import(planned: Callable[..., Plan], answered: Path, tmp_path: Path) -> None:
    plan = planned()
    run, _ = import_folder(plan, answered, "mine")
    yaml = tmp_path / "elsewhere" / "mine.yaml"
    yaml.parent.mkdir()
    yaml.write_text(json.dumps({**SPEC, "name": "mine"}))
    with pytest.raises(ConcordError, match="holds images that were imported; choose another name, or remove"):
        external_runs(plan.suite, plan.requests, plan.root, "embedded", [load_external(yaml)])
    sound = replace(load_external(yaml), name="sound", conditions=("identity",))
    with pytest.raises(ConcordError, match="'sound' takes identity; suite 'toys' gives text, mask: it needs at least"):
        external_runs(plan.suite, plan.requests, plan.root, "embedded", [sound])
    assert is_current(run)


def test_damaged_images_ask_for_another_import(planned: Callable[..., Plan], answered: Path) -> None:
    from concord.benchmarks.session import Session

    run, _ = import_folder(planned(), answered, "mine")
    (run.path / "images/00000.tar").write_bytes(b"damaged")
    plan = planned()
    session = Session(plan)
    assert session.generate([plan.run("mine")]) == []
    assert "'mine' are damaged or missing; import it again" in str(session.failed["mine"])


def test_a_method_file_beside_a_suite_is_no_suite(suite: Path) -> None:
    (suite.parent / "method.yaml").write_text(json.dumps({**SPEC}))
    assert [found.name for found in related_suites(str(suite))] == ["toys"]


# ------------------------------------------------------------------------------------------------------------- the YAML

SPEC = {"name": "theirs", "conditions": ["text", "mask"], "command": "run {requests} {output}"}

BAD_SPECS = {
    "unknown key": ({"comand": "x"}, "unknown key 'comand'; known keys: name, title, paper, citation, conditions, c"),
    "no command": ({"command": None}, "'command'"),
    "no output": ({"command": "run {requests}"}, "lacks the placeholder {output}"),
    "placeholder": ({"command": "run {requests} {output} {seed}"}, "unknown placeholder {seed}: expected {request"),
    "brace": ({"command": "run {requests} {output} ${"}, "a brace of the command's own is doubled"),
    "no conditions": ({"conditions": []}, "'conditions': "),
    "condition": ({"conditions": ["text", "sound"]}, "unknown condition 'sound': expected some of text, mask"),
    "name": ({"name": "a b"}, "'a b': expected letters"),
    "timeout": ({"timeout": 0}, "'timeout'"),
    "type": ({"timeout": "long"}, "'timeout'.*'long'"),
    "files": ({"files": ["absent.py"]}, "'files' names .*absent.py, which is not there"),
}


@pytest.mark.parametrize("kind", BAD_SPECS)
def test_a_wrong_yaml_is_one_line(kind: str, tmp_path: Path) -> None:
    changes, message = BAD_SPECS[kind]
    path = tmp_path / "theirs.yaml"
    path.write_text(json.dumps({**SPEC, **changes}))  # JSON is YAML
    with pytest.raises(ConcordError, match=message.replace("{", r"\{").replace("$", r"\$")) as error:
        load_external(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_yaml_key_follows_the_command_and_its_files(tmp_path: Path) -> None:
    path, code = tmp_path / "theirs.yaml", tmp_path / "code"
    code.mkdir()
    (code / "run.py").write_text("1")

    def digest(**changes: object) -> str:
        path.write_text(json.dumps({**SPEC, "files": ["code"], **changes}))
        return load_external(path).digest

    first = digest()
    assert digest(title="Another title", timeout=9) == first
    assert digest(command="run2 {requests} {output}") != first
    (code / "run.py").write_text("2")
    assert digest() != first
    assert Spec.model_validate(SPEC).files == []


# ------------------------------------------------------------------------------------------------- on the command line


def test_the_whole_way_of_a_folder(concord: Any, suite: Path, toy_tree: Path, tmp_path: Path) -> None:
    folder, results = tmp_path / "exchange", tmp_path / "results"
    done = concord("export", suite, folder, "--data", toy_tree, "--limit", N)
    assert done.exit_code == 0, done.output
    assert f"concord import {folder} --as NAME" in done.stdout
    outside.answer(folder / "requests.jsonl", folder)
    (folder / "result.json").write_text('{"seconds_per_image": 12.5, "peak_memory_bytes": 3221225472}')
    done = concord("import", folder, "--as", "mine", "--title", "My method", "--results", results)
    assert done.exit_code == 0, done.output
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("| My method (external)")]
    assert "| 12.50 | 3,072 | – |" in row
    assert "seconds per image declared, peak memory bytes declared" in done.stdout
    again = concord("run", suite, "--data", toy_tree, "--limit", N, "--results", results)
    assert again.exit_code == 0, again.output
    assert "everything is up to date" in again.stdout
    assert row in again.stdout.splitlines()
    report = concord("report", suite, "--data", toy_tree, "--limit", N, "--results", results)
    assert report.exit_code == 0, report.output
    assert row in report.stdout.splitlines()
    from concord.commands.run import _states

    found = read_suite(str(suite))
    states = _states(found, Options(data=toy_tree, limit=N, results=results), load_settings(), [found])  # concord plan
    assert [state[1:5] for state in states.values()][-1] == ("mine", str(N), "up to date", "up to date")

    shutil.copytree(next(results.glob("embedded/*/toys")), results / "embedded/toys")
    listed = concord("list", "--results", results)
    assert re.search(r"^mine +My method +text mask +external", listed.stdout, re.MULTILINE), listed.output

    (folder / "0-0.png").unlink()
    bad = concord("import", folder, "--as", "mine", "--results", results)
    assert bad.exit_code == 2
    assert "error: " in bad.stderr
    assert "1 of 6 images are missing, the first is '0-0.png'" in bad.stderr
    assert concord("import", folder, "--as", "x", "--size", "huge").exit_code == 2
    assert row in concord("report", suite, "--data", toy_tree, "--limit", N, "--results", results).stdout.splitlines()

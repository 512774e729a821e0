"""A command of the user's, run shard by shard in an environment of its own: it may fail in every way."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import outside
import pytest
import toy_world

from concord.benchmarks.external import command
from concord.benchmarks.external.method import external_runs, load_external
from concord.benchmarks.image_sources import open_image_source
from concord.benchmarks.plan.requests import make_request_set
from concord.benchmarks.plan.runs import RunPlan
from concord.benchmarks.run.generate import generate_run, is_current
from concord.benchmarks.store.run import Run
from concord.benchmarks.suite import read_suite
from concord.data.datasets.faces.open import open_faces
from concord.data.errors import ConcordError

N = 66  # two shards
SECOND = "64-0"  # the request that the second shard begins with
PROGRAM = f"{shlex.quote(sys.executable)} -I -S {shlex.quote(outside.__file__)}"  # an interpreter without any package
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_world.write_tree(tmp_path_factory.mktemp("command") / "tree", N)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Call it with what the program is to do wrong and with keys of the YAML; it writes theirs.yaml."""

    def yaml(fault: str = "", **keys: Any) -> Path:
        path = tmp_path / "theirs.yaml"
        spec = {
            "name": "theirs",
            "title": "Their method",
            "conditions": ["text", "mask"],
            "command": f"{PROGRAM} {{requests}} {{output}} {fault}".strip(),
        }
        path.write_text(json.dumps({**spec, **keys}))  # JSON is YAML
        return path

    return yaml


def planned(yaml: Path, tree: Path, n: int = N) -> RunPlan:
    """The run of the command over the toy tree, results beside its YAML; without a look at any method."""
    suite = read_suite(str(toy_world.write_suite(yaml.parent)))
    requests = make_request_set("toys", open_faces(tree), suite.conditions, 64, n)
    (run,), _ = external_runs(suite, requests, yaml.parent / "results", "embedded", [load_external(yaml)])
    return run


def generate(run: RunPlan) -> None:
    generate_run(run, partial(open_image_source, run), 64)


def calls(yaml: Path) -> list[str]:
    """The first request of each call of the program, in their order."""
    path = yaml.parent / "calls.txt"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.is_file() else []


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ------------------------------------------------------------------------------------------------------------- it works


def test_every_shard_is_a_call_and_every_image_its_answer(write: Write, tree: Path) -> None:
    yaml = write()
    run = planned(yaml, tree)
    generate(run)
    assert is_current(run)
    assert calls(yaml) == ["0-0", SECOND]
    kept = Run(run.path)
    for (name, image), planned_one in zip(kept.images(), run.requests.requests, strict=True):
        colour = outside.colour_of(planned_one.seed, planned_one.item.text or "")
        assert name == planned_one.id
        np.testing.assert_array_equal(image[:, 32:], np.broadcast_to(np.frombuffer(colour, np.uint8), (64, 32, 3)))
    manifest = kept.manifest
    assert manifest["external"]["costs"]["seconds_per_image"] == "measured"
    assert 0 < manifest["seconds_per_image"] < manifest["seconds_total"] / N
    assert manifest["external"]["origin"]["command"].startswith(PROGRAM)
    assert not (run.path / "external").exists(), "nothing of the exchange is left"


def test_declared_costs_come_before_measured_ones(write: Write, tree: Path) -> None:
    run = planned(write("declare"), tree, 4)
    generate(run)
    manifest = Run(run.path).manifest
    assert (manifest["seconds_per_image"], manifest["peak_memory_bytes"]) == (1.5, 2**20)
    assert set(manifest["external"]["costs"].values()) == {"declared"}


def test_memory_is_that_of_the_command_and_its_children(tmp_path: Path) -> None:
    """100 MB of a grandchild are seen, and none of this process's own."""
    size = 100 << 20
    code = f"import time; held = bytearray({size}); time.sleep(1)"
    yaml = tmp_path / "hungry.yaml"
    inner = shlex.quote(f"{shlex.quote(sys.executable)} -I -S -c {shlex.quote(code)}; exit $?")
    yaml.write_text(
        json.dumps({"name": "hungry", "conditions": ["text"], "command": f"sh -c {inner} {{requests}} {{output}}"})
    )
    spec = load_external(yaml).spec
    assert spec is not None
    code_of_exit, memory = command._run(spec, spec.command.format(requests="", output=""), tmp_path, tmp_path)
    assert code_of_exit == 0
    assert size < memory < size + (64 << 20)


def test_an_environment_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(toy_world.ROOT))
    monkeypatch.setenv("VIRTUAL_ENV", "x")
    monkeypatch.setenv("CONCORD_WARM", "x")
    monkeypatch.setenv("THEIR_TOKEN", "kept")
    yaml = tmp_path / "spy.yaml"
    spy = "env > seen.txt; pwd > place.txt; : {requests} {output}"
    yaml.write_text(json.dumps({"name": "spy", "conditions": ["text"], "command": spy}))
    spec = load_external(yaml).spec
    assert spec is not None
    work = tmp_path / "work"
    work.mkdir()
    assert command._run(spec, spec.command.format(requests="a", output="b"), tmp_path, work)[0] == 0
    seen = dict(line.split("=", 1) for line in (tmp_path / "seen.txt").read_text().splitlines() if "=" in line)
    assert not {"PYTHONPATH", "VIRTUAL_ENV", "CONCORD_WARM"} & set(seen)
    assert (seen["THEIR_TOKEN"], seen["CONCORD_EXCHANGE"]) == ("kept", str(work))
    assert Path((tmp_path / "place.txt").read_text().strip()) == tmp_path, "the YAML's folder"


def test_paths_with_blanks_and_quotes(tmp_path: Path, tree: Path) -> None:
    folder = tmp_path / "a b 'c' $HOME"
    folder.mkdir()
    yaml = folder / "theirs.yaml"
    spec = {"name": "theirs", "conditions": ["text"], "command": f"{PROGRAM} {{requests}} {{output}}"}
    yaml.write_text(json.dumps(spec))
    run = planned(yaml, tree, 3)
    generate(run)
    assert is_current(run)
    assert run.conditions == ("text",), "it is given what it takes"


def test_another_command_asks_for_new_images(write: Write, tree: Path) -> None:
    run = planned(write(), tree, 3)
    generate(run)
    assert not is_current(planned(write("declare"), tree, 3))
    assert is_current(planned(write(title="Another title"), tree, 3))
    suite, root = read_suite(str(run.path.parents[2] / "toys.yaml")), run.path.parents[1]
    kept, _ = external_runs(suite, run.requests, root, "embedded")
    assert [found.row.name for found in kept] == ["theirs"], "the store knows it without its YAML"
    assert is_current(kept[0])


# ---------------------------------------------------------------------------------------------------------- it does not

FAILURES = {
    "fail": r"external method 'theirs': the command ended with exit code 3: CUDA out of memory, as they say; what it",
    "silent": r"the command ended with exit code 134 \(SIGABRT\): .*; what it wrote is in .*theirs/external",
    "lacking": r"the command ended well, but .*1 of 64 images are missing, the first is '.*png'",
    "small": r"the command ended well, but .*0-0.png: has 32x32 pixels \(and 63 more\); expected 64x64",
}


@pytest.mark.parametrize("fault", FAILURES)
def test_what_goes_wrong_is_one_line(fault: str, write: Write, tree: Path) -> None:
    run = planned(write(fault), tree)
    with pytest.raises(ConcordError, match=FAILURES[fault]) as error:
        generate(run)
    assert "\n" not in str(error.value)
    assert "\x1b" not in str(error.value)
    assert not Run(run.path).finished
    kept = Path(str(error.value).rpartition(" ")[2])
    assert (kept / "requests" / "requests.jsonl").is_file(), "what the user needs to find the mistake"
    with pytest.raises(ConcordError):
        generate(run)
    assert not kept.exists(), "the next call clears it"


def test_a_command_that_is_not_there(tmp_path: Path, tree: Path) -> None:
    yaml = tmp_path / "theirs.yaml"
    spec = {"name": "theirs", "conditions": ["text"], "command": "no-such-program {requests} {output}"}
    yaml.write_text(json.dumps(spec))
    with pytest.raises(ConcordError, match=r"ended with exit code 127: .*no-such-program: (command )?not found"):
        generate(planned(yaml, tree, 3))


def test_a_failure_keeps_the_finished_shards(write: Write, tree: Path) -> None:
    yaml = write(f"fail@{SECOND}", files=["fault.txt"])
    (yaml.parent / "fault.txt").write_text("the same code")
    run = planned(yaml, tree)
    with pytest.raises(ConcordError, match="exit code 3"):
        generate(run)
    first = run.path / "images/00000.tar"
    stamp = first.stat().st_mtime_ns
    with pytest.raises(ConcordError, match="exit code 3"):
        generate(run)
    assert calls(yaml) == ["0-0", SECOND, SECOND]
    assert first.stat().st_mtime_ns == stamp


def test_a_command_that_takes_too_long_is_ended(write: Write, tree: Path) -> None:
    yaml = write("sleep", timeout=0.8)
    begun = time.monotonic()
    with pytest.raises(ConcordError, match=r"longer than its timeout, 0\.8 s"):
        generate(planned(yaml, tree, 3))
    assert time.monotonic() - begun < 30
    if calls(yaml):
        program = int((yaml.parent / "calls.txt").read_text().split()[1])
        wait_until(lambda: not is_running(program), 10)


# ------------------------------------------------------------------------------------------------------------- killed

DRIVER = """
import signal, sys
sys.path[:0] = [{root!r}, {tests!r}, {pipeline!r}]
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
import test_external_command as t
t.generate(t.planned(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def start(yaml: Path, tree: Path) -> subprocess.Popen[bytes]:
    """`generate` in a process of its own."""
    here = Path(__file__).resolve().parent
    code = DRIVER.format(root=str(toy_world.ROOT), tests=str(toy_world.HERE), pipeline=str(here))
    return subprocess.Popen([sys.executable, "-c", code, str(yaml), str(tree)], stderr=subprocess.PIPE)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_at_the_next_shard(number: int, write: Write, tree: Path) -> None:
    yaml = write(f"sleep@{SECOND}")
    process = start(yaml, tree)
    wait_until(lambda: calls(yaml) == ["0-0", SECOND] or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    program = int((yaml.parent / "calls.txt").read_text().split()[-1])
    process.send_signal(number)
    process.communicate(timeout=60)
    run = planned(yaml, tree)
    stamp = (run.path / "images/00000.tar").stat().st_mtime_ns
    if number == signal.SIGINT:
        wait_until(lambda: not is_running(program))  # Concord ended it
    else:
        assert is_running(program), "nobody told it"
    # The same command in the eyes of the plan; it does not sleep any more, as if the machine had become faster.
    external = run.external
    assert external is not None
    assert external.spec is not None
    quick = external.spec.model_copy(update={"command": external.spec.command.replace(f"sleep@{SECOND}", "")})
    run = replace(run, external=replace(external, spec=quick))
    generate(run)
    assert not is_running(program), "what the killed Concord had started is ended before the shard begins again"
    assert calls(yaml) == ["0-0", SECOND, SECOND]
    assert (run.path / "images/00000.tar").stat().st_mtime_ns == stamp
    assert is_current(run)


# ------------------------------------------------------------------------------------------------- on the command line


@pytest.mark.slow
def test_the_whole_way_of_a_command(concord: Any, write: Write, tree: Path, tmp_path: Path) -> None:
    suite = toy_world.write_suite(tmp_path, grid="grid: 0")
    yaml = write()
    rest = [suite, "--data", tree, "--limit", 6, "--results", tmp_path / "results"]
    checked = concord("check", "--external", yaml)
    assert checked.exit_code == 0, checked.output
    assert "theirs: 10 of 10 checks passed" in checked.stdout
    first = concord("run", *rest, "--external", yaml)
    assert first.exit_code == 0, first.output
    (row,) = [line for line in first.stdout.splitlines() if line.startswith("| Their method (external)")]
    assert re.search(r"Mask \(%\): .*Their method \(external\)", first.stdout), "it is tested against the others"
    second = concord("run", *rest)
    assert second.exit_code == 0, second.output
    assert "everything is up to date" in second.stdout
    assert row in second.stdout.splitlines()

    yaml.write_text(yaml.read_text().replace('"name"', '"nam"'))
    bad = concord("run", *rest, "--external", yaml)
    assert bad.exit_code == 2
    assert "unknown key 'nam'; known keys: name, title" in bad.stderr
    for name, words in (("toy", "taken: a registered method"), ("shuffled", "kept for Concord's own use")):
        refused = concord("run", *rest, "--external", write(name=name))
        assert refused.exit_code == 2
        assert words in refused.stderr
    twice = concord("run", *rest, "--external", write(), "--external", write())
    assert twice.exit_code == 2
    assert "a second method named 'theirs'" in twice.stderr

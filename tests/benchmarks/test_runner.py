"""Generation: any batch size gives the same images, a stopped run goes on, an old run stays until then."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import toy_world

from concord.benchmarks.image_sources import open_image_source
from concord.benchmarks.plan.requests import Options
from concord.benchmarks.plan.runs import Plan
from concord.benchmarks.planner import make_plan
from concord.benchmarks.run.generate import generate_run, is_current, run_status
from concord.benchmarks.run.image_source import GeneratedBatch, ImageSource
from concord.benchmarks.settings import load_settings
from concord.benchmarks.store.lock import run_lock
from concord.benchmarks.store.run import Run
from concord.benchmarks.suite import load_suite
from concord.data.errors import ConcordError
from concord.data.user_code import UserCodeError

GRID = 4


@pytest.fixture(scope="module")
def large_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough faces for three shards, the last one short."""
    return toy_world.write_tree(tmp_path_factory.mktemp("large") / "tree", 140)


@pytest.fixture
def plan(toy: str, toy_suite: Path, large_tree: Path, tmp_path: Path) -> Plan:
    options = Options(data=large_tree, limit=140, results=tmp_path / "results")
    return make_plan(load_suite(str(toy_suite)), load_settings(), options)


def generate(plan: Plan, row: str = "toy", batch_size: int = 32, **changes: object) -> Run:
    run = replace(plan.run(row), **changes)  # type: ignore[arg-type]
    generate_run(run, partial(open_image_source, run, "cpu"), batch_size, GRID)
    return Run(run.path)


def hashes(run: Run) -> list[str]:
    return [shard["sha256"] for shard in run.manifest["shards"]]


class Stop(Exception):
    """Stands for whatever ends a process."""


def stop_after(maker: ImageSource, batches: int) -> ImageSource:
    """The maker, made to fail at its (batches + 1)-th batch."""
    real: Callable[..., GeneratedBatch] = maker.make
    left = iter(range(batches))

    def make(prepared: object, tell: bool) -> GeneratedBatch:
        if next(left, None) is None:
            raise Stop
        return real(prepared, tell)

    maker.make = make  # type: ignore[method-assign]
    return maker


def interrupt(plan: Plan, batches: int, row: str = "toy", batch_size: int = 32) -> None:
    run = plan.run(row)
    with pytest.raises(UserCodeError, match=r"^method 'toy' .*request .*: Stop$"):
        generate_run(run, lambda: stop_after(open_image_source(run, "cpu"), batches), batch_size, GRID)


# ------------------------------------------------------------------------------------------------------- what is made


def test_manifest_says_what_was_made_and_what_it_cost(plan: Plan) -> None:
    run = generate(plan)
    facts = run.manifest
    assert (facts["row"], facts["method"], facts["n"], facts["finished"]) == ("toy", "toy", 140, True)
    assert facts["evaluations_per_image"] == {"mixer": 2.0}
    assert facts["peak_memory_bytes"] > 2**20
    assert facts["seconds_total"] >= facts["seconds_per_image"] * 140 > 0
    assert set(facts["time"]) == {"load", "generate", "decode", "write", "other"}
    assert facts["provenance"]["packages"]["torch"]
    assert facts["data"]["fingerprint"] == plan.requests.fingerprint
    assert [shard["n"] for shard in facts["shards"]] == [64, 64, 12]
    assert run.ids == [request.id for request in plan.requests.requests]
    assert len(list(run.images())) == 140


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batch_size_changes_no_image(plan: Plan, tmp_path: Path, batch_size: int) -> None:
    assert hashes(generate(plan, batch_size=batch_size, path=tmp_path / "other")) == hashes(generate(plan))


@pytest.mark.parametrize("batch_size", [0, 65])
def test_batch_size_out_of_range(plan: Plan, batch_size: int) -> None:
    with pytest.raises(ConcordError, match=rf"--batch-size {batch_size}: expected 1\.\.64"):
        generate(plan, batch_size=batch_size)


def test_images_depend_on_their_own_request_alone(plan: Plan, tmp_path: Path) -> None:
    backwards = replace(plan.requests, requests=plan.requests.requests[::-1])
    other = generate(plan, requests=backwards, path=tmp_path / "backwards")
    images = dict(generate(plan).images())
    for name, image in other.images():
        np.testing.assert_array_equal(image, images[name])


def test_trace_is_kept_for_the_first_requests(plan: Plan) -> None:
    trace = generate(plan, batch_size=3).trace()
    assert trace is not None
    assert trace["influence"].shape == (GRID, 2, 2, 16, 16)
    assert trace["influence"].dtype == np.float16
    assert list(trace["influence_names"]) == ["mask", "text"]
    assert list(trace["influence_steps"]) == [2, 1]
    assert list(trace["requests"]) == [f"{i}-0" for i in range(GRID)]


def test_reference_rows(plan: Plan) -> None:
    truth, shuffled = dict(generate(plan, "ground-truth").images()), dict(generate(plan, "shuffled").images())
    items = {request.id: request.item for request in plan.requests.requests}
    for name, image in truth.items():
        np.testing.assert_array_equal(image, items[name].image(64))
        assert not np.array_equal(shuffled[name], image)
    assert sorted(image.tobytes() for image in truth.values()) == sorted(image.tobytes() for image in shuffled.values())


def test_maker_that_gives_the_wrong_size_is_named(plan: Plan) -> None:
    run = plan.run("toy")

    class Tiny(ImageSource):
        def prepare(self, batch):  # type: ignore[no-untyped-def]
            return len(batch)

        def make(self, prepared, tell):  # type: ignore[no-untyped-def]
            return GeneratedBatch(np.zeros((prepared, 8, 8, 3), np.uint8))

    with pytest.raises(ConcordError, match=r"row 'toy', request 0-0: images of shape \(32, 8, 8, 3\)"):
        generate_run(run, Tiny, 32)
    assert not Run(run.path).finished


# ------------------------------------------------------------------------------------------------------------- resume


def test_finished_run_is_left_alone(plan: Plan) -> None:
    run = generate(plan)
    written = (run.path / "run.json").stat().st_mtime_ns
    outcome = generate_run(plan.run("toy"), lambda: pytest.fail("nothing was missing"), 32, GRID)
    assert not outcome.ran
    assert (run.path / "run.json").stat().st_mtime_ns == written


@pytest.mark.parametrize("batches", [0, 1, 2, 3, 4])
def test_stopped_run_goes_on_and_ends_the_same(plan: Plan, tmp_path: Path, batches: int) -> None:
    interrupt(plan, batches)
    done = batches // 2  # two batches of 32 a shard
    status = run_status(plan.run("toy"), GRID)
    assert (status.state, status.shards_done, status.shards) == ("partial" if done else "to do", done, 3)
    finished = generate(plan)
    undisturbed = generate(plan, path=tmp_path / "undisturbed")
    assert hashes(finished) == hashes(undisturbed)
    first, second = finished.trace(), undisturbed.trace()
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first["influence"], second["influence"])
    assert finished.manifest["evaluations_per_image"] == {"mixer": 2.0}


def test_only_missing_shards_are_made(plan: Plan) -> None:
    run = generate(plan)
    before = {path.name: path.stat().st_mtime_ns for path in (run.path / "images").iterdir()}
    (run.path / "images/00001.tar").write_bytes(b"damaged")
    assert not is_current(plan.run("toy"), GRID)
    generate(plan)
    after = {path.name: path.stat().st_mtime_ns for path in (run.path / "images").iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"00001.tar", "00001.json"}


def test_lost_trace_is_made_again(plan: Plan) -> None:
    run = generate(plan)
    (run.path / "trace.npz").unlink()
    assert not is_current(plan.run("toy"), GRID)
    assert generate(plan).trace() is not None


def test_temporary_files_of_killed_processes_are_removed(plan: Plan) -> None:
    images = plan.run("toy").path / "images"
    images.mkdir(parents=True)
    (images / ".00000.tar.0123abcd.part").write_bytes(b"half")
    (images.parent / ".run.json.4567cdef.part").write_bytes(b"half")
    generate(plan)
    assert not list(images.parent.rglob("*.part"))


# ------------------------------------------------------------------------------------------------------------ old runs


def test_changed_run_is_made_again(plan: Plan) -> None:
    run = generate(plan)
    old = hashes(run)
    (run.path / "score.json").write_text("{}")
    changed = replace(plan.run("toy"), params={**plan.run("toy").params, "steps": 3})
    changed = replace(changed, row=changed.row.model_copy(update={"params": {"steps": 3}}))
    assert run_status(changed, GRID).state == "changed"
    generate_run(changed, partial(open_image_source, changed, "cpu"), 32, GRID)
    assert hashes(Run(run.path)) != old
    assert not Run(run.path).scored, "old scores must not stand beside new images"


def test_old_run_stays_until_the_first_new_shard_is_ready(plan: Plan) -> None:
    old = hashes(generate(plan))
    changed = replace(plan.run("toy"), profile="paper")
    with pytest.raises(ConcordError, match="generator 'faces': expected one of collaborative-256"):
        generate_run(changed, partial(open_image_source, changed, "cpu"), 32, GRID)
    with pytest.raises(UserCodeError, match=r"^method 'toy' .*request .*: Stop$"):
        generate_run(changed, lambda: stop_after(open_image_source(plan.run("toy"), "cpu"), 1), 32, GRID)
    assert is_current(plan.run("toy"), GRID)
    assert hashes(Run(plan.run("toy").path)) == old


def test_shards_of_a_longer_plan_are_removed(plan: Plan, large_tree: Path, toy_suite: Path) -> None:
    run = generate(plan)
    fewer = replace(plan.requests, requests=plan.requests.requests[:70])
    generate(plan, requests=fewer)
    assert sorted(path.name for path in (run.path / "images").iterdir()) == [
        "00000.json",
        "00000.tar",
        "00001.json",
        "00001.tar",
    ]
    assert Run(run.path).manifest["n"] == 70


# -------------------------------------------------------------------------------------------------------------- faults


def test_two_writers_of_one_run(plan: Plan) -> None:
    run = plan.run("toy")
    with run_lock(run.path), pytest.raises(ConcordError) as error:
        generate(plan)
    assert f"process {os.getpid()}" in str(error.value)
    assert str(run.path) in str(error.value)
    generate(plan)


def test_lock_of_a_dead_process_is_taken_over(plan: Plan) -> None:
    path = plan.run("toy").path
    path.mkdir(parents=True)
    (path / ".lock").write_text(json.dumps({"pid": 999_999_999, "host": "gone"}))
    generate(plan)


def test_results_folder_that_cannot_be_written(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConcordError, match=r"file/toy: cannot be written.*--results"):
        generate(plan, path=tmp_path / "file" / "toy")


def test_full_disk_keeps_what_is_finished(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(plan, 2)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "00001.tar")

    monkeypatch.setattr("concord.benchmarks.store.shards.tarfile.open", full)
    with pytest.raises(ConcordError, match=r"00001\.tar: cannot be written \(No space left on device\)"):
        generate(plan)
    monkeypatch.undo()
    assert run_status(plan.run("toy"), GRID).shards_done == 1
    assert not list(plan.root.rglob("*.part"))
    assert generate(plan).finished

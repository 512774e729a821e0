"""The store: what is written is read back; what is half written counts for nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from concord.benchmarks.store.digests import record
from concord.benchmarks.store.run import Run, Store
from concord.benchmarks.store.shards import (
    decode_png,
    encode_png,
    json_path,
    read_images,
    read_info,
    tar_path,
    write_shard,
)
from concord.data.errors import ConcordError
from concord.data.files import write_json


def pictures(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"{i}-0": rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for i in range(n)}


def write(folder: Path, index: int, images: dict[str, np.ndarray]) -> dict:
    return write_shard(folder, index, list(images), [encode_png(image) for image in images.values()], {"key": "k"})


def make_run(path: Path, n: int = 5, shard: int = 3) -> dict[str, np.ndarray]:
    images = pictures(n)
    names = list(images)
    infos = [
        write(path / "images", start // shard, {name: images[name] for name in names[start : start + shard]})
        for start in range(0, n, shard)
    ]
    requests = [{"id": name, "seed": 1} for name in names]
    facts = {
        "finished": True,
        "request_set": "set",
        "row": path.name,
        "method": "m",
        "profile": "embedded",
        "params": {},
        "conditions": ["text"],
        "n": n,
        "image_size": 8,
        "data": {"name": "d", "fingerprint": "f"},
        "provenance": {},
        "device": "cpu",
        "seconds_per_image": 1.0,
        "peak_memory_bytes": 1,
        "evaluations_per_image": {},
    }
    write_json(path / "run.json", {**facts, "requests": requests, "shards": infos})
    record(path, ["run.json"])
    return images


def test_png_is_lossless() -> None:
    image = pictures(1)["0-0"]
    np.testing.assert_array_equal(decode_png(encode_png(image), "x"), image)


def test_shard_comes_back_and_its_bytes_follow_from_the_images(tmp_path: Path) -> None:
    images = pictures(4)
    first, second = write(tmp_path / "a", 0, images), write(tmp_path / "b", 0, images)
    assert first["sha256"] == second["sha256"]
    assert first["requests"] == list(images)
    assert read_info(tmp_path / "a", 0) == first
    for (name, image), (expected_name, expected) in zip(
        read_images(tar_path(tmp_path / "a", 0)), images.items(), strict=True
    ):
        assert name == expected_name
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("damage", ["no json", "no tar", "short tar", "other tar", "broken json"])
def test_damaged_shard_does_not_count(tmp_path: Path, damage: str) -> None:
    write(tmp_path, 0, pictures(4))
    tar, info = tar_path(tmp_path, 0), json_path(tmp_path, 0)
    if damage == "no json":
        info.unlink()
    elif damage == "no tar":
        tar.unlink()
    elif damage == "short tar":
        tar.write_bytes(tar.read_bytes()[:-700])
    elif damage == "other tar":
        write(tmp_path / "other", 0, pictures(4, seed=1))
        tar.write_bytes(tar_path(tmp_path / "other", 0).read_bytes())
    else:
        info.write_text('{"sha256": ')
    assert read_info(tmp_path, 0) is None


def test_run_reads_images_in_the_order_of_the_requests(tmp_path: Path) -> None:
    images = make_run(tmp_path / "set" / "row")
    run = Store(tmp_path).run("set", "row")
    assert (run.request_set, run.row, run.finished, run.scored) == ("set", "row", True, False)
    assert run.ids == list(images)
    assert [name for name, _ in run.images()] == list(images)
    some = dict(run.images(["4-0", "1-0"]))
    assert list(some) == ["1-0", "4-0"]
    np.testing.assert_array_equal(some["4-0"], images["4-0"])


def test_store_lists_finished_runs_alone(tmp_path: Path) -> None:
    make_run(tmp_path / "set" / "b")
    make_run(tmp_path / "set" / "a")
    (tmp_path / "set" / "unfinished" / "images").mkdir(parents=True)
    assert [run.row for run in Store(tmp_path).runs("set")] == ["a", "b"]
    assert Store(tmp_path).runs("nosuch") == []


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    run = Run(tmp_path / "set" / "row")
    with pytest.raises(ConcordError, match=r"not generated yet.*concord generate set row"):
        _ = run.manifest
    make_run(run.path)
    with pytest.raises(ConcordError, match=r"not scored yet.*concord score set row"):
        run.scores()
    assert run.trace() is None
    tar_path(run.path / "images", 1).unlink()
    with pytest.raises(ConcordError, match=r"00001\.tar: is missing, though it was written"):
        list(Run(run.path).images())


def test_unreadable_image_is_named(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, ["0-0"], [b"not a png"], {})
    with pytest.raises(ConcordError, match=r"00000\.tar: 0-0\.png: not a readable image"):
        list(read_images(tar_path(tmp_path, 0)))


def test_trace_comes_back(tmp_path: Path) -> None:
    make_run(tmp_path / "set" / "row")
    influence = np.ones((2, 3, 2, 4, 4), np.float16)
    np.savez(tmp_path / "set" / "row" / "trace.npz", influence=influence, influence_names=np.array(["mask", "text"]))
    assert Run(tmp_path / "set" / "row").trace() is None  # nobody vouches for it
    record(tmp_path / "set" / "row", ["trace.npz"])
    trace = Run(tmp_path / "set" / "row").trace()
    assert trace is not None
    np.testing.assert_array_equal(trace["influence"], influence)
    assert list(trace["influence_names"]) == ["mask", "text"]

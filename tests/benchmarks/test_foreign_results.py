"""Results folders that others made or changed, digests and all: one line with file and field, or the same table."""

from __future__ import annotations

import io
import os
import shutil
import signal
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_store import FACTS, make_suite, sign, write_store
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from concord.benchmarks.store.digests import record
from concord.benchmarks.store.run import Store
from concord.benchmarks.store.shards import digest_of_info
from concord.data.errors import ConcordError
from concord.data.files import read_json, sha256_file, write_json
from concord.reports.assemble import build_table

ROW = "collaborative"
SECONDS = 60


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"no answer within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("made") / "embedded", n=8).root


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    shutil.copytree(made, tmp_path / "embedded")
    return Store(tmp_path / "embedded")


def look(store: Store) -> object:
    """All that reports read of a row: the table's numbers, images, features, traces."""
    run = store.run("face-generation", ROW)
    table = build_table(make_suite(), store, "embedded", FACTS)
    images = [(name, image.tobytes()) for name, image in run.images()]
    trace = run.trace()
    names, features = run.features()
    cells = [[cell.value for cell in row.cells.values()] for row in table.rows]
    return cells, images, sorted(trace or {}), names, features.tobytes()


def complaint(store: Store) -> str:
    with pytest.raises(ConcordError) as error:
        look(store)
    said = str(error.value)
    assert "\n" not in said
    assert "\x1b" not in said
    said.encode()
    return said


def refusal(store: Store) -> str:
    """Why the row is refused; '' where it is not."""
    try:
        look(store)
    except ConcordError as error:
        return str(error)
    return ""


def edited(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def act(row: Path) -> None:
        content = read_json(row / name)
        new = change(content)
        write_json(row / name, content if new is None else new)

    return act


def setting(name: str, place: str, value: object) -> Callable[[Path], None]:
    def change(content: Any) -> None:
        *inner, last = place.split("/")
        for key in inner:
            content = content[int(key)] if isinstance(content, list) else content[key]
        content[last] = value

    return edited(name, change)


def dropping(name: str, key: str) -> Callable[[Path], None]:
    return edited(name, lambda content: content.pop(key) and None)


def frame(name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def act(row: Path) -> None:
        change(pd.read_parquet(row / name)).to_parquet(row / name, index=False)

    return act


def value_of(metric: str, value: float, name: str = "scores.parquet") -> Callable[[Path], None]:
    return frame(name, lambda f: f.assign(value=f["value"].where(f["metric"] != metric, value)))


def written(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda row: (row / name).write_bytes(content) and None


def claiming(row: Path) -> None:
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (34359738368, 4), }"
    head += b" " * (118 - len(head) - 1) + b"\n"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + b"\0" * 16
    ids = io.BytesIO()
    np.save(ids, np.array(["a"]))
    with zipfile.ZipFile(row / "features.npz", "w") as file:
        file.writestr("requests.npy", ids.getvalue())
        file.writestr("features_pool.npy", array)


def with_shard(change: Callable[[bytes], bytes], kind: bytes = tarfile.REGTYPE) -> Callable[[Path], None]:
    """The first image of the shard in another form, its digests right."""

    def act(row: Path) -> None:
        path = row / "images/00000.tar"
        with tarfile.open(path) as tar:
            members = [(one, tar.extractfile(one).read()) for one in tar]  # type: ignore[union-attr]
        with tarfile.open(path, "w") as tar:
            for place, (info, content) in enumerate(members):
                new = change(content) if place == 0 else content
                info.size, info.type = len(new), kind if place == 0 else tarfile.REGTYPE
                info.linkname = "/etc/passwd" if info.type == tarfile.SYMTYPE else ""
                tar.addfile(info, io.BytesIO(new))
        info = read_json(row / "images/00000.json")
        info["sha256"] = sha256_file(path)
        info["digest"] = digest_of_info(info)
        write_json(row / "images/00000.json", info)

    return act


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


BOMB = (
    b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 90_000, 90_000, 8, 2, 0, 0, 0)) + chunk(b"IEND", b"")
)

CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest but a list": (edited("run.json", lambda content: [content]), "run.json"),
    "n that is text": (setting("run.json", "n", "8"), "field 'n'"),
    "n that is another": (setting("run.json", "n", 9), "'n' is 9"),
    "n of a fraction": (setting("run.json", "n", 8.5), "field 'n'"),
    "finished as text": (setting("run.json", "finished", "yes"), "field 'finished'"),
    "requests that are numbers": (setting("run.json", "requests", [1] * 8), "field 'requests.0'"),
    "a request twice": (edited("run.json", lambda c: {**c, "requests": c["requests"][:1] * 8}), "an id is there twice"),
    "shards of other requests": (edited("run.json", lambda c: {**c, "shards": c["shards"] * 2}), "'shards' hold other"),
    "shards that are a mapping": (setting("run.json", "shards", {}), "field 'shards'"),
    "a negative shard": (setting("run.json", "shards/0/shard", -1), "field 'shards.0.shard'"),
    "a shard that climbs": (setting("run.json", "shards/0/shard", "../../x"), "field 'shards.0.shard'"),
    "seconds without end": (setting("run.json", "seconds_per_image", 1e308), "field 'seconds_per_image'"),
    "negative seconds": (setting("run.json", "seconds_per_image", -1.0), "field 'seconds_per_image'"),
    "seconds as text": (setting("run.json", "seconds_total", "fast"), "field 'seconds_total'"),
    "memory beyond any machine": (setting("run.json", "peak_memory_bytes", 2**70), "field 'peak_memory_bytes'"),
    "evaluations as text": (setting("run.json", "evaluations_per_image", {"a": "b"}), "evaluations_per_image.a"),
    "evaluations without end": (setting("run.json", "evaluations_per_image", {"a": 1e300}), "evaluations_per_image.a"),
    "a provenance that is text": (setting("run.json", "provenance", "here"), "field 'provenance'"),
    "data that are text": (setting("run.json", "data", "faces"), "field 'data'"),
    "a fingerprint that is a list": (setting("run.json", "data/fingerprint", []), "field 'data.fingerprint'"),
    "weights that are numbers": (setting("run.json", "weights", {"a": 5}), "field 'weights.a'"),
    "an image size of gigapixels": (setting("run.json", "image_size", 10**6), "field 'image_size'"),
    "an image size of zero": (setting("run.json", "image_size", 0), "field 'image_size'"),
    "another image size": (setting("run.json", "image_size", 32), "expected 32x32"),
    "no method's name": (dropping("run.json", "method"), "field 'method' is missing"),
    "conditions that are one text": (setting("run.json", "conditions", "text"), "field 'conditions'"),
    "params that are a list": (setting("run.json", "params", []), "field 'params'"),
    "JSON without end": (written("run.json", b"[" * 200_000), "run.json"),
    "no JSON": (written("run.json", b"\xff\xfe\x00"), "run.json"),
    "networks that are a list": (setting("score.json", "networks", []), "field 'networks'"),
    "a network's hash that is a number": (setting("score.json", "networks/parser", 7), "field 'networks.parser'"),
    "a card that is text": (setting("score.json", "cards/parser", "good"), "field 'cards.parser'"),
    "a score's n that is text": (setting("score.json", "n", "all"), "field 'n'"),
    "a reference that is text": (setting("score.json", "reference", "celeba"), "field 'reference'"),
    "no column of values": (frame("scores.parquet", lambda f: f.drop(columns="value")), "no column 'value'"),
    "values that are text": (
        frame("scores.parquet", lambda f: f.assign(value=f["value"].astype(str))),
        "column 'value'",
    ),
    "a status that is a number": (frame("scores.parquet", lambda f: f.assign(status=1)), "column 'status'"),
    "a request scored twice": (frame("scores.parquet", lambda f: pd.concat([f, f.iloc[:1]])), "scored twice"),
    "a request not scored": (frame("scores.parquet", lambda f: f.iloc[1:]), "have no"),
    "an accuracy of 5,000 %": (value_of("mask-accuracy", 5000.0), "has the value 5000"),
    "a negative accuracy": (value_of("mask-accuracy", -1.0), "has the value -1"),
    "a FID of -5": (value_of("fid", -5.0, "sets.parquet"), "has the value -5"),
    "replicates that are text": (
        frame("sets.parquet", lambda f: f.assign(replicates=[["a"] for _ in range(len(f))])),
        "column 'replicates'",
    ),
    "n that is a fraction": (frame("sets.parquet", lambda f: f.assign(n=8.5)), "column 'n'"),
    "no parquet": (written("scores.parquet", b"PAR1 no"), "scores.parquet"),
    "features that claim 512 GB": (claiming, "features.npz"),
    "features of objects": (
        lambda row: np.savez(row / "features.npz", requests=np.array(["a"]), features_pool=np.array([{}], object)),
        "features.npz",
    ),
    "features of other requests": (
        lambda row: np.savez(row / "features.npz", requests=np.array(["a"]), features_pool=np.zeros((3, 4))),
        "features.npz",
    ),
    "no features": (lambda row: np.savez(row / "features.npz", other=np.zeros(3)), "features.npz"),
    "a trace that is no zip": (written("trace.npz", b"PK no"), "trace.npz"),
    "an image that is text": (with_shard(lambda png: b"no image"), "27000-0.png"),
    "half an image": (with_shard(lambda png: png[: len(png) // 2]), "27000-0.png"),
    "a bomb": (with_shard(lambda png: BOMB), "27000-0.png"),
    "a link in a shard": (with_shard(lambda png: b"", tarfile.SYMTYPE), "is no file"),
    "a folder in a shard": (with_shard(lambda png: b"", tarfile.DIRTYPE), "is no file"),
    "a pipe in a shard": (with_shard(lambda png: b"", tarfile.FIFOTYPE), "is no file"),
}


@pytest.mark.parametrize(("change", "words"), CHANGES.values(), ids=CHANGES)
def test_a_row_that_others_wrote(store: Store, change: Callable[[Path], object], words: str) -> None:
    row = store.root / "face-generation" / ROW
    change(row)
    sign(row)  # whoever wrote it vouches for it
    info = row / "images/00000.json"
    record(row, [f"images/{info.name}"])
    said = complaint(store)
    assert words in said, said
    assert ROW in said


def fifo(path: Path) -> None:
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("kind", [fifo, loop, Path.mkdir], ids=["a pipe", "a loop", "a folder"])
@pytest.mark.parametrize(
    "name", ["run.json", "score.json", "scores.parquet", "digests.json", "images/00000.tar", "../index.json"]
)
def test_what_is_no_file(store: Store, name: str, kind: Callable[[Path], None]) -> None:
    path = (store.root / "face-generation" / ROW / name).resolve()
    path.unlink()
    kind(path)
    said = refusal(store)
    if said:
        assert path.name in said or ROW in said
    else:  # as where its place is empty: the row is shown as missing
        table = build_table(make_suite(), store, "embedded", FACTS)
        (row,) = [one for one in table.rows if one.name == ROW]
        assert row.is_missing


def test_neighbours_of_rows_do_no_harm(store: Store, tmp_path: Path) -> None:
    """Files, links, loops and pipes beside the rows, and folders that are no rows."""
    before = look(store)
    place = store.root / "face-generation"
    (place / "notes.txt").write_text("mine")
    (place / "empty").mkdir()
    (place / "\x1b[31m").mkdir()
    loop(place / "loop")
    fifo(place / "pipe")
    (place / "elsewhere").symlink_to(tmp_path, target_is_directory=True)
    assert look(store) == before
    assert {run.row for run in store.runs("face-generation")} >= {ROW}


json_values = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
)


@given(name=st.sampled_from(["run.json", "score.json"]), data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_anywhere_is_taken_or_refused_in_one_line(made: Path, name: str, data: st.DataObject) -> None:
    """Any field of the JSON files in any other form: either it is refused by name, or the table is what it was."""
    row = made / "face-generation" / ROW
    kept = (row / name).read_bytes()
    try:
        content = read_json(row / name)
        inner: Any = content
        while isinstance(inner, dict | list) and inner:
            key = data.draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
            if not isinstance(inner[key], dict | list) or not inner[key] or data.draw(st.booleans()):
                inner[key] = data.draw(json_values)
                break
            inner = inner[key]
        write_json(row / name, content)
        sign(row)
        assert "\n" not in refusal(Store(made))
    finally:
        (row / name).write_bytes(kept)
        sign(row)

"""A fetch that is killed at random moments: what stands under a final name is whole, and the next run goes on."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import random
import shutil
import time
import zipfile
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import fetch_child
import pytest
from http_faults import Answer, FaultServer

from concord.data.download.fetch import Fetcher
from concord.data.download.manifest import Lock, Manifest

ROOT = Path(__file__).resolve().parents[2]
PLAIN = random.Random(1).randbytes(2_000_000)
FILES = {f"tree/part{n % 7}/{n:04d}.txt": f"{n} " * 2000 for n in range(600)}


def packed() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in FILES.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def facts(plain: str, archive: str) -> dict[str, object]:
    """A manifest of a file without a known hash, and an archive."""
    unpacking = {"into": "tree", "expects": ["part0", "part6"], "most_bytes": 50_000_000}
    return {
        "name": "thing",
        "kind": "weights",
        "title": "A thing",
        "citation": "nobody",
        "needed_by": ["tests"],
        "licence": {"name": "MIT", "consequence": "Free."},
        "files": [
            {"name": "plain.bin", "sources": [{"url": plain}]},
            {"name": "tree.zip", "sources": [{"url": archive}], "unpack": unpacking},
        ],
    }


def check_whole(cache: Path) -> tuple[bool, bool]:
    """Whether the file and the folder stand under their final names; each that does is complete."""
    folder = cache / "weights" / "thing"
    plain, tree = folder / "plain.bin", folder / "tree"
    if plain.exists():
        assert hashlib.sha256(plain.read_bytes()).digest() == hashlib.sha256(PLAIN).digest()
    if tree.exists():
        found = {f"tree/{path.relative_to(tree)}": path.read_text() for path in tree.rglob("*.txt")}
        assert found == FILES
    lock = cache / "locks" / "thing.json"
    if lock.exists():
        json.loads(lock.read_text())
    assert not folder.exists() or {path.name for path in folder.iterdir()} <= {"plain.bin", "tree"}
    return plain.exists(), tree.exists()


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, object]], BaseProcess]:
    """Starts a fetch into the cache, in a process forked from one that has imported everything."""
    monkeypatch.setenv(
        "PYTHONPATH", f"{ROOT / 'tests/support'}{os.pathsep}{ROOT}"
    )  # the server starts from these alone
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fetch_child"])

    def start(described: dict[str, object]) -> BaseProcess:
        process = context.Process(target=fetch_child.fetch, args=(described, str(tmp_path / "cache")))
        process.start()
        return process

    return start


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.long)])
def test_kills_leave_nothing_half_done(tmp_path, begin, kills):
    rng, cache, reached = random.Random(7), tmp_path / "cache", set()
    with FaultServer() as server:
        slow = Answer(pause=0.004)  # 2 MB in about half a second
        described = facts(server.add("/plain", PLAIN, slow), server.add("/tree.zip", packed(), slow))
        begin(facts(server.url("/none"), server.url("/none"))).join()  # the server has started, and imported
        for _ in range(kills):
            process = begin(described)
            time.sleep(rng.uniform(0.0, 1.1))
            process.kill()
            process.join()
            state = check_whole(cache)
            reached.add((*state, any((cache / ".fetch").glob("thing/*.part"))))
            if all(state):
                shutil.rmtree(cache / "weights")  # what was recorded of it stays, and is enforced
        last = begin(described)
        last.join(60)
        assert last.exitcode == 0
        assert check_whole(cache) == (True, True)
        resumed = [text for text in server.ranges("/plain") + server.ranges("/tree.zip") if text]
    if kills > 3:
        assert len(reached) > 1  # the moments fell into different steps
        assert resumed  # and at least once it went on in the middle of a file
    manifest = Manifest.model_validate(described)
    assert Lock(manifest, cache).entry(manifest.files[0])["sha256"] == hashlib.sha256(PLAIN).hexdigest()
    assert Fetcher(cache, True).fetch(manifest)  # all there: no connection is wanted
    assert not (cache / ".fetch" / "thing").exists()

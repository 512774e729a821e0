"""Hashes that are remembered: a file that has changed is never taken for the old one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from concord.data.content import TICK, Memory, content_digest, memory_folder
from concord.data.errors import ConcordError
from concord.data.files import sha256_file


class Counting:
    """A hash that counts how often it is taken."""

    def __init__(self) -> None:
        self.files: list[str] = []

    def __call__(self, path: Path) -> str:
        self.files.append(path.name)
        return sha256_file(path)


def age(path: Path, seconds: float = 60) -> None:
    """Make a file older than any clock's tick, by its mtime; its ctime is of now."""
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns - int(seconds * 1e9)))


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is older than the tick at every look that follows."""
    path = tmp_path / "a"
    path.write_bytes(b"one")
    age(path)
    shift = path.stat().st_ctime_ns + 10 * TICK
    monkeypatch.setattr("concord.data.content.time.time_ns", lambda: shift)
    return path


def test_an_unchanged_file_is_read_once(old: Path, tmp_path: Path) -> None:
    count = Counting()
    memory = Memory(tmp_path / "memory.json", count)
    assert memory.hash(old) == memory.hash(old) == sha256_file(old)
    memory.save()
    again = Memory(tmp_path / "memory.json", count)
    assert again.hash(old) == sha256_file(old)
    assert count.files == ["a"]


def test_same_size_and_same_mtime_are_not_enough(old: Path, tmp_path: Path) -> None:
    """What `cp -p` or an editor that keeps times leaves: ctime and inode tell."""
    memory = Memory(tmp_path / "memory.json")
    before, stat = memory.hash(old), old.stat()
    twin = tmp_path / "twin"
    twin.write_bytes(b"two")
    os.replace(twin, old)
    os.utime(old, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert old.stat().st_size == stat.st_size
    assert old.stat().st_mtime_ns == stat.st_mtime_ns
    assert memory.hash(old) == sha256_file(old) != before


def test_a_file_as_young_as_its_hash_is_hashed_again(tmp_path: Path) -> None:
    """Git's racy rule: two writes within one tick look the same."""
    path, count = tmp_path / "a", Counting()
    path.write_bytes(b"one")
    memory = Memory(tmp_path / "memory.json", count)
    memory.hash(path)
    memory.hash(path)
    assert count.files == ["a", "a"]


def test_what_is_gone_is_forgotten_and_what_others_found_stays(old: Path, tmp_path: Path) -> None:
    place = tmp_path / "memory.json"
    gone = tmp_path / "gone"
    gone.write_bytes(b"1")
    first, second = Memory(place), Memory(place)
    first.hash(gone)
    first.save()
    second.hash(old)
    second.save()
    assert set(Memory(place).entries) == {str(gone), str(old)}
    gone.unlink()
    third = Memory(place)
    third.compute = lambda path: "x"
    other = tmp_path / "b"
    other.write_bytes(b"2")
    third._entries = {}
    third.hash(other)
    third.save()
    assert set(Memory(place).entries) == {str(old), str(other)}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', '{"a": ["x"]}'])
def test_a_broken_memory_is_an_empty_one(content: str, tmp_path: Path) -> None:
    (tmp_path / "memory.json").write_text(content)
    path = tmp_path / "a"
    path.write_bytes(b"one")
    assert Memory(tmp_path / "memory.json").hash(path) == sha256_file(path)


def test_a_place_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "a"
    path.write_bytes(b"one")
    memory = Memory(tmp_path / "file" / "memory.json")
    assert memory.hash(path) == sha256_file(path)
    memory.save()


def test_a_digest_is_of_names_and_bytes(tmp_path: Path) -> None:
    for name, text in (("a", "1"), ("b", "2")):
        (tmp_path / name).write_text(text)
    first = content_digest("facts", tmp_path, ["a", "b"])
    assert first == content_digest("facts", tmp_path, ["a", "b"], part="else")
    assert len({first, content_digest("", tmp_path, ["a", "b"]), content_digest("facts", tmp_path, ["a"])}) == 3
    (tmp_path / "b").write_text("3")
    assert content_digest("facts", tmp_path, ["a", "b"]) != first
    with pytest.raises(ConcordError, match=r"gone since the dataset was opened"):
        content_digest("facts", tmp_path, ["c"])


def test_hashes_of_tests_lie_in_a_folder_of_their_own() -> None:
    assert Path.home() / ".cache" not in memory_folder().parents


def test_where_hashes_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONCORD_HASHES")
    monkeypatch.setenv("XDG_CACHE_HOME", "/a")
    assert memory_folder() == Path("/a/concord")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert memory_folder() == Path.home() / ".cache/concord"

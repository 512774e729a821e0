"""Fetching and its user: licences, disks, files by hand, archives, the command line."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fetch_world import CONTENT, OTHER, QUOTA, SHA256, final, make, manifest, refusal
from http_faults import Answer, FaultServer

import concord.data.download.transfer
from concord.data.download.fetch import Fetcher
from concord.data.download.manifest import Lock, Manifest, fetched_file
from concord.data.errors import ConcordError


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


# ------------------------------------------------------------------------------------------------------ the user's part


def test_offline_says_so_and_what_is_there_still_serves(tmp_path, server):
    what = manifest(server.add("/a", CONTENT))
    online, _, _ = make(tmp_path)
    offline = Fetcher(online.cache, True, online.network)
    assert "connections are off (--offline or CONCORD_OFFLINE)" in refusal(offline, what)
    assert server.seen == []
    online.fetch(what)
    assert offline.fetch(what) == [final(tmp_path)]


def test_a_licence_must_be_accepted_once(tmp_path, server):
    licence = {"name": "Research only", "consequence": "Not for sale.", "url": "https://x.example", "accept": True}
    what = manifest(server.add("/a", CONTENT), licence=licence)
    fetcher, _, _ = make(tmp_path)
    line = refusal(fetcher, what)
    assert "licence not accepted: Research only. Not for sale. Read https://x.example" in line
    assert "--yes" in line
    assert server.seen == []
    fetcher.fetch(what, accepted=True)
    final(tmp_path).unlink()
    assert fetcher.fetch(what) == [final(tmp_path)]
    changed = manifest(server.url("/a"), licence={**licence, "name": "Research only, version 2"})
    final(tmp_path).unlink()
    assert "version 2" in refusal(fetcher, changed)


def test_a_full_disk_is_told_before_anything_is_fetched(tmp_path, server, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(concord.data.download.transfer.shutil, "disk_usage", lambda _: usage._replace(free=100 << 20))
    fetcher, _, _ = make(tmp_path)
    line = refusal(fetcher, manifest(server.add("/a", CONTENT), file={"size_about": 10**9}))
    assert "no space" in line
    assert "needs 1 GB more, 105 MB are free" in line
    assert server.seen == []


def test_a_length_that_does_not_fit_is_told_before_a_byte_is_written(tmp_path, server, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(concord.data.download.transfer.shutil, "disk_usage", lambda _: usage._replace(free=64 << 20))
    fetcher, _, _ = make(tmp_path)
    assert "no space for thing.bin" in refusal(fetcher, manifest(server.add("/a", CONTENT)))


def test_a_disk_that_fills_meanwhile_keeps_what_came(tmp_path, server, monkeypatch):
    what = manifest(server.add("/a", CONTENT))
    fetcher, _, _ = make(tmp_path)
    write, count = os.write, [0]

    def failing(out: int, block: bytes) -> int:
        count[0] += len(block)
        if count[0] > 200_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(out, block)

    with monkeypatch.context() as patch:
        patch.setattr(concord.data.download.transfer.os, "write", failing)
        assert "No space left on device" in refusal(fetcher, what)
    fetcher.fetch(what)
    assert final(tmp_path).read_bytes() == CONTENT
    assert server.ranges("/a")[-1] is not None  # it went on from what had come


def test_a_folder_that_may_not_be_written(tmp_path, server, monkeypatch):
    fetcher, _, _ = make(tmp_path)
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(ConcordError, match=r"cannot be written .*--cache-dir"):
        fetcher.fetch(manifest(server.add("/a", CONTENT)))
    (tmp_path / "cache").unlink()
    real = Path.mkdir

    def mkdir(self: Path, *args: Any, **options: Any) -> None:
        if "cache" in self.parts:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        real(self, *args, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert "cannot be written (Permission denied)" in refusal(fetcher, manifest(server.url("/a")))


def test_a_file_that_is_another_is_told_with_both_hashes_and_kept(tmp_path, server):
    what = manifest(server.add("/a", CONTENT))
    final(tmp_path).parent.mkdir(parents=True)
    final(tmp_path).write_bytes(OTHER)
    fetcher, _, _ = make(tmp_path)
    with pytest.raises(ConcordError) as caught:
        fetcher.fetch(what)
    assert hashlib.sha256(OTHER).hexdigest() in str(caught.value)
    assert SHA256 in str(caught.value)
    assert final(tmp_path).read_bytes() == OTHER  # it is the user's to remove


def test_two_processes_do_not_fetch_the_same(tmp_path, server):
    what = manifest(server.add("/a", CONTENT))
    fetcher, _, _ = make(tmp_path)
    with fetcher._claim(what):
        assert "another process is fetching it" in refusal(fetcher, what)
    fetcher.fetch(what)


# ------------------------------------------------------------------------------------------------------ files by hand


def test_a_file_from_a_browser_is_taken_under_any_name(tmp_path):
    given = tmp_path / "thing (1).bin"
    given.write_bytes(CONTENT)
    offline = Fetcher(tmp_path / "cache", True)
    offline.fetch(manifest("http://example.invalid/a"), from_file=given)
    assert final(tmp_path).read_bytes() == CONTENT
    assert given.exists()


def test_a_wrong_file_from_a_browser_is_refused(tmp_path):
    given = tmp_path / "thing.bin"
    given.write_bytes(QUOTA)
    fetcher = Fetcher(tmp_path / "cache", True)
    line = refusal(fetcher, manifest("http://example.invalid/a"), from_file=given)
    assert hashlib.sha256(QUOTA).hexdigest() in line
    assert SHA256 in line
    assert "no such file" in refusal(fetcher, manifest("http://example.invalid/a"), from_file=tmp_path / "none")


def test_a_folder_from_a_browser_gives_every_file(tmp_path):
    files = [{"name": "unet/a.bin"}, {"name": "b.bin"}]
    what = manifest(files=files)
    (tmp_path / "given").mkdir()
    for name in ("a.bin", "b.bin"):
        (tmp_path / "given" / name).write_text(name)
    fetcher = Fetcher(tmp_path / "cache", True)
    paths = fetcher.fetch(what, from_file=tmp_path / "given")
    assert [path.read_text() for path in paths] == ["a.bin", "b.bin"]
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "given" / "x.txt").write_text("")
    assert "has 2 files" in refusal(fetcher, what, from_file=tmp_path / "given" / "x.txt")
    (tmp_path / "empty").mkdir()
    assert "it looks like an empty folder" in refusal(fetcher, what, from_file=tmp_path / "empty")


# ------------------------------------------------------------------------------------------------------------ archives


def pack(**members: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name.replace("__", "/"), text)
    return buffer.getvalue()


def archive_manifest(content: bytes, *sources: str, known: bool = True) -> Manifest:
    unpacking = {"into": "tree", "expects": ["images", "masks"], "most_bytes": 1_000_000}
    sha256 = hashlib.sha256(content).hexdigest() if known else "unknown"
    return manifest(*sources, file={"name": "tree.zip", "sha256": sha256, "unpack": unpacking})


GOOD = pack(Top__images__a="1" * 5000, Top__masks__a="2" * 5000)


def test_an_archive_is_unpacked_and_its_members_are_verified(tmp_path, server):
    what = archive_manifest(GOOD, server.add("/a", GOOD, Answer(cut=80), Answer()))
    fetcher, _, _ = make(tmp_path)
    (tree,) = fetcher.fetch(what)
    assert tree == tmp_path / "cache" / "weights" / "thing" / "tree"
    assert sorted(str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()) == ["images/a", "masks/a"]
    assert fetched_file(what, "images/a", tmp_path / "cache") == tree / "images" / "a"
    (tree / "images" / "a").write_text("changed")
    with pytest.raises(ConcordError, match=r"SHA-256 is .* the archive's was"):
        fetched_file(what, "images/a", tmp_path / "cache")


def test_an_archive_by_hand_is_unpacked(tmp_path):
    given = tmp_path / "download.zip"
    given.write_bytes(GOOD)
    fetcher = Fetcher(tmp_path / "cache", True)
    (tree,) = fetcher.fetch(archive_manifest(GOOD, known=False), from_file=given)
    assert (tree / "masks" / "a").read_text() == "2" * 5000
    assert given.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (GOOD[:-30], "neither a zip nor a tar"),
        (pack(Top__photos__a="1", Top__readme="2"), "looks like a folder with Top/"),
        (pack(images__a="1", masks__a="1", up="1").replace(b"up", b"/p"), "absolute name"),
    ],
    ids=["broken", "another shape", "unsafe"],
)
def test_a_bad_archive_of_unknown_hash_is_not_recorded_and_the_next_source_is_asked(tmp_path, server, content, reason):
    bad, good = server.add("/bad", content), server.add("/good", GOOD)
    fetcher, _, _ = make(tmp_path)
    assert reason in refusal(fetcher, archive_manifest(GOOD, bad, known=False))
    assert Lock(archive_manifest(GOOD, bad), fetcher.cache).content == {"files": {}}
    (tree,) = fetcher.fetch(archive_manifest(GOOD, bad, good, known=False))
    assert (tree / "images" / "a").read_text() == "1" * 5000


# ----------------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call it with manifests and arguments: it runs `concord` with these manifests and a cache of its own."""
    from typer.testing import CliRunner

    from concord.cli import app

    def run(manifests: list[Manifest], *arguments: str) -> Any:
        known = {found.name: found for found in manifests}
        monkeypatch.setattr(concord.data.download.manifest, "load_manifest", known.__getitem__)
        monkeypatch.setattr(concord.data.download.manifest, "load_bundle", lambda _: manifests)
        monkeypatch.setattr(concord.data.download.manifest, "manifest_names", lambda: list(known))
        return CliRunner().invoke(app, [*arguments, "--cache-dir", str(tmp_path / "cache")])

    return run


STRICT = {"name": "Research only", "consequence": "Not for sale.", "accept": True}


def test_the_command_lists_sizes_and_licences_before_it_fetches(server, command, tmp_path):
    one = manifest(server.add("/a", CONTENT), licence=STRICT, file={"size": len(CONTENT)})
    two = manifest(server.add("/b", CONTENT), name="other")
    listed = command([one, two], "fetch", "--for", "toys")
    assert listed.exit_code == 2
    assert "307 kB  Research only" in listed.stdout
    assert "Not for sale." in listed.stdout
    assert "unknown size  MIT" in listed.stdout
    assert "was not agreed to; answer yes when asked, or add --yes" in listed.output
    assert server.seen == []
    done = command([one, two], "fetch", "--for", "toys", "--yes")
    assert done.exit_code == 0, done.output
    assert final(tmp_path).read_bytes() == CONTENT
    assert "there already; nothing to do" in command([one, two], "fetch", "--for", "toys").stdout
    assert "here  Research only" in command([one, two], "weights", "list").stdout


def test_what_cannot_be_had_does_not_stop_the_others(server, command, tmp_path):
    bad, good = manifest("http://127.0.0.1:9/a", name="bad", files=[{"name": "x"}]), manifest(server.add("/a", CONTENT))
    result = command([bad, good], "weights", "fetch", "bad", "thing")
    assert result.exit_code == 2
    assert "bad: no source gave x (none is known); fetch it in a browser" in result.output
    assert "error: not fetched: bad (reasons above); the others are there" in result.output
    assert final(tmp_path).read_bytes() == CONTENT


def test_a_licence_is_asked_for_by_the_command(server, command, tmp_path, monkeypatch):
    what = manifest(server.add("/a", CONTENT), licence=STRICT)
    refused = command([what], "weights", "fetch", "thing")
    assert refused.exit_code == 2
    assert "licence not accepted: Research only" in refused.output
    monkeypatch.setattr("concord.commands.fetch._agreed", lambda: True)
    assert command([what], "weights", "fetch", "thing").exit_code == 0
    assert final(tmp_path).read_bytes() == CONTENT


def test_the_commands_know_their_kind_and_the_offline_switch(server, command, monkeypatch):
    what = manifest(server.add("/a", CONTENT))
    wrong = command([what], "data", "fetch", "thing")
    assert wrong.exit_code == 2
    assert "thing: is weights; run `concord weights fetch thing`" in wrong.output
    monkeypatch.setenv("CONCORD_OFFLINE", "1")
    offline = command([what], "weights", "fetch", "thing")
    assert offline.exit_code == 2
    assert "connections are off" in offline.output
    assert server.seen == []

"""Fetching against a server that misbehaves: every time the right file, or one clear line and nothing half-done."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator

import pytest
import requests
from fetch_world import CONTENT, OTHER, QUOTA, SHA256, final, make, manifest, refusal
from http_faults import Answer, FaultServer

from concord.data.download.manifest import fetched_file
from concord.data.download.transfer import BLOCK


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


# ------------------------------------------------------------------------------------------------------------ it works


def test_a_file_is_fetched_verified_and_not_fetched_again(tmp_path, server):
    what = manifest(server.add("/a", CONTENT))
    fetcher, _, _ = make(tmp_path)
    assert fetcher.fetch(what) == [final(tmp_path)]
    assert final(tmp_path).read_bytes() == CONTENT
    assert fetcher.fetch(what) == [final(tmp_path)]
    assert len(server.seen) == 1
    assert not (tmp_path / "cache" / ".fetch" / "thing").exists()
    assert fetched_file(what, cache=tmp_path / "cache") == final(tmp_path)
    entry = json.loads((tmp_path / "cache/locks/thing.json").read_text())["files"]["thing.bin"]
    assert (entry["sha256"], entry["size"]) == (SHA256, len(CONTENT))


def test_the_progress_ends_with_every_byte(tmp_path, server):
    told: list[tuple[str, int, int | None]] = []

    @contextlib.contextmanager
    def bar(what: str):
        yield lambda done, total: told.append((what, done, total))

    fetcher, _, _ = make(tmp_path, bar=bar)
    fetcher.fetch(manifest(server.add("/a", CONTENT)))
    assert [row for row in told if row[0] == "thing.bin"][-1] == ("thing.bin", len(CONTENT), len(CONTENT))


# --------------------------------------------------------------------------------------------------- cuts and stalls


@pytest.mark.parametrize(
    "fault",
    [Answer(cut=100_001), Answer(stall=100_001), Answer(status=503), Answer(cut=0)],
    ids=["cut", "stall", "503", "cut at once"],
)
def test_after_a_fault_the_rest_is_fetched(tmp_path, server, fault):
    what = manifest(server.add("/a", CONTENT, fault, Answer()))
    fetcher, slept, said = make(tmp_path, patience=30 if fault.stall is None else 1.0)
    fetcher.fetch(what)
    assert final(tmp_path).read_bytes() == CONTENT
    had = (fault.cut or fault.stall or 0) // BLOCK * BLOCK
    assert server.ranges("/a") == [None, f"bytes={had}-" if had else None]
    assert slept[0] == 1.0
    assert fault.stall is not None or len(said) == 1


def test_many_cuts_are_borne_while_each_attempt_brings_bytes(tmp_path, server):
    cuts = [Answer(cut=30_000) for _ in range(9)]
    fetcher, slept, _ = make(tmp_path)  # three attempts that bring nothing would end it
    fetcher.fetch(manifest(server.add("/a", CONTENT, *cuts, Answer())))
    assert final(tmp_path).read_bytes() == CONTENT
    assert slept == [1.0] * 9


def test_waits_double_while_nothing_comes_and_then_it_ends(tmp_path, server):
    what = manifest(server.add("/a", CONTENT, Answer(status=500)))
    fetcher, slept, _ = make(tmp_path)
    line = refusal(fetcher, what)
    assert "answered 500" in line
    assert "concord weights fetch thing --from-file" in line
    assert slept == [1.0, 2.0]


def test_a_server_that_ignores_range_sends_everything_again(tmp_path, server):
    what = manifest(server.add("/a", CONTENT, Answer(cut=100_000), Answer(ranges=False)))
    fetcher, _, _ = make(tmp_path)
    fetcher.fetch(what)
    assert final(tmp_path).read_bytes() == CONTENT
    assert server.ranges("/a") == [None, "bytes=98304-"]


def test_a_server_that_ignores_range_and_always_cuts_is_given_up(tmp_path, server):
    fetcher, slept, _ = make(tmp_path)
    line = refusal(fetcher, manifest(server.add("/a", CONTENT, Answer(cut=100_000, ranges=False))))
    assert "broke the connection" in line
    assert len(slept) == 2


def test_a_file_that_changed_meanwhile_is_fetched_anew(tmp_path, server):
    what = manifest(server.add("/a", OTHER, Answer(cut=100_000, body=OTHER), Answer(body=CONTENT)))
    fetcher, _, _ = make(tmp_path)
    fetcher.fetch(what)
    assert final(tmp_path).read_bytes() == CONTENT
    assert server.ranges("/a") == [None, "bytes=98304-"]  # If-Range made the server send all of the new file


def test_halves_of_two_files_are_noticed_by_the_hash_and_fetched_anew(tmp_path, server):
    blind = {"tag": None}  # a server that cannot tell that the file has changed
    server.add("/a", CONTENT, Answer(cut=100_000, body=OTHER, **blind), Answer(**blind))
    fetcher, _, said = make(tmp_path)
    fetcher.fetch(manifest(server.url("/a")))
    assert final(tmp_path).read_bytes() == CONTENT
    assert server.ranges("/a") == [None, "bytes=98304-", None]
    assert any("beginning anew" in line for line in said)


def test_a_range_that_begins_elsewhere_is_not_appended(tmp_path, server):
    server.add("/a", CONTENT, Answer(cut=100_000), Answer(shifted=7), Answer())
    fetcher, _, said = make(tmp_path)
    fetcher.fetch(manifest(server.url("/a")))
    assert final(tmp_path).read_bytes() == CONTENT
    assert "continued at another place" in said[1]
    assert server.ranges("/a") == [None, "bytes=98304-", None]


def test_an_interrupted_fetch_goes_on_in_the_next_process(tmp_path, server):
    what = manifest(server.add("/a", CONTENT, Answer(cut=200_000), Answer(status=403), Answer()))
    fetcher, _, _ = make(tmp_path)
    refusal(fetcher, what)  # the 403 ends it
    again, _, _ = make(tmp_path)
    again.fetch(what)
    assert final(tmp_path).read_bytes() == CONTENT
    assert server.ranges("/a")[-1] == "bytes=196608-"


def test_a_complete_part_needs_no_connection(tmp_path, server, monkeypatch):
    what = manifest(server.add("/a", CONTENT))
    fetcher, _, _ = make(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EACCES, "Permission denied")))
        refusal(fetcher, what)
    fetcher.fetch(what)
    assert final(tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("answer", [Answer(chunked=True), Answer(chunked=True, cut=100_000)], ids=["whole", "cut"])
def test_a_file_without_length_is_known_by_its_chunks(tmp_path, server, answer):
    fetcher, _, _ = make(tmp_path)
    fetcher.fetch(manifest(server.add("/a", CONTENT, answer, Answer(chunked=True))))
    assert final(tmp_path).read_bytes() == CONTENT


def test_a_file_whose_end_cannot_be_told_from_a_cut_is_refused(tmp_path, server):
    fetcher, _, _ = make(tmp_path)
    line = refusal(fetcher, manifest(server.add("/a", CONTENT, Answer(length=False)), file={"sha256": "unknown"}))
    assert "does not say how long the file is" in line


# ----------------------------------------------------------------------------------------------- refusals and pages


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_lasting_refusal_leads_to_the_next_source_at_once(tmp_path, server, status):
    bad = server.add("/a", CONTENT, Answer(status=status, body=b"no"))
    fetcher, slept, said = make(tmp_path)
    fetcher.fetch(manifest(bad, server.add("/b", CONTENT)))
    assert final(tmp_path).read_bytes() == CONTENT
    assert slept == []
    assert f"answered {status}" in said[0]


def test_when_every_source_fails_each_reason_is_told(tmp_path, server):
    sources = [
        server.add("/a", CONTENT, Answer(status=404)),
        server.add("/b", OTHER, Answer()),
        {"url": "http://example.invalid/x", "status": "dead", "note": "gone since 2020"},
    ]
    fetcher, _, _ = make(tmp_path)
    line = refusal(fetcher, manifest(*sources))
    assert "answered 404" in line
    assert f"SHA-256 is {hashlib.sha256(OTHER).hexdigest()}, the manifest says {SHA256}" in line
    assert "gone since 2020" in line
    assert "--from-file" in line


def test_retry_after_is_honoured(tmp_path, server):
    busy = Answer(status=429, headers={"Retry-After": "7"})
    fetcher, slept, _ = make(tmp_path)
    fetcher.fetch(manifest(server.add("/a", CONTENT, busy, Answer())))
    assert final(tmp_path).read_bytes() == CONTENT
    assert slept == [7.0]


def test_retry_after_as_a_date_and_beyond_patience(tmp_path, server):
    from datetime import UTC, datetime, timedelta
    from email.utils import format_datetime

    late = format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)
    busy = server.add("/a", CONTENT, Answer(status=503, headers={"Retry-After": late}))
    fetcher, slept, said = make(tmp_path)
    fetcher.fetch(manifest(busy, server.add("/b", CONTENT)))
    assert slept == []  # two hours are left for the next source
    assert "asks to wait" in said[0]


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/zip"], ids=["said so", "in disguise"])
def test_a_page_instead_of_the_file_is_named(tmp_path, server, kind):
    fetcher, _, _ = make(tmp_path)
    what = manifest(server.add("/a", QUOTA, Answer(kind=kind)), file={"sha256": "unknown"})
    line = refusal(fetcher, what)
    assert "web page" in line
    assert "Too many users" in line
    assert not (tmp_path / "cache/locks/thing.json").exists()  # nothing was recorded as the file's hash


def test_a_length_other_than_the_manifests_is_refused_before_a_byte_is_kept(tmp_path, server):
    fetcher, _, _ = make(tmp_path)
    line = refusal(fetcher, manifest(server.add("/a", CONTENT), file={"size": 5}))
    assert "announces 307,200 bytes, the manifest says 5" in line


def test_a_server_that_is_not_there(tmp_path):
    fetcher, slept, _ = make(tmp_path)
    line = refusal(fetcher, manifest("http://127.0.0.1:9/a"))
    assert "broke the connection" in line
    assert len(slept) == 2


# ------------------------------------------------------------------------------------------- Google Drive, Hugging Face

WARNING = b"""<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<form id="download-form" action="/download" method="get"><input type="submit" value="Download anyway"/>
<input type="hidden" name="id" value="ID1"><input type="hidden" name="confirm" value="t">
<input type="hidden" name="uuid" value="u&amp;1"></form></body></html>"""


def test_google_drives_warning_is_confirmed(tmp_path, server):
    warning = Answer(body=WARNING, kind="text/html")
    server.add("/download", CONTENT, Answer(fields={"uuid": "u&1"}), warning)
    fetcher, _, _ = make(tmp_path, server)
    fetcher.fetch(manifest({"gdrive": "ID1"}))
    assert final(tmp_path).read_bytes() == CONTENT
    asked = [seen.query.get("uuid") for seen in server.seen]
    assert list(dict.fromkeys(asked)) == [None, "u&1"]  # a busy machine may have asked twice, its timeout is short


def test_google_drives_quota_page_is_told(tmp_path, server):
    server.add("/download", QUOTA, Answer(kind="text/html"))
    fetcher, _, _ = make(tmp_path, server)
    line = refusal(fetcher, manifest({"gdrive": "ID1"}, by_hand="open the folder in a browser"))
    assert "Too many users have viewed or downloaded this file recently" in line
    assert "open the folder in a browser, then run `concord weights fetch thing --from-file PATH`" in line


def test_a_folder_of_google_drive_is_searched(tmp_path, server, monkeypatch):
    def entry(identity: str, name: str, kind: str) -> str:
        return (
            f'<div class="flip-entry" id="entry-{identity}"><a href="https://drive.google.com/{kind}">'
            f'<div class="flip-entry-title">{name}</div></a></div>'
        )

    folder, file, other = "T" * 30, "I" * 30, "X" * 30
    top = entry(folder, "text", f"drive/folders/{folder}") + entry(other, "thing.bin", f"file/d/{other}/view")
    inner = entry(file, "a &amp; b.bin", f"file/d/{file}/view")
    pages = [
        Answer(body=f"<title>{title}</title>{page}".encode(), kind="text/html", fields={"id": name})
        for name, title, page in (("F1", "shared", top), (folder, "text", inner))
    ]
    server.add("/embeddedfolderview", b"", *pages)
    server.add("/download", CONTENT, Answer(fields={"id": file}))
    get = requests.Session.get
    there = "https://drive.google.com/"
    monkeypatch.setattr(
        requests.Session, "get", lambda self, url, **more: get(self, url.replace(there, server.url("/")), **more)
    )
    fetcher, _, _ = make(tmp_path, server)
    fetcher.fetch(manifest({"gdrive_folder": "F1", "file": "text/a & b.bin"}))
    assert final(tmp_path).read_bytes() == CONTENT
    line = refusal(fetcher, manifest({"gdrive_folder": "F1", "file": "missing.bin"}, name="other"))
    assert "the folder has no 'missing.bin' (it shows text/a & b.bin, thing.bin)" in line
    server.add("/embeddedfolderview", b"no", Answer(status=404))
    line = refusal(fetcher, manifest({"gdrive_folder": "F1", "file": "missing.bin"}, name="third"))
    assert "the folder cannot be listed" in line
    server.add("/embeddedfolderview", b"", Answer(status=503), *pages)
    again, slept, _ = make(tmp_path, server)
    final(tmp_path).unlink()
    again.fetch(manifest({"gdrive_folder": "F1", "file": "text/a & b.bin"}))
    assert final(tmp_path).read_bytes() == CONTENT
    assert slept == [1.0]


def test_hugging_face_paths(tmp_path, server):
    server.add("/owner/repo/resolve/main/unet/thing.bin", CONTENT)
    fetcher, _, _ = make(tmp_path, server)
    fetcher.fetch(manifest({"huggingface": "owner/repo", "file": "unet/thing.bin"}))
    assert final(tmp_path).read_bytes() == CONTENT


# ------------------------------------------------------------------------------------------------- hashes and locks


def test_an_unknown_hash_is_recorded_and_then_enforced(tmp_path, server):
    what = manifest(server.add("/a", CONTENT), file={"sha256": "unknown"})
    fetcher, _, said = make(tmp_path)
    fetcher.fetch(what)
    assert SHA256 in said[-1]
    shutil.rmtree(tmp_path / "cache" / "weights")
    server.add("/a", OTHER)
    line = refusal(fetcher, what)
    assert f"SHA-256 is {hashlib.sha256(OTHER).hexdigest()}, the first download" in line
    assert SHA256 in line


def test_the_beginning_of_a_hash_in_a_name_is_enforced(tmp_path, server):
    fetcher, _, _ = make(tmp_path)
    line = refusal(fetcher, manifest(server.add("/a", OTHER), file={"sha256": "unknown", "sha256_prefix": SHA256[:8]}))
    assert f"its name says {SHA256[:8]}" in line

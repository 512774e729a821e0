"""`concord open`: which report it takes, and that it is served to this machine alone, as it is now."""

from __future__ import annotations

import os
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from concord.commands.open_report import find_report, serve
from concord.data.errors import ConcordError


def write(root: Path, name: str, text: str, age: int) -> Path:
    index = root / name / "report/index.html"
    index.parent.mkdir(parents=True)
    index.write_text(text)
    os.utime(index, (1_000_000 - age, 1_000_000 - age))
    return index


def test_the_report_that_was_written_last_or_the_one_that_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConcordError, match="no report yet; run `make bench SIZE=quick`"):
        find_report(tmp_path, None)
    own, quick = write(tmp_path, ".", "own", 50), write(tmp_path, "quick", "quick", 9)
    write(tmp_path, "limit-8", "limit", 10)
    assert find_report(tmp_path, None) == quick
    assert find_report(tmp_path, "quick") == quick
    with pytest.raises(ConcordError, match="no report of 'nothing'; expected one of limit-8, quick"):
        find_report(tmp_path, "nothing")
    os.utime(own, (2_000_000, 2_000_000))
    assert find_report(tmp_path, None).read_text() == "own"


def test_it_is_served_to_this_machine_and_read_again_while_it_changes(tmp_path: Path) -> None:
    index = write(tmp_path, "quick", "first", 0)
    with serve(index.parent, 0) as server:
        host, port = server.server_address[:2]
        assert host == "127.0.0.1"
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def read() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/index.html", timeout=10) as page:
                assert page.headers["Cache-Control"] == "no-store"
                return str(page.read().decode())

        assert read() == "first"
        index.write_text("second")
        assert read() == "second"
        with pytest.raises(ConcordError, match=f"--port {port}: .*choose another"):
            serve(index.parent, int(port))
        server.shutdown()


def test_the_verb_prints_where_the_page_is(concord: Callable[..., Any], tmp_path: Path) -> None:
    index = write(tmp_path / "embedded", "quick", "x", 0)
    result = concord("open", "quick", "--results", tmp_path, "--print")
    assert (result.exit_code, result.stdout) == (0, f"report: {index}\n")

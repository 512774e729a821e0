"""Writing the report's files, and putting data into scripts."""

from __future__ import annotations

import json
from pathlib import Path

from concord.benchmarks.store.digests import make_way
from concord.data.files import atomic_path


def write_bytes(path: Path, content: bytes) -> None:
    """Write atomically; a file that already holds this is left alone, so that its time says when it changed."""
    make_way(path)
    if (
        not path.is_symlink()
        and path.is_file()
        and path.stat().st_size == len(content)
        and path.read_bytes() == content
    ):
        return
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def script_json(value: object) -> str:
    """JSON that is safe inside a script, in a page or in a file: no '<', and ASCII alone.

    Without '<' no caption can end the script element or open a comment in it; U+2028 and its like are escaped too.
    """
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")

"""What the tests of fetching share: a small file, manifests of it, a fetcher that waits for nobody."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from http_faults import FaultServer

from concord.data.download.fetch import Fetcher
from concord.data.download.manifest import Manifest
from concord.data.download.transfer import Network
from concord.data.errors import ConcordError

CONTENT = bytes(range(256)) * 1200  # 300 kB: several blocks, and a cut in the middle of one
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = CONTENT[::-1]
QUOTA = b'<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body><p class="uc-error-caption">Sorry</p><p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p></body></html>'  # noqa: E501


def manifest(*sources: Any, name: str = "thing", file: dict[str, Any] | None = None, **changes: Any) -> Manifest:
    """A manifest of one file; a source is a URL or the fields of one."""
    found = [{"url": source} if isinstance(source, str) else source for source in sources]
    facts = {
        "name": name,
        "kind": "weights",
        "title": "A thing",
        "citation": "nobody",
        "needed_by": ["tests"],
        "licence": {"name": "MIT", "consequence": "Free."},
        "files": [{"name": "thing.bin", "sha256": SHA256, "sources": found, **(file or {})}],
    }
    return Manifest.model_validate({**facts, **changes})


def make(
    tmp_path: Path, server: FaultServer | None = None, patience: float = 30, **changes: Any
) -> tuple[Fetcher, list[float], list[str]]:
    """A fetcher that waits for nobody: how long it would have slept, and what it said, are kept.

    patience: seconds without a byte; long, so that a busy machine is no fault, but where a stall is the fault.
    """
    slept: list[float] = []
    said: list[str] = []
    hosts = dict.fromkeys(("drive", "huggingface"), server.root) if server else {}
    network = Network(connect_seconds=patience, stall_seconds=patience, attempts=3, sleep=slept.append, **hosts)
    return Fetcher(tmp_path / "cache", False, network, said.append, **changes), slept, said


def final(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "weights" / "thing" / "thing.bin"


def refusal(fetcher: Fetcher, what: Manifest, **options: Any) -> str:
    """The one line of a fetch that fails, after which nothing stands under the final name."""
    with pytest.raises(ConcordError) as caught:
        fetcher.fetch(what, **options)
    assert "\n" not in str(caught.value)
    folder = what.folder(fetcher.cache)
    assert not any((folder / file.result).exists() for file in what.files)
    return str(caught.value)

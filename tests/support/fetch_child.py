"""What a killed process does in tests/pipeline/test_fetch_kill.py; imported once, by the server that forks it."""

from pathlib import Path
from typing import Any

import pooch.downloaders  # noqa: F401  # ahead, so that the kills fall into the fetch and not into its imports

from concord.data.download.fetch import Fetcher
from concord.data.download.manifest import Manifest


def fetch(described: dict[str, Any], cache: str) -> None:
    """Fetch a manifest given as its fields."""
    Fetcher(Path(cache), False).fetch(Manifest.model_validate(described))

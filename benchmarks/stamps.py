"""What a stage of dvc.yaml leaves for DVC to watch: one small file a suite, naming the manifests of its rows.

The manifests lie apart, and DVC wants the outputs of a stage listed by hand. A stamp holds the SHA-256 of each, so that
it changes exactly when one of them does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from concord.benchmarks.plan.runs import RunPlan
from concord.data.errors import ConcordError
from concord.data.files import read_json, sha256_file, write_json


def write_stamp(stamp: Path, runs: Sequence[RunPlan], manifest: str, left: Mapping[str, str] | None = None) -> None:
    """Name the manifests ('run.json' or 'score.json') of finished runs by SHA-256; `left`: what was left out, why."""
    rows = {f"{run.requests.name}/{run.row.name}": sha256_file(run.path / manifest) for run in runs}
    content = {"manifest": manifest, "rows": dict(sorted(rows.items()))}
    write_json(stamp, {**content, "left": dict(sorted(left.items()))} if left else content)


def is_valid(stamp: Path, root: Path) -> bool:
    """Whether every manifest that a stamp names lies under `root` as it was, and nothing was left out."""
    try:
        content = read_json(stamp)
        rows, manifest = content["rows"], content["manifest"]
        if content.get("left"):
            return False
        return all(sha256_file(root / row / manifest) == digest for row, digest in rows.items())
    except (ConcordError, OSError, KeyError, TypeError, AttributeError):
        return False


def remove_stale(folder: Path, root: Path) -> list[str]:
    """Remove the stamps whose rows were changed or removed by hand, so that DVC runs their stages again."""
    removed = [path for path in sorted(folder.glob("*.json")) if not is_valid(path, root)]
    for path in removed:
        path.unlink()
    return [path.stem for path in removed]

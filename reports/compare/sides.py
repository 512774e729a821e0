"""The two sides of a comparison, read from where they are: a results folder, a baseline folder, or a git revision.

A side holds numbers alone: per-sample values, set metrics with their jackknife replicates, compact features, and the
facts that must agree before two runs may be compared. A baseline (reports/baseline/<profile>) is such a side on disk:

    baseline.json     format, profile, commit, protocols of the metrics, and the facts of every run
    scores.parquet    run, request, metric, value, status      sets.parquet    run, metric, value, n, n_reference, ...
    features.npz      float16 (n, D) features by run            metrics.json    means alone, for `dvc metrics`

baseline.json names the other files by SHA-256, and carries a digest of its own. Baselines of format 1 (without features
and protocols) and 2 (without digests) are read too.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from concord.data.errors import ConcordError
from concord.data.files import parse_json, path_kind, read_bytes
from concord.data.npz import read_npz
from concord.metrics.base import all_metrics, metric_name
from concord.reports.compare import git as history
from concord.reports.compare.costs import cost_facts, made_from, unpacked
from concord.reports.tables.measured import MetricFacts, metric_facts, read_measured

if TYPE_CHECKING:
    from concord.benchmarks.store.run import Run, Store

FORMAT = 3
WITH_DIGESTS = 3  # from this format on, baseline.json vouches for itself and for the other files
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError)
FIRST = "version 1"  # of a suite or a metric that says nothing of it
BASELINE = Path(__file__).resolve().parents[1] / "baseline"
FILES = ("baseline.json", "scores.parquet", "sets.parquet", "features.npz", "metrics.json")
POOL = "pool"  # the kind of features that is kept: what FID and KID read
REFERENCES = ("ground-truth", "shuffled")

Reader = Callable[[str], "bytes | None"]
"""name of a file -> its content, None where there is no such file"""


@dataclass(frozen=True)
class SideRun:
    """One row of one request set. values: metric -> (n,) in request order; sets: metric -> (value, replicates)."""

    facts: dict[str, Any]  # n, data, device, networks; where known profile, reference, commit, cost, made
    requests: list[str] = field(default_factory=list)
    values: dict[str, np.ndarray] = field(default_factory=dict)
    failed: dict[str, np.ndarray] = field(default_factory=dict)
    sets: dict[str, tuple[float, np.ndarray]] = field(default_factory=dict)
    n_reference: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    features: np.ndarray | None = None  # (n, D)
    unusable: str = ""  # why it cannot be compared at all

    @property
    def items(self) -> list[str]:
        """The item of each request: its images under several seeds are one unit of sampling."""
        return [request.rsplit("-", 1)[0] for request in self.requests]


@dataclass(frozen=True)
class Side:
    """One side: how it is called, its profile, and its runs by '<request set>/<row>'."""

    label: str
    profile: str
    runs: dict[str, SideRun]
    commit: str = "unknown"
    protocols: dict[str, dict[str, object]] = field(default_factory=dict)  # metric -> what a value of it means


# --------------------------------------------------------------------------------------------------- what a name means


def open_side(name: str, profile: str, root: Path, results: Path, baseline: Path = BASELINE) -> Side:
    """A side by its name: 'baseline', 'results' (the stored ones), a folder, or a revision of the repository `root`.

    A folder goes before a revision of the same name. Raises ConcordError for what is none of them.
    """
    from concord.benchmarks.store.run import Store

    if name == "baseline":
        return baseline_folder(baseline / profile, f"committed baseline ({profile})")
    folder = results / profile if name == "results" else Path(name)
    if name == "results" or folder.is_dir():
        if not folder.is_dir():
            raise ConcordError(f"{folder}: no such folder; run `concord run SUITE` first")
        for inside in (folder, folder / profile):
            if any(os.path.lexists(inside / name) for name in FILES[:3]):  # one of them alone is half a baseline
                return baseline_folder(inside, str(inside))
        inside = folder / profile if (folder / profile).is_dir() else folder
        return store_side(Store(inside), profile)
    commit = history.resolve(root, name)
    label = f"baseline of {name}" + ("" if commit.startswith(name) else f" ({commit[:12]})")
    return revision_side(root, commit, profile, label)


def revision_side(root: Path, commit: str, profile: str, label: str = "") -> Side:
    """The baseline as it was committed at a revision."""
    place = f"reports/baseline/{profile}"
    if history.show(root, commit, f"{place}/baseline.json") is None:
        raise ConcordError(
            f"revision {commit[:12]} has no {place}; name one that has (`git log -- {place}` lists the commits that "
            "changed it), or a results folder"
        )
    return read_side(lambda name: history.show(root, commit, f"{place}/{name}"), f"{commit[:12]}:{place}", label)


def baseline_folder(folder: Path, label: str) -> Side:
    """A baseline on disk; ConcordError when there is none."""
    kind = path_kind(folder / "baseline.json")
    if kind != "file":
        what = "no baseline yet" if kind == "none" else "baseline.json is no file"
        raise ConcordError(f"{folder}: {what} ({folder / 'baseline.json'}): run `concord compare --accept`")

    def read(name: str) -> bytes | None:
        path = folder / name
        return read_bytes(path) if path_kind(path) != "none" else None

    return read_side(read, str(folder), label)


# ------------------------------------------------------------------------------------------------------------ baseline


def read_side(read: Reader, where: str, label: str = "", without: Collection[str] = ()) -> Side:
    """A baseline from its files; ConcordError when it is damaged or of a format that is not known here.

    without: files that are not read, as features by a history.
    """
    import pyarrow as pa

    try:
        content = parse_json((read("baseline.json") or b"").decode("utf-8"), "baseline.json")
        version = int(content.get("format", 1))
        if version <= FORMAT:
            files = {name: found for name in FILES[1:] if name not in without and (found := read(name)) is not None}
            if version >= WITH_DIGESTS:
                _check_digests(content, files, without)
            return _side(content, files, label or where)
    except (
        ConcordError,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        MemoryError,
        pa.ArrowException,
    ) as error:
        reason = f"damaged baseline ({' '.join(str(error).split())[:200]})"
        raise ConcordError(f"{where}: {reason}; renew it with `concord compare --accept`") from None
    raise ConcordError(
        f"{where}: a baseline of format {version}, this Concord reads up to {FORMAT}; use the version that wrote it"
    )


def seal(content: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    """The content of baseline.json with the SHA-256 of the other files, and one of its own."""
    found = {**content, "files": {name: hashlib.sha256(one).hexdigest() for name, one in sorted(files.items())}}
    return {**found, "sha256": _own_digest(found)}


def _own_digest(content: Mapping[str, Any]) -> str:
    kept = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _check_digests(content: Mapping[str, Any], files: Mapping[str, bytes], without: Collection[str]) -> None:
    """Raise ValueError unless every file is the one that was written."""
    if content["sha256"] != _own_digest(content):
        raise ValueError("baseline.json has changed since it was written")
    for name, digest in content["files"].items():
        if name in without:
            continue
        if name not in files:
            raise ValueError(f"{name} is missing")
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise ValueError(f"{name} has changed since it was written")


def _side(content: dict[str, Any], files: Mapping[str, bytes], label: str) -> Side:
    features = _features(files.get("features.npz"))
    requests, values, failed = _samples(files.get("scores.parquet", b""))
    sets, n_reference = _sets(files.get("sets.parquet", b""))
    runs = {}
    for name, facts in dict(content["runs"]).items():
        if {"n", "data", "device", "networks"} - set(facts):
            raise ValueError(f"run '{name}' lacks its facts")
        ids = requests.get(name) or list(dict(content.get("requests") or {}).get(name, []))
        if len(ids) != facts["n"] or any(len(v) != len(ids) for v in values.get(name, {}).values()):
            raise ValueError(f"run '{name}' has scores of {len(ids)} of {facts['n']} requests")
        runs[name] = SideRun(
            unpacked(facts, dict(content.get("code") or {})),
            ids,
            values.get(name, {}),
            failed.get(name, {}),
            sets.get(name, {}),
            n_reference.get(name, {}),
            features=features.get(name),
        )
    profile = str(content["profile"])
    protocols = {metric_name(name): fact for name, fact in dict(content.get("protocols") or {}).items()}
    return Side(label, profile, runs, str(content.get("commit", "unknown")), protocols)


def _check_bounds(metric: str, values: np.ndarray) -> None:
    """Raise ValueError where values lie outside of their metric's bounds."""
    if metric in all_metrics():
        try:
            metric_facts([metric])[metric].check(values, Path("scores"))
        except ConcordError as error:
            raise ValueError(str(error)) from None


def _samples(content: bytes) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Request ids, values and failures by run; a metric that was refused is left out."""
    import pandas as pd

    frame = pd.read_parquet(io.BytesIO(content))
    requests: dict[str, list[str]] = {}
    values: dict[str, dict[str, np.ndarray]] = {}
    failed: dict[str, dict[str, np.ndarray]] = {}
    for (run, metric), part in frame.groupby(["run", "metric"], sort=False, observed=True):
        metric = metric_name(str(metric))
        ids = part["request"].astype(str).tolist()
        if requests.setdefault(str(run), ids) != ids:
            raise ValueError(f"run '{run}': metric '{metric}' is of other requests than the others")
        numbers, status = part["value"].to_numpy(np.float64), part["status"].astype(str)
        if np.isfinite(numbers).all() and not status.str.startswith("refused").any():
            _check_bounds(metric, numbers)
            values.setdefault(str(run), {})[metric] = numbers
            failed.setdefault(str(run), {})[metric] = (status != "ok").to_numpy(dtype=bool)
    return requests, values, failed


def _sets(content: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Set metrics and the sizes of their references, by run."""
    import pandas as pd

    sets: dict[str, dict[str, tuple[float, np.ndarray]]] = {}
    sizes: dict[str, dict[str, int]] = {}
    for row in pd.read_parquet(io.BytesIO(content)).to_dict("records"):
        run, metric = str(row["run"]), metric_name(str(row["metric"]))
        if row["status"] == "ok" and np.isfinite(row["value"]):
            _check_bounds(metric, np.array([row["value"]]))
            sets.setdefault(run, {})[metric] = (float(row["value"]), np.asarray(row["replicates"], np.float64))
            sizes.setdefault(run, {})[metric] = int(row["n_reference"])
    return sets, sizes


def _features(content: bytes | None) -> dict[str, np.ndarray]:
    if content is None:
        return {}
    return {name: array.astype(np.float32) for name, array in read_npz(content, "features.npz").items()}


# ------------------------------------------------------------------------------------------------------------- results


def store_side(store: Store, profile: str, label: str = "") -> Side:
    """The runs of a results folder. What is half-written is there too, with the reason why it cannot be compared.

    Reference rows are left out, and so are rows of external methods, which are not this repository's to watch.
    """
    runs, commits, profiles = {}, set(), set()
    for place in sorted(path for path in store.root.glob("*") if path.is_dir()):
        for name, reason in store.lost(place.name).items():
            if name not in REFERENCES:
                runs[f"{place.name}/{name}"] = SideRun({}, unusable=f"{reason}; the same `concord run` makes it again")
    for folder in sorted(path for path in store.root.glob("*/*") if path.is_dir()):
        run = store.run(folder.parent.name, folder.name)
        if (
            run.row in REFERENCES
            or f"{run.request_set}/{run.row}" in runs
            or not (run.finished or (folder / "images").is_dir())
        ):
            continue
        if not run.finished:
            reason = "generation has not finished; the same `concord run` goes on from there"
            runs[f"{run.request_set}/{run.row}"] = SideRun({}, unusable=reason)
        elif not run.manifest.get("external"):
            found = _read_run(run)
            runs[f"{run.request_set}/{run.row}"] = found
            commits.add(str(found.facts["commit"]))
            profiles.add(str(found.facts["profile"]))
    if not runs:
        raise ConcordError(f"{store.root}: no scored runs to compare or accept; run `concord run SUITE` first")
    if len(profiles) > 1:
        raise ConcordError(
            f"{store.root}: results of several profiles ({', '.join(sorted(profiles))}); keep them apart"
        )
    commit = ", ".join(sorted(commits)) or "unknown"
    return Side(label or str(store.root), profiles.pop() if profiles else profile, runs, commit)


def _versions(info: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """'suites', 'metrics' -> name -> 'version 2', where that is not version 1."""
    parts = info.get("key_parts") or {}
    found = {kind: dict(parts.get(kind) or {}) for kind in ("suites", "metrics")}
    later = {kind: {name: v for name, v in named.items() if v != FIRST} for kind, named in found.items()}
    return {kind: named for kind, named in later.items() if named}


def _read_run(run: Run) -> SideRun:
    manifest = run.manifest
    try:
        facts = {
            "n": len(run.ids),
            "profile": str(manifest["profile"]),
            "data": manifest["data"]["fingerprint"],
            "device": str(manifest.get("device", "")).partition(":")[0],
            "commit": str((manifest.get("provenance") or {}).get("git_commit")),
            "cost": cost_facts(manifest),
        }
        if made := made_from(manifest):
            facts["made"] = made
        if not run.scored:
            reason = f"not scored yet; run `concord score {run.request_set} {run.row}`"
            return SideRun(facts, unusable=reason)
        info = run.score_info
        facts["networks"] = dict(info["networks"] or {})
        if versions := _versions(info):
            facts["versions"] = versions
        facts["reference"] = (info.get("reference") or {}).get("fingerprint", "")
        scores, sets = run.scores(), run.sets()
        wanted = {str(name): _bare(str(name), False) for name in scores["metric"].unique()}
        wanted |= {str(name): _bare(str(name), True) for name in sets["metric"].unique()}
        measured = read_measured(run, wanted)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConcordError(
            f"{run.path}: results of another version of Concord ({error} is missing or of another kind); "
            f"remove the folder and run `concord run {run.request_set}` again"
        ) from None
    return SideRun(
        facts,
        measured.requests,
        measured.values,
        measured.failed,
        measured.sets,
        measured.n_reference,
        measured.refused,
        _pool(run),
    )


def _bare(name: str, is_set: bool) -> MetricFacts:
    """What reading a score needs to know of its metric, which need not be registered any more."""
    return MetricFacts(name, name, True, is_set)


def _pool(run: Run) -> np.ndarray | None:
    try:
        requests, features = run.features(POOL)
    except (OSError, KeyError, ValueError):
        return None  # they only rank the samples of a set metric
    return features if requests == run.ids and features.ndim == 2 else None


# ----------------------------------------------------------------------------------------------------------- protocols


def protocols(names: list[str]) -> dict[str, dict[str, object]]:
    """What a value of each registered metric means today: two values compare only where this agrees."""
    from concord.metrics.base import SetMetric

    known = all_metrics()
    found: dict[str, dict[str, object]] = {}
    for name in names:
        if name in known:
            metric = known[name]
            is_set = issubclass(metric, SetMetric)
            found[name] = {
                "version": metric.version,
                "unit": metric.unit,
                "higher_is_better": metric.higher_is_better,
                "bounds": [str(end) for end in metric.bounds],
                "needs": sorted(metric.needs),
                "networks": sorted(metric.networks),
                "features": getattr(metric, "features", "") if is_set else "",
                "code": _code(metric),
            }
    return found


def _code(metric: type) -> str:
    """A digest of the metric's file without its comments and docstrings; '' where there is no file."""
    import ast
    import hashlib
    import inspect

    try:
        tree = ast.parse(Path(str(inspect.getsourcefile(metric))).read_text(encoding="utf-8"))
    except (OSError, TypeError, SyntaxError):
        return ""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [line for line in body if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]


def protocol_difference(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    """Which fact of a metric differs between two protocols; '' where none does or one side does not know."""
    for key in sorted((before.keys() & now.keys()) - {"code"}):
        if before[key] != now[key]:
            return f"another protocol of the metric ({key}: {before[key]} in the base, {now[key]} now)"
    return ""

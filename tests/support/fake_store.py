"""A results folder made of numbers with known differences, in the store's format: what reports are tested on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from concord.benchmarks.store.digests import record
from concord.benchmarks.store.run import Store
from concord.benchmarks.store.shards import encode_png, write_shard
from concord.benchmarks.suite import Joint, Row, Suite
from concord.data.files import write_json
from concord.reports.tables.measured import MetricFacts

GROUPS = 32
JUDGES = {"parser": "a" * 64, "text-image": "b" * 64, "features": "c" * 64}

FACTS = {
    "fid": MetricFacts("fid", "FID", False, True, (0, np.inf), "fid", ("features",)),
    "text-similarity": MetricFacts(
        "text-similarity", "Text (%)", True, False, (-100, 100), "text_percent", ("text-image",)
    ),
    "mask-accuracy": MetricFacts("mask-accuracy", "Mask (%)", True, False, (0, 100), "mask_percent", ("parser",)),
    "joint-success": MetricFacts("joint-success", "Joint success (%)", True, False, (0, 100)),
}

# Mean of text similarity, mask accuracy, and the level of the distance, by row. Composable and collaborative differ
# clearly in the mask and the distance, and not at all in the text.
LEVELS = {
    "ground-truth": (30.0, 97.0, 1.0),
    "shuffled": (20.0, 60.0, 1.0),
    "text-only": (28.0, 65.0, 9.0),
    "composable": (27.0, 84.0, 8.0),
    "collaborative": (27.0, 91.0, 5.0),
}


def make_suite(**changes: Any) -> Suite:
    """A suite like face-generation: one planned row, two that are compared, one of a single condition."""
    fields: dict[str, Any] = {
        "name": "face-generation",
        "title": "Face generation from text and mask",
        "paper": "collaborative-diffusion",
        "table": "table-1",
        "dataset": "faces",
        "conditions": ["text", "mask"],
        "rows": [
            Row(name="tedigan", planned="not yet: arrives with its baseline"),
            Row(name="text-only", method="text-only", conditions=["text"]),
            Row(name="composable", method="composable"),
            Row(name="collaborative", method="collaborative"),
        ],
        "metrics": ["fid", "text-similarity", "mask-accuracy", "joint-success"],
        "joint": Joint(metrics=["text-similarity", "mask-accuracy"], quantile=0.05),
        "reference": ["ground-truth", "shuffled"],
        "grid": 3,
        "differences": ["The paper's images have 256x256 pixels; here 64x64."],
    }
    return Suite(**{**fields, **changes})


def write_run(
    root: Path,
    row: str,
    n: int = 64,
    request_set: str = "face-generation",
    levels: tuple[float, float, float] | None = None,
    seed: int = 0,
    failures: int = 0,
    refused: Sequence[str] = (),
    judges: dict[str, str] | None = None,
    ids: Sequence[str] | None = None,
    trace: bool = False,
    images: bool = True,
) -> Path:
    """One scored run. Rows share how hard each request is, so that pairing matters; `seed` changes the noise alone."""
    text, mask, distance = levels or LEVELS[row]
    ids = list(ids) if ids is not None else [f"{27000 + i}-0" for i in range(n)]
    shared = np.random.default_rng(1).normal(size=(3, len(ids)))
    own = np.random.default_rng([seed, *row.encode()]).normal(size=(3, len(ids)))
    values = {
        "text-similarity": text + 1.5 * shared[0] + 0.6 * own[0],
        "mask-accuracy": np.clip(mask + 3.0 * shared[1] + 1.0 * own[1], 0, 100),
    }
    cost = distance + 0.5 * shared[2] + 0.5 * own[2]
    path = root / request_set / row
    path.mkdir(parents=True, exist_ok=True)
    if images:
        _write_images(path, row, ids)
    scores = [
        {
            "suite": request_set,
            "method": row,
            "request": request,
            "metric": metric,
            "value": 0.0 if metric == "mask-accuracy" and i < failures else float(value[i]),
            "status": "no face found" if metric == "mask-accuracy" and i < failures else "ok",
        }
        for metric, value in values.items()
        for i, request in enumerate(ids)
    ]
    pd.DataFrame(scores).to_parquet(path / "scores.parquet", index=False)
    groups = np.arange(len(ids)) % min(GROUPS, len(ids))
    turned_down = "fid" in refused
    sets = {
        "suite": request_set,
        "method": row,
        "metric": "fid",
        "n": len(ids),
        "n_reference": 1000,
        "value": float("nan") if turned_down else float(cost.mean()),
        "status": f"refused: n = {len(ids)}, at least 65 needed" if turned_down else "ok",
        "replicates": [] if turned_down else [float(cost[groups != g].mean()) for g in range(groups.max() + 1)],
    }
    pd.DataFrame([sets]).to_parquet(path / "sets.parquet", index=False)
    np.savez(path / "features.npz", requests=np.array(ids), features_pool=np.zeros((len(ids), 4), np.float32))
    if trace:
        _write_trace(path, ids[:3])
    _write_manifests(path, row, ids, judges or JUDGES)
    sign(path)
    return path


def sign(path: Path) -> None:
    """Vouch for the files of a row as they are now: for tests that write what a run would have written."""
    names = ("run.json", "score.json", "scores.parquet", "sets.parquet", "features.npz", "trace.npz")
    record(path, [name for name in names if (path / name).is_file()], drop=None)


def unscore(path: Path) -> None:
    """Leave a row as a kill while it is scored again does."""
    (path / "score.json").unlink()
    sign(path)


def _write_images(path: Path, row: str, ids: Sequence[str]) -> None:
    rng = np.random.default_rng(list(row.encode()))
    pngs = [encode_png(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in ids]
    for index in range(0, len(ids), 64):
        write_shard(path / "images", index // 64, ids[index : index + 64], pngs[index : index + 64], {})


def _write_trace(path: Path, ids: Sequence[str]) -> None:
    steps = np.arange(980, -1, -140)
    mask = (
        np.random.default_rng(0).random((len(ids), len(steps), 8, 8)) * 0.3
        + np.linspace(0.7, 0.0, len(steps))[:, None, None]
    )
    influence = np.stack([mask, 1 - mask], axis=2).astype(np.float16)
    names, requests = np.array(["mask", "text"]), np.array(ids)
    np.savez(path / "trace.npz", influence=influence, influence_steps=steps, influence_names=names, requests=requests)


def _write_manifests(path: Path, row: str, ids: Sequence[str], judges: dict[str, str]) -> None:
    is_reference = row in ("ground-truth", "shuffled")
    write_json(
        path / "run.json",
        {
            "finished": True,
            "request_set": path.parent.name,
            "row": row,
            "method": None if is_reference else row,
            "profile": "embedded",
            "params": {} if is_reference else {"preset": "paper", "steps": 50},
            "conditions": ["text", "mask"],
            "n": len(ids),
            "image_size": 16,
            "data": {"name": "synthfaces", "fingerprint": "f" * 64},
            "left_out": {},
            "weights": {} if is_reference else {"text-unet": "d" * 64},
            "provenance": {"git_commit": "e" * 40, "device": "cpu", "dtype": "float32", "packages": {"torch": "2"}},
            "device": "cpu",
            "dtype": "float32",
            "batch_size": 32,
            "seconds_total": 40.0,
            "seconds_per_image": 0.61,
            "peak_memory_bytes": 700 * 2**20,
            "evaluations_per_image": {} if is_reference else {"text-unet": 50.0, "mask-unet": 50.0},
            "shards": [{"shard": k // 64, "requests": list(ids[k : k + 64])} for k in range(0, len(ids), 64)],
            "requests": [{"id": request, "seed": 1} for request in ids],
        },
    )
    cards = {kind: {"name": f"judge-{kind}", "held_out": {"pixel_accuracy": 0.973, "n": 1000}} for kind in judges}
    reference = {"name": "synthfaces", "fingerprint": "9" * 64 + ":1000", "n": 1000}
    write_json(path / "score.json", {"networks": judges, "cards": cards, "n": len(ids), "reference": reference})


def write_store(root: Path, n: int = 64, **options: Any) -> Store:
    """All rows of `make_suite`, collaborative with a trace."""
    for row in LEVELS:
        write_run(root, row, n, trace=row == "collaborative", **options)
    return Store(root)

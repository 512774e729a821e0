"""The store: results/<profile>/<request set>/<row>/, written by the runner and by scoring, read by reports.

    images/00000.tar + .json    shards of PNG images             trace.npz       influence maps, where told
    run.json                    facts of the generation, last    features.npz    features of the distribution metrics
    scores.parquet              one row per (request, metric)    sets.parquet    one row per set metric
    score.json                  facts of the scoring, last       digests.json    SHA-256 of every file of the row

A file counts only once the one after it stands (`run.json` for images and trace, `score.json` for the scores), and only
while it is the one that was written (benchmarks/store/digests.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from concord.benchmarks.store.digests import (
    AGAIN,
    DIGESTS,
    Changed,
    check_regular,
    checked_bytes,
    listed_digests,
    read_digests,
    read_index,
)
from concord.benchmarks.store.schema import (
    SCORE_COLUMNS,
    SET_COLUMNS,
    RunManifest,
    ScoreInfo,
    Stored,
    check_columns,
    parse_stored,
)
from concord.benchmarks.store.shards import read_images, tar_path
from concord.data.errors import ConcordError
from concord.data.files import sha256_file
from concord.data.npz import read_npz

if TYPE_CHECKING:
    from pandas import DataFrame

SCORE_FILES = ("score.json", "scores.parquet", "sets.parquet", "features.npz")


@dataclass(frozen=True)
class Run:
    """One row of one request set: its images, what they cost, and their scores."""

    path: Path

    @property
    def request_set(self) -> str:
        return self.path.parent.name

    @property
    def row(self) -> str:
        return self.path.name

    @property
    def finished(self) -> bool:
        """Whether every image is there: run.json is written last."""
        return (self.path / "run.json").is_file()

    @property
    def scored(self) -> bool:
        """Whether it is finished and has scores."""
        return self.finished and (self.path / "score.json").is_file()

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """run.json; ConcordError when the run has not been generated."""
        if not self.finished:
            raise ConcordError(f"{self.path}: not generated yet; run `concord generate {self.request_set} {self.row}`")
        return self._json("run.json", RunManifest)

    @cached_property
    def score_info(self) -> dict[str, Any]:
        """score.json; ConcordError when the run has not been scored."""
        if not self.scored:
            raise ConcordError(f"{self.path}: not scored yet; run `concord score {self.request_set} {self.row}`")
        return self._json("score.json", ScoreInfo)

    @property
    def ids(self) -> list[str]:
        """Request ids in the order of the request set."""
        return [request["id"] for request in self.manifest["requests"]]

    def scores(self) -> DataFrame:
        """suite, method, request, metric, value (float64), status: one row per (request, sample metric)."""
        return with_metric_names(self._parquet("scores.parquet", SCORE_COLUMNS))

    def sets(self) -> DataFrame:
        """suite, method, metric, value, n, n_reference, status, replicates: one row per set metric."""
        return with_metric_names(self._parquet("sets.parquet", SET_COLUMNS))

    def features(self, kind: str = "pool") -> tuple[list[str], np.ndarray]:
        """Request ids and float32 features (n, D) of one kind."""
        name = f"features_{kind}"
        found = read_npz(self._bytes("features.npz"), str(self.path / "features.npz"), ("requests", name))
        if name not in found or "requests" not in found or found[name].shape[:1] != found["requests"].shape:
            raise ConcordError(f"{self.path / 'features.npz'}: no features '{kind}' of its requests; score it again")
        return [str(one) for one in found["requests"]], found[name]

    def images(self, ids: Iterable[str] | None = None) -> Iterator[tuple[str, np.ndarray]]:
        """(request id, uint8 (H, W, 3) RGB), in the order of the request set; only `ids` where given."""
        wanted = None if ids is None else set(ids)
        for shard in self.manifest["shards"]:
            if wanted is None or wanted.intersection(shard["requests"]):
                path = tar_path(self.path / "images", shard["shard"])
                check_regular(path)
                if "sha256" in shard and sha256_file(path) != shard["sha256"]:
                    raise Changed(f"{path}: has changed since it was written; {AGAIN}")
                yield from read_images(path, wanted, self.manifest["image_size"])

    def trace(self) -> dict[str, Any] | None:
        """What the method told about the first requests, or None.

        influence: float16 (R, S, M, h, w); influence_steps: (S,) timesteps; influence_names: (M,); requests: (R,).
        """
        if not self.finished or "trace.npz" not in self.digests:
            return None
        return read_npz(self._bytes("trace.npz"), str(self.path / "trace.npz"))

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of every file of the row, as it was written."""
        return listed_digests(self.path)

    @property
    def lost(self) -> str:
        """What was made and is gone: 'run.json was removed after it was made'; '' where nothing is missing."""
        if not self.path.is_dir() or self.row not in read_index(self.path.parent):
            return ""  # never made, or removed as a whole, which is how a row is given up
        if not (self.path / DIGESTS).is_file():  # also while it is made again
            return f"{DIGESTS} was removed after it was made" if self.finished else ""
        wanted = ["run.json"] + ["score.json"] * ("score.json" in read_digests(self.path))
        gone = [name for name in wanted if not (self.path / name).is_file()]
        return f"{' and '.join(gone)} {'was' if len(gone) == 1 else 'were'} removed after it was made" if gone else ""

    def _bytes(self, name: str) -> bytes:
        return checked_bytes(self.path, name, self.digests)

    def _json(self, name: str, model: type[Stored]) -> dict[str, object]:
        path = self.path / name
        try:
            return parse_stored(path, self._bytes(name), model)
        except Changed:
            check_regular(path)
            parse_stored(path, path.read_bytes(), model)  # names the field, where it is one that no version writes
            raise

    def _parquet(self, name: str, columns: Mapping[str, str]) -> DataFrame:
        import pyarrow as pa
        import pyarrow.parquet as pq

        _ = self.score_info
        content = self._bytes(name)
        try:
            file = pq.ParquetFile(pa.BufferReader(content))
            check_columns(self.path / name, file.schema_arrow, columns)
            return file.read().to_pandas()
        except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())[:120]
            raise ConcordError(f"{self.path / name}: not readable ({reason}); run `concord score` again") from None


def with_metric_names(frame: DataFrame) -> DataFrame:
    """Stored scores with the names that metrics have today."""
    from concord.metrics.base import metric_name

    names = {name: metric_name(str(name)) for name in frame["metric"].unique()}
    return frame.assign(metric=frame["metric"].map(names)) if any(a != b for a, b in names.items()) else frame


class Store:
    """Reads a results folder of one profile: results/<profile>, or results/<profile>/<variant>."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def run(self, request_set: str, row: str) -> Run:
        """The run of that row, which need not exist yet."""
        return Run(self.root / request_set / row)

    def runs(self, request_set: str) -> list[Run]:
        """Every finished run of a request set, by row name."""
        found = sorted((self.root / request_set).glob("*/run.json"))
        return [run for path in found if (run := Run(path.parent)).finished]

    def lost(self, request_set: str) -> dict[str, str]:
        """Rows that were made and of which something is no longer there -> what; ConcordError where that is unknown."""
        names = sorted(read_index(self.root / request_set))
        return {name: reason for name in names if (reason := self.run(request_set, name).lost)}

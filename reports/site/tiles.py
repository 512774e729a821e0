"""Image sheets of the viewer: 64 requests side by side in one file, so that 10,000 samples are 157 files a row.

A sheet is drawn once: tiles.json holds, for each column of a request set, what its sheets were drawn from (the
SHA-256 of the shards, or the bytes of the data, and the code that draws) and what they became; a column that has not
changed is left as it is.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from concord.benchmarks.plan.sources import versions
from concord.benchmarks.store.digests import check_regular, digest_of, make_way
from concord.benchmarks.store.shards import tar_path
from concord.data.code import code_hash
from concord.data.conditions.base import get_condition
from concord.data.errors import ConcordError
from concord.data.files import atomic_path, read_json
from concord.data.notes import note
from concord.data.own_files import remove_own
from concord.reports.figures import grid as figures
from concord.reports.site.files import script_json, write_bytes
from concord.reports.site.kept import Kept

if TYPE_CHECKING:
    from concord.benchmarks.store.run import Run
    from concord.data.request import Conditions

SHEET = 64  # tiles in a sheet, eight by eight
LARGEST = 128  # pixels; a 256-pixel image is shown at half its size, which keeps 3,000 of them below 15 MB a row
DRAWN = 128  # landmarks and boxes are lines: drawn at this size even for small images
GIVEN = "given-"  # before the name of a condition, so that no row can have the same files


@dataclass(frozen=True)
class Tiles:
    """The sheets of one column. files: below the report's folder, in the order of the requests."""

    files: list[str]
    size: int  # pixels of one tile
    exact: bool  # classes, not colours: enlarged without smoothing

    def facts(self) -> dict[str, object]:
        return {"files": self.files, "size": self.size, "exact": self.exact}


class Sheets:
    """The sheets of one request set, below <report>/<request set>/tiles."""

    def __init__(self, folder: Path, request_set: str) -> None:
        self.folder, self.request_set = folder, request_set
        self.kept = Kept(folder, folder / request_set / "tiles.json")

    def of_run(self, run: Run) -> Tiles | None:
        """The images of one row; None where the store has no images of it."""
        shards = run.manifest["shards"]
        if not shards or not all(tar_path(run.path / "images", shard["shard"]).is_file() for shard in shards):
            return None
        key = _key(run.ids, [shard.get("sha256", "") or _stamp(run, shard["shard"]) for shard in shards])
        size = min(int(run.manifest["image_size"]), LARGEST)
        return self._column(run.row, key, size, (image for _, image in run.images()))

    def of_condition(
        self, name: str, run: Run, given: Iterable[tuple[str, Conditions]] | None, truth: Run | None
    ) -> Tiles | None:
        """One condition as images. given: every request's conditions; without them only what is drawn already."""
        key = condition_key(run, name)
        kind = get_condition(name)
        size = DRAWN if kind.drawing == "lines" else min(int(run.manifest["image_size"]), LARGEST)
        if given is None:
            return self._kept(GIVEN + name, key, size)
        over = truth if kind.over_truth and truth is not None and truth.ids == run.ids else None
        return self._column(GIVEN + name, key, size, _condition_images(name, given, over))

    def texts(self, run: Run, given: Mapping[str, Conditions]) -> list[str]:
        """The caption of every request; kept beside the sheets, as the dataset may not be read the next time."""
        path = self.kept.path.with_name("texts.json")
        key = condition_key(run, "text")
        every = getattr(given, "texts", None)
        if every is not None:
            texts: list[str] = every()
            content = {"key": key, "texts": texts, "sha256": digest_of({"texts": script_json(texts)})}
            write_bytes(path, script_json(content).encode())
            return texts
        kept = kept_texts(path, key)
        if kept is not None:
            return kept
        return [(given[name].text or "") if name in given else "" for name in run.ids]

    def _kept(self, name: str, key: str, size: int) -> Tiles | None:
        files = self.kept.files(name, key)
        if files is None or not all(file.startswith(f"{self.request_set}/tiles/{name}-") for file in files):
            return None
        return Tiles(files, size, _is_exact(name))

    def _column(self, name: str, key: str, size: int, images: Iterable[np.ndarray | None]) -> Tiles | None:
        kept = self._kept(name, key, size)
        if kept is not None:
            return kept
        kind, files = "png" if _is_exact(name) else "webp", list[str]()
        for sheet in _sheets(images, size, _is_exact(name)):
            files.append(f"{self.request_set}/tiles/{name}-{len(files):04d}.{kind}")
            make_way(self.folder / files[-1])
            with atomic_path(self.folder / files[-1]) as temporary:
                temporary.write_bytes(_encode(sheet, kind))
        own = re.compile(rf"{re.escape(name)}-[0-9]{{4}}\.(png|webp)")
        remove_own(self.folder / self.request_set / "tiles", own, {Path(file).name for file in files})
        self.kept.keep(name, key, files)
        return Tiles(files, size, _is_exact(name))


def _is_exact(column: str) -> bool:
    """Whether a column's tiles are classes, not colours: enlarged without smoothing."""
    name = column.removeprefix(GIVEN)
    return name != column and get_condition(name).drawing == "classes"


def kept_texts(path: Path, key: str) -> list[str] | None:
    """The captions that `Sheets.texts` kept, where they follow from `key` and are as they were written."""
    if not path.exists():
        return None
    try:
        check_regular(path)
        known = read_json(path)
        if known["sha256"] != digest_of({"texts": script_json(known["texts"])}):
            raise ConcordError(f"{path}: another digest")
        return list(known["texts"]) if known["key"] == key else None
    except (ConcordError, KeyError, TypeError, ValueError):
        note(f"{path}: was broken; it is made anew where the dataset can be read")
        return None


def condition_key(run: Run, name: str) -> str:
    """What a condition's sheets are drawn from: the data that the run answered, its requests, their size."""
    manifest = run.manifest
    content = manifest.get("key_parts", {}).get("data", manifest["data"]["fingerprint"])  # bytes if kept
    return _key(run.ids, [name, get_condition(name).code(), str(content), str(manifest["image_size"])])


def conditions_drawn(folder: Path, run: Run, names: Sequence[str]) -> bool:
    """Whether the report already has the sheets of these conditions, so that the dataset need not be read."""
    sheets = Sheets(folder, run.request_set)
    texts = sheets.kept.path.with_name("texts.json")
    if "text" in names and kept_texts(texts, condition_key(run, "text")) is None:
        return False
    return all(
        sheets.of_condition(name, run, None, None) is not None for name in names if name in figures.drawn_conditions()
    )


def _key(ids: Sequence[str], facts: Sequence[str]) -> str:
    drawn_by = f"{code_hash([__name__])} {versions(('numpy', 'pillow'))}"
    return hashlib.sha256("\0".join([drawn_by, *ids, "", *facts]).encode()).hexdigest()


def _stamp(run: Run, shard: int) -> str:
    """Size and time of a shard whose manifest names no hash (it was written by something else)."""
    facts = tar_path(run.path / "images", shard).stat()
    return f"{facts.st_size}-{facts.st_mtime_ns}"


def _condition_images(
    name: str, given: Iterable[tuple[str, Conditions]], truth: Run | None
) -> Iterator[np.ndarray | None]:
    faces = iter(truth.images()) if truth is not None else None  # in the order of the requests: one at a time in memory
    for _, conditions in given:
        face = next(faces)[1] if faces is not None else None
        yield figures.condition_image(name, conditions, face, DRAWN)


def _sheets(images: Iterable[np.ndarray | None], size: int, exact: bool) -> Iterator[np.ndarray]:
    """Sheets (8 * size, 8 * size, 3); the last one is cut below its last row of tiles."""
    side = round(SHEET**0.5)
    sheet, used = _blank(side, size), 0
    for image in images:
        row, column = divmod(used, side)
        if image is not None:
            fitted = image if image.shape[:2] == (size, size) else _fit(image, size, exact)
            sheet[row * size : (row + 1) * size, column * size : (column + 1) * size] = fitted
        used += 1
        if used == SHEET:
            yield sheet
            sheet, used = _blank(side, size), 0
    if used:
        yield sheet[: -(-used // side) * size]


def _blank(side: int, size: int) -> np.ndarray:
    return np.full((side * size, side * size, 3), 238, np.uint8)


def _fit(pixels: np.ndarray, size: int, exact: bool) -> np.ndarray:
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((size, size), Image.Resampling.NEAREST if exact else Image.Resampling.LANCZOS))


def _encode(sheet: np.ndarray, kind: str) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    if kind == "png":  # flat colours: small without loss
        Image.fromarray(sheet).save(content, "PNG", optimize=True)
    else:
        Image.fromarray(sheet).save(content, "WEBP", quality=88)
    return content.getvalue()

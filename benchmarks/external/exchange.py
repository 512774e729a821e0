"""Requests as a folder, and images back: how a method that lives outside Concord is asked, and how it answers.

requests.jsonl           one request a line: id, seed, the image's file name, and each condition with its file
<condition>/<id>.*       the conditions as files, in formats that anything can read (their own files in data/conditions)
export.json              what was exported, and the fingerprint by which an answer is known to fit it
README.md                the same in words, for whoever writes the command

<id>.png                 the answer: one image a request, 8-bit RGB, of the stated size
result.json              optional: what it cost (`Declared`)
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import Field, ValidationError

from concord.benchmarks.plan.requests import LONGEST_ID
from concord.data.conditions.base import get_condition
from concord.data.errors import ConcordError
from concord.data.files import atomic_path, read_json, read_json_lines, sha256_file, write_json
from concord.data.request import Conditions, Request
from concord.data.schema import Strict, explain

VERSION = 2
REQUESTS, EXPORT, README, RESULT = "requests.jsonl", "export.json", "README.md", "result.json"
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jxl"})
"""Files that are looked at as answers; all others in the folder are the user's own."""
COSTS = ("seconds_per_image", "peak_memory_bytes")

Model = TypeVar("Model", bound=Strict)
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Declared(Strict):
    """result.json: what the outside method says of its run. All of it is optional, and printed as declared."""

    seconds_per_image: Amount | None = None
    peak_memory_bytes: int | None = Field(default=None, ge=0)
    evaluations_per_image: dict[str, Amount] = Field(default_factory=dict)  # network -> forward passes an image
    device: str | None = None  # 'NVIDIA A100'
    code: str | None = None  # where the code is from: 'https://github.com/... @ 1a2b3c4'
    weights: dict[str, str] = Field(default_factory=dict)  # file -> SHA-256


class Choices(Strict):
    """The options that the requests were chosen by."""

    size: str
    limit: int | None
    seed_set: int
    data: str | None


class Export(Strict):
    """export.json."""

    version: int
    suite: str  # a name, or the path of a .yaml file
    request_set: str
    profile: str
    image_size: int
    n: int
    conditions: list[str]
    options: Choices
    data: str  # fingerprint of the dataset's files
    fingerprint: str  # of the requests and the content of their conditions
    requests_sha256: str  # of requests.jsonl


def read_checked(path: Path, model: type[Model]) -> Model:
    """A JSON file as a checked model; ConcordError that names the file and the field otherwise."""
    content = read_json(path)
    if not isinstance(content, dict):
        keys = ", ".join(model.model_fields)
        raise ConcordError(f"{path}: expected an object with the keys {keys}; got {type(content).__name__}")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ConcordError(f"{path}: {explain(error, model)}") from None


# ------------------------------------------------------------------------------------------------------------ requests


def fingerprint_of(requests: Iterable[Request], names: Sequence[str], image_size: int) -> str:
    """SHA-256 over ids, seeds and the content of the named conditions: equal only where the same was asked."""
    digest = hashlib.sha256(json.dumps([VERSION, image_size, list(names)]).encode())
    for request in requests:
        digest.update(f"\x01{request.id}\x00{request.seed}".encode())
        for name in names:
            digest.update(get_condition(name).digest(_value(request, name)))
    return digest.hexdigest()


def _value(request: Request, name: str) -> object:
    value = request.conditions.get(name)
    if value is None:
        raise ConcordError(f"request {request.id}: has no condition '{name}'; leave it out of --conditions")
    return value


def write_requests(folder: Path, requests: Iterable[Request], names: Sequence[str]) -> None:
    """Write requests.jsonl and the files of the named conditions into `folder`, which exists.

    Raises ConcordError for an id that cannot be a file's name, and for an unknown condition.
    """
    kinds = {name: get_condition(name) for name in names}
    for name in kinds:
        (folder / name).mkdir(exist_ok=True)
    with atomic_path(folder / REQUESTS) as temporary, open(temporary, "w", encoding="utf-8") as lines:
        for request in requests:
            _check_id(request.id)
            conditions = {
                name: kind.write(_value(request, name), folder, f"{name}/{request.id}") for name, kind in kinds.items()
            }
            line = {"id": request.id, "seed": request.seed, "image": f"{request.id}.png", "conditions": conditions}
            lines.write(json.dumps(line) + "\n")  # in ASCII: many programs take U+2028 for the end of a line


def _check_id(request: str) -> None:
    if not request or request[0] == "." or any(c in '/\\:*?"<>|' or not c.isprintable() for c in request):
        raise ConcordError(f"request '{request}': its id cannot be the name of a file; rename the item in the dataset")
    if len(request.encode()) > LONGEST_ID:
        raise ConcordError(f"request '{request[:40]}...': its id has more than {LONGEST_ID} bytes; shorten the item's")


def read_requests(folder: Path) -> Iterator[Request]:
    """The requests of an exported folder with all their conditions: what an outside method in Python begins with."""
    for number, line in read_json_lines(folder / REQUESTS):
        try:
            entries = dict(line["conditions"])
            request, seed = str(line["id"]), int(line["seed"])
        except (KeyError, TypeError, ValueError):
            raise ConcordError(f"{folder / REQUESTS}, line {number}: no request; export the suite again") from None
        values = {name: get_condition(name).parse(entry, folder) for name, entry in entries.items()}
        yield Request(request, seed, Conditions(**values))


# -------------------------------------------------------------------------------------------------------- whole folders


def write_export(folder: Path, requests: Callable[[], Iterable[Request]], facts: dict[str, Any]) -> Export:
    """Write a whole export, or nothing.

    requests: gives them one by one, since thousands of masks do not fit into memory; it is called three times.
    facts: the fields of `Export` that do not follow from the requests.
    Raises ConcordError where `folder` holds anything.
    """
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConcordError(f"{folder}: holds something already; give a new or an empty folder")
    temporary = folder.parent / f".{folder.name}.{os.getpid()}.part"
    try:
        temporary.mkdir(parents=True)
        names, size = facts["conditions"], facts["image_size"]
        write_requests(temporary, requests(), names)
        export = Export(
            version=VERSION,
            fingerprint=fingerprint_of(requests(), names, size),
            requests_sha256=sha256_file(temporary / REQUESTS),
            **facts,
        )
        (temporary / README).write_text(readme(export, next(iter(requests()))), encoding="utf-8")
        write_json(temporary / EXPORT, export.model_dump())
        os.replace(temporary, folder)  # onto nothing, or onto an empty folder
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return export


def read_export(folder: Path) -> Export:
    """export.json of a folder, once requests.jsonl proved to be the one that was written with it."""
    path = folder / EXPORT
    if not path.is_file():
        what = "is no export" if folder.is_dir() else "no such folder"
        raise ConcordError(f"{folder}: {what}; expected a folder that `concord export` wrote ({EXPORT} in it)")
    export = read_checked(path, Export)
    if export.version != VERSION:
        raise ConcordError(f"{path}: format {export.version}; this version reads {VERSION}: export the suite again")
    if not (folder / REQUESTS).is_file() or sha256_file(folder / REQUESTS) != export.requests_sha256:
        raise ConcordError(f"{folder / REQUESTS}: is not as it was exported; export the suite again and answer that")
    return export


def check_answers(export: Export, folder: Path, images: Path) -> None:
    """Raise ConcordError unless every request has its image there, of the right size; no dataset is opened for it."""
    lines = (folder / REQUESTS).read_text(encoding="utf-8").splitlines()
    find_answers(images, [str(json.loads(line)["id"]) for line in lines], export.image_size)


def readme(export: Export, first: Request) -> str:
    """The format in words, with what this folder holds."""
    size = export.image_size
    kinds = {name: get_condition(name) for name in export.conditions}
    line = json.dumps({"id": first.id, "seed": first.seed, "image": f"{first.id}.png", "conditions": "..."})
    parts = [
        f"# {export.n} requests of suite '{Path(export.suite).stem}'",
        f"For each line of `{REQUESTS}` make one image that agrees with all of its conditions, and write it into this "
        f"folder as `<id>.png`: **{size}x{size} pixels, 8-bit RGB**. Every request needs its image; an image of any "
        "other name is refused, other files are left alone.",
        f"    {line}",
        "`seed` is the request's own: draw all noise for the image from it (a generator for each request), so that an "
        "image depends on nothing but its request. Paths are relative to this folder.",
        "## Conditions",
        "\n".join(f"- `{name}`: {kind.format}" for name, kind in kinds.items()),
        f"Images have {size}x{size} pixels unless they say otherwise.",
        *(kind.note for kind in kinds.values() if kind.note),
        "## What is read of an image",
        "Grey and palette images are taken in their colours, of 16 bits a channel the high byte is kept; an image "
        "with transparent pixels, of another size, or unreadable is refused, and so is any format but PNG.",
        "## What it cost (optional)",
        f"Write `{RESULT}` beside the images; every key may be left out:",
        "    "
        + json.dumps(
            {
                "seconds_per_image": 1.25,
                "peak_memory_bytes": 9663676416,
                "evaluations_per_image": {"unet": 100},
                "device": "NVIDIA A100",
                "code": "https://example.org/repository @ 1a2b3c4",
                "weights": {"model.ckpt": "<SHA-256>"},
            }
        ),
        "The table shows these numbers as declared: nobody measured them here.",
        "## Then",
        "    concord import <this folder> --as <name of the method>",
    ]
    return "\n\n".join(parts) + "\n"


# -------------------------------------------------------------------------------------------------------------- answers


def find_answers(folder: Path, ids: Sequence[str], size: int) -> list[Path]:
    """The images of the requests, in their order, by name and size; none is decoded yet.

    Raises ConcordError when images are missing, unknown or of another size: how many, and the first.
    """
    if not folder.is_dir():
        raise ConcordError(f"{folder}: no such folder; expected the images of {len(ids)} requests, as <id>.png")
    there = {
        entry.name
        for entry in os.scandir(folder)
        if entry.is_file() and entry.name[0] != "." and Path(entry.name).suffix.lower() in PICTURES
    }
    wanted = [f"{request}.png" for request in ids]
    missing = [name for name in wanted if name not in there]
    unknown = sorted(there.difference(wanted))
    problems = []
    if missing:
        problems.append(f"{len(missing)} of {len(wanted)} images are missing, the first is '{missing[0]}'")
    if unknown:
        problems.append(f"{len(unknown)} answer no request, the first is '{unknown[0]}'")
    if problems:
        raise ConcordError(f"{folder}: {'; '.join(problems)}; expected <id>.png for every id of {REQUESTS}, no others")
    paths = [folder / name for name in wanted]
    wrong = [(path, found) for path in paths if (found := _size_of(path)) not in (None, (size, size))]
    if wrong:
        path, found = wrong[0]
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        assert found is not None
        raise ConcordError(f"{path}: has {found[0]}x{found[1]} pixels{more}; expected {size}x{size}")
    return paths


def _size_of(path: Path) -> tuple[int, int] | None:
    """Width and height by the file's head; None where it cannot be read, which decoding then explains."""
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def read_answer(path: Path, size: int) -> np.ndarray:
    """An image as uint8 (size, size, 3) RGB, by the rules of `concord.data.datasets.images.image_sets`; ConcordError
    naming it otherwise."""
    from concord.data.datasets.images.image_sets import image_to_rgb
    from concord.data.images import UNREADABLE, BadFile, decode_bytes

    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConcordError(f"{path}: cannot be read ({error.strerror}); write the image again") from None
    if content and not content.startswith(b"\x89PNG"):
        raise BadFile(path, UNREADABLE, "is no PNG", "expected a PNG file; write the image again")
    image = image_to_rgb(decode_bytes(content, path), str(path))
    if image.shape != (size, size, 3):
        raise ConcordError(f"{path}: has {image.shape[1]}x{image.shape[0]} pixels; expected {size}x{size}")
    return image


def read_declared(folder: Path) -> Declared:
    """result.json of a folder of answers; empty where there is none."""
    path = folder / RESULT
    return read_checked(path, Declared) if path.is_file() else Declared()


def digest_of_answers(paths: Sequence[Path], declared: Declared) -> str:
    """SHA-256 over the files of the images, in the order of the requests, and what was declared."""
    digest = hashlib.sha256(json.dumps(declared.model_dump(), sort_keys=True).encode())
    for path in paths:
        digest.update(bytes.fromhex(sha256_file(path)))
    return digest.hexdigest()

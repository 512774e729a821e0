"""Reading the shards that prepare.py makes of CelebAMask-HQ (its head says what lies in them)."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from concord.data.content import content_digest
from concord.data.datasets.faces.dataset import FaceDataset, FaceItem
from concord.data.errors import ConcordError
from concord.data.files import read_json
from concord.data.images import reduce_labels

MANIFEST = "prepared.json"
CAPTIONS = "captions.json"
VERSION = 1
IMAGE_SIZE, MASK_SIZE, SMALL_MASK = 256, 512, 256

Places = list[list[int]]
"""[offset, size] in the tar of the files of one face, in the order of prepare.FOLDERS."""


@dataclass(frozen=True, slots=True)
class PreparedItem(FaceItem):
    """A face in a shard. Images come at 256x256 or smaller, masks at 512x512 or smaller."""

    shard: str = ""
    places: tuple[tuple[int, int], ...] = ()

    def image(self, size: int | None = None) -> np.ndarray:
        """The image, uint8 (size, size, 3) RGB, box-averaged; 256x256 where no size is given."""
        from PIL import Image

        if size is not None and size > IMAGE_SIZE:
            raise ConcordError(
                f"{self.root}: its images are {IMAGE_SIZE}x{IMAGE_SIZE}, {size}x{size} was asked for; "
                "give the CelebAMask-HQ tree itself"
            )
        image = Image.fromarray(self._read(0))
        if size is not None and size != image.width:
            image = image.resize((size, size), Image.Resampling.BOX)
        return np.asarray(image)

    def mask(self, size: int | None = None) -> np.ndarray:
        """The classes, int64 (size, size), CelebAMask-HQ order; 512x512 where no size is given."""
        if size == SMALL_MASK:
            return self._read(2).astype(np.int64)
        mask = self._read(1).astype(np.int64)
        return mask if size is None else reduce_labels(mask, size)

    def identity(self, size: int | None = None) -> np.ndarray:
        """The image itself: the dataset has no other of the same person."""
        return self.image(size)

    def _read(self, which: int) -> np.ndarray:
        from PIL import Image

        offset, length = self.places[which]
        path = self.root / f"{self.shard}.tar"
        try:
            with open(path, "rb") as tar:
                tar.seek(offset)
                content = tar.read(length)
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                return np.array(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise ConcordError(f"{path}: face {self.id} cannot be read ({error}); prepare the dataset again") from None


@dataclass(frozen=True)
class Prepared(FaceDataset):
    """The faces of a folder of shards."""

    shards: tuple[tuple[str, str], ...] = ()  # (name, SHA-256)

    def with_items(self, items: Sequence[FaceItem]) -> Prepared:
        return replace(self, items=list(items))

    @cached_property
    def listing(self) -> str:
        """SHA-256 over the faces, their captions and landmarks, and the hashes of the shards."""
        digest = hashlib.sha256(repr(self.shards).encode())
        for face in self.items:
            digest.update(f"\x01{face.id}\x00{face.text if face.text is not None else chr(2)}\x00".encode())
            if face.has_landmarks:  # they lie beside the shards
                digest.update(face.landmarks().tobytes())
        return digest.hexdigest()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the listing and the bytes of the shards that hold these faces."""
        shards = dict.fromkeys(face.shard for face in self.items if isinstance(face, PreparedItem))
        return content_digest(self.listing, self.root, [f"{shard}.tar" for shard in shards])


def open_prepared(root: Path, split: str = "test", captions: str = "auto") -> Prepared:
    """The faces of a folder that `prepare` wrote: 'test', or 'all' of them."""
    facts = read_json(root / MANIFEST)
    try:
        version, kind, name = facts["version"], facts["captions"]["kind"], facts["name"]
        shards = tuple((entry["name"], entry["sha256"]) for entry in facts["shards"])
    except (KeyError, TypeError):
        raise ConcordError(f"{root / MANIFEST}: not what `concord data prepare` writes; prepare it again") from None
    if version != VERSION:
        raise ConcordError(f"{root}: prepared in version {version}, expected {VERSION}; prepare it again")
    if captions not in ("auto", kind):
        raise ConcordError(
            f"{root}: its captions are of kind '{kind}', '{captions}' was asked for; prepare it with those"
        )
    if split == "test":
        shards = tuple(shard for shard in shards if shard[0].startswith("test-"))
    texts = read_json(root / CAPTIONS)
    items: list[FaceItem] = []
    for shard, _ in shards:
        note_path = root / f"{shard}.json"
        for item, places in _places(note_path, note_path.stat().st_mtime_ns).items():
            found = tuple((offset, size) for offset, size in places)
            items.append(
                PreparedItem(
                    item,
                    texts.get(item),
                    root,
                    f"images/{item}.png",
                    ((-1, f"masks/{item}.png"),),
                    identity_file=f"images/{item}.png",
                    shard=shard,
                    places=found,
                )
            )
    return Prepared(root, name, split, kind, items, [], shards=shards)


@lru_cache(maxsize=256)
def _places(path: Path, _changed: int) -> dict[str, Places]:
    note = read_json(path)
    if not isinstance(note, dict) or not isinstance(note.get("faces"), dict):
        raise ConcordError(f"{path}: not what `concord data prepare` writes; prepare it again")
    return dict(note["faces"])

"""Decoding pictures and masks so that nothing broken passes for whole.

Pillow fills the missing part of a truncated file with grey when some library has asked it to, and takes a PNG without
its end; so every file is also looked at for its closing mark. EXIF is ignored: the datasets are already upright.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

from concord.data.errors import ConcordError
from concord.data.labels import CLASSES

PART_MODES = ("1", "L", "P", "RGB")
INDEX_MODES = ("L", "P", "RGB")
IMAGE_MODES = ("RGB", "L", "P", "RGBA", "LA", "CMYK")
_CLOSING = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}  # EOI cannot occur inside a JPEG's scan: FF is stuffed there
FORMATS = tuple(_CLOSING)
_TAIL = 65536  # bytes in which the closing mark is looked for; some writers add a few bytes after it

UNREADABLE, WRONG_SIZE, WRONG_CLASS, WRONG_MODE = "unreadable", "wrong size", "class out of range", "unexpected mode"


class BadFile(ConcordError):
    """A file that cannot be used. `kind`: one of the four words above; `fact`: what is wrong, without the path."""

    def __init__(self, path: Path | str, kind: str, fact: str, advice: str) -> None:
        super().__init__(f"{path}: {fact}; {advice}")
        self.kind, self.fact = kind, fact


def decode(path: Path | str) -> Image.Image:
    """A JPEG or PNG, completely loaded in its own mode; BadFile when it is missing, truncated or broken."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise BadFile(path, UNREADABLE, f"cannot be read ({error.strerror})", _again(FORMATS)) from None
    return decode_bytes(content, path)


def decode_bytes(content: bytes, path: Path | str, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """`decode` of a file's content; `path` is what an error calls it. WebP is read where `formats` names it."""
    again, names = _again(formats), _either(formats)
    if not content:
        raise BadFile(path, UNREADABLE, "is empty (0 bytes)", again)
    try:
        picture = Image.open(io.BytesIO(content), formats=list(formats))
        complete = _is_complete(content, str(picture.format))
        if complete:
            picture.load()
    except Image.UnidentifiedImageError:
        raise BadFile(path, UNREADABLE, f"is not a {names}", again) from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error,
            Image.DecompressionBombError) as error:  # fmt: skip  # what Pillow's readers raise on broken files
        raise BadFile(path, UNREADABLE, f"cannot be decoded ({_reason(error)})", again) from None
    if not complete:
        raise BadFile(path, UNREADABLE, f"is truncated (no end mark in {len(content)} bytes)", again)
    return picture


def _is_complete(content: bytes, picture_format: str) -> bool:
    if picture_format == "WEBP":  # a RIFF file begins with its own length
        return len(content) >= 8 + int.from_bytes(content[4:8], "little")
    return _CLOSING[picture_format] in content[-_TAIL:]


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:90]


def _either(formats: tuple[str, ...]) -> str:
    return " or ".join([", ".join(formats[:-1]), formats[-1]])


def _again(formats: tuple[str, ...]) -> str:
    return f"expected a complete {_either(formats)}; fetch the file again"


def read_image(path: Path | str, size: int | None = None) -> np.ndarray:
    """A square picture as uint8 (size, size, 3) RGB; its own size where none is given.

    Reduced by box averaging (every source pixel counts by the area it covers), enlarged by Lanczos.
    """
    picture = decode(path)
    _expect_mode(path, picture, IMAGE_MODES)
    _expect_square(path, picture)
    picture = picture.convert("RGB")
    if size is not None and size != picture.width:
        how = Image.Resampling.BOX if size < picture.width else Image.Resampling.LANCZOS
        picture = picture.resize((size, size), how)
    return np.asarray(picture)


def read_part(path: Path | str) -> np.ndarray:
    """One part of a face, bool (H, W): where the file is brighter than half of its brightest pixel.

    The brightness of a P file is that of its palette's colours (its index says nothing), of an RGB file that of the
    brightest channel. On the two-valued files of the dataset this is g_mask.py's `!= 0`; an anti-aliased edge is cut
    in its middle; an all-black file is an empty part.
    """
    picture = decode(path)
    _expect_mode(path, picture, PART_MODES)
    _expect_square(path, picture)
    if picture.mode == "P":  # the palette's colours, brightest channel of each, looked up by index
        colours = np.zeros((256, 3), np.uint8)
        palette = picture.getpalette() or []
        colours.reshape(-1)[: len(palette)] = palette
        pixels = colours.max(axis=1)[np.asarray(picture)]
    elif picture.mode == "RGB":
        red, green, blue = picture.split()
        pixels = np.asarray(ImageChops.lighter(ImageChops.lighter(red, green), blue))
    else:
        pixels = np.asarray(picture).astype(np.uint8)
    return pixels > int(pixels.max()) // 2


def read_index(path: Path | str) -> np.ndarray:
    """A mask of class numbers, int64 (H, W), CelebAMask-HQ order.

    L: the value is the class. P: the index is the class, whatever its colour. RGB: three equal channels.
    """
    picture = decode(path)
    _expect_mode(path, picture, INDEX_MODES)
    _expect_square(path, picture)
    pixels = np.asarray(picture)
    if pixels.ndim == 3:
        if (pixels != pixels[..., :1]).any():
            raise BadFile(path, WRONG_MODE, "holds RGB colours, not class numbers", "expected a mask of mode L or P")
        pixels = pixels[..., 0]
    highest = int(pixels.max())
    if highest >= CLASSES:
        count = int((pixels >= CLASSES).sum())
        part = " (0 and 255 alone: is it one part of a face?)" if set(np.unique(pixels)) == {0, 255} else ""
        raise BadFile(path, WRONG_CLASS, f"holds class {highest}{part}, {count} pixels beyond class {CLASSES - 1}",
                      f"expected 0..{CLASSES - 1} in the CelebAMask-HQ order; correct or remove the mask")  # fmt: skip
    return pixels.astype(np.int64)


def reduce_labels(mask: np.ndarray, size: int) -> np.ndarray:
    """Classes (H, H) at (size, size) by NEAREST: output pixel i takes the source pixel that its centre lies in.

    That is source index floor((i + 0.5) * H / size) in whole numbers: Pillow's NEAREST, save that Pillow rounds a
    centre on the very border of two pixels by its floating-point sum, where it is not a power of two that divides.
    """
    if size == mask.shape[0]:
        return mask
    take = (2 * np.arange(size) + 1) * mask.shape[0] // (2 * size)
    return mask[np.ix_(take, take)]


def _expect_mode(path: Path | str, picture: Image.Image, modes: tuple[str, ...]) -> None:
    if picture.mode not in modes:
        raise BadFile(path, WRONG_MODE, f"has mode {picture.mode}", f"expected one of {', '.join(modes)}; convert it")


def _expect_square(path: Path | str, picture: Image.Image) -> None:
    if picture.width != picture.height:
        fact = f"is {picture.width}x{picture.height}"
        raise BadFile(path, WRONG_SIZE, fact, "expected a square; crop or replace it")

"""Decoding images and masks so that nothing broken passes for whole.

Pillow fills the missing part of a truncated file with grey when some library has asked it to, and takes a PNG without
its end; so every file is also looked at for its closing mark. EXIF is ignored: the datasets are already upright.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from concord.data.errors import ConcordError
from concord.data.files import read_bytes
from concord.data.labels import CLASSES
from concord.data.notes import note

PART_MODES = ("1", "L", "P", "RGB")
INDEX_MODES = ("L", "P", "RGB")
IMAGE_MODES = ("RGB", "L", "P", "RGBA", "LA", "CMYK")
FORMATS = ("JPEG", "PNG")  # what datasets are made of; sets of images take more (datasets/images/image_sets.py)
_PNG_END = b"IEND\xaeB`\x82"
_JPEG_END = b"\xff\xd9"
_TAIL = 65536  # bytes in which the closing mark is looked for first; some writers add bytes after it

SET_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM")
SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm"}
    | {".pbm", ".pnm"}
)
OTHER_IMAGES = frozenset(
    {".gif", ".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jxl", ".tga", ".ico", ".exr", ".hdr", ".pfm", ".psd"}
    | {".dng", ".cr2", ".nef", ".arw", ".svg", ".pcx", ".sgi", ".dds", ".qoi"}
)

UNREADABLE, WRONG_SIZE, WRONG_CLASS, WRONG_MODE = "unreadable", "wrong size", "class out of range", "unexpected mode"


class BadFile(ConcordError):
    """A file that cannot be used. `kind`: one of the four words above; `fact`: what is wrong, without the path."""

    def __init__(self, path: Path | str, kind: str, fact: str, advice: str) -> None:
        super().__init__(f"{path}: {fact}; {advice}")
        self.kind, self.fact = kind, fact


def is_image(name: str) -> bool:
    """Whether a name is that of an image, of whatever kind."""
    return not is_hidden(name) and Path(name).suffix.lower() in SUFFIXES | OTHER_IMAGES


def is_hidden(name: str) -> bool:
    """Whether a name is one that systems hide or leave behind, and no image of the user's."""
    return name.startswith((".", "__MACOSX"))


def decode(path: Path | str) -> Image.Image:
    """A JPEG or PNG, completely loaded in its own mode; BadFile when it is missing, truncated or broken."""
    return decode_bytes(read_image_file(Path(path), FORMATS), path)


def read_image_file(path: Path, formats: tuple[str, ...]) -> bytes:
    """The bytes of an image file; BadFile where it cannot be read, or is a pipe or a device (which are not opened)."""
    try:
        return read_bytes(path, f"a complete {_either(formats)}")
    except ConcordError as error:
        fact, _, _ = str(error).removeprefix(f"{path}: ").partition("; expected")
        raise BadFile(path, UNREADABLE, fact, _again(formats)) from None


def decode_bytes(content: bytes, path: Path | str, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """`decode` of a file's content; `path` is what an error calls it. formats: Pillow's names of those that are read.

    Of a JPEG that holds several images (MPO: phones add a depth map or a smaller copy) the first is the image.
    """
    again, names = _again(formats), _either(formats)
    if not content:
        raise BadFile(path, UNREADABLE, "is empty (0 bytes)", again)
    try:
        image = Image.open(io.BytesIO(content), formats=list(formats))
        complete = _is_complete(content, image)
        if complete:
            image.load()
    except Image.UnidentifiedImageError:
        raise BadFile(path, UNREADABLE, f"is not a {names}", again) from None
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        IndexError,
        KeyError,
        TypeError,
        struct.error,
        zlib.error,
        MemoryError,
        OverflowError,
        Image.DecompressionBombError,
    ) as error:  # on broken files
        raise BadFile(path, UNREADABLE, f"cannot be decoded ({_reason(error)})", again) from None
    if not complete:
        raise BadFile(path, UNREADABLE, f"is truncated (no end mark in {len(content)} bytes)", again)
    return image


def _is_complete(content: bytes, image: Image.Image) -> bool:
    """Whether the file holds all of its image; bytes behind the image's end do no harm."""
    if image.format == "WEBP":  # a RIFF file begins with its own length
        return len(content) >= 8 + int.from_bytes(content[4:8], "little")
    if image.format == "PNG":
        return _PNG_END in content[-_TAIL:] or _PNG_END in content
    if image.format in ("JPEG", "MPO"):
        return _JPEG_END in content[-_TAIL:] or _jpeg_ends(content)
    if isinstance(image, TiffImageFile):
        tags = image.tag_v2
        starts, sizes = (tags.get(273) or tags.get(324) or ()), (tags.get(279) or tags.get(325) or ())
        return all(start + size <= len(content) for start, size in zip(_many(starts), _many(sizes), strict=False))
    for codec, extents, offset, arguments in image.tile if isinstance(image, ImageFile) else ():  # BMP, PPM: raw rows
        if codec == "raw" and extents is not None:
            stride = arguments[1] if isinstance(arguments, tuple) and len(arguments) > 1 else 0
            row = stride or -(-image.width * _BITS.get(image.mode, 24) // 8)
            if offset + row * (extents[3] - extents[1]) > len(content):
                return False
    return True


_BITS = {"1": 1, "L": 8, "P": 8, "I;16": 16, "I": 16, "RGBA": 32}


def _many(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _jpeg_ends(content: bytes) -> bool:
    """Whether the first image of a JPEG has its end mark, wherever it stands.

    Segments are stepped over by their lengths, since a thumbnail within one has an end mark of its own; within a scan
    FF is stuffed, so that the mark is the image's.
    """
    place = 2
    while place + 4 <= len(content):
        if content[place] != 0xFF:
            place = content.find(b"\xff", place)  # the scan's data
            if place < 0:
                return False
            continue
        mark = content[place + 1]
        if mark == 0xD9:
            return True
        if mark in (0x00, 0x01, 0xFF) or 0xD0 <= mark <= 0xD8:
            place += 1 if mark == 0xFF else 2
        else:
            place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return content[place : place + 2] == _JPEG_END


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:90]


def _either(formats: tuple[str, ...]) -> str:
    return " or ".join([", ".join(formats[:-1]), formats[-1]])


def _again(formats: tuple[str, ...]) -> str:
    return f"expected a complete {_either(formats)}; fetch the file again"


def read_image(path: Path | str, size: int | None = None) -> np.ndarray:
    """A square image as uint8 (size, size, 3) RGB; its own size where none is given.

    Reduced by box averaging (every source pixel counts by the area it covers), enlarged by Lanczos.
    """
    image = decode(path)
    _expect_mode(path, image, IMAGE_MODES)
    _expect_square(path, image)
    image = opaque_rgb(image, str(path))
    if size is not None and size != image.width:
        how = Image.Resampling.BOX if size < image.width else Image.Resampling.LANCZOS
        image = image.resize((size, size), how)
    return np.asarray(image)


def opaque_rgb(image: Image.Image, place: str) -> Image.Image:
    """An image in RGB. Alpha is dropped where every pixel is opaque, CMYK converted by Pillow's formula; both are said.

    BadFile where a pixel is transparent: what it shows depends on the background that is meant.
    """
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        with_alpha = image.convert("RGBA")
        clear = int((np.asarray(with_alpha.getchannel("A")) < 255).sum())
        if clear:
            advice = "put it on the background that is meant"
            raise BadFile(place, WRONG_MODE, f"has {clear} transparent pixels", advice)
        _say(place, "an alpha channel, dropped as every pixel is opaque")
        image = with_alpha
    elif image.mode == "CMYK":
        _say(place, "CMYK, converted to RGB without its colour profile")
    return image.convert("RGB")


def _say(place: str, what: str) -> None:
    folder, _, name = place.rpartition(os.sep)
    note(f"{folder or '.'}: images with {what} (the first is {name})", once=f"{folder}\0{what}")


def read_part(path: Path | str) -> np.ndarray:
    """One part of a face, bool (H, W): where the file is brighter than half of its brightest pixel.

    The brightness of a P file is that of its palette's colours (its index says nothing), of an RGB file that of the
    brightest channel. On the two-valued files of the dataset this is g_mask.py's `!= 0`; an anti-aliased edge is cut
    in its middle; an all-black file is an empty part.
    """
    image = decode(path)
    _expect_mode(path, image, PART_MODES)
    _expect_square(path, image)
    if image.mode == "P":  # the palette's colours, brightest channel of each, looked up by index
        colours = np.zeros((256, 3), np.uint8)
        palette = image.getpalette() or []
        colours.reshape(-1)[: len(palette)] = palette
        pixels = colours.max(axis=1)[np.asarray(image)]
    elif image.mode == "RGB":
        red, green, blue = image.split()
        pixels = np.asarray(ImageChops.lighter(ImageChops.lighter(red, green), blue))
    else:
        pixels = np.asarray(image).astype(np.uint8)
    return pixels > int(pixels.max()) // 2


def read_index(path: Path | str) -> np.ndarray:
    """A mask of class numbers, int64 (H, W), CelebAMask-HQ order.

    L: the value is the class. P: the index is the class, whatever its colour. RGB: three equal channels.
    """
    image = decode(path)
    _expect_mode(path, image, INDEX_MODES)
    _expect_square(path, image)
    pixels = np.asarray(image)
    if pixels.ndim == 3:
        if (pixels != pixels[..., :1]).any():
            raise BadFile(path, WRONG_MODE, "holds RGB colours, not class numbers", "expected a mask of mode L or P")
        pixels = pixels[..., 0]
    highest = int(pixels.max())
    if highest >= CLASSES:
        count = int((pixels >= CLASSES).sum())
        part = " (0 and 255 alone: is it one part of a face?)" if set(np.unique(pixels)) == {0, 255} else ""
        raise BadFile(
            path,
            WRONG_CLASS,
            f"holds class {highest}{part}, {count} pixels beyond class {CLASSES - 1}",
            f"expected 0..{CLASSES - 1} in the CelebAMask-HQ order; correct or remove the mask",
        )
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


def _expect_mode(path: Path | str, image: Image.Image, modes: tuple[str, ...]) -> None:
    if image.mode not in modes:
        raise BadFile(path, WRONG_MODE, f"has mode {image.mode}", f"expected one of {', '.join(modes)}; convert it")


def _expect_square(path: Path | str, image: Image.Image) -> None:
    if image.width != image.height:
        fact = f"is {image.width}x{image.height}"
        raise BadFile(path, WRONG_SIZE, fact, "expected a square; crop or replace it")

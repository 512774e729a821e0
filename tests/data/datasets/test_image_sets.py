"""Sets of images: what is read, in which order, by which rule, and what is refused in one line that names it."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import toy_world
from PIL import Image

from concord.data.datasets.images.image_files import natural
from concord.data.datasets.images.image_sets import ImageSet, open_images
from concord.data.datasets.images.pairing import pair
from concord.data.errors import ConcordError


def picture(seed: int, height: int = 12, width: int | None = None) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width or height, 3), dtype=np.uint8)


def write(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def loaded(images: ImageSet) -> list[np.ndarray]:
    return [images.load(index) for index in range(len(images))]


def refusal(source: object) -> str:
    """The one line that opening or reading the set ends with."""
    with pytest.raises(ConcordError) as error:
        loaded(open_images(source, "generated"))  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    return str(error.value)


# ------------------------------------------------------------------------------------------------------------- folders


def test_folder_is_read_recursively_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        write(tmp_path / f"img{number}.png", picture(number))
    write(tmp_path / "a" / "7.PNG", picture(7))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._img1.png").write_bytes(b"a Mac's shadow file")
    (tmp_path / ".hidden").mkdir()
    write(tmp_path / ".hidden" / "0.png", picture(0))
    images = open_images(tmp_path)
    assert images.names == ["a/7.PNG", "img1.png", "img2.png", "img10.png"]
    for number, found in zip((7, 1, 2, 10), loaded(images), strict=True):
        assert (found == picture(number)).all()


def test_numbers_sort_as_numbers() -> None:
    names = ["b1", "a10", "a9", "a", "10", "9", "a9b", "a9b10", "a9b9", "٣"]
    assert sorted(names, key=natural) == ["٣", "9", "10", "a", "a9", "a9b", "a9b9", "a9b10", "a10", "b1"]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path / "real" / "1.png", picture(1))
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "real", target_is_directory=True)
    assert open_images(tmp_path / "real").names == ["1.png"]


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("x.png", {}, 0),
        ("x.webp", {"lossless": True}, 0),
        ("x.jpg", {"quality": 98, "subsampling": 0}, 12),
        ("x.jfif", {"quality": 98, "subsampling": 0, "format": "JPEG"}, 12),
        ("x.jpe", {"quality": 98, "subsampling": 0, "format": "JPEG"}, 12),
        ("x.apng", {"format": "PNG"}, 0),
        ("x.bmp", {}, 0),
        ("x.tif", {}, 0),
        ("x.tiff", {"compression": "tiff_lzw"}, 0),
        ("x.ppm", {}, 0),
    ],
)
def test_formats(tmp_path: Path, name: str, options: dict[str, object], tolerance: int) -> None:
    smooth = cv2.resize(picture(0, 3), (24, 24), interpolation=cv2.INTER_LINEAR)
    found = open_images(write(tmp_path / name, smooth, **options)).load(0)
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - smooth).max() <= tolerance


# --------------------------------------------------------------------------------------------------------- conversions


def test_grey_palette_and_one_bit_become_their_colours(tmp_path: Path) -> None:
    grey = picture(1)[..., 0]
    assert (open_images(write(tmp_path / "grey.png", grey)).load(0) == grey[..., None]).all()
    bits = Image.fromarray(grey > 127)
    bits.save(tmp_path / "bits.png")
    assert (open_images(tmp_path / "bits.png").load(0) == np.where(grey > 127, 255, 0)[..., None]).all()
    few = Image.fromarray(picture(2)).quantize(8)
    few.save(tmp_path / "palette.png")
    assert (open_images(tmp_path / "palette.png").load(0) == np.asarray(few.convert("RGB"))).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_keep_the_high_byte(tmp_path: Path, channels: int) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (9, 9, 3) if channels == 3 else (9, 9), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep[..., ::-1] if channels == 3 else deep)
    expected = (deep >> 8).astype(np.uint8)
    expected = expected if channels == 3 else np.repeat(expected[..., None], 3, 2)
    assert (open_images(tmp_path / "deep.png").load(0) == expected).all()


def test_alpha_is_dropped_only_where_opaque(tmp_path: Path) -> None:
    opaque = np.dstack([picture(3), np.full((12, 12), 255, np.uint8)])
    assert (open_images(write(tmp_path / "opaque.png", opaque)).load(0) == picture(3)).all()
    opaque[2, 3, 3] = opaque[5, 5, 3] = 254
    assert refusal(write(tmp_path / "clear.png", opaque)) == (
        f"{tmp_path / 'clear.png'}: has 2 transparent pixels; put it on the background that is meant"
    )
    Image.fromarray(picture(4)).quantize(4).save(tmp_path / "palette.png", transparency=0)
    assert "transparent" in refusal(tmp_path / "palette.png")


def test_cmyk_is_pillows_conversion(tmp_path: Path) -> None:
    Image.fromarray(picture(5)).convert("CMYK").save(tmp_path / "x.jpg")
    assert (open_images(tmp_path / "x.jpg").load(0) == np.asarray(Image.open(tmp_path / "x.jpg").convert("RGB"))).all()


# ------------------------------------------------------------------------------------------------------------ refusals


def test_what_holds_no_images(tmp_path: Path) -> None:
    assert refusal(tmp_path).startswith(f"{tmp_path}: holds no images; expected PNG, JPEG, WebP, BMP or TIFF")
    (tmp_path / "only.txt").write_text("text")
    assert "holds no images" in refusal(tmp_path)
    assert "no such file or folder" in refusal(tmp_path / "nowhere")
    assert "holds no images" in refusal([])
    assert refusal(3) == "generated: a int; expected a folder, a tar, an array or a list of images"
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    assert "holds no images" in refusal(tmp_path / "empty.tar")


@pytest.mark.parametrize("frames", [1, 3])
def test_gif(tmp_path: Path, frames: int) -> None:
    """By its content too: a GIF under another name."""
    pages = [Image.fromarray(picture(k)) for k in range(frames)]
    pages[0].save(tmp_path / "x.gif", save_all=True, append_images=pages[1:])
    write(tmp_path / "1.png", picture(1))
    line = f"{tmp_path / 'x.gif'}: is a GIF; expected PNG, JPEG, WebP, BMP or TIFF; convert it, one image a file"
    assert refusal(tmp_path) == line
    (tmp_path / "x.gif").rename(tmp_path / "x.png")
    assert refusal(tmp_path) == line.replace("x.gif", "x.png")


@pytest.mark.parametrize("suffix", ["webp", "png"])
def test_other_animations(tmp_path: Path, suffix: str) -> None:
    pages = [Image.fromarray(picture(k)) for k in range(3)]
    pages[0].save(tmp_path / f"x.{suffix}", save_all=True, append_images=pages[1:])
    assert f"x.{suffix}: is animated (3 frames); expected PNG, JPEG, WebP, BMP or TIFF of one image" in refusal(
        tmp_path
    )


def test_other_kinds_of_pictures_are_not_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "1.png", picture(1))
    (tmp_path / "2.avif").write_bytes(b"....ftypavif")
    assert "2.avif: is not a PNG, JPEG, WEBP, BMP, TIFF or PPM" in refusal(tmp_path)
    (tmp_path / "2.avif").unlink()
    (tmp_path / "more.tar.gz").write_bytes(b"")
    assert "more.tar.gz: a compressed archive; unpack it" in refusal(tmp_path)
    assert "more.tar.gz: a compressed archive; unpack it" in refusal(tmp_path / "more.tar.gz")


def test_empty_and_truncated_files(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"")
    assert "0.png: is empty (0 bytes)" in refusal(tmp_path)
    (tmp_path / "0.png").unlink()
    for name in ("x.png", "x.jpg", "x.webp"):
        path = write(tmp_path / name, picture(1, 40))
        path.write_bytes(path.read_bytes()[:-30])
        message = refusal(path)
        assert message.startswith(f"{path}: ")
        assert "truncated" in message or "cannot be decoded" in message
    (tmp_path / "x.png").write_bytes(b"\x89PNG nonsense")
    assert "x.png: is not a PNG, JPEG, WEBP, BMP, TIFF or PPM" in refusal(tmp_path / "x.png")


# ---------------------------------------------------------------------------------------------------------------- tars


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def test_tar_keeps_its_own_order_and_is_never_unpacked(tmp_path: Path) -> None:
    members = {"b/2.png": png(picture(2)), "b/note.json": b"{}", "../1.png": png(picture(1)), "._x.png": b"shadow"}
    images = open_images(write_tar(tmp_path / "x.tar", members))
    assert images.names == ["b/2.png", "../1.png"]
    assert [(found == picture(k)).all() for k, found in zip((2, 1), loaded(images), strict=True)] == [True, True]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.tar"]


def test_folder_of_shards_and_of_the_same_files_are_the_same_set(tmp_path: Path) -> None:
    shards, files = tmp_path / "shards", tmp_path / "files"
    shards.mkdir()
    for shard in range(3):
        numbers = [shard * 4 + k for k in range(4)]
        write_tar(shards / f"{shard:05d}.tar", {f"{n:02d}.png": png(picture(n)) for n in numbers})
        (shards / f"{shard:05d}.json").write_text("{}")
        for n in numbers:
            (files / f"{n:02d}.png").parent.mkdir(exist_ok=True)
            (files / f"{n:02d}.png").write_bytes(png(picture(n)))
    a, b = open_images(shards), open_images(files)
    assert a.names == b.names
    assert a.fingerprint == b.fingerprint
    assert all((x == y).all() for x, y in zip(loaded(a), loaded(b), strict=True))


def test_same_names_in_two_shards_and_in_one(tmp_path: Path) -> None:
    for shard in ("a", "b"):
        write_tar(tmp_path / f"{shard}.tar", {"0.png": png(picture(0))})
    assert open_images(tmp_path).names == ["a/0.png", "b/0.png"]
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        info = tarfile.TarInfo("0.png")
        tar.addfile(info, io.BytesIO(b""))
    assert refusal(tmp_path) == f"{tmp_path}: holds 'a/0.png' twice; give every image a name of its own"


def test_broken_tars(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"0.png": png(picture(0)), "1.png": png(picture(1, 60))})
    whole = path.read_bytes()
    path.write_bytes(whole[:6000])
    assert refusal(path).startswith(f"{path}: ")
    path.write_bytes(b"no tar" * 200)
    assert "not a readable uncompressed tar" in refusal(path)
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("evil.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert "evil.png is a link, not an image" in refusal(path)
    write_tar(path, {"bad.png": b"no image"})
    assert refusal(path).startswith(f"{path}: bad.png: is not a PNG, JPEG, WEBP, BMP, TIFF or PPM")
    write_tar(path, {"0.png": png(picture(0))}, "w:gz")
    assert "not a readable uncompressed tar" in refusal(path)


def test_concord_row_is_named_by_its_requests(tmp_path: Path) -> None:
    from concord.benchmarks.store.shards import encode_png, write_shard

    for index, ids in enumerate((["12-0", "3-0"], ["7-1"])):
        write_shard(tmp_path / "images", index, ids, [encode_png(picture(int(i[0]))) for i in ids], {})
    manifest = {"shards": [{"shard": 0}, {"shard": 1}]}
    (tmp_path / "run.json").write_text(json.dumps(manifest))
    images = open_images(tmp_path)
    assert images.names == ["12-0", "3-0", "7-1"]
    assert (images.load(2) == picture(7)).all()
    (tmp_path / "run.json").write_text("{}")
    assert "names no shards" in refusal(tmp_path)


# -------------------------------------------------------------------------------------------------------------- arrays


def test_arrays_and_tensors_in_either_layout() -> None:
    pixels = np.stack([picture(k) for k in range(5)])
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    for source in (pixels, pixels.transpose(0, 3, 1, 2), tensor, list(pixels), list(tensor)):
        images = open_images(source, "generated")
        assert len(images) == 5
        assert all((x == y).all() for x, y in zip(loaded(images), pixels, strict=True))
    floats = open_images(tensor.float() / 255, "generated").load(3)
    assert floats.dtype == np.float32
    assert (floats == pixels[3] / np.float32(255)).all()
    assert len(open_images(pixels[0])) == 1
    ambiguous = torch.arange(27.0).reshape(1, 3, 3, 3) / 27  # of a tensor, channels first
    assert (open_images(ambiguous).load(0) == ambiguous[0].permute(1, 2, 0).numpy()).all()


def test_lists_of_any_sizes_and_kinds() -> None:
    first, second = picture(1, 8, 10), picture(2, 6)
    items = [first, torch.from_numpy(second).permute(2, 0, 1), Image.fromarray(first), second[..., 0]]
    found = loaded(open_images(items, "generated"))
    for one, expected in zip(found, (first, second, first, np.repeat(second[..., :1], 3, 2)), strict=True):
        assert (one == expected).all()


def test_bad_arrays() -> None:
    pixels = np.zeros((3, 4, 4, 3), np.float32)
    pixels[2, 1, 1, 0] = np.nan
    pixels[2, 0, 0] = np.inf
    assert refusal(pixels) == "generated[2]: 2 pixels are NaN or infinite; expected floats in 0..1"
    bright = np.full((1, 4, 4, 3), 255.0) * np.eye(4)[..., None]
    assert "pixels from 0 to 255; expected floats in 0..1 (or uint8)" in refusal(bright)
    assert "pixels from -1 to" in refusal(np.full((1, 4, 4, 3), -1.0))
    assert "pixels of type uint16" in refusal(np.zeros((1, 4, 4, 3), np.uint16))
    assert "shape (2, 4, 4, 4); expected (N, H, W, 3)" in refusal(np.zeros((2, 4, 4, 4)))
    assert refusal([np.zeros((2, 2, 2, 2))]).startswith("generated[0]: shape (2, 2, 2, 2)")
    assert refusal(["x", 3]).startswith("generated[0]: a str")


@pytest.mark.parametrize("compressed", [False, True])
def test_npz_as_adm_writes_it(tmp_path: Path, compressed: bool) -> None:
    pixels = np.stack([picture(k) for k in range(4)])
    path = tmp_path / "samples.npz"
    (np.savez_compressed if compressed else np.savez)(path, pixels, np.arange(4))  # arr_0 and labels arr_1
    images = open_images(path)
    assert all((x == y).all() for x, y in zip(loaded(images), pixels, strict=True))
    np.save(tmp_path / "x.npy", pixels)
    assert open_images(tmp_path / "x.npy").fingerprint == images.fingerprint
    np.savez(path, mu=np.zeros(3), sigma=np.eye(3))
    assert "holds mu, sigma, no images" in refusal(path)
    np.savez(path, np.array([{}], dtype=object))
    assert "not a readable array file" in refusal(path)
    path.write_bytes(b"no zip")
    assert "not a readable array file" in refusal(path)


# ------------------------------------------------------------------------------------------------------------- batches


def sizes_set(count: int = 37) -> list[np.ndarray]:
    return [picture(k, 8 + 4 * (k % 3 == 0), 8 + 4 * (k % 5 == 0)) for k in range(count)]


@pytest.mark.parametrize("workers", [0, 3])
def test_batches_hold_every_picture_once_in_one_size(workers: int) -> None:
    pictures = sizes_set()
    seen: dict[int, np.ndarray] = {}
    for batch in open_images(pictures).batches(4, workers):
        assert 1 <= len(batch.indices) == len(batch.images) <= 4
        seen.update(zip(batch.indices.tolist(), batch.images, strict=True))
    assert sorted(seen) == list(range(37))
    assert all((seen[k] == pictures[k]).all() for k in seen)


def test_batches_of_one_size_are_in_order() -> None:
    images = open_images(np.stack([picture(k) for k in range(10)]))
    assert [batch.indices.tolist() for batch in images.batches(4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_few_pictures_wait_whatever_the_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand sizes must not fill the memory: at most two batches' worth and what the threads are ahead."""
    from concord.data.datasets.images import image_sets as module

    alive = peak = 0

    class Counted(ImageSet):
        names, label = [str(k) for k in range(300)], "counted"

        def load(self, index: int) -> np.ndarray:
            nonlocal alive, peak
            alive += 1
            peak = max(peak, alive)
            return np.zeros((4 + index, 4, 3), np.uint8)

        def digest(self, index: int) -> bytes:
            return b""

    count = 0
    for batch in Counted().batches(4, workers=2):
        alive -= len(batch.indices)
        count += len(batch.indices)
    assert count == 300
    assert peak <= 2 * 4 + module.AHEAD * 4 + 4


def test_large_pictures_come_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    from concord.data.datasets.images import image_sets as module

    monkeypatch.setattr(module, "PIXELS", 3 * 12 * 12)
    images = open_images(np.stack([picture(k) for k in range(10)]))
    assert [len(batch.indices) for batch in images.batches(32)] == [3, 3, 3, 1]


def test_an_error_in_a_thread_names_its_file(tmp_path: Path) -> None:
    for number in range(12):
        write(tmp_path / f"{number}.png", picture(number))
    (tmp_path / "7.png").write_bytes(b"")
    with pytest.raises(ConcordError, match=r"7\.png: is empty"):
        list(open_images(tmp_path).batches(2, workers=2))


def test_fingerprint_tells_order_and_content(tmp_path: Path) -> None:
    pixels = np.stack([picture(k) for k in range(3)])
    prints = {open_images(p).fingerprint for p in (pixels, pixels[::-1], pixels[:2], pixels / np.float32(255))}
    assert len(prints) == 4
    assert open_images(pixels.copy()).fingerprint == open_images(pixels).fingerprint


# -------------------------------------------------------------------------------------------------------------- pairing


def named(tmp_path: Path, folder: str, names: list[str]) -> ImageSet:
    for name in names:
        write(tmp_path / folder / name, picture(len(name)))
    return open_images(tmp_path / folder)


def test_pairs_by_name_then_in_order(tmp_path: Path) -> None:
    first = named(tmp_path, "a", ["1.png", "2.png", "10.png"])
    second = named(tmp_path, "b", ["x/10.jpg", "x/1.jpg", "y/2.jpg"])  # order: x/1, x/10, y/2
    assert pair(first, second).tolist() == [0, 2, 1]
    third = named(tmp_path, "c", ["u.png", "v.png", "w.png"])
    assert pair(first, third).tolist() == [0, 1, 2]
    assert pair(first, open_images(np.zeros((3, 4, 4, 3), np.uint8))).tolist() == [0, 1, 2]


def test_pairs_that_would_shift_or_are_unequal_are_refused(tmp_path: Path) -> None:
    first = named(tmp_path, "a", ["0.png", "1.png", "2.png"])
    with pytest.raises(ConcordError, match=r"'0.png' has no partner of its name in .*b, while 2 others have"):
        pair(first, named(tmp_path, "b", ["1.png", "2.png", "3.png"]))
    with pytest.raises(ConcordError, match=r"a holds 3 images and .*c 2: metrics of pairs need one partner"):
        pair(first, named(tmp_path, "c", ["0.png", "1.png"]))


def test_a_folder_that_holds_a_dataset_below_is_refused(tmp_path: Path) -> None:
    """Its masks counted as images, without a word: a FID of 1477.55 in place of 129.67."""
    tree = toy_world.write_tree(tmp_path / "outer/CelebAMask-HQ", 3)
    said = refusal(tmp_path / "outer")
    assert said == (
        f"{tmp_path / 'outer'}: holds a dataset, whose masks are no images, in {tree}; give {tree / 'CelebA-HQ-img'}"
    )
    assert len(open_images(tree)) == 3
    assert len(open_images(tree / "CelebA-HQ-img")) == 3
    write(tmp_path / "mine/masks/1.png", picture(1))  # anybody's name
    assert len(open_images(tmp_path / "mine/masks")) == 1

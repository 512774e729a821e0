"""How fast, and in how much memory, `concord data prepare` works: on a tree that this script generates.

    python -m concord.benchmarks.profiling.prepare_speed                            300 faces in the sizes of
    CelebAMask-HQ
    python -m concord.benchmarks.profiling.prepare_speed --n 30000 --small          the full count, with small images

The images are shapes with grain, so that a JPEG of 1024x1024 takes about as long to decode as a photograph; a face
has 13 parts, as many as CelebAMask-HQ's have on average. Every file is read from disk; the system may have it in
memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from concord.data.datasets.faces.prepare import prepare
from concord.data.labels import PART_SUFFIXES

PARTS = 13
DRAWN = 40  # different faces; the others are links to their files


def write_tree(root: Path, n: int, image: int, mask: int) -> Path:
    """A CelebAMask-HQ tree of `n` faces with images of `image` and parts of `mask` pixels."""
    (root / "CelebA-HQ-img").mkdir(parents=True)
    for i in range(n):
        folder = root / "CelebAMask-HQ-mask-anno" / str(i // 2000)
        folder.mkdir(parents=True, exist_ok=True)
        files = [root / f"CelebA-HQ-img/{i}.jpg"] + [folder / f"{i:05d}_{part}.png" for part in PART_SUFFIXES[:PARTS]]
        if i < DRAWN:
            _draw(files, i, image, mask)
            continue
        like = i % DRAWN
        model = root / "CelebAMask-HQ-mask-anno" / "0"
        models = [root / f"CelebA-HQ-img/{like}.jpg"]
        models += [model / f"{like:05d}_{part}.png" for part in PART_SUFFIXES[:PARTS]]
        for file, old in zip(files, models, strict=True):
            os.link(old, file)
    entries = {f"{i}.jpg": {"Beard_and_Age": f" Face  number {i}. "} for i in range(n)}
    (root / "captions_hq_beard_and_age_2022-08-19.json").write_text(json.dumps(entries))
    return root


def _draw(files: list[Path], seed: int, image: int, mask: int) -> None:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(
        (image, image), Image.Resampling.BICUBIC
    )
    grain = rng.normal(0, 4, (image, image, 1))
    pixels = np.clip(np.asarray(coarse) * 0.7 + 40 + grain, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(files[0], quality=75)
    y, x = np.mgrid[:mask, :mask] / mask
    for file in files[1:]:
        a, b, wide, high = rng.uniform(0.2, 0.8, 4)
        inside = ((x - a) / wide) ** 2 + ((y - b) / high) ** 2 + 0.02 * np.sin(40 * x) < 0.1
        Image.fromarray(inside.astype(np.uint8) * 255).save(file)


def main() -> None:
    """Generate, prepare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--small", action="store_true", help="images of 64x64, parts of 32x32")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to generate; a temporary folder without it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        image, mask = (64, 32) if options.small else (1024, 512)
        tree = write_tree(Path(place) / "tree", options.n, image, mask)
        jpeg = (tree / "CelebA-HQ-img/0.jpg").stat().st_size
        print(f"{options.n:,} faces, JPEG of {image}x{image} ({jpeg / 1000:.0f} kB), {PARTS} parts of {mask}x{mask}")
        started = time.perf_counter()
        prepared = prepare(tree, Path(place) / "out", None, Path(place), options.workers)
        seconds = time.perf_counter() - started
        own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        size = sum(path.stat().st_size for path in (Path(place) / "out").iterdir())
        n, busy = len(prepared), children.ru_utime + children.ru_stime
        print(f"{n:,} prepared in {seconds:.1f} s with {options.workers} processes: {n / seconds:.1f} faces a second")
        print(f"processor time in them: {busy:.1f} s, {1000 * busy / n:.1f} ms a face")
        print(f"peak memory: {own.ru_maxrss / 1024:.0f} MiB here, {children.ru_maxrss / 1024:.0f} MiB in each other")
        print(f"shards: {size / 1e6:.0f} MB, {size / n / 1000:.0f} kB a face")
        print(f"load of the machine at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()

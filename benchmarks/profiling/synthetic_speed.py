"""How fast SynthFaces are made: ``python -m concord.benchmarks.profiling.synthetic_speed [FACES]`` prints faces per
second."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from concord.data.synthetic.faces.tree import jpeg_loss, write_tree
from concord.data.synthetic.faces.world import available_cores, face, render_many


def main(count: int = 2000) -> None:
    """Time rendering on one core and on all, and the writing of a tree of ``count`` faces."""
    cv2.setNumThreads(1)
    few = max(count // 5, 50)
    for i in range(20):  # fills the tables of curves
        face(i)
    wall, cpu = time.perf_counter(), time.process_time()
    images = [face(i).image for i in range(few)]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        f"render, one core      {few / wall:8.0f} faces/s   {1000 * wall / few:6.2f} ms a face "
        f"({1000 * cpu / few:.2f} ms of CPU time)"
    )

    cores = available_cores()
    wall = time.perf_counter()
    render_many(range(count), workers=cores)
    wall = time.perf_counter() - wall
    print(
        f"render, {cores:2d} processes  {count / wall:8.0f} faces/s   {1000 * wall / count:6.2f} ms a face "
        "(start-up of the processes included)"
    )

    with tempfile.TemporaryDirectory() as folder:
        wall = time.perf_counter()
        write_tree(Path(folder) / "faces", range(count), progress=False)
        wall = time.perf_counter() - wall
    print(f"write_tree            {count / wall:8.0f} faces/s   {1000 * wall / count:6.2f} ms a face")
    losses = [jpeg_loss(p) for p in images[:50]]
    print(
        f"JPEG in the tree      {np.mean(losses):8.1f} dB PSNR on average, {np.min(losses):.1f} dB at worst (50 faces)"
    )


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:2]))

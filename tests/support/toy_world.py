"""A small tree of faces, judges without weights, and a driver: what pipeline tests stand on.

As a script it is the command `concord` with these judges: `python toy_world.py run SUITE ...`.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TOY = HERE / "toy_method.py"


def write_tree(root: Path, n: int, size: int = 64) -> Path:
    """A CelebAMask-HQ tree of `n` coloured ellipses with two parts each, and both caption files."""
    images, parts = root / "CelebA-HQ-img", root / "CelebAMask-HQ-mask-anno" / "0"
    images.mkdir(parents=True)
    parts.mkdir(parents=True)
    y, x = np.mgrid[:size, :size]
    plain, overall = {}, {}
    for index in range(n):
        rng = np.random.default_rng(index)
        wide, high = rng.integers(size // 4, size // 2, 2)
        face = ((x - size / 2) / wide) ** 2 + ((y - size / 2) / high) ** 2 < 1
        hair = (y < size / 4) & ~face
        image = np.empty((size, size, 3), np.uint8)
        for region, low in ((face, 120), (hair, 20), (~face & ~hair, 200)):
            image[region] = rng.integers(low, low + 55, 3)
        Image.fromarray(image).save(images / f"{index}.jpg", quality=95)
        for name, region in (("skin", face), ("hair", hair)):
            Image.fromarray(region.astype(np.uint8) * 255).save(parts / f"{index:05d}_{name}.png")
        age = ("young", "old")[index % 2]
        plain[f"{index}.jpg"] = {"Beard_and_Age": f"A {age} person, number {index}."}
        attributes = {"Young": f"The person is {age}."}
        overall[f"{index}.jpg"] = {"attribute_wise_captions": attributes, "overall_caption": f"A {age} person."}
    (root / "captions_hq_beard_and_age_2022-08-19.json").write_text(json.dumps(plain))
    (root / "captions_hq.json").write_text(json.dumps(overall))
    return root


SUITE = """
name: toys
title: Toys
paper: collaborative-diffusion
table: table-1
dataset: faces
conditions: [text, mask]
rows:
  - {name: toy, method: toy}
  - {name: awaited, planned: not yet}
metrics: [fid, kid, text-similarity, mask-accuracy, mask-miou, joint-success]
joint: {metrics: [text-similarity, mask-accuracy], quantile: 0.05}
reference: [ground-truth, shuffled]
grid: 4
"""


def write_suite(folder: Path, **changes: str) -> Path:
    """The suite `toys`; changes are lines: write_suite(folder, grid="grid: eight")."""
    lines = SUITE.strip().splitlines()
    for key, line in changes.items():
        lines = [line if old.startswith(f"{key}:") else old for old in lines]
    path = folder / "toys.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def make_judges():
    """Judges without weights: brightness tells classes, colour sums are features, letters make a caption's vector."""
    import torch

    class Judges:
        role, device = "judge", torch.device("cpu")

        def __init__(self):
            self.sha256 = {"parser": "1" * 64, "features": "2" * 64, "text-image": "3" * 64}
            self.cards = {
                kind: {"name": f"toy-{kind}", "sha256": digest, "held_out": {"accuracy": 0.5, "n": 8}}
                for kind, digest in self.sha256.items()
            }

        def labels(self, images):
            return (images.mean(1) * 18.99).long()

        def features(self, images, kinds=("pool",)):
            return {"pool": torch.nn.functional.adaptive_avg_pool2d(images, (4, 4)).flatten(1)}  # (B, 48)

        def embed_images(self, images):
            pooled = torch.nn.functional.adaptive_avg_pool2d(images, (4, 4)).flatten(1)
            return torch.nn.functional.normalize(pooled[:, :16] - 0.5, dim=1)

        def embed_texts(self, texts):
            rows = [[(sum(map(ord, text)) * (k + 1)) % 17 - 8.0 for k in range(16)] for text in texts]
            return torch.nn.functional.normalize(torch.tensor(rows), dim=1)

    return Judges()


def use_toy_judges() -> None:
    """Every profile's judges are these from now on."""
    from given_networks import seen_by

    from concord.metrics.networks import judges

    judges.open_judges = lambda *_: seen_by(make_judges())


def preload() -> None:
    """Import what the command line imports on its way: processes forked after it start at once."""
    import importlib

    for name in (
        "concord.benchmarks.run.score",
        "concord.benchmarks.session",
        "concord.cli",
        "concord.reports.report",
        "concord.commands.run",
        "concord.commands.stages",
        "matplotlib.figure",
        "matplotlib.backends.backend_agg",
        "concord.methods.networks.experts",
        "concord.metrics.networks.judges",
        "pandas",
        "pyarrow.dataset",
        "pyarrow.parquet",
        "concord.reports.figures.conditions",
        "concord.reports.site.html",
        "rich.table",
    ):
        importlib.import_module(name)
    from concord.methods.base import all_methods
    from concord.metrics.base import all_metrics

    Image.init()
    all_methods()
    all_metrics()
    use_toy_judges()


def run_concord(arguments: list[str], output: str) -> None:
    """`concord ARGUMENTS` in this process, its output to a file."""
    import os
    import signal

    # A shell starts its background jobs with interrupts ignored, and children inherit that; here they are to count.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    from concord.cli import app

    preload()
    app(arguments, prog_name="concord")


def main() -> None:
    """The command `concord` with judges without weights."""
    sys.path.insert(0, str(ROOT))
    use_toy_judges()
    from concord.cli import main as concord

    concord()


if __name__ == "__main__":
    main()

"""How good the embedded generators are, measured by the judges on the test faces.

    python -m concord.methods.training.evaluate --n 256

Prints: the parser's accuracy on real faces, on reconstructions and on mask-only samples (what the mask-driven model
loses is the difference to the reconstructions); and how often text-only samples show the caption's beard and age.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import torch

from concord.data.networks import Networks
from concord.data.request import Conditions, Request
from concord.methods.base import make_method
from concord.methods.networks.space import LatentSpace
from concord.methods.training.corpus import ATTRIBUTES, Corpus, corpus
from concord.metrics.networks.embedded.perceptual import SynthFeatures
from concord.metrics.networks.judges import open_judges
from concord.metrics.networks.protocols import Parser

BATCH = 32


def evaluate(n: int, device: str = "cpu") -> dict[str, Any]:
    """The figures on the first `n` test faces."""
    networks, judge, faces = Networks("embedded", "faces", device), open_judges("embedded", device), corpus("test", n)
    n = len(faces)
    space = networks.get("space", LatentSpace)
    real = faces.pictures(torch.arange(n))
    with torch.inference_mode():
        rebuilt = torch.cat([_rebuilt(space, chunk.to(device)) for chunk in real.split(BATCH)])
    made, seconds = {}, {}
    for name in ("mask-only", "text-only"):
        began = time.monotonic()
        made[name] = _sample(name, faces, networks)
        seconds[name] = round((time.monotonic() - began) / n, 3)
    known = {"real": real, "reconstructed": rebuilt}
    mask = {k: _mask(judge, v, faces) for k, v in {**known, "mask-only": made["mask-only"]}.items()}
    text = {k: _classes(judge, v, faces) for k, v in {**known, "text-only": made["text-only"]}.items()}
    psnr = float((-10 * (rebuilt - real).square().mean((1, 2, 3)).log10()).mean())
    return {"n": n, "psnr_db": round(psnr, 2), "mask": mask, "text": text, "seconds_per_image": seconds}


def _rebuilt(space: LatentSpace, images: torch.Tensor) -> torch.Tensor:
    """Images through the first stage and back, on the CPU."""
    return space.decode(space.encode(images)).clamp(0, 1).cpu()


def _sample(name: str, faces: Corpus, networks: Networks) -> torch.Tensor:
    method = make_method(name, {}, networks)
    images = []
    for chunk in torch.arange(len(faces)).split(BATCH):
        requests = []
        for i in chunk.tolist():
            conditions = (
                Conditions(mask=faces.masks[i].numpy().astype(np.int64))
                if name == "mask-only"
                else Conditions(text=faces.beard_and_age[i])
            )
            requests.append(Request.make("evaluate", str(i), 0, conditions))
        images.append(method.generate(requests))
    return torch.cat(images)


def _mask(judge: Networks, images: torch.Tensor, faces: Corpus) -> dict[str, float]:
    """Pixel accuracy, and the mean IoU over the whole set's confusion matrix."""
    found = torch.cat([judge.get("judge/parser", Parser).labels(chunk).cpu() for chunk in images.split(BATCH)])
    confusion = torch.bincount((faces.masks.long() * 19 + found).flatten(), minlength=361).reshape(19, 19).double()
    iou = confusion.diag() / (confusion.sum(0) + confusion.sum(1) - confusion.diag())
    accuracy = confusion.diag().sum() / confusion.sum()
    return {"accuracy": round(float(accuracy), 4), "miou": round(float(iou.nanmean()), 4)}


def _classes(judge: Networks, images: torch.Tensor, faces: Corpus) -> dict[str, float]:
    """Share of images with the right beard class, the right age class, and both."""
    chunks = [judge.get("judge/features", SynthFeatures).attributes(chunk) for chunk in images.split(BATCH)]
    right = {}
    for name in ("No_Beard", "Young"):
        found = torch.cat([c[name] for c in chunks]).argmax(1).cpu()
        right[name] = found == faces.attributes[:, ATTRIBUTES.index(name)]
    both = right["No_Beard"] & right["Young"]
    return {
        "beard": float(right["No_Beard"].float().mean()),
        "age": float(right["Young"].float().mean()),
        "both": float(both.float().mean()),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure the embedded generators with the judges.")
    parser.add_argument("--n", type=int, default=256, help="test faces (default 256)")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print(json.dumps(evaluate(arguments.n, arguments.device), indent=1))

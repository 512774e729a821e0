"""How long scoring takes beside the reference tools, and how much memory: `python -m
concord.benchmarks.profiling.score_speed`.

    speed     Concord's one pass (FID, KID, Inception Score, sFID, precision, recall, LPIPS, CLIP) over two folders of
              PNG images, against clean-fid (FID), torch-fidelity (Inception Score, KID, precision and recall), lpips
              and open_clip run in turn; the same images, the same random weights, in the files that each tool reads,
              loading included; everything in one process, so that the ratio means something on any machine
    memory    `--memory N`: FID of N generated images of 64 x 64 from tar shards by features of 2048 numbers, and the
              embedded judges' KID and text similarity, in a process of its own: its peak resident memory

CLIP is ViT-B/32 on both sides (QuickGELU): with ViT-L/14, which both would run equally long, nothing else would show.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

METRICS = "fid,kid,inception-score,sfid,precision,recall,lpips-alex,text-similarity"
CLIP, CLIP_FILE = "ViT-B-32-quickgelu", "clip-vit-b-32"
PYTORCH_FID = "pt_inception-2015-12-05-6726825d.pth"
FIDELITY = "weights-inception-2015-12-05-6726825d.pth"
ALEXNET = "alexnet-owt-7be5be79.pth"


# ------------------------------------------------------------------------------------------------------- what is scored


def draw(rng: np.random.Generator, size: int) -> Any:
    """An image with coarse and fine structure and some noise, so that PNG and networks have something to do."""
    from PIL import Image

    total = np.zeros((size, size, 3))
    for side in (3, 9, 31):
        coarse = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        total += np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)) / 3
    noisy = total + rng.normal(0, 6, total.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def write_images(folder: Path, n: int, size: int, seed: int) -> Path:
    """Write `n` PNG files of `size` x `size` pixels drawn from `seed`; returns the folder."""
    folder.mkdir(parents=True)
    for index in range(n):
        draw(np.random.default_rng([seed, index]), size).save(folder / f"{index:06d}.png", compress_level=1)
    return folder


def captions(n: int) -> list[str]:
    """`n` captions of some words each."""
    return [
        f"a photo of a person, number {index}, with {('black', 'blond', 'brown')[index % 3]} hair" for index in range(n)
    ]


# ------------------------------------------------------------------------------------------------------- random weights


def write_weights(folder: Path) -> Path:
    """Random weights in the files that the tools read: three of Inception, one of AlexNet, one of CLIP."""
    import open_clip
    import torch

    write_inception(folder)
    write_alexnet(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(open_clip.create_model(CLIP, pretrained=None).state_dict(), folder / "clip.pt")
    return folder


def write_inception(folder: Path) -> None:
    """torch-fidelity's file (Concord's too), pytorch-fid's, and clean-fid's TorchScript."""
    import torch

    from concord.metrics.networks.pretrained.inception import Inception

    generator = torch.Generator().manual_seed(0)
    state = Inception().state_dict()
    for name, value in state.items():
        if name.endswith("conv.weight"):
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
        elif name.endswith(("running_var", "bn.weight")):
            value.uniform_(0.75, 1.25, generator=generator)
        elif value.is_floating_point():
            value.normal_(0, 0.1, generator=generator)
    checkpoints = _checkpoints(folder)
    torch.save({k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, folder / FIDELITY)
    torch.save(state, checkpoints / PYTORCH_FID)
    _write_torchscript(folder)


def write_alexnet(folder: Path) -> None:
    """Put an untrained AlexNet where torch.hub looks for it: speed is measured, not values."""
    import torch
    from torchvision.models import alexnet

    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(alexnet(weights=None).state_dict(), _checkpoints(folder) / ALEXNET)


def _checkpoints(folder: Path) -> Path:
    """Where torch.hub looks under TORCH_HOME."""
    path = folder / "hub" / "checkpoints"
    path.mkdir(parents=True, exist_ok=True)
    return path


def _write_torchscript(folder: Path) -> None:
    """clean-fid's own form, TorchScript with `layers`, made of the network that it ships for pytorch-fid's weights."""
    import torch
    from cleanfid.inception_pytorch import InceptionV3

    class Base(torch.nn.Module):
        def __init__(self, layers: torch.nn.Module) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)

    with _torch_home(folder), contextlib.redirect_stderr(io.StringIO()):
        network = InceptionV3(resize_input=False, normalize_input=False).eval()

    class Pool(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network(x)[0]

    with torch.no_grad():
        layers = torch.jit.trace(Pool().eval(), torch.zeros(2, 3, 299, 299), check_trace=False)
    torch.jit.script(Base(layers)).save(str(folder / "inception-2015-12-05.pt"))


@contextlib.contextmanager
def _torch_home(folder: Path) -> Iterator[None]:
    before = os.environ.get("TORCH_HOME")
    os.environ["TORCH_HOME"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("TORCH_HOME")
        if before is not None:
            os.environ["TORCH_HOME"] = before


# ------------------------------------------------------------------------------------------------------------ the tools


def run_concord(weights: Path, made: Path, real: Path, n: int) -> dict[str, float]:
    """Seconds of FID, KID, LPIPS and CLIP score by `concord.metrics.evaluate`, by name."""
    from concord import metrics
    from concord.data.networks import Networks
    from concord.metrics.networks.pretrained.clip import load_clip
    from concord.metrics.networks.pretrained.inception import load_inception
    from concord.metrics.networks.pretrained.lpips import load_lpips

    inception = load_inception(weights / FIDELITY)
    networks = {
        **{f"features/{kind}": inception for kind in ("pool", "spatial", "logits")},
        "judge/lpips-alex": load_lpips("alex", weights / "hub" / "checkpoints" / ALEXNET),
        "judge/text-image": load_clip(weights / "clip.pt", name=CLIP_FILE),
    }
    found = metrics.evaluate(
        generated=made,
        reference=real,
        conditions=captions(n),
        metrics=METRICS,
        cache=False,
        networks=Networks.of(networks),
    )
    return found.values | {f"seconds: {kind}": seconds for kind, seconds in found.seconds.items()}


def run_clean_fid(weights: Path, made: Path, real: Path) -> dict[str, float]:
    """Seconds of clean-fid's FID, by name."""
    from cleanfid import fid

    return {"fid": float(fid.fid_from_feats(*clean_fid_features(weights, made, real)))}


def clean_fid_features(weights: Path, *folders: Path) -> list[np.ndarray]:
    """clean-fid's features (n, 2048) of the images of each folder, by its own network and resize."""
    import torch
    from cleanfid import fid
    from cleanfid.inception_torchscript import InceptionV3W

    model = InceptionV3W(str(weights), download=False)
    workers, device = os.cpu_count() or 1, torch.device("cpu")
    return [
        fid.get_folder_features(str(folder), model, num_workers=workers, batch_size=32, device=device, verbose=False)
        for folder in folders
    ]


def run_torch_fidelity(weights: Path, made: Path, real: Path, n: int) -> dict[str, float]:
    """Seconds of torch-fidelity's FID and KID, by name."""
    import torch_fidelity

    return dict(
        torch_fidelity.calculate_metrics(
            input1=str(made),
            input2=str(real),
            cuda=False,
            isc=True,
            kid=True,
            prc=True,
            verbose=False,
            cache=False,
            batch_size=32,
            feature_extractor="inception-v3-compat",
            feature_extractor_weights_path=str(weights / FIDELITY),
            kid_subset_size=min(1000, n),
        )
    )


def run_lpips(weights: Path, made: Path, real: Path, batch: int = 32) -> dict[str, float]:
    """Seconds of the package lpips, image by image of a batch, by name."""
    import lpips
    import torch
    from PIL import Image

    with _torch_home(weights), contextlib.redirect_stdout(io.StringIO()):
        network = lpips.LPIPS(net="alex", verbose=False).eval()
    names = sorted(path.name for path in made.iterdir())
    values: list[float] = []

    def read(folder: Path, part: list[str]) -> torch.Tensor:
        pixels = np.stack([np.asarray(Image.open(folder / name).convert("RGB")) for name in part])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1

    with torch.no_grad():
        for start in range(0, len(names), batch):
            part = names[start : start + batch]
            values += network(read(made, part), read(real, part)).flatten().tolist()
    return {"lpips-alex": float(np.mean(values))}


def run_open_clip(weights: Path, made: Path, texts: list[str], batch: int = 32) -> dict[str, float]:
    """Seconds of open_clip's cosines of images and texts, by name."""
    import open_clip
    import torch
    from PIL import Image

    model, _, transform = open_clip.create_model_and_transforms(CLIP, pretrained=str(weights / "clip.pt"))
    model.eval()
    tokenizer = open_clip.get_tokenizer(CLIP)
    paths, values = sorted(made.iterdir()), []
    with torch.no_grad():
        for start in range(0, len(paths), batch):
            images = torch.stack([transform(Image.open(path)) for path in paths[start : start + batch]])
            image, text = model.encode_image(images), model.encode_text(tokenizer(texts[start : start + batch]))
            values += torch.nn.functional.cosine_similarity(image, text).tolist()
    return {"text-similarity": 100 * float(np.mean(values))}


# ----------------------------------------------------------------------------------------------------------- the tables


def timed(work: Callable[[], dict[str, float]]) -> tuple[float, float, dict[str, float]]:
    """Seconds on the clock, seconds of processors (which other programs disturb less), and what was found."""
    start, before = time.perf_counter(), _processor_seconds()
    found = work()
    return time.perf_counter() - start, _processor_seconds() - before, found


def _processor_seconds() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def import_all() -> None:
    """Importing torchvision and transformers takes as long as hundreds of images: once, for all, and not counted."""
    import importlib

    for name in ("cleanfid.fid", "cleanfid.inception_pytorch", "torch_fidelity", "lpips", "open_clip", "metrics"):
        importlib.import_module(name)
    from concord.metrics.base import all_metrics

    all_metrics()


def speed(n: int, size: int, folder: Path) -> float:
    """Prints the seconds of both sides; returns theirs over ours."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    import_all()
    made, real = (write_images(folder / name, n, size, seed) for seed, name in enumerate(("made", "real")))
    weights = write_weights(folder / "weights")
    print(f"{n} + {n} images of {size} x {size}, {torch.get_num_threads()} threads, float32 on the CPU", flush=True)

    def concord() -> tuple[float, float, dict[str, float]]:
        seconds, busy, values = timed(lambda: run_concord(weights, made, real, n))
        prefix = "seconds: "
        split = ", ".join(f"{k.removeprefix(prefix)} {v:.1f}" for k, v in values.items() if k.startswith(prefix))
        print(f"Concord, {METRICS}: {seconds:.1f} s ({split}), {busy:.1f} s of processors", flush=True)
        return seconds, busy, values

    ours, ours_busy, values = concord()
    theirs = theirs_busy = 0.0
    for name, work in (
        ("clean-fid: FID", lambda: run_clean_fid(weights, made, real)),
        ("torch-fidelity: Inception Score, KID, precision, recall", lambda: run_torch_fidelity(weights, made, real, n)),
        ("lpips: alex", lambda: run_lpips(weights, made, real)),
        ("open_clip: similarity", lambda: run_open_clip(weights, made, captions(n))),
    ):
        seconds, busy, found = timed(work)
        theirs, theirs_busy = theirs + seconds, theirs_busy + busy
        same = ", ".join(f"{k} {v:.7g} (ours {values[k]:.7g})" for k, v in found.items() if k in values)
        print(f"{name}: {seconds:.1f} s, {busy:.1f} s of processors{'   ' + same if same else ''}", flush=True)
    again, again_busy, _ = concord()  # first and last: a machine that slows down or speeds up favours neither side
    ours, ours_busy = (ours + again) / 2, (ours_busy + again_busy) / 2
    print(
        f"together {theirs:.1f} s, {theirs / ours:.2f} times as long as Concord; "
        f"{theirs_busy:.1f} s of processors, {theirs_busy / ours_busy:.2f} times",
        flush=True,
    )
    return theirs / ours


def memory(n: int, folder: Path) -> float:
    """Prints and returns the peak resident memory of this process in MiB."""
    import torch

    from concord import metrics
    from concord.benchmarks.store.shards import encode_png, write_shard
    from concord.data.networks import Networks
    from concord.metrics.networks.embedded.perceptual import SynthFeatures
    from concord.metrics.networks.judges import open_judges

    rng = np.random.default_rng(0)
    for shard, start in enumerate(range(0, n, 500)):
        names = [f"{index:06d}" for index in range(start, min(start + 500, n))]
        pixels = [np.asarray(draw(rng, 64)) for _ in names]
        write_shard(folder / "made", shard, names, [encode_png(image) for image in pixels], {})
    reference = np.stack([np.asarray(draw(rng, 64)) for _ in range(500)])
    print(f"{n} images drawn: {_peak():.0f} MiB", flush=True)

    class Wide:
        """In place of the embedded features 2048 numbers, of Inception's size: a fixed random layer over pixels."""

        def __init__(self) -> None:
            self.own = open_judges("embedded").get("judge/features", SynthFeatures)
            self.layer = torch.randn(3 * 16 * 16, 2048, generator=torch.Generator().manual_seed(0)) / 28

        def features(self, images: torch.Tensor, kinds: Sequence[str]) -> dict[str, torch.Tensor]:
            self.own.features(images, kinds)
            small = torch.nn.functional.avg_pool2d(images, 4).flatten(1)
            return {"pool": torch.relu(small @ self.layer)}

    wide = Networks.of({"features/pool": Wide()})
    for chosen, judges in (("kid,text-similarity", open_judges("embedded")), ("fid", wide)):

        def score(chosen: str = chosen, judges: Networks = judges) -> dict[str, float]:
            return metrics.evaluate(
                generated=folder / "made",
                reference=reference,
                conditions=captions(n),
                metrics=chosen,
                cache=False,
                networks=judges,
            ).values

        seconds, _, found = timed(score)
        told = ", ".join(f"{name} {value:.6g}" for name, value in found.items())
        print(f"{n} images, {told}: {seconds:.1f} s, peak {_peak():.0f} MiB", flush=True)
    return _peak()


def _peak() -> float:
    scale = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**20


def main(
    n: Annotated[int, "images of each side, 50 or more"] = 256,
    size: int = 256,
    memory_of: Annotated[int, "0: no"] = 0,
) -> None:
    """Measure speed, or with --memory-of N the peak memory of scoring N small images."""
    with tempfile.TemporaryDirectory() as name:
        if memory_of:
            memory(memory_of, Path(name))
        else:
            speed(n, size, Path(name))


if __name__ == "__main__":
    import typer

    typer.run(main)

"""What the weights w_t of MT-Diffusion do: short trainings under bounded ones and under the paper's, from one trunk.

    python -m concord.benchmarks.profiling.multi_task_weights [--steps 150] [--batch 32] [--faces 32] [--device cpu]

Three trainings of masked images alone, of the same steps, batches and seed: bounded weights with v learnt (this
repository's), bounded weights with eps learnt by equal weights (the paper's loss), and the paper's weights with that
loss; so that the last two differ in w_t alone. Told for each: the held-out error of eps in three thirds of t (1 is what
predicting zero has), by the same noise; and restorations of held-out faces with 10 masked patches: squared error of the
latents where the image is known and over all (the masked image's own error beside them).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from concord.methods.training.multi_task import TrainMultiTask

PATCHES = 10
SAMPLED = 20  # steps of a restoration


def trainings() -> dict[str, type[TrainMultiTask]]:
    """Name -> task of masked images alone."""
    from concord.methods.training.multi_task import TrainMultiTask, TrainPaperWeights

    only = {"shares": {"masked-image": 1.0}, "faces": 4096}
    return {
        "bounded weights, v": type("BoundedV", (TrainMultiTask,), only),
        "bounded weights, eps": type("BoundedEps", (TrainPaperWeights,), {**only, "weights": "bounded"}),
        "the paper's weights, eps": type("PaperEps", (TrainPaperWeights,), only),
    }


def trained(kind: type[TrainMultiTask], steps: int, batch: int, device: torch.device) -> TrainMultiTask:
    """The task after so many steps, nothing written."""
    import torch
    from torch import nn

    task = kind(device)
    task.start()
    parameters = [p for p in task.model.train().parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, task.recipe.lr, betas=task.betas, weight_decay=0.01, fused=True)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = task.recipe.lr * min(1.0, (step + 1) / 20) * (1 - step / steps)
        loss = task.loss(torch.Generator().manual_seed(step), batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, task.recipe.clip)
        optimizer.step()
    task.model.eval()
    return task


def measured(task: TrainMultiTask, count: int) -> dict[str, float]:
    """Held-out errors of one task (see the head)."""
    import torch

    from concord.methods.core.noise import draw_noise
    from concord.methods.mt_diffusion import infer, predictor
    from concord.methods.networks.experts import LATENT
    from concord.methods.networks.multi_task import Known
    from concord.methods.training.generators import Latents
    from concord.methods.training.multi_task import patch_masks

    name, schedule, process = "masked-image", task.schedule, task.aggregation
    faces = Latents("validation", task.device, count)
    z_0 = faces.values.to(task.device)
    seen = patch_masks(torch.Generator().manual_seed(0), torch.full((count,), PATCHES))
    e = task.encoders.masked_image(faces.corpus.pictures(torch.arange(count)).to(task.device), seen.to(task.device))
    told, found = Known({name: e}), dict[str, float]()
    generators = [torch.Generator().manual_seed(k) for k in range(count)]
    with torch.inference_mode():
        for low, high in ((0, 333), (333, 666), (666, 999)):
            errors = []
            for t in range(low + 41, high, 83):
                noise = draw_noise(generators, LATENT, task.device)
                z_t = process.diffuse(z_0, noise, [e], t)
                eps = task.network.eps(task.network(z_t, t, told), z_t, t, schedule)
                errors.append(float((eps - noise).square().mean()))
            found[f"eps, t {low}-{high}"] = sum(errors) / len(errors)
        predict = predictor(task.network, schedule, told)
        made, _ = infer(predict, task.encoders, process, {name: e}, {}, generators, LATENT, task.device, SAMPLED)
    known = (
        torch.nn.functional.avg_pool2d(seen.float()[:, None], 4).to(task.device) == 1
    )  # latents without a masked pixel
    off = (made - z_0).square()
    found["restored, known"] = float((off * known).sum() / known.expand_as(off).sum())
    found["restored, all"] = float(off.mean())
    found["masked image"] = float((e - z_0).square().mean())
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the arguments, train with each weighting, print the held-out errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--faces", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    options: Any = parser.parse_args(arguments)

    from concord.data.device import resolve_device

    device = resolve_device(options.device)
    print(f"{options.steps} steps of {options.batch} images each, n = {options.faces} held-out faces, {device}")
    for name, kind in trainings().items():
        values = measured(trained(kind, options.steps, options.batch, device), options.faces)
        print(f"  {name:<26} " + "  ".join(f"{key} {value:.4g}" for key, value in values.items()), flush=True)


if __name__ == "__main__":
    main()

"""What a training step of MT-Diffusion costs against a single task of the same trunk (appendix E.5: about 10 % more).

    python -m concord.benchmarks.profiling.multi_task_speed [--steps 20] [--batch 32] [--device cpu]

A step is what the training loop does: the loss, its gradient, clipping, AdamW. All tasks take turns, one step each; on
a CPU the process's own time is counted, whatever else runs there. Told are the medians, and each over that of images
alone. 'masks alone' and the like are MT-Diffusion with one modality, as the paper trains it; 'mt-faces' has all three.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from concord.methods.training.trainer import Task

FACES = 512  # encoded once for each task; which ones does not change what a step costs


def tasks() -> dict[str, type[Task]]:
    """Name -> task; the first is what the others are held against."""
    from concord.methods.training.multi_task import TrainMultiTask
    from concord.methods.training.single_task import (
        TrainClassConditional,
        TrainClassifier,
        TrainMultiTaskGeneration,
        TrainSegmentation,
    )

    def alone(modality: str) -> type[Task]:
        return type(f"Only{modality}", (TrainMultiTask,), {"shares": {modality: 1.0}})

    return {
        "images alone (single task)": TrainMultiTaskGeneration,
        "mt-class-conditional": TrainClassConditional,
        "mt-segmentation": TrainSegmentation,
        "mt-classifier": TrainClassifier,
        "masked images alone": alone("masked-image"),
        "masks alone": alone("mask"),
        "labels alone": alone("label"),
        "mt-faces": TrainMultiTask,
    }


def stepper(kind: type[Task], device: torch.device, batch: int) -> Callable[[int], float]:
    """One training step of a task; the step's number in, seconds out."""
    import torch
    from torch import nn

    from concord.benchmarks.run.meter import wait_for

    clock = time.process_time if device.type == "cpu" else time.perf_counter
    task = type(kind.__name__, (kind,), {"faces": FACES})(device)
    parameters = [p for p in task.model.train().parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, task.recipe.lr, betas=task.betas, fused=True)

    def step(number: int) -> float:
        wait_for(device)
        start = clock()
        loss = task.loss(torch.Generator().manual_seed(number), batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, task.recipe.clip)
        optimizer.step()
        wait_for(device)
        return clock() - start

    return step


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the arguments, measure, print seconds a step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)

    import torch

    from concord.data.device import resolve_device

    device = resolve_device(options.device)
    steppers = {name: stepper(kind, device, options.batch) for name, kind in tasks().items()}
    seconds: dict[str, list[float]] = {name: [] for name in steppers}
    for number in range(options.steps + 2):
        for name, step in steppers.items():
            last = step(number)
            if number >= 2:  # the first steps allocate
                seconds[name].append(last)
    first = median(next(iter(seconds.values())))
    threads = f"{torch.get_num_threads()} thread(s)"
    print(f"a training step of {options.batch} images, {device}, {threads}, median of {options.steps} steps in turns")
    for name, taken in seconds.items():
        print(f"  {name:<28} {1e3 * median(taken):8.1f} ms  {median(taken) / first:6.3f} x")


if __name__ == "__main__":
    main()

"""The one training loop: any task, any device, resumable after a kill, with a log of losses and a final card.

What step k sees depends on (task seed, k) alone: a resumed run sees what an undisturbed one would have seen. Weights
can be trained further: steps are counted on from where the card says that they stopped, under a new schedule.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from concord.data.checkpoints import EMBEDDED, card_path, load_weights, packed, save_weights, unpacked, weight_path
from concord.data.errors import ConcordError, warn
from concord.data.files import atomic_path, read_json
from concord.data.git import ask
from concord.data.lock import Held, hold
from concord.data.progress import bar
from concord.data.user_code import failure

CHECKPOINTS = Path("checkpoints")


@dataclass(frozen=True)
class Recipe:
    """How long and how fast. Learning rate: linear warm-up, then a cosine down to a hundredth."""

    steps: int
    batch: int = 32
    lr: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.01
    ema: float = 0.999  # decay of the averaged weights, reached gradually
    clip: float = 1.0


class Task(ABC):
    """Something to train: the networks, the loss of one step, and what to measure at the end."""

    name: ClassVar[str]
    recipe: ClassVar[Recipe]
    seed: ClassVar[int] = 0
    world: ClassVar[str] = "SynthFaces"
    betas: ClassVar[tuple[float, float]] = (0.9, 0.99)  # of the optimiser; a GAN's first one is 0
    committed: ClassVar[bool] = True  # False: the repository holds its card at most, no weights
    depends_on: ClassVar[tuple[str, ...]] = ()  # networks that must have been trained before
    output_names: ClassVar[tuple[str, ...]] = ()  # weight files it writes; its own name by default
    trunk: ClassVar[str | None] = None  # weights that it starts from where they are there, for the card
    bits: ClassVar[int] = 16  # of its stored weights (data/checkpoints.py)
    measured_every: ClassVar[int] = 0  # steps between two points of the card's `held_out.curve`; 0: there is none

    def __init__(self, device: torch.device, folder: Path = EMBEDDED) -> None:
        self.device, self.folder = device, folder
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)  # the first weights follow the task's seed, whatever ran before
            self.model = self.build().to(device)

    @abstractmethod
    def build(self) -> nn.Module:
        """The module that is trained (also loads data and frozen networks, kept on self)."""

    @abstractmethod
    def loss(self, generator: torch.Generator, batch: int) -> Tensor:
        """The loss of one step; all randomness comes from `generator` (a CPU generator)."""

    @abstractmethod
    def outputs(self, model: nn.Module) -> dict[str, tuple[dict[str, Tensor], dict[str, object]]]:
        """What is kept: by file name, the state and the configuration that rebuilds the network."""

    def start(self) -> None:  # noqa: B027 - most tasks have nothing to prepare
        """Called once before a fresh training, never on resume: closed-form parts, a trunk's weights."""

    def warm_start(self) -> None:
        """Called instead of `start` to train further: the weights that were kept become the first ones."""
        (name,) = self.outputs(self.model)
        self.model.load_state_dict(load_weights(name, self.folder)[0])

    def evaluate(self, model: nn.Module) -> dict[str, object]:
        """Figures on held-out faces, for the card."""
        return {}

    def measure(self, model: nn.Module) -> dict[str, object]:
        """One point of the curve: what the averaged weights can do on held-out faces."""
        return {}


def train(
    task: Task,
    steps: int | None = None,
    resume: bool = True,
    checkpoints: Path = CHECKPOINTS,
    every_seconds: float = 120.0,
    progress: bool = True,
    further: bool = False,
    lr: float | None = None,
) -> list[dict[str, Any]]:
    """Train a task to its end and write weights and cards; returns the cards.

    steps, lr: override the recipe's numbers. A checkpoint is written every `every_seconds`; with `resume` the newest
    one of the same recipe is taken up. further: begin with the weights that are there, not anew.
    Raises ConcordError where another process trains the same network: both would write its checkpoint and weights.
    """
    with contextlib.ExitStack() as stack:
        place = checkpoints / f".{task.name}.lock"
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(hold(place))
        except Held as held:
            raise ConcordError(f"{task.name}: {held.holder} is training it; wait for it, or end it first") from None
        except OSError as error:
            raise ConcordError(f"{checkpoints}: cannot be written ({error.strerror}); free space there") from None
        return _train(task, steps, resume, checkpoints, every_seconds, progress, further, lr)


def _train(
    task: Task,
    steps: int | None,
    resume: bool,
    checkpoints: Path,
    every_seconds: float,
    progress: bool,
    further: bool,
    lr: float | None,
) -> list[dict[str, Any]]:
    changes = {"steps": steps, "lr": lr}
    recipe = Recipe(**{**asdict(task.recipe), **{k: v for k, v in changes.items() if v is not None}})
    earlier = _earlier(task) if further else []
    before = sum(part["recipe"]["steps"] for part in earlier)
    state_file, log_file = checkpoints / f"{task.name}.pt", checkpoints / f"{task.name}.log.jsonl"
    model = task.model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, recipe.lr, betas=task.betas, weight_decay=recipe.weight_decay, fused=True)
    ema_params = [p.detach().clone() for p in parameters]
    first, seconds, loss_ema = 0, 0.0, 0.0
    curve: list[dict[str, object]] = []
    if resume and state_file.is_file():
        saved = _renamed(_saved(state_file, task.device), state_file)
        if saved["recipe"] != asdict(recipe) or saved["before"] != before:
            remedy = "pass --restart to begin anew, or the same --steps"
            raise ConcordError(f"{state_file}: made by another recipe; {remedy}")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        ema_params = [a.to(task.device) for a in saved["ema_params"]]
        first, seconds, loss_ema = saved["step"], saved["seconds"], saved["loss_ema"]
        curve = saved.get("curve", [])
    else:
        task.warm_start() if further else task.start()
        ema_params = [p.detach().clone() for p in parameters]
        log_file.unlink(missing_ok=True)
        if task.measured_every:
            curve.append({"step": before, **_measured(task, model, ema_params)})

    began = saved_at = time.monotonic()
    with bar(task.name, show=progress) as report:
        for step in range(first, recipe.steps):
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * _lr_factor(step, recipe)
            loss = task.loss(_generator(task.seed, before + step), recipe.batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, recipe.clip)
            optimizer.step()
            decay = min(recipe.ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(ema_params, [p.detach() for p in parameters], 1 - decay)
            value = float(loss.detach())
            if value != value:
                raise ConcordError(f"training {task.name}: the loss became NaN at step {step}; lower the learning rate")
            loss_ema = value if step == 0 else 0.99 * loss_ema + 0.01 * value
            report(step + 1, recipe.steps, f"loss {loss_ema:.4f}")
            now = time.monotonic()
            last = step + 1 == recipe.steps
            if task.measured_every and (last or (step + 1) % task.measured_every == 0):
                curve.append({"step": before + step + 1, **_measured(task, model, ema_params)})
            if step % 50 == 0 or last:
                _log(
                    log_file, {"step": step + 1, "loss": value, "loss_ema": loss_ema, "seconds": seconds + now - began}
                )
            if now - saved_at > every_seconds or last:
                spent = seconds + now - began
                _save(state_file, model, optimizer, ema_params, step + 1, spent, loss_ema, recipe, before, curve)
                saved_at = now
    seconds += time.monotonic() - began

    with torch.no_grad():
        for parameter, average in zip(parameters, ema_params, strict=True):
            parameter.copy_(average)
    model.eval()
    if task.bits != 16:  # what is measured is what is kept
        model.load_state_dict(unpacked(packed(model.state_dict(), task.bits)))
    card = {
        "task": task.name,
        "data": task.world,
        "data_seed": _world_seed(task.world),
        "seed": task.seed,
        "recipe": asdict(recipe),
        "loss": round(loss_ema, 6),
        "seconds": round(seconds, 1),
        "device": _device(task.device),
        "torch": torch.__version__,
        "git_commit": _commit(),
        **({"trunk": _trunk(task.trunk)} if task.trunk and weight_path(task.trunk).is_file() else {}),
        "held_out": {**task.evaluate(model), **({"curve": curve} if curve else {})},
        **({"earlier": earlier} if earlier else {}),
    }
    cards = [
        save_weights(name, state, {**card, "config": config}, task.folder, task.bits)
        for name, (state, config) in task.outputs(model).items()
    ]
    state_file.unlink(missing_ok=True)
    return cards


def _renamed(saved: dict[str, Any], path: Path) -> dict[str, Any]:
    """A checkpoint under the names of today, with a warning where an earlier version wrote it."""
    if "averaged" not in saved:
        return saved
    warn(f"{path}: has an earlier version's names; the next checkpoint has those of today")
    recipe = {"lr" if name == "rate" else name: value for name, value in saved["recipe"].items()}
    former = {"averaged": "ema_params", "recent": "loss_ema"}
    return {former.get(name, name): value for name, value in saved.items()} | {"recipe": recipe}


def _measured(task: Task, model: nn.Module, ema_params: list[Tensor]) -> dict[str, object]:
    """A point of the curve by the averaged weights, which a training ends with; then it goes on with its own."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    own = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for parameter, average in zip(parameters, ema_params, strict=True):
            parameter.copy_(average)
        found = task.measure(model.eval())
        for parameter, kept in zip(parameters, own, strict=True):
            parameter.copy_(kept)
    model.train()
    return found


def _earlier(task: Task) -> list[dict[str, Any]]:
    """How the weights that are to be trained further were made, oldest part first, from their card."""
    name = next(iter(task.output_names or (task.name,)))
    if not card_path(name, task.folder).is_file():
        raise ConcordError(f"{card_path(name, task.folder)}: no such weights to train further; leave out --further")
    card = read_json(card_path(name, task.folder))
    return [*card.get("earlier", []), _told(card, "history")]


def _trunk(name: str) -> dict[str, object]:
    """How the weights that a task started from were made: a trunk's own file may be in no repository."""
    return {"name": name, **_told(read_json(card_path(name)))}


def _told(card: dict[str, object], *more: str) -> dict[str, object]:
    kept = ("recipe", "loss", "seconds", "device", "git_commit", "sha256", *more)
    return {key: card[key] for key in kept if key in card}


def _lr_factor(step: int, recipe: Recipe) -> float:
    import math

    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    part = (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * part))


def _generator(seed: int, step: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed((seed << 32) + step)


def _save(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema_params: list[Tensor],
    step: int,
    seconds: float,
    loss_ema: float,
    recipe: Recipe,
    before: int,
    curve: list[dict[str, object]],
) -> None:
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "ema_params": ema_params,
        "step": step,
        "seconds": seconds,
        "loss_ema": loss_ema,
        "recipe": asdict(recipe),
        "before": before,
        "curve": curve,
    }
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


STATE = {"model", "optimizer", "step", "seconds", "recipe", "before"}


def _saved(path: Path, device: torch.device) -> dict[str, Any]:
    """What `_save` wrote; ConcordError where it cannot be read."""
    try:
        saved = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # of a damaged file, whatever the unpickler meets in it
        raise ConcordError(f"{path}: not a readable checkpoint ({failure(error)}); pass --restart") from None
    if not isinstance(saved, dict) or STATE - saved.keys():
        raise ConcordError(f"{path}: not a checkpoint of a training; pass --restart to begin anew")
    return saved


def _log(path: Path, row: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}) + "\n")


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} thread(s)"


def _world_seed(world: str) -> int:
    from concord.data.synthetic import WORLD_SEED
    from concord.data.synthetic.scenes.scene import WORLD_SEED as SCENES_SEED

    return SCENES_SEED if world == "SynthScenes" else WORLD_SEED


def _commit() -> str:
    """The commit of the checkout, with '+' where files differ from it; 'unknown' outside git."""
    root = Path(__file__).resolve().parents[2]
    try:
        head, changed = ask(root, "rev-parse", "HEAD"), ask(root, "status", "--porcelain", "-uno")
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    if head.status:
        return "unknown"
    return head.output.decode().strip() + ("+" if changed.output.strip() else "")

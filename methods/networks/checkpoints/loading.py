"""Reading published checkpoints: nothing is unpickled, every name in a file is used or ignored for a stated reason.

PyTorch Lightning saves more than weights: callbacks by their class, counters as numpy scalars, configurations. The
`weights_only` reader of PyTorch refuses such a file as a whole. Here each foreign name in it is replaced by `Inert`,
which is never the thing it is called after, imports nothing and runs nothing; what is left are the tensors. The card
tells which names were replaced.

Weights in half or double precision are read and brought to float32; other types (8 bits, quantised) are refused.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from concord.data.errors import ConcordError
from concord.data.files import sha256_file

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.bool)

SCHEDULE_TABLES = re.compile(
    r"betas|alphas_cumprod(_prev)?|sqrt_(one_minus_)?alphas_cumprod|log_one_minus_alphas_cumprod"
    r"|sqrt_recip(m1)?_alphas_cumprod|posterior_(variance|log_variance_clipped|mean_coef[12])|lvlb_weights|logvar"
)
"""Tables that latent diffusion saves beside its weights; all follow from `alphas_cumprod`, which is compared."""


class Inert:
    """Stands for whatever a file names that is no weight; takes any arguments and does nothing with them."""

    def __new__(cls, *args: object, **kwargs: object) -> Inert:
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _empty_dict(*args: object) -> dict[object, object]:
    return {}


# ------------------------------------------------------------------------------------------------------------- one file


@dataclass
class Checkpoint:
    """The tensors of one file that have not been dealt out yet, and what became of the others.

    kind: what the caller expects the file to be, as its errors call it. Floating point is brought to float32 where it
    is loaded, not here: a large file stays mapped on the disk.
    """

    path: Path
    kind: str
    left: dict[str, Tensor]
    stored: tuple[str, ...]  # types of its floating point numbers
    replaced: tuple[str, ...] = ()  # foreign names beside the weights
    beside: tuple[str, ...] = ()  # entries beside the state dict
    ignored: dict[str, list[str]] = field(default_factory=dict)  # reason -> names
    used: dict[str, int] = field(default_factory=dict)  # part -> parameters
    looks_like: str | None = None

    def has(self, prefix: str) -> bool:
        """Whether a key that begins so is left."""
        return any(name.startswith(prefix) for name in self.left)

    def ignore(self, pattern: str | re.Pattern[str], reason: str) -> None:
        """Leave out the names that match from their beginning to their end."""
        names = [name for name in self.left if re.fullmatch(pattern, name)]
        for name in names:
            del self.left[name]
        if names:
            self.ignored.setdefault(reason, []).extend(names)

    def take(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under a prefix, their full names kept; nothing else is left of them here."""
        return {name: self.left.pop(name) for name in list(self.left) if name.startswith(prefix)}

    def fill(
        self,
        network: nn.Module,
        prefix: str,
        part: str,
        rename: Callable[[str], str] = str,
        squeeze: Callable[[str], bool] = lambda name: False,
    ) -> None:
        """Fill a network from the names under a prefix, strictly.

        rename: a name of the network -> the name behind the prefix. squeeze: names (the network's) of linear layers
        that the file holds as 1x1 convolutions. Raises ConcordError naming the first name that is missing, unknown, of
        another shape or not finite.
        """
        own = network.state_dict()
        wanted = {prefix + rename(name): name for name in own}
        found = self.take(prefix)
        missing = [name for name in wanted if name not in found]
        unknown = [name for name in found if name not in wanted]
        if missing or unknown:
            what = f"lacks '{missing[0]}'" if missing else f"holds '{unknown[0]}'"
            raise self.error(part, f"it {what} ({len(missing)} names are missing, {len(unknown)} unknown)")
        state = {}
        for name, mine in wanted.items():
            value = found[name]
            if squeeze(mine) and value.ndim == 4 and value.shape[2:] == (1, 1):
                value = value[:, :, 0, 0]
            if value.shape != own[mine].shape:
                shapes = f"{tuple(value.shape)}, expected {tuple(own[mine].shape)}"
                raise self.error(part, f"'{name}' has shape {shapes}")
            if value.device.type != "meta" and not bool(torch.isfinite(value).all()):
                raise self.error(part, f"'{name}' holds NaN or infinity")
            state[mine] = value
        network.load_state_dict(state)  # copies: half precision becomes float32 here
        self.used[part] = sum(value.numel() for value in state.values())

    def compare_schedule(self, alphas_cumprod: Tensor) -> None:
        """The file's own table, where it has one, against the schedule that will be used; leaves all tables out."""
        table = self.left.get("alphas_cumprod")
        if table is not None:
            expected = alphas_cumprod.to(torch.float32)
            loose = 1e-6 if table.dtype in (torch.float32, torch.float64) else 1e-2
            if table.shape != expected.shape or not torch.allclose(table.float(), expected, rtol=0, atol=loose):
                raise self.error("", f"its noise schedule is another one (alphas_cumprod, {len(table)} steps)")
        self.ignore(SCHEDULE_TABLES, "tables of the noise schedule, made anew from its two numbers")

    def finish(self) -> None:
        """ConcordError when a name is neither used nor ignored."""
        if self.left:
            name = next(iter(self.left))
            raise self.error("", f"it holds '{name}' ({len(self.left)} unknown names)")

    def error(self, part: str, problem: str) -> ConcordError:
        """What is wrong with a part of the file, and what the file looks like."""
        what = f"{self.kind} ({part})" if part and part != self.kind else self.kind
        looks = f"; it looks like {self.looks_like}" if self.looks_like else ""
        return ConcordError(f"{self.path}: no weights of {what}: {problem}{looks}; fetch the file again")

    def card(self, name: str, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
        """What was loaded from this file, and what was not."""
        return {
            "name": name,
            "file": self.path.name,
            "sha256": sha256_file(self.path),
            "kind": self.kind,
            "parameters": sum(self.used.values()),
            "parts": dict(self.used),
            "stored": list(self.stored),
            "dtype": str(dtype).removeprefix("torch."),
            "ignored": {reason: len(names) for reason, names in self.ignored.items()},
            "not_read": [*self.beside, *self.replaced],
        }


def read_checkpoint(path: Path, kind: str) -> Checkpoint:
    """A .ckpt, .pth or .bin of PyTorch (a state dict, alone or under 'state_dict'), or a .safetensors.

    kind: what it should be, for errors. Raises ConcordError in one line when it cannot be read without running code.
    """
    path = Path(path)
    if not path.is_file():
        raise ConcordError(f"{path}: no such weight file; expected {kind}: `concord weights list` tells how to get it")
    if path.suffix == ".safetensors":
        content: object = _read_safetensors(path, kind)
        replaced: tuple[str, ...] = ()
    else:
        content, replaced = _read_pickle(path, kind)
    beside: tuple[str, ...] = ()
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        beside = tuple(str(name) for name in content if name != "state_dict")
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise ConcordError(f"{path}: holds no weights; expected {kind}, names with tensors, under 'state_dict'")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ConcordError(
                f"{path}: entry '{name}' is {_describe(value)}, no tensor; expected {kind}, names with tensors"
            )
        if value.dtype not in (*FLOATS, *INTEGERS) or value.layout != torch.strided:
            kept = str(value.dtype).removeprefix("torch.")
            raise ConcordError(
                f"{path}: '{name}' is stored as {kept}; expected {kind} in float32, float16, bfloat16 or float64: "
                "take the file that its authors published"
            )
    stored = sorted({str(value.dtype).removeprefix("torch.") for value in content.values() if value.dtype in FLOATS})
    found = Checkpoint(path, kind, dict(content), tuple(stored), replaced, beside)
    found.looks_like = recognise(found.left)
    return found


def _describe(value: object) -> str:
    return "something that is not read" if isinstance(value, Inert) else f"a {type(value).__name__}"


def _read_safetensors(path: Path, kind: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise _unreadable(path, kind, error) from None


def _read_pickle(path: Path, kind: str) -> tuple[object, tuple[str, ...]]:
    try:
        archive = zipfile.is_zipfile(path)
        foreign = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path)) if archive else []
        stand_ins: list[Any] = [(_empty_dict if name == "collections.defaultdict" else Inert, name) for name in foreign]
        with torch.serialization.safe_globals(stand_ins):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True if archive else None)
    except pickle.UnpicklingError as error:
        said = str(error)
        found = re.search(r"GLOBAL (\S+)", said)
        if found is not None:
            raise ConcordError(
                f"{path}: names '{found[1]}', which cannot be read without running code; expected {kind}: save its "
                "state dict as .safetensors where you trust the file, or fetch it again"
            ) from None
        raise _unreadable(path, kind, error) from None
    except (
        OSError,
        RuntimeError,
        ValueError,
        EOFError,
        KeyError,
        IndexError,
        AttributeError,
        TypeError,
        AssertionError,
        UnicodeDecodeError,
        zipfile.BadZipFile,
    ) as error:
        raise _unreadable(path, kind, error) from None
    return content, tuple(foreign)


def _unreadable(path: Path, kind: str, error: Exception) -> ConcordError:
    reason = " ".join(str(error).split())[:90] or type(error).__name__
    size = path.stat().st_size if path.is_file() else 0
    return ConcordError(
        f"{path}: not a readable weight file ({size:,} bytes; {reason}); expected {kind}: fetch the file again"
    )


# --------------------------------------------------------------------------------------------------- whose file is this

_MARKS: tuple[tuple[str, str], ...] = (
    ("model.seg_mask_confidence_predictor.", "Collaborative Diffusion's file of both experts and dynamic diffusers"),
    ("model.text_confidence_predictor.", "Collaborative Diffusion's file of both experts and dynamic diffusers"),
    ("cond_stage_model.transformer.attn_layers.", "Collaborative Diffusion's text expert"),
    ("cond_stage_model.linear.", "Collaborative Diffusion's mask expert"),
    ("cond_stage_model.transformer.text_model.", "Stable Diffusion v1 in latent diffusion's layout"),
    ("cond_stage_model.model.", "Stable Diffusion v2 in latent diffusion's layout"),
    ("conditioner.embedders.", "Stable Diffusion XL"),
    ("text_model.", "a CLIP text encoder of transformers"),
    ("down_blocks.", "a UNet of diffusers"),
    ("encoder.down_blocks.", "an autoencoder of diffusers"),
    ("control_model.", "a ControlNet"),
    ("temb.dense.", "a DDPM network such as SDEdit's face model"),
    ("input_blocks.", "a guided-diffusion (ADM) network"),
    ("label_emb.", "a guided-diffusion (ADM) network"),
    ("cp.resnet.", "BiSeNet"),
    ("visual.", "CLIP"),
    ("g_ema.", "StyleGAN2"),
    ("lora_", "a LoRA"),
    ("ip_adapter.", "IP-Adapter"),
)


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """Which published model the names belong to, as far as they tell."""
    names = list(state)
    found = next((what for mark, what in _MARKS if any(name.startswith(mark) for name in names)), None)
    if found is None and any(name.startswith("encoder.down.") for name in names):
        found = "an autoencoder of latent diffusion"
    if found is None and any(".migc." in name for name in names):
        found = "MIGC"
    if found is not None and found.startswith(("Collaborative", "an autoencoder of latent")):
        found += _size_of(names)
    return found


def _size_of(names: Iterable[str]) -> str:
    """Collaborative Diffusion's autoencoder halves three times at 512x512, twice at 256x256."""
    levels = {int(level[1]) for name in names if (level := re.search(r"(?:^|\.)encoder\.down\.(\d+)\.", name))}
    return {2: " at 256x256", 3: " at 512x512"}.get(max(levels, default=-1), "")

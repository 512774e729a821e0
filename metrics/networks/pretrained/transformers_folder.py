"""Models in transformers' own form, from a local folder alone: config.json, model.safetensors, a preprocessor."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from concord.data.errors import ConcordError
from concord.metrics.networks.pretrained.weights import weight_path

WEIGHTS = "model.safetensors"


def model_folder(name: str, path: Path | None = None) -> Path:
    """The folder of a model in transformers' form; ConcordError where it lacks its weights or its description."""
    if path is None:
        from concord.data.download.manifest import weight_folder

        return weight_folder(name)
    place = weight_path(name, path)
    folder = place if place.is_dir() else place.parent
    for file in (WEIGHTS, "config.json"):
        if not (folder / file).is_file():
            raise ConcordError(
                f"{folder}: holds no {file}; expected a model folder as transformers saves it: "
                f"run `concord weights fetch {name}`"
            )
    return folder


def load_pretrained(kind: Any, folder: Path) -> nn.Module:
    """A transformers model from its folder alone: safetensors, no network, every key accounted for."""
    from safetensors import SafetensorError

    try:
        with _quiet():
            network, info = kind.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are reported below, with the others
            )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ConcordError(f"{folder}: no weights of {kind.__name__} ({reason}); fetch the folder again") from None
    # Buffers of positions were saved by older versions of transformers; they hold 0, 1, 2, ... and are made anew.
    unknown = {key for key in info["unexpected_keys"] if not key.endswith("position_ids")}
    lacking = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    if lacking or unknown:
        what = f"lacks '{min(lacking)}'" if lacking else f"holds '{min(unknown)}'"
        more = f"{len(lacking)} names are missing or of another shape, {len(unknown)} unknown"
        raise ConcordError(f"{folder}: no weights of {kind.__name__}: it {what} ({more}); fetch the folder again")
    assert isinstance(network, nn.Module)
    return network


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own progress bars and reports of keys: what is wrong is said in one line here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def load_processor(kind: Any, folder: Path) -> Any:
    """A transformers processor from its folder alone."""
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ConcordError(f"{folder}: no {kind.__name__} ({reason}); fetch the folder again") from None

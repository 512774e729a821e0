"""The papers' networks at toy width: random weights in the official files, for tests that run profile 'paper'.

Images are 32x32. The architectures that loaders expect are replaced while `toy_networks` lasts; the loaders are real.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_layers import randomised

SIZE = 32
CLIP, CLIP_RN = "concord-toy-quickgelu", "concord-toy-rn-quickgelu"


def write_files(folder: Path) -> dict[str, Path]:
    """Every file, by the name of its manifest, as `Networks` takes them."""
    import collaborative_files as collaborative
    import ldm_layout
    from reference import test_checkpoints_ddpm as ddpm
    from reference import test_checkpoints_stable_diffusion as stable

    from concord.metrics.networks.pretrained.bisenet import BiSeNet
    from concord.metrics.networks.pretrained.ir_se50 import IRSE50
    from concord.metrics.networks.pretrained.mobilefacenet import MobileFaceNet

    folder.mkdir(parents=True, exist_ok=True)
    torch.save(ddpm.random_state(ddpm.SMALL), folder / "celeba_hq.ckpt")
    ldm_layout.write_checkpoint(folder / "256_codiff_mask_text.ckpt", collaborative.whole())
    (folder / "bert").mkdir(exist_ok=True)
    (folder / "bert" / "vocab.txt").write_text("\n".join(collaborative.WORDS) + "\n", encoding="utf-8")
    stable.write_folder(folder / "stable-diffusion")
    torch.save(randomised(BiSeNet()).state_dict(), folder / "79999_iter.pth")
    torch.save(randomised(IRSE50(width=16)).state_dict(), folder / "model_ir_se50.pth")
    torch.save({"state_dict": randomised(MobileFaceNet(width=16)).state_dict()}, folder / "mobilefacenet.pth.tar")
    return {
        "celeba-hq-ddpm": folder / "celeba_hq.ckpt",
        "collab-256-codiff-mask-text": folder / "256_codiff_mask_text.ckpt",
        "bert-base-uncased": folder / "bert",
        "stable-diffusion-v1-4": folder / "stable-diffusion",
        "bisenet": folder / "79999_iter.pth",
        "ir-se50": folder / "model_ir_se50.pth",
        "mobilefacenet": folder / "mobilefacenet.pth.tar",
        "clip-vit-b-16": _write_clip(folder, CLIP, {"layers": 3, "width": 32, "head_width": 16, "patch_size": 16}),
        "clip-rn50": _write_clip(folder, CLIP_RN, {"layers": [1, 1, 1, 1], "width": 8}),
    }


def _write_clip(folder: Path, name: str, vision: dict[str, Any]) -> Path:
    """A CLIP of OpenAI's form with few blocks, which open_clip knows by name from now on."""
    import open_clip

    config = {
        "embed_dim": 16,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, **vision},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    place = folder / "architectures"
    place.mkdir(exist_ok=True)
    (place / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(place)
    model = open_clip.create_model(name, pretrained=None)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    torch.save(model.state_dict(), folder / f"{name}.bin")
    return folder / f"{name}.bin"


@contextmanager
def toy_networks() -> Iterator[None]:
    """The loaders expect the toy widths."""
    import collaborative_files as collaborative
    import open_clip
    from reference import test_checkpoints_ddpm as ddpm

    from concord.methods.networks.checkpoints import celeba_ddpm, collaborative_diffusion
    from concord.metrics.networks.pretrained import bisenet, clip, ir_se50, mobilefacenet

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(celeba_ddpm, "Architecture", lambda: ddpm.SMALL)
        patch.setitem(collaborative_diffusion.SHAPES, 256, collaborative.SHAPE)
        patch.setitem(clip.MODELS, "clip-vit-b-16", CLIP)
        patch.setitem(clip.MODELS, "clip-rn50", CLIP_RN)
        patch.setattr(bisenet, "SIZE", 64)
        patch.setattr(ir_se50, "load_ir_se50", partial(ir_se50.load_ir_se50, width=16))
        patch.setattr(mobilefacenet, "load_mobilefacenet", partial(mobilefacenet.load_mobilefacenet, width=16))
        yield
    known = [path for path in open_clip.factory._MODEL_CONFIG_PATHS if path.name == "architectures"]
    for path in known:
        open_clip.factory._MODEL_CONFIG_PATHS.remove(path)
    for name in (CLIP, CLIP_RN):
        open_clip.factory._MODEL_CONFIGS.pop(name, None)

"""Latent diffusion's files written a second time: names and shapes from the published architecture, and forward passes
from a bare state dict with torch's functions alone. Nothing here knows the production loaders or their libraries."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Shapes = dict[str, tuple[int, ...]]
State = Mapping[str, Tensor]


# --------------------------------------------------------------------------------------------------- names and shapes


def _both(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _under(prefix: str, shapes: Shapes) -> Shapes:
    return {f"{prefix}{name}": shape for name, shape in shapes.items()}


def _residual(c: int, out: int, time: int) -> Shapes:
    found = {
        **_both("in_layers.0", c),
        **_both("in_layers.2", out, c, 3, 3),
        **_both("emb_layers.1", out, time),
        **_both("out_layers.0", out),
        **_both("out_layers.3", out, out, 3, 3),
    }
    return found | (_both("skip_connection", out, c, 1, 1) if c != out else {})


def _transformer(c: int, context: int) -> Shapes:
    block: Shapes = {}
    for attention, keys in (("attn1", c), ("attn2", context)):
        block |= {f"{attention}.to_q.weight": (c, c), f"{attention}.to_k.weight": (c, keys)}
        block |= {f"{attention}.to_v.weight": (c, keys), **_both(f"{attention}.to_out.0", c, c)}
    block |= {**_both("ff.net.0.proj", 8 * c, c), **_both("ff.net.2", c, 4 * c)}
    for norm in ("norm1", "norm2", "norm3"):
        block |= _both(norm, c)
    ends = {**_both("norm", c), **_both("proj_in", c, c, 1, 1), **_both("proj_out", c, c, 1, 1)}
    return ends | _under("transformer_blocks.0.", block)


def unet_layout(
    channels: int,
    multipliers: Sequence[int],
    rates: Sequence[int],
    context: int,
    inputs: int,
    outputs: int,
    blocks: int = 2,
) -> Shapes:
    """`openaimodel.UNetModel` with one spatial transformer of depth 1 after each residual block at these rates."""
    time = 4 * channels
    found = {**_both("time_embed.0", time, channels), **_both("time_embed.2", time, time)}
    found |= _both("input_blocks.0.0", channels, inputs, 3, 3)
    widths, now, rate, number = [channels], channels, 1, 1
    for level, multiplier in enumerate(multipliers):
        for _ in range(blocks):
            found |= _under(f"input_blocks.{number}.0.", _residual(now, channels * multiplier, time))
            now = channels * multiplier
            if rate in rates:
                found |= _under(f"input_blocks.{number}.1.", _transformer(now, context))
            widths.append(now)
            number += 1
        if level < len(multipliers) - 1:
            found |= _both(f"input_blocks.{number}.0.op", now, now, 3, 3)
            widths.append(now)
            number, rate = number + 1, 2 * rate
    found |= _under("middle_block.0.", _residual(now, now, time))
    found |= _under("middle_block.1.", _transformer(now, context))
    found |= _under("middle_block.2.", _residual(now, now, time))
    number = 0
    for level in reversed(range(len(multipliers))):
        for block in range(blocks + 1):
            out = channels * multipliers[level]
            found |= _under(f"output_blocks.{number}.0.", _residual(now + widths.pop(), out, time))
            now, place = out, 1
            if rate in rates:
                found |= _under(f"output_blocks.{number}.1.", _transformer(now, context))
                place = 2
            if level > 0 and block == blocks:
                found |= _both(f"output_blocks.{number}.{place}.conv", now, now, 3, 3)
                rate //= 2
            number += 1
    return found | {**_both("out.0", channels), **_both("out.2", outputs, channels, 3, 3)}


def autoencoder_layout(channels: int, multipliers: Sequence[int], latents: int, blocks: int = 2) -> Shapes:
    """`AutoencoderKL` of images in three planes, without attention but in the middle."""

    def residual(name: str, c: int, out: int) -> Shapes:
        found = {**_both("norm1", c), **_both("conv1", out, c, 3, 3), **_both("norm2", out)}
        found |= _both("conv2", out, out, 3, 3) | (_both("nin_shortcut", out, c, 1, 1) if c != out else {})
        return _under(f"{name}.", found)

    def middle(name: str, c: int) -> Shapes:
        found = {**residual("block_1", c, c), **residual("block_2", c, c), **_both("attn_1.norm", c)}
        for layer in ("q", "k", "v", "proj_out"):
            found |= _both(f"attn_1.{layer}", c, c, 1, 1)
        return _under(f"{name}.mid.", found)

    widths = [channels * multiplier for multiplier in multipliers]
    encoder = _both("encoder.conv_in", channels, 3, 3, 3)
    now = channels
    for level, width in enumerate(widths):
        for block in range(blocks):
            encoder |= residual(f"encoder.down.{level}.block.{block}", now, width)
            now = width
        if level < len(widths) - 1:
            encoder |= _both(f"encoder.down.{level}.downsample.conv", now, now, 3, 3)
    encoder |= middle("encoder", now) | _both("encoder.norm_out", now)
    encoder |= _both("encoder.conv_out", 2 * latents, now, 3, 3)
    decoder = _both("decoder.conv_in", now, latents, 3, 3) | middle("decoder", now)
    for level in reversed(range(len(widths))):
        for block in range(blocks + 1):
            decoder |= residual(f"decoder.up.{level}.block.{block}", now, widths[level])
            now = widths[level]
        if level > 0:
            decoder |= _both(f"decoder.up.{level}.upsample.conv", now, now, 3, 3)
    decoder |= _both("decoder.norm_out", now) | _both("decoder.conv_out", 3, now, 3, 3)
    quantised = _both("quant_conv", 2 * latents, 2 * latents, 1, 1) | _both("post_quant_conv", latents, latents, 1, 1)
    return encoder | decoder | quantised


def bert_layout(width: int, layers: int, vocabulary: int, length: int = 77) -> Shapes:
    """`BERTEmbedder`: an encoder of x-transformers with 8 heads of 64, its output layer included."""
    found: Shapes = {"token_emb.weight": (vocabulary, width), "pos_emb.emb.weight": (length, width)}
    for layer in range(layers):
        attention, forward = f"attn_layers.layers.{2 * layer}", f"attn_layers.layers.{2 * layer + 1}"
        found |= {**_both(f"{attention}.0", width), **_both(f"{attention}.1.to_out", width, 512)}
        found |= {f"{attention}.1.to_{part}.weight": (512, width) for part in "qkv"}
        found |= {**_both(f"{forward}.0", width), **_both(f"{forward}.1.net.0.0", 4 * width, width)}
        found |= _both(f"{forward}.1.net.2", width, 4 * width)
    return _under("transformer.", found | _both("norm", width) | _both("to_logits", vocabulary, width))


def clip_text_layout(width: int, inner: int, layers: int, vocabulary: int, length: int = 77) -> Shapes:
    """CLIP's text encoder as transformers names it in published files."""
    found: Shapes = {
        "embeddings.token_embedding.weight": (vocabulary, width),
        "embeddings.position_embedding.weight": (length, width),
    }
    for layer in range(layers):
        name = f"encoder.layers.{layer}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= _both(f"{name}.self_attn.{part}", width, width)
        found |= {**_both(f"{name}.layer_norm1", width), **_both(f"{name}.layer_norm2", width)}
        found |= {**_both(f"{name}.mlp.fc1", inner, width), **_both(f"{name}.mlp.fc2", width, inner)}
    return _under("text_model.", found | _both("final_layer_norm", width))


def count(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def drawn(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Weights of those shapes, of a size that keeps activations near 1."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("bias"):
            state[name] = 0.2 * noise
        elif "emb" in name and len(shape) == 2 and "emb_layers" not in name and "time_embed" not in name:
            state[name] = 0.5 * noise
        elif len(shape) > 1:
            state[name] = noise / math.prod(shape[1:]) ** 0.5
        else:
            state[name] = 0.8 + 0.2 * noise
    return state


def schedule_tables(start: float = 0.0015, end: float = 0.0195, steps: int = 1000) -> dict[str, Tensor]:
    """The tables that `register_schedule` saves, in float32."""
    betas = np.linspace(start**0.5, end**0.5, steps) ** 2
    abar = np.cumprod(1 - betas)
    before = np.append(1.0, abar[:-1])
    variance = betas * (1 - before) / (1 - abar)
    tables = {
        "betas": betas,
        "alphas_cumprod": abar,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": np.sqrt(abar),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - abar),
        "log_one_minus_alphas_cumprod": np.log(1 - abar),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / abar),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / abar - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(before) / (1 - abar),
        "posterior_mean_coef2": (1 - before) * np.sqrt(1 - betas) / (1 - abar),
    }
    return {name: torch.tensor(value, dtype=torch.float32) for name, value in tables.items()}


# ------------------------------------------------------------------------------------------------------ forward passes


class Layers:
    """Layers of a state dict under a prefix."""

    def __init__(self, state: State, prefix: str = "") -> None:
        self.state, self.prefix = state, prefix

    def at(self, name: str) -> Layers:
        return Layers(self.state, f"{self.prefix}{name}.")

    def has(self, name: str) -> bool:
        return f"{self.prefix}{name}.weight" in self.state

    def _get(self, name: str) -> tuple[Tensor, Tensor | None]:
        return self.state[f"{self.prefix}{name}.weight"], self.state.get(f"{self.prefix}{name}.bias")

    def conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight, bias = self._get(name)
        return F.conv2d(x, weight, bias, stride, padding=weight.shape[-1] // 2)

    def linear(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self._get(name)
        return x @ weight.T + (0 if bias is None else bias)

    def groups(self, x: Tensor, name: str, eps: float) -> Tensor:
        """Normalised over each of 32 groups of planes."""
        weight, bias = self._get(name)
        assert bias is not None
        parts = x.reshape(len(x), 32, -1)
        mean = parts.mean(-1, keepdim=True)
        variance = ((parts - mean) ** 2).mean(-1, keepdim=True)
        y = ((parts - mean) / torch.sqrt(variance + eps)).reshape(x.shape)
        return y * weight[None, :, None, None] + bias[None, :, None, None]

    def layer_norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self._get(name)
        assert bias is not None
        mean = x.mean(-1, keepdim=True)
        return (x - mean) / torch.sqrt(((x - mean) ** 2).mean(-1, keepdim=True) + 1e-5) * weight + bias


def _silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / 2**0.5))


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool = False) -> Tensor:
    """q (B, L, C), k and v (B, M, C) -> (B, L, C)."""
    parts = []
    for a, b, c in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        scores = a @ b.transpose(1, 2) / a.shape[-1] ** 0.5
        if causal:
            scores = scores + torch.full(scores.shape[-2:], -torch.inf).triu(1)
        parts.append(scores.softmax(-1) @ c)
    return torch.cat(parts, -1)


def unet_forward(state: State, x: Tensor, t: int, context: Tensor, heads: int) -> Tensor:
    """eps (or an influence) from x_t (B, C, h, w), the timestep and the tokens (B, L, D)."""
    root = Layers(state)
    half = len(state["time_embed.0.weight"]) // 8
    angle = t * torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float64) / half).float()
    wave = torch.cat([angle.cos(), angle.sin()])[None].expand(len(x), -1)
    time = root.linear(_silu(root.linear(wave, "time_embed.0")), "time_embed.2")

    def residual(part: Layers, h: Tensor) -> Tensor:
        y = part.conv(_silu(part.groups(h, "in_layers.0", 1e-5)), "in_layers.2")
        y = y + part.linear(_silu(time), "emb_layers.1")[:, :, None, None]
        y = part.conv(_silu(part.groups(y, "out_layers.0", 1e-5)), "out_layers.3")
        return y + (part.conv(h, "skip_connection") if part.has("skip_connection") else h)

    def transformer(part: Layers, h: Tensor) -> Tensor:
        y = part.conv(part.groups(h, "norm", 1e-6), "proj_in").flatten(2).transpose(1, 2)
        block = part.at("transformer_blocks.0")
        for norm, name, seen in (("norm1", "attn1", None), ("norm2", "attn2", context)):
            z, attention = block.layer_norm(y, norm), block.at(name)
            keys = z if seen is None else seen
            found = _attend(
                attention.linear(z, "to_q"), attention.linear(keys, "to_k"), attention.linear(keys, "to_v"), heads
            )
            y = y + attention.linear(found, "to_out.0")
        value, gate = block.linear(block.layer_norm(y, "norm3"), "ff.net.0.proj").chunk(2, -1)
        y = y + block.linear(value * _gelu(gate), "ff.net.2")
        return h + part.conv(y.transpose(1, 2).reshape(h.shape), "proj_out")

    def run(name: str, h: Tensor) -> Tensor:
        part, place = root.at(name), 0
        while any(key.startswith(f"{name}.{place}.") for key in state):
            inner = part.at(str(place))
            if inner.has("in_layers.0"):
                h = residual(inner, h)
            elif inner.has("proj_in"):
                h = transformer(inner, h)
            elif inner.has("op"):
                h = inner.conv(h, "op", stride=2)
            elif inner.has("conv"):
                h = inner.conv(h.repeat_interleave(2, 2).repeat_interleave(2, 3), "conv")
            else:
                h = part.conv(h, str(place))
            place += 1
        return h

    kept, h = [], x
    for number in range(len({key.split(".")[1] for key in state if key.startswith("input_blocks.")})):
        h = run(f"input_blocks.{number}", h)
        kept.append(h)
    h = run("middle_block", h)
    for number in range(len(kept)):
        h = run(f"output_blocks.{number}", torch.cat([h, kept.pop()], 1))
    return root.conv(_silu(root.groups(h, "out.0", 1e-5)), "out.2")


def _vae_residual(part: Layers, h: Tensor) -> Tensor:
    y = part.conv(_silu(part.groups(h, "norm1", 1e-6)), "conv1")
    y = part.conv(_silu(part.groups(y, "norm2", 1e-6)), "conv2")
    return y + (part.conv(h, "nin_shortcut") if part.has("nin_shortcut") else h)


def _vae_middle(part: Layers, h: Tensor) -> Tensor:
    h = _vae_residual(part.at("block_1"), h)
    attention = part.at("attn_1")
    y = attention.groups(h, "norm", 1e-6)
    q, k, v = (attention.conv(y, name).flatten(2).transpose(1, 2) for name in "qkv")
    found = _attend(q, k, v, heads=1).transpose(1, 2).reshape(h.shape)
    return _vae_residual(part.at("block_2"), h + attention.conv(found, "proj_out"))


def _levels(state: State, side: str) -> int:
    return len({key.split(".")[2] for key in state if key.startswith(f"{side}.")})


def encode(state: State, images: Tensor) -> Tensor:
    """The mean of the latents (not scaled) of images in [-1, 1]."""
    root, levels = Layers(state), _levels(state, "encoder.down")
    h = root.conv(images, "encoder.conv_in")
    for level in range(levels):
        part, block = root.at(f"encoder.down.{level}"), 0
        while part.has(f"block.{block}.norm1"):
            h = _vae_residual(part.at(f"block.{block}"), h)
            block += 1
        if level < levels - 1:  # one row below and one column to the right of zeros
            weight, bias = part._get("downsample.conv")
            h = F.conv2d(F.pad(h, (0, 1, 0, 1)), weight, bias, stride=2)
    h = _vae_middle(root.at("encoder.mid"), h)
    h = root.conv(_silu(root.groups(h, "encoder.norm_out", 1e-6)), "encoder.conv_out")
    return root.conv(h, "quant_conv").chunk(2, 1)[0]


def decode(state: State, latents: Tensor) -> Tensor:
    """Images in [-1, 1] of latents that are not scaled."""
    root = Layers(state)
    h = root.conv(root.conv(latents, "post_quant_conv"), "decoder.conv_in")
    h = _vae_middle(root.at("decoder.mid"), h)
    for level in reversed(range(_levels(state, "decoder.up"))):
        part, block = root.at(f"decoder.up.{level}"), 0
        while part.has(f"block.{block}.norm1"):
            h = _vae_residual(part.at(f"block.{block}"), h)
            block += 1
        if level > 0:
            h = part.conv(h.repeat_interleave(2, 2).repeat_interleave(2, 3), "upsample.conv")
    return root.conv(_silu(root.groups(h, "decoder.norm_out", 1e-6)), "decoder.conv_out")


def bert_forward(state: State, tokens: Tensor) -> Tensor:
    """(B, L, width) of token ids (B, L)."""
    root = Layers(state, "transformer.")
    x = state["transformer.token_emb.weight"][tokens]
    x = x + state["transformer.pos_emb.emb.weight"][: tokens.shape[1]]
    layer = 0
    while root.has(f"attn_layers.layers.{layer}.0"):
        part = root.at(f"attn_layers.layers.{layer}")
        y, block = part.layer_norm(x, "0"), part.at("1")
        if block.has("to_q"):
            found = _attend(block.linear(y, "to_q"), block.linear(y, "to_k"), block.linear(y, "to_v"), heads=8)
            x = x + block.linear(found, "to_out")
        else:
            x = x + block.linear(_gelu(block.linear(y, "net.0.0")), "net.2")
        layer += 1
    return root.layer_norm(x, "norm")


def clip_text_forward(state: State, tokens: Tensor, heads: int) -> Tensor:
    """The last layer, normalised, (B, L, width), each place seeing those before it."""
    root = Layers(state, "text_model.")
    x = state["text_model.embeddings.token_embedding.weight"][tokens]
    x = x + state["text_model.embeddings.position_embedding.weight"][: tokens.shape[1]]
    layer = 0
    while root.has(f"encoder.layers.{layer}.layer_norm1"):
        part = root.at(f"encoder.layers.{layer}")
        y = part.layer_norm(x, "layer_norm1")
        q, k, v = (part.linear(y, f"self_attn.{name}_proj") for name in "qkv")
        x = x + part.linear(_attend(q, k, v, heads, causal=True), "self_attn.out_proj")
        y = part.linear(part.layer_norm(x, "layer_norm2"), "mlp.fc1")
        x = x + part.linear(y * torch.sigmoid(1.702 * y), "mlp.fc2")
        layer += 1
    return root.layer_norm(x, "final_layer_norm")


# ------------------------------------------------------------------------------------------------------------- writing


@contextmanager
def lightning() -> Iterator[type]:
    """A class under the name of Lightning's ModelCheckpoint, importable while a file is written, gone afterwards."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    names = ["pytorch_lightning", "pytorch_lightning.callbacks", name]
    callback = type("ModelCheckpoint", (), {"__module__": name, "__qualname__": "ModelCheckpoint"})
    for part in names:
        sys.modules[part] = types.ModuleType(part)
    sys.modules[name].ModelCheckpoint = callback  # type: ignore[attr-defined]
    try:
        yield callback
    finally:
        for part in names:
            del sys.modules[part]


def write_checkpoint(path: Path, state: State, baggage: bool = True) -> Path:
    """A .ckpt as Lightning 1.4 writes it: 'state_dict' and, with baggage, what `weights_only` refuses."""
    content: dict[str, Any] = {"state_dict": dict(state), "epoch": 3, "global_step": 187_000}
    if not baggage:
        torch.save(content, path)
        return path
    with lightning() as callback:
        content |= {
            "pytorch-lightning_version": "1.4.2",
            "callbacks": {
                callback: {"best_model_score": np.float64(0.1), "current": callback(), "monitor": "val/loss"}
            },
            "optimizer_states": [{"state": {0: {"step": np.int64(7)}}, "param_groups": [{"lr": 2e-6}]}],
            "lr_schedulers": [],
        }
        torch.save(content, path)
    return path

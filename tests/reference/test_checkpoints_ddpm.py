"""SDEdit's DDPM: the published file, written with random weights, against a second forward pass of the architecture."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from plain_layers import Plain
from torch import Tensor
from torch.nn import functional as F

from concord.data.errors import ConcordError
from concord.data.files import sha256_file
from concord.methods.networks.checkpoints.celeba_ddpm import Architecture, load_celeba_ddpm, renamed

SMALL = Architecture(width=32, multiples=(1, 2, 2), blocks=2, attention=(8,), image_size=32)
FULL = Architecture()
State = dict[str, Tensor]


def published_shapes(a: Architecture) -> dict[str, tuple[int, ...]]:
    """Every name of the official file and its shape, from the paper's architecture."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, out: int, into: int, kernel: int = 0) -> None:
        shapes[f"{name}.weight"] = (out, into, kernel, kernel) if kernel else (out, into)
        shapes[f"{name}.bias"] = (out,)

    def norm(name: str, channels: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (channels,)

    def block(name: str, into: int, out: int) -> None:
        norm(f"{name}.norm1", into)
        layer(f"{name}.conv1", out, into, 3)
        layer(f"{name}.temb_proj", out, 4 * a.width)
        norm(f"{name}.norm2", out)
        layer(f"{name}.conv2", out, out, 3)
        if into != out:
            layer(f"{name}.nin_shortcut", out, into, 1)

    def attention(name: str, channels: int) -> None:
        norm(f"{name}.norm", channels)
        for part in ("q", "k", "v", "proj_out"):
            layer(f"{name}.{part}", channels, channels, 1)

    layer("temb.dense.0", 4 * a.width, a.width)
    layer("temb.dense.1", 4 * a.width, 4 * a.width)
    layer("conv_in", a.width, 3, 3)
    channels, last, skips = a.width, len(a.multiples) - 1, [a.width]
    for level, multiple in enumerate(a.multiples):
        for j in range(a.blocks):
            block(f"down.{level}.block.{j}", channels, a.width * multiple)
            channels = a.width * multiple
            skips.append(channels)
            if a.image_size >> level in a.attention:
                attention(f"down.{level}.attn.{j}", channels)
        if level < last:
            layer(f"down.{level}.downsample.conv", channels, channels, 3)
            skips.append(channels)
    block("mid.block_1", channels, channels)
    attention("mid.attn_1", channels)
    block("mid.block_2", channels, channels)
    for level in range(last, -1, -1):
        for j in range(a.blocks + 1):
            block(f"up.{level}.block.{j}", channels + skips.pop(), a.width * a.multiples[level])
            channels = a.width * a.multiples[level]
            if a.image_size >> level in a.attention:
                attention(f"up.{level}.attn.{j}", channels)
        if level:
            layer(f"up.{level}.upsample.conv", channels, channels, 3)
    norm("norm_out", channels)
    layer("conv_out", 3, channels, 3)
    return shapes


def random_state(a: Architecture) -> State:
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in published_shapes(a).items():
        noise = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            state[name] = noise * (1.6 / noise[0].numel()) ** 0.5
        else:
            state[name] = 0.8 + 0.2 * noise if "norm" in name and name.endswith("weight") else 0.2 * noise
    return state


def forward(state: State, a: Architecture, x: Tensor, t: Tensor) -> Tensor:
    """eps(x_t, t) of the published architecture, from the bare state dict."""
    plain = Plain(state)

    def norm(h: Tensor, name: str) -> Tensor:
        groups = h.reshape(len(h), a.groups, -1)
        mean, variance = groups.mean(dim=2, keepdim=True), groups.var(dim=2, keepdim=True, unbiased=False)
        h = ((groups - mean) / (variance + 1e-6).sqrt()).reshape(h.shape)
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return h * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)

    def swish(h: Tensor) -> Tensor:
        return h * torch.sigmoid(h)

    def block(h: Tensor, name: str) -> Tensor:
        kept = plain.conv(h, f"{name}.nin_shortcut") if plain.has(f"{name}.nin_shortcut") else h
        h = plain.conv(swish(norm(h, f"{name}.norm1")), f"{name}.conv1", padding=1)
        h = h + plain.linear(swish(time), f"{name}.temb_proj")[:, :, None, None]
        return kept + plain.conv(swish(norm(h, f"{name}.norm2")), f"{name}.conv2", padding=1)

    def attention(h: Tensor, name: str) -> Tensor:
        seen = norm(h, f"{name}.norm")
        q, k, v = (plain.conv(seen, f"{name}.{part}").flatten(2) for part in "qkv")  # (B, C, N)
        weight = torch.softmax(torch.einsum("bcn,bcm->bnm", q, k) / q.shape[1] ** 0.5, dim=2)
        found = torch.einsum("bnm,bcm->bcn", weight, v).reshape(h.shape)
        return h + plain.conv(found, f"{name}.proj_out")

    half = a.width // 2
    angle = t.float()[:, None] * torch.exp(torch.arange(half) * (-math.log(10000) / (half - 1)))
    time = torch.cat([angle.sin(), angle.cos()], dim=1)
    time = plain.linear(swish(plain.linear(time, "temb.dense.0")), "temb.dense.1")
    last = len(a.multiples) - 1
    h = plain.conv(x, "conv_in", padding=1)
    skips = [h]
    for level in range(last + 1):
        for j in range(a.blocks):
            h = block(h, f"down.{level}.block.{j}")
            if f"down.{level}.attn.{j}.q.weight" in state:
                h = attention(h, f"down.{level}.attn.{j}")
            skips.append(h)
        if level < last:
            h = plain.conv(F.pad(h, (0, 1, 0, 1)), f"down.{level}.downsample.conv", stride=2)
            skips.append(h)
    h = block(attention(block(h, "mid.block_1"), "mid.attn_1"), "mid.block_2")
    for level in range(last, -1, -1):
        for j in range(a.blocks + 1):
            h = block(torch.cat([h, skips.pop()], dim=1), f"up.{level}.block.{j}")
            if f"up.{level}.attn.{j}.q.weight" in state:
                h = attention(h, f"up.{level}.attn.{j}")
        if level:
            h = h.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)  # nearest
            h = plain.conv(h, f"up.{level}.upsample.conv", padding=1)
    return plain.conv(swish(norm(h, "norm_out")), "conv_out", padding=1)


@pytest.fixture(scope="module")
def state() -> State:
    return random_state(SMALL)


@pytest.fixture(scope="module")
def path(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file as SDEdit's site had it: a plain state dict."""
    file = tmp_path_factory.mktemp("ddpm") / "celeba_hq.ckpt"
    torch.save(state, file)
    return file


def test_the_loaded_network_is_the_published_one(state: State, path: Path) -> None:
    network = load_celeba_ddpm(path, architecture=SMALL)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 3, 32, 32, generator=generator)
    t = torch.tensor([0, 250, 999])
    with torch.no_grad():
        torch.testing.assert_close(network(x, t), forward(state, SMALL, x, t), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(network(x, 640), network(x, torch.full((3,), 640)), rtol=0, atol=0)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_its_card_says_what_it_is(state: State, path: Path) -> None:
    card = load_celeba_ddpm(path, architecture=SMALL).card
    parameters = sum(value.numel() for value in state.values())
    assert card == {"name": "celeba-hq-ddpm", "sha256": sha256_file(path), "file": path.name, "parameters": parameters}


def test_gradients_reach_x(path: Path) -> None:
    x = torch.zeros(1, 3, 32, 32, requires_grad=True)
    load_celeba_ddpm(path, architecture=SMALL)(x, 10).sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0


def test_full_size_has_the_published_names_and_shapes() -> None:
    """On the meta device: no number is stored."""
    with torch.device("meta"):
        published = {name: torch.empty(shape) for name, shape in published_shapes(FULL).items()}
        own = FULL.build().state_dict()
    found = renamed(published, len(FULL.multiples), Path("celeba_hq.ckpt"))
    assert {name: value.shape for name, value in found.items()} == {name: value.shape for name, value in own.items()}
    assert sum(value.numel() for value in published.values()) == 113_673_219  # 114 million


def truncated(state: State, file: Path) -> None:
    torch.save(state, file)
    file.write_bytes(file.read_bytes()[:-5000])


def saved(change: Callable[[State], object]) -> Callable[[State, Path], None]:
    return lambda state, file: torch.save(change(state), file)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (truncated, ["not a PyTorch weight file", "fetch the file again"]),
        (saved(lambda s: {f"model.{k}": v for k, v in s.items()}), ["it holds 'model.temb.dense.0.weight'"]),
        (saved(lambda s: {k: v for k, v in s.items() if k != "mid.attn_1.q.bias"}), ["lacks 'mid_block.attentions.0"]),
        (saved(lambda s: {k: v.half() for k, v in s.items()}), ["is float16, expected float32"]),
        (saved(lambda s: {**s, "conv_in.weight": s["conv_in.weight"][:, :1]}), ["'conv_in.weight' has shape"]),
        (saved(lambda s: {"time_embed.0.weight": torch.zeros(4, 4)}), ["'time_embed.0.weight'", "no layer of that"]),
        (saved(lambda s: {"state_dict": s}), ["expected a state dict"]),
        (saved(lambda s: [1, 2]), ["expected a state dict"]),
    ],
    ids=["truncated", "re-keyed", "a name missing", "half precision", "another width", "ADM", "nested", "a list"],
)
def test_what_is_not_that_file_is_one_line(
    state: State, tmp_path: Path, write: Callable[[State, Path], None], words: list[str]
) -> None:
    file = tmp_path / "celeba_hq.ckpt"
    write(state, file)
    with pytest.raises(ConcordError) as error:
        load_celeba_ddpm(file, architecture=SMALL)
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in [str(file), *words]), message


def test_another_size_of_the_same_model_is_told(path: Path) -> None:
    with pytest.raises(ConcordError, match="no weights of the DDPM of CelebA-HQ"):
        load_celeba_ddpm(path)


def test_a_missing_file_is_told_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCORD_CACHE", str(tmp_path))
    with pytest.raises(ConcordError, match="concord weights fetch celeba-hq-ddpm"):
        load_celeba_ddpm()

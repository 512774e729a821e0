"""StyleAligned: shared attention on a small diffusers UNet, against loops and against diffusers' own processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_guidance import SHAPE, ToyAutoencoder, requests, seeded
from toy_networks import toy_networks

from concord.data.errors import ConcordError
from concord.data.networks import Networks
from concord.data.request import Conditions, Request
from concord.methods.base import Batch, make_params
from concord.methods.core.sampler import ddim, ddim_step
from concord.methods.core.schedule import Schedule
from concord.methods.guidance.energies import reference_images
from concord.methods.style_aligned import StyleAligned, adain, shared_attention

WIDTH = 8


class SmallExpert(nn.Module):
    """diffusers' conditional UNet at its smallest; a caption is one token that knows its length."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        from diffusers import UNet2DConditionModel

        self.unet = UNet2DConditionModel(
            sample_size=4, in_channels=SHAPE[0], out_channels=SHAPE[0], block_out_channels=(8, 16),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), layers_per_block=1, cross_attention_dim=WIDTH,
            attention_head_dim=2, norm_num_groups=4,
        )  # fmt: skip  # a table
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim > 1:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5)
                else:
                    parameter.fill_(float(name.endswith("weight")))
        self.eval().requires_grad_(False)

    def forward(self, x_t: Tensor, t: int, tokens: Tensor) -> Tensor:
        return self.unet(x_t, t, tokens, return_dict=False)[0]

    def bind(self, conditions: Sequence[Conditions], schedule: Schedule) -> Any:
        tokens = torch.tensor([len(c.text or "") / 3 for c in conditions]).reshape(-1, 1, 1).expand(-1, 1, WIDTH)
        return lambda x_t, t: (1 - schedule.abar(t, x_t)).sqrt() * x_t + 0.1 * self(x_t, t, tokens)


class SmallWorld:
    device = torch.device("cpu")
    schedule = Schedule.scaled_linear()
    latent_shape, image_size = SHAPE, 8

    def __init__(self) -> None:
        self.experts = {"text": SmallExpert(1), "unconditional": SmallExpert(2)}
        self.autoencoder = ToyAutoencoder()

    def expert(self, name: str) -> SmallExpert:
        return self.experts[name]

    @property
    def networks(self) -> Networks:
        return toy_networks(self)


@pytest.fixture(scope="module")
def toys() -> SmallWorld:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the networks' first weights: how well an inversion returns depends on them
        return SmallWorld()


def make(toys: SmallWorld, **params: Any) -> StyleAligned:
    return StyleAligned(make_params(StyleAligned, params), toys.networks)


def attention(unet: nn.Module) -> Any:
    return next(module for name, module in unet.named_modules() if name.endswith("attn1"))


def test_adain_takes_mean_and_deviation() -> None:
    x, y = torch.randn(2, 3, 4, 50, 6, generator=torch.Generator().manual_seed(1))
    found = adain(3 * x + 1, y)
    torch.testing.assert_close(found.mean(dim=-2), y.mean(dim=-2), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.std(dim=-2), y.std(dim=-2), rtol=1e-3, atol=1e-3)


def test_shared_attention_is_its_formula_head_by_head(toys: SmallWorld) -> None:
    unet = toys.expert("text").unet
    attn = attention(unet)
    hidden = torch.randn(2, 5, attn.to_q.in_features, generator=torch.Generator().manual_seed(2))  # reference, sample
    with shared_attention(unet):
        found = attn(hidden)
    plain = attn(hidden)
    torch.testing.assert_close(found[:1], plain[:1])  # the reference is left as it is
    q, k, v = (project(hidden) for project in (attn.to_q, attn.to_k, attn.to_v))
    size = q.shape[-1] // attn.heads
    heads = []
    for head in range(attn.heads):
        mine = slice(head * size, (head + 1) * size)
        q_t, k_t = adain(q[1, :, mine], q[0, :, mine]), adain(k[1, :, mine], k[0, :, mine])
        keys, values = torch.cat([k[0, :, mine], k_t]), torch.cat([v[0, :, mine], v[1, :, mine]])
        heads.append((q_t @ keys.T / size**0.5).softmax(dim=-1) @ values)
    expected = attn.to_out[0](torch.cat(heads, dim=-1))
    torch.testing.assert_close(found[1], expected, rtol=1e-4, atol=1e-5)
    assert float((found[1] - plain[1]).abs().max()) > 1e-3


@pytest.mark.parametrize("norms", [False, True])
def test_the_network_is_given_back_as_it_was(toys: SmallWorld, norms: bool) -> None:
    unet = toys.expert("text").unet
    x, tokens = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(3)), torch.zeros(4, 1, WIDTH)
    before, kept = unet(x, 500, tokens, return_dict=False)[0], dict(unet.attn_processors)
    seen = []

    def fail() -> None:
        with shared_attention(unet, norms):
            seen.append(unet(x, 500, tokens, return_dict=False)[0])
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    (inside,) = seen
    assert dict(unet.attn_processors) == kept
    assert torch.equal(unet(x, 500, tokens, return_dict=False)[0], before)
    torch.testing.assert_close(inside[:2], before[:2], rtol=1e-4, atol=1e-4)  # references see themselves alone
    assert float((inside[2:] - before[2:]).abs().max()) > 1e-3


def test_shared_norms_take_statistics_over_both(toys: SmallWorld) -> None:
    norm = seeded(nn.GroupNorm(2, 4), 4)
    module = nn.Module()
    module.norm = norm
    x = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(5))
    with shared_attention(module, norms=True):
        found = norm(x)
    for row in range(2):
        both = torch.cat([x[row], x[0]], dim=-1).reshape(2, -1)  # two groups of two channels
        scaled = (x[row].reshape(2, -1) - both.mean(dim=1, keepdim=True)) / (
            both.var(dim=1, keepdim=True, unbiased=False) + norm.eps
        ).sqrt()
        expected = scaled.reshape(4, 3, 3) * norm.weight[:, None, None] + norm.bias[:, None, None]
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-5)


def test_inversion_leads_back_to_the_picture(toys: SmallWorld) -> None:
    """DDIM from the last inverted latent ends at the image's latent, the nearer the more steps there are."""
    asked, errors = requests(2, ("text", "style")), []
    batch = Batch(asked, [torch.Generator()] * 2, torch.device("cpu"))
    z = toys.autoencoder.encode(reference_images(asked, "style", 8, torch.device("cpu")))
    denoise = toys.expert("text").bind([Conditions()] * 2, toys.schedule)
    for steps in (10, 100):
        timesteps = toys.schedule.ddim_timesteps(steps)
        with torch.no_grad():
            found = make(toys, steps=steps)._invert(batch, timesteps)
            assert sorted(found) == sorted(timesteps)
            x = found[timesteps[0]]
            for t, before in zip(timesteps, [*timesteps[1:], -1], strict=True):
                x = ddim_step(toys.schedule, denoise(x, t), x, t, before)
        errors.append(float((x - z).norm() / z.norm()))
    assert errors[1] < 0.35
    assert errors[1] < errors[0] / 4


def test_without_sharing_it_is_the_text_driven_model(toys: SmallWorld) -> None:
    asked = requests(3, ("text", "style"))
    found = make(toys, steps=6, share=False, text_scale=2).generate(asked)
    text, free = (toys.expert(n).bind([r.conditions for r in asked], toys.schedule) for n in ("text", "unconditional"))
    own = [torch.Generator().manual_seed(r.seed) for r in asked]
    x_0 = ddim(lambda x, t: free(x, t) + 2 * (text(x, t) - free(x, t)), toys.schedule, own, SHAPE, "cpu", 6)
    torch.testing.assert_close(found, toys.autoencoder.decode(x_0).clamp(0, 1), rtol=1e-4, atol=1e-5)
    shared = make(toys, steps=6, text_scale=2).generate(asked)
    assert float((shared - found).abs().max()) > 1e-3
    official = make(toys, steps=6, text_scale=2, preset="official").generate(asked)
    assert float((shared - official).abs().max()) > 1e-3


def test_an_image_depends_on_its_request_alone(toys: SmallWorld) -> None:
    asked, method = requests(5, ("text", "style")), make(toys, steps=5, share_norms=True)
    together = method.generate(asked)
    assert float((together - torch.cat([method.generate([request]) for request in asked])).abs().max()) < 1e-4
    assert float((together[0] - together[1]).abs().max()) > 1e-2


def test_another_style_gives_another_image(toys: SmallWorld) -> None:
    asked = requests(1, ("text", "style"))[0]
    other = Request(asked.id, asked.seed, Conditions(text=asked.conditions.text, style=np.zeros((8, 8, 3), np.uint8)))
    method = make(toys, steps=5)
    assert float((method.generate([asked]) - method.generate([other])).abs().max()) > 1e-3


def test_a_missing_or_wrong_style_is_named(toys: SmallWorld) -> None:
    method = make(toys, steps=2)
    with pytest.raises(ConcordError, match="needs at least 2 of style, text; got text"):
        method.generate(requests(1, ("text",)))
    with pytest.raises(ConcordError, match="condition 'style' has shape"):
        Conditions(text="a", style=np.zeros((8, 8), np.uint8))

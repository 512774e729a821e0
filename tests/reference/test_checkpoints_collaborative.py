"""Collaborative Diffusion's files: written here in the official layout, loaded by the production loader, and compared
with the same architecture written down a second time on the bare state dict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ldm_layout as official
import numpy as np
import pytest
import torch
from collaborative_files import CLOSE, DRAWN, PIECES, WORDS, conditions, load, noise, parts, write_folder
from torch import Tensor
from toy_networks import toy_networks

from concord.data.errors import ConcordError
from concord.data.networks import Networks
from concord.data.request import Conditions, Request
from concord.methods.base import make_method
from concord.methods.core.sampler import ddim, ddim_step
from concord.methods.networks.checkpoints import collaborative_diffusion as collab
from concord.methods.networks.checkpoints.ldm import autoencoder_names, unet_names
from concord.methods.networks.experts import Bound, Encoded, Expert


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("collaborative"))


@pytest.fixture(scope="module")
def networks(folder: Path) -> collab.CollaborativeNetworks:
    return load(folder)


# ---------------------------------------------------------------------------------------------------- the same numbers


@pytest.mark.parametrize("t", [1, 981])
@pytest.mark.parametrize(("condition", "own"), [("text", "text"), ("mask", "seg_mask")])
def test_experts_and_dynamic_diffusers_are_the_published_architecture(
    networks: collab.CollaborativeNetworks, condition: str, own: str, t: int
) -> None:
    x, tokens = noise(2, 3, 8, 8), noise(2, 5, 24)
    with torch.no_grad():
        eps = networks.experts[condition](x, t, Encoded(tokens))
        influence = networks.dynamic_diffusers[condition](x, t, Encoded(tokens))
    unet = DRAWN[f"model.{own}_unet.diffusion_model."]
    torch.testing.assert_close(eps, official.unet_forward(unet, x, t, tokens, heads=4), **CLOSE)
    diffuser = DRAWN[f"model.{own}_confidence_predictor.diffusion_model."]
    torch.testing.assert_close(influence, official.unet_forward(diffuser, x, t, tokens, heads=4), **CLOSE)
    assert influence.shape == (2, 1, 8, 8)
    assert float(eps.std()) > 0.1


def test_the_autoencoder_is_the_published_architecture(networks: collab.CollaborativeNetworks) -> None:
    images, latents = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(1)), noise(2, 3, 8, 8)
    with torch.no_grad():
        encoded, decoded = networks.autoencoder.encode(images), networks.autoencoder.decode(latents * 0.058)
    plain = DRAWN["first_stage_model."]
    torch.testing.assert_close(encoded, official.encode(plain, images * 2 - 1) * 0.058, **CLOSE)
    torch.testing.assert_close(decoded, (official.decode(plain, latents) + 1) / 2, **CLOSE)
    assert networks.latent_shape == (3, 8, 8)


def test_a_text_is_read_as_the_authors_read_it(networks: collab.CollaborativeNetworks) -> None:
    """Lower case, [CLS] words [SEP], filled up to 77, the filling attended to."""
    expert = networks.expert("text")
    ids = expert.encoder.prepare(conditions())  # type: ignore[operator]
    assert ids.shape == (2, 77)
    assert ids[0].tolist() == [WORDS.index(word) for word in PIECES] + [0] * 67
    with torch.no_grad():
        encoded = expert.encode(conditions())
    plain = DRAWN["cond_stage_model.text_cond_stage_model."]
    torch.testing.assert_close(encoded.tokens, official.bert_forward(plain, ids), **CLOSE)
    assert encoded.keep is None
    long = expert.encoder.prepare([Conditions(text="man " * 200)])  # type: ignore[operator]
    assert long.shape == (1, 77)
    assert int(long[0, -1]) == WORDS.index("[SEP]")


@pytest.mark.parametrize("size", [32, 64, 256, 512])
def test_a_mask_becomes_19_tokens_by_nearest_neighbour(networks: collab.CollaborativeNetworks, size: int) -> None:
    """As Pillow resizes to 32x32, one-hot, row by row, then the linear layer."""
    from PIL import Image

    values = np.random.default_rng(size).integers(0, 19, (size, size)).astype(np.uint8)
    small = Image.fromarray(values).resize((32, 32), Image.Resampling.NEAREST)
    flat = np.asarray(small).reshape(-1)
    one_hot = torch.from_numpy((flat[None] == np.arange(19)[:, None]).astype(np.float32))  # (19, 1024)
    plain = DRAWN["cond_stage_model.seg_mask_cond_stage_model."]
    expected = one_hot @ plain["linear.weight"].T + plain["linear.bias"]
    with torch.no_grad():
        found = networks.expert("mask").encode([Conditions(mask=values.astype(np.int64))])
    torch.testing.assert_close(found.tokens[0], expected, **CLOSE)


# ------------------------------------------------------------------------------------------ one code path, two profiles


class SmallWorld:
    """What methods ask of a toys, filled from the checkpoint."""

    def __init__(self, networks: collab.CollaborativeNetworks) -> None:
        self.device = torch.device("cpu")
        self.schedule, self.autoencoder = networks.schedule, networks.autoencoder
        self.latent_shape, self.image_size = networks.latent_shape, networks.image_size
        self.experts, self.diffusers = networks.experts, networks.dynamic_diffusers

    @property
    def networks(self) -> Networks:
        return toy_networks(self)


class Recording:
    """The checkpoint's autoencoder; keeps the latents that it decodes."""

    def __init__(self, networks: collab.CollaborativeNetworks, seen: list[Tensor]) -> None:
        self.network, self.seen = networks.autoencoder, seen

    def decode(self, latents: Tensor) -> Tensor:
        self.seen.append(latents)
        return self.network.decode(latents)


def asked(count: int = 1) -> list[Request]:
    return [Request.make("checkpoints", str(i), 0, conditions()[i % 2]) for i in range(count)]


def brute_force(eta: float, steps: int, tables: Mapping[str, Tensor], seed: int, official_weight: bool) -> Tensor:
    """The authors' sampler from the facts: x_0 of the first request, by numbers alone."""
    abar = tables["alphas_cumprod"].double().tolist()
    times = [t + 1 for t in range(0, 1000, 1000 // steps)]
    before = [abar[0], *(abar[t] for t in times[:-1])]
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((3, 8, 8), generator=generator)[None]
    condition = conditions()[0]
    ids = torch.tensor([[WORDS.index(word) for word in PIECES] + [0] * 67])
    tokens = {"text": official.bert_forward(DRAWN["cond_stage_model.text_cond_stage_model."], ids)}
    seen = condition.mask[1::2, 1::2].reshape(-1)  # type: ignore[index]
    linear = DRAWN["cond_stage_model.seg_mask_cond_stage_model."]
    one_hot = torch.from_numpy((seen[None] == np.arange(19)[:, None]).astype(np.float32))
    tokens["seg_mask"] = (one_hot @ linear["linear.weight"].T + linear["linear.bias"])[None]

    def run(own: str, kind: str, t: int) -> Tensor:
        return official.unet_forward(DRAWN[f"model.{own}_{kind}.diffusion_model."], x, t, tokens[own], heads=4)

    for index in reversed(range(len(times))):
        t, a, a_before = times[index], abar[times[index]], before[index]
        share = torch.cat([run(own, "confidence_predictor", t) for own in ("seg_mask", "text")], 1).softmax(1)
        m = share[:, :1]
        if official_weight:
            m = m * (np.cos((1 - t / 1000) * np.pi) + 1) / 2
            text = 1 - m
            m, text = 2 * m / (2 * m + text), text / (2 * m + text)
        else:
            text = share[:, 1:]
        eps = m * run("seg_mask", "unet", t) + text * run("text", "unet", t)
        sigma = eta * ((1 - a_before) / (1 - a) * (1 - a / a_before)) ** 0.5
        x_0 = (x - (1 - a) ** 0.5 * eps) / a**0.5
        x = a_before**0.5 * x_0 + (1 - a_before - sigma**2) ** 0.5 * eps
        if eta:  # the last step, too: its abar is alphas_cumprod[0], so that its sigma is not 0
            x = x + sigma * torch.randn((3, 8, 8), generator=generator)[None]
    return x


@pytest.mark.parametrize("preset", ["paper", "official"])
def test_collaborative_samples_as_the_authors_code_does(networks: collab.CollaborativeNetworks, preset: str) -> None:
    seen: list[Tensor] = []
    toys = SmallWorld(networks)
    toys.autoencoder = Recording(networks, seen)  # type: ignore[assignment]
    method = make_method("collaborative", {"preset": preset, "steps": 5}, toys.networks)
    request = asked()[0]
    coded = preset == "official"
    x_0 = brute_force(1.0 if coded else 0.0, 5, official.schedule_tables(), request.seed, coded)
    image = method.generate([request])
    torch.testing.assert_close(seen[0], x_0, rtol=1e-5, atol=1e-5 * float(x_0.abs().max()))
    assert float(x_0.abs().max()) < 250, "as large, the last step's noise of 0.03 would not be seen"
    decoded = (official.decode(DRAWN["first_stage_model."], x_0 / 0.058) + 1) / 2
    torch.testing.assert_close(image, decoded.clamp(0, 1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["composable", "text-only", "mask-only"])
def test_the_other_rows_run_on_the_same_networks(networks: collab.CollaborativeNetworks, name: str) -> None:
    method = make_method(name, {"steps": 2}, SmallWorld(networks).networks)
    requests = [
        replace(request, conditions=Conditions(**{k: getattr(request.conditions, k) for k in method.conditions}))
        for request in asked(2)
    ]
    images = method.generate(requests)
    assert images.shape == (2, 3, 32, 32)
    assert float(images.std()) > 0.01
    torch.testing.assert_close(method.generate(requests[1:])[0], images[1], rtol=0, atol=1e-4)


def test_experts_are_what_methods_expect(networks: collab.CollaborativeNetworks) -> None:
    expert = networks.expert("mask")
    assert isinstance(expert, Expert)
    bound = expert.bind(conditions(), networks.schedule)
    assert isinstance(bound, Bound)
    x = noise(2, 3, 8, 8)
    torch.testing.assert_close(bound(x, 501), expert(x, 501, bound.encoded))  # eps itself: no velocity
    with pytest.raises(ConcordError, match=r"no expert for 'unconditional'.*have text, mask"):
        networks.expert("unconditional")
    assert not any(p.requires_grad for p in expert.parameters())


@pytest.mark.parametrize(("steps", "first", "last"), [(50, 981, 1), (100, 991, 1), (20, 951, 1)])
def test_timesteps_and_last_step_are_the_coded_ones(steps: int, first: int, last: int) -> None:
    schedule = collab.schedule()
    times = schedule.ddim_timesteps(steps)
    assert times == [t + 1 for t in range(0, 1000, 1000 // steps)][::-1]
    assert (times[0], times[-1]) == (first, last)
    tables = official.schedule_tables()
    torch.testing.assert_close(schedule.alphas_cumprod.float(), tables["alphas_cumprod"], rtol=0, atol=1e-7)
    abar = tables["alphas_cumprod"].double()
    x, eps, z = noise(1, 3, 4, 4), noise(1, 3, 4, 4) * 0.3 + 0.1, noise(1, 3, 4, 4).flip(3)
    sigma = float(((1 - abar[0]) / (1 - abar[1]) * (1 - abar[1] / abar[0])) ** 0.5)
    assert 0.02 < sigma < 0.03  # the noise that the authors' last step adds to latents of deviation about 1
    x_0 = (x - (1 - abar[1]).sqrt() * eps) / abar[1].sqrt()
    expected = abar[0].sqrt() * x_0 + (1 - abar[0] - sigma**2).sqrt() * eps + sigma * z
    torch.testing.assert_close(ddim_step(schedule, eps, x, 1, -1, 1.0, z), expected.float(), **CLOSE)


def test_the_coded_last_step_draws_noise_and_the_papers_does_not() -> None:
    schedule = collab.schedule()
    drawn = []
    for noisy in (False, True):
        generators = [torch.Generator().manual_seed(0)]
        drawn.append(ddim(lambda x, t: 0 * x, schedule, generators, (1, 4, 4), "cpu", 5, 1.0, noise_last_step=noisy))
    abar = official.schedule_tables()["alphas_cumprod"].double()
    sigma = float(((1 - abar[0]) / (1 - abar[1]) * (1 - abar[1] / abar[0])) ** 0.5)
    generator = torch.Generator().manual_seed(0)
    z = [torch.randn((1, 4, 4), generator=generator) for _ in range(6)][-1]
    torch.testing.assert_close(drawn[1] - drawn[0], sigma * z[None], rtol=1e-3, atol=1e-4)


# ----------------------------------------------------------------------------------------------- the true, large layout


@pytest.mark.parametrize("size", [256, 512])
def test_the_mapping_covers_the_published_widths(size: int) -> None:
    shape = collab.SHAPES[size]
    layouts = parts(shape)
    with torch.device("meta"):
        pairs: list[tuple[str, torch.nn.Module, Any]] = []
        for own in ("text", "seg_mask"):
            name = f"model.{own}_confidence_predictor.diffusion_model."
            pairs.append((f"model.{own}_unet.diffusion_model.", shape.unet.build(), unet_names(shape.unet)))
            pairs.append((name, shape.influence.build(), unet_names(shape.influence)))
        text, masks = collab.BertText(None, shape.text), collab.MaskTokens(shape.unet.context)
        autoencoder = shape.autoencoder.build()
    pairs.append(("cond_stage_model.text_cond_stage_model.", text, str))
    pairs.append(("cond_stage_model.seg_mask_cond_stage_model.", masks, str))
    pairs.append(("first_stage_model.", autoencoder, autoencoder_names(len(shape.autoencoder.multipliers))))
    counts = {}
    for prefix, network, rename in pairs:
        own = {rename(name): tuple(value.shape) for name, value in network.state_dict().items()}
        wanted = {name: kept for name, kept in layouts[prefix].items() if "to_logits" not in name}
        if prefix == "first_stage_model.":  # linear layers here, 1x1 convolutions in the file
            wanted = {n: s[:2] if ".attn_1." in n and len(s) == 4 else s for n, s in wanted.items()}
        assert own == wanted, prefix
        counts[prefix] = official.count(layouts[prefix])
    assert round(counts["model.text_unet.diffusion_model."] / 1e6, 1) == 403.6  # the paper's table A4
    assert round(counts["model.text_confidence_predictor.diffusion_model."] / 1e6, 1) == 13.1
    assert round(counts["cond_stage_model.text_cond_stage_model."] / 1e6) == 186
    assert shape.latent == (3, 64, 64)


def test_sizes_have_their_scale_factors() -> None:
    assert (collab.SHAPES[256].scale, collab.SHAPES[512].scale) == (0.058, 0.141)
    with pytest.raises(ConcordError, match="128x128: its checkpoints are for 256 and 512"):
        collab.load_collaborative(128)

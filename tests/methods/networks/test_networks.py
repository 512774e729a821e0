"""The networks' own mathematics, with fresh weights: closed forms, shapes, invariances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from concord.data.errors import ConcordError
from concord.data.request import Conditions
from concord.methods.core.schedule import Schedule
from concord.methods.networks.autoencoder import Autoencoder
from concord.methods.networks.dynamic_diffuser import AdaptiveLayerNorm, DynamicDiffuser
from concord.methods.networks.experts import LATENT, Encoded, Expert
from concord.methods.training.words import hide_words
from concord.metrics.networks.embedded.features import FeatureNetwork
from concord.metrics.networks.embedded.parser import FaceParser
from concord.metrics.networks.embedded.text import PAD, START, UNKNOWN, TextTransformer, Tokenizer
from concord.metrics.networks.embedded.text_image import TextImagePair

WORDS = ["a", "beard", "bushy", "he", "is", "man", "with", "young"]


def masks(*values: int) -> list[Conditions]:
    return [Conditions(mask=np.full((64, 64), v, np.int64)) for v in values]


def wake(module: torch.nn.Module) -> None:
    """Layers that start at zero would hide mistakes: give every parameter a value."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def test_linear_autoencoder_is_the_principal_components_of_patches() -> None:
    """Untrained, it reconstructs as well as the best rank-C map of 4x4 patches, found here by SVD in NumPy."""
    images = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.avg_pool2d(images, 5, stride=1, padding=2)  # some structure to find
    autoencoder = Autoencoder()
    autoencoder.fit_linear(images)
    with torch.inference_mode():
        latents, decoded = autoencoder.encode(images), autoencoder(images)
    assert latents.shape == (6, *LATENT)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(LATENT[0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(LATENT[0]), atol=1e-2, rtol=0)

    x = images.numpy().astype(np.float64)
    patches = x.reshape(6, 3, 16, 4, 16, 4).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 48)
    centred = patches - patches.mean(0)
    u, s, vt = np.linalg.svd(centred, full_matrices=False)
    best = (u[:, : LATENT[0]] * s[: LATENT[0]]) @ vt[: LATENT[0]] + patches.mean(0)
    expected = np.mean((best - patches) ** 2)
    assert float((decoded - images).square().mean()) == pytest.approx(expected, rel=1e-3)


def test_adaptive_layer_norm_is_equation_9() -> None:
    norm = AdaptiveLayerNorm(6, 5)
    h, time = torch.randn(2, 6, 3, 4), torch.randn(2, 5)
    out = norm(h, time)
    s, b = (norm.project.weight @ time[1] + norm.project.bias).split(6)
    pixel = h[1, :, 2, 3]
    normal = (pixel - pixel.mean()) / (pixel.var(unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(out[1, :, 2, 3], (1 + s) * normal + b)


def test_dynamic_diffuser_depends_on_noise_time_condition_and_is_small() -> None:
    diffuser, expert = DynamicDiffuser(), Expert("mask")
    size = [sum(p.numel() for p in m.parameters()) for m in (diffuser, expert)]
    assert 20 < size[1] / size[0] < 45  # the paper: about 1/30
    x = torch.randn(2, *LATENT)
    tokens = Encoded(torch.randn(2, 19, 96))
    assert float(diffuser(x, 500, tokens).abs().max()) == 0  # training starts at equal influence
    wake(diffuser)
    base = diffuser(x, 500, tokens)
    assert base.shape == (2, 1, *LATENT[1:])
    torch.testing.assert_close(diffuser(x, torch.tensor([500, 500]), tokens), base)
    assert float((diffuser(x, 20, tokens) - base).abs().max()) > 1e-5
    assert float((diffuser(x.flip(0), 500, tokens) - base).abs().max()) > 1e-5
    assert float((diffuser(x, 500, Encoded(torch.randn(2, 19, 96))) - base).abs().max()) > 1e-5


@pytest.mark.parametrize("condition", ["unconditional", "mask", "text"])
def test_experts_are_batch_independent_and_follow_their_condition(condition: str) -> None:
    expert = Expert(condition, {"words": WORDS} if condition == "text" else {})
    wake(expert)
    expert.eval()
    given = {
        "unconditional": [Conditions(), Conditions()],
        "mask": masks(0, 13),
        "text": [Conditions(text="a man"), Conditions(text="He is a young man with a bushy beard")],
    }[condition]
    schedule, x = Schedule.scaled_linear(), torch.randn(2, *LATENT)
    with torch.inference_mode():
        eps = expert.bind(given, schedule)(x, 400)
        alone = torch.cat([expert.bind(given[i : i + 1], schedule)(x[i : i + 1], 400) for i in range(2)])
        torch.testing.assert_close(eps, alone, rtol=1e-4, atol=1e-5)
        swapped = expert.bind(given[::-1], schedule)(x, 400)
    assert (float((swapped - eps).abs().max()) > 1e-6) == (condition != "unconditional")


def test_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ConcordError, match=r"shape \(32, 32\): the embedded models expect \(64, 64\)"):
        Expert("mask").encode([Conditions(mask=np.zeros((32, 32), np.int64))])


def test_tokenizer() -> None:
    tokenizer = Tokenizer(WORDS, 6)
    ids = tokenizer(["He is a MAN.", "a xylophone man with a bushy young beard"])
    index = {w: 3 + i for i, w in enumerate(WORDS)}
    assert ids[0].tolist() == [START, index["he"], index["is"], index["a"], index["man"], PAD]
    assert ids[1].tolist() == [START, index["a"], UNKNOWN, index["man"], index["with"], index["a"]]
    assert tokenizer.unknown("a xylophone man") == ["xylophone"]


def test_padding_changes_nothing() -> None:
    model = TextTransformer(20, 12, width=16, layers=2)
    model.eval()
    ids = torch.tensor([[START, 5, 6, 7]])
    padded = torch.nn.functional.pad(ids, (0, 8), value=PAD)
    with torch.inference_mode():
        torch.testing.assert_close(model(padded)[:, :4], model(ids), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.pool(model(padded), padded), model.pool(model(ids), ids), rtol=1e-4, atol=1e-5)


def test_hidden_words_are_words() -> None:
    ids = torch.tensor([[START, 5, 6, 7, PAD, PAD]]).repeat(500, 1)
    hidden = hide_words(ids, 0.3, torch.Generator().manual_seed(0))
    assert bool((hidden[:, 0] == START).all())
    assert bool((hidden[:, 4:] == PAD).all())
    share = float((hidden[:, 1:4] == UNKNOWN).float().mean())
    assert 0.25 < share < 0.35


def twice_differentiable(output: Tensor, image: Tensor) -> float:
    (gradient,) = torch.autograd.grad(output, image, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), image)
    return float(second.abs().max())


def test_scoring_networks_have_shapes_and_a_second_derivative() -> None:
    """Guides are differentiated twice by Z-Magic: a ReLU network would have no curvature."""
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    parser, features = FaceParser(8), FeatureNetwork({"Young": 6}, identity=5, width=8)
    pair = TextImagePair(WORDS, width=8)
    for network in (parser, features, pair):
        wake(network)
    assert parser(image).shape == (1, 19, 64, 64)
    found = features(image)
    assert {k: tuple(v.shape) for k, v in found.items()} == {"Young": (1, 6), "presence": (1, 19), "identity": (1, 5)}
    images, texts = pair.embed_images(image), pair.embed_texts(["a man"])
    torch.testing.assert_close(images.norm(dim=1), torch.ones(1))
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(1))
    assert twice_differentiable(parser(image).square().mean(), image) > 0
    assert twice_differentiable(features(image)["Young"].square().mean(), image) > 0
    assert twice_differentiable((images * texts).sum(), image) > 0

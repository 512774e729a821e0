"""LPIPS, VGG19's style and CLIP's tokens through the production loaders, against the packages and recipes they follow.

Random weights in the form of the published files: what a layer does is proven, and not what it has learnt.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from given_networks import seen_by
from torch import nn

from concord.data.errors import ConcordError
from concord.data.request import Conditions
from concord.metrics.base import Observation
from concord.metrics.image.lpips import LPIPSAlex, LPIPSVgg
from concord.metrics.networks.embedded.perceptual import style_loss, token_gram_distance

SIZE = 64
LEFT_OUT = {"classifier.6.weight": torch.zeros(10, 4), "classifier.6.bias": torch.zeros(10)}  # of a whole trunk's file


def pictures(n: int, seed: int = 0, size: int = SIZE) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def randomised(network: nn.Module, seed: int) -> nn.Module:
    """Weights of a seed, of a size that keeps activations alive through many layers."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            scale = (2 / parameter[0].numel()) ** 0.5 if name.endswith("weight") and parameter.ndim > 1 else 0.1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return network.eval()


def write(features: nn.Module, path: Path) -> Path:
    """A file as torchvision's: 'features.*', and a classifier that is not to be read."""
    torch.save({**{f"features.{k}": v for k, v in features.state_dict().items()}, **LEFT_OUT}, path)
    return path


# --------------------------------------------------------------------------------------------------------------- LPIPS


@pytest.fixture(scope="module", params=["alex", "vgg"])
def lpips_pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """(ours from a file, the package's own over the same torchvision trunk, the file's trunk)."""
    import lpips
    import torchvision.models as tv
    from lpips import pretrained_networks
    from torchvision.models.vgg import cfgs, make_layers

    from concord.metrics.networks.pretrained.lpips import load_lpips

    net = request.param
    # The trunk that torchvision would load from its own file; VGG16's 123 million classifier weights are spared.
    trunk = tv.AlexNet().features if net == "alex" else make_layers(cfgs["D"], batch_norm=False)
    trunk = randomised(trunk, 1)
    path = write(trunk, tmp_path_factory.mktemp("lpips") / f"{net}.pth")
    before = torch.random.get_rng_state()
    ours = load_lpips(net, path)
    assert torch.equal(torch.random.get_rng_state(), before)
    with pytest.MonkeyPatch.context() as patch:
        name = {"alex": "alexnet", "vgg": "vgg16"}[net]
        patch.setattr(pretrained_networks.tv, name, lambda pretrained: SimpleNamespace(features=trunk))
        theirs = lpips.LPIPS(net=net, version="0.1", verbose=False)
    return ours, theirs, trunk


def test_lpips_is_the_packages(lpips_pair: tuple[Any, Any, Any]) -> None:
    ours, theirs, _ = lpips_pair
    images, originals = pictures(3), pictures(3, 1)
    with torch.inference_mode():
        found = ours(images, originals)
        expected = theirs(images, originals, normalize=True).flatten()
    assert expected.min() > 1e-3
    assert torch.equal(found, expected)
    assert found.shape == (3,)


def test_lpips_of_an_image_with_itself_is_zero(lpips_pair: tuple[Any, Any, Any]) -> None:
    images = pictures(2, 2)
    with torch.inference_mode():
        assert lpips_pair[0](images, images).tolist() == [0, 0]


def test_lpips_is_its_equation(lpips_pair: tuple[Any, Any, Any]) -> None:
    """Written out over the trunk's ReLU outputs, with the package's learnt weights read from its own files."""
    import lpips

    ours, _, trunk = lpips_pair
    net = "vgg" if len(trunk) > 20 else "alex"
    images, originals = pictures(2, 3), pictures(2, 4)
    learnt = torch.load(Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth", map_location="cpu")
    weights = [value.flatten().double() for value in learnt.values()]
    last = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}[net]  # relu1..5, relu1_2..5_3
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    sides = []
    for x in (images, originals):
        x, kept = ((x * 2 - 1) - shift[:, None, None]) / scale[:, None, None], []
        with torch.inference_mode():
            for number, layer in enumerate(trunk):
                x = torch.relu(x) if isinstance(layer, nn.ReLU) else layer(x)
                if number in last:
                    kept.append(x.double())
        sides.append(kept)
    expected = torch.zeros(2, dtype=torch.float64)
    for a, b, weight in zip(*sides, weights, strict=True):
        a, b = (f / (f.square().sum(1, keepdim=True).sqrt() + 1e-10) for f in (a, b))
        expected += ((a - b).square() * weight[:, None, None]).sum(1).mean((1, 2))
    with torch.inference_mode():
        assert ours(images, originals).double() == pytest.approx(expected, rel=1e-5)
    bound = {"alex": LPIPSAlex, "vgg": LPIPSVgg}[net].bounds[1]
    assert bound - 1e-3 < 2 * sum(float(weight.max()) for weight in weights) <= bound
    assert min(float(weight.min()) for weight in weights) >= 0


def test_lpips_metric_order_batch_and_gradient(lpips_pair: tuple[Any, Any, Any]) -> None:
    ours = lpips_pair[0]
    metric = LPIPSAlex()
    networks = seen_by(object(), lpips_alex=ours)
    images, originals = pictures(4, 5), pictures(4, 6)

    def score(rows: list[int]) -> list[float]:
        pair = Observation(images[rows], [Conditions()] * len(rows), networks, originals[rows])
        return [one.value for one in metric.score(pair)]

    whole = score([0, 1, 2, 3])
    assert score([3, 1]) == pytest.approx([whole[3], whole[1]], rel=1e-5)
    assert score([2]) == pytest.approx([whole[2]], rel=1e-5)
    leaf = images[:1].clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(ours(leaf, originals[:1]).sum(), leaf)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


def test_lpips_keeps_the_images_size(lpips_pair: tuple[Any, Any, Any]) -> None:
    ours, theirs, _ = lpips_pair
    for height, width in ((64, 96), (32, 32)):
        shape = (1, 3, height, width)
        first, second = (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
        with torch.inference_mode():
            assert torch.equal(ours(first, second), theirs(first, second, normalize=True).flatten())
    with pytest.raises(ConcordError, match="images of 24x24 pixels: LPIPS needs at least 32"):
        ours(pictures(1, size=24), pictures(1, size=24))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda state: state.pop("features.3.weight"), r"lacks 'slice2.3.weight'"),
        (lambda state: state.update({"features.20.weight": torch.zeros(1)}), r"holds 'features.20.weight'"),
        (lambda state: state.update({"features.0.bias": torch.zeros(3)}), r"'slice1.0.bias' has shape \(3,\)"),
    ],
)
def test_lpips_from_another_networks_file(tmp_path: Path, change: Any, what: str) -> None:
    import torchvision.models as tv

    from concord.metrics.networks.pretrained.lpips import load_lpips

    state = {f"features.{k}": v for k, v in tv.AlexNet().features.state_dict().items()}
    change(state)
    torch.save(state, tmp_path / "alexnet.pth")
    with pytest.raises(ConcordError, match=what) as error:
        load_lpips("alex", tmp_path / "alexnet.pth")
    assert "\n" not in str(error.value)


# --------------------------------------------------------------------------------------------------------------- VGG19


@pytest.fixture(scope="module")
def vgg_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, nn.Module]:
    """(ours from a file, torchvision's layers of the same weights)."""
    from torchvision.models.vgg import cfgs, make_layers

    from concord.metrics.networks.pretrained.vgg19 import load_vgg19

    features = randomised(make_layers(cfgs["E"], batch_norm=False), 2)
    return load_vgg19(write(features, tmp_path_factory.mktemp("vgg19") / "vgg19.pth")), features


def tutorial(features: nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    """The outputs of conv_1 to conv_5 of one image as the tutorial collects them: each before its ReLU."""
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x, kept = (image - mean.view(-1, 1, 1)) / deviation.view(-1, 1, 1), []
    for layer in features.children():
        x = nn.functional.relu(x) if isinstance(layer, nn.ReLU) else layer(x)
        if isinstance(layer, nn.Conv2d):
            kept.append(x.clone())
        if len(kept) == 5:
            return kept
    raise AssertionError("fewer than five convolutions")


def test_style_and_content_are_the_tutorials(vgg_pair: tuple[Any, nn.Module]) -> None:
    ours, features = vgg_pair
    images, styles = pictures(3, 7), pictures(3, 8)
    with torch.inference_mode():
        found = style_loss(ours(images), ours(styles))
        content = [(a - b).square().mean() for a, b in zip(ours(images)[3], ours(styles)[3], strict=True)]
        for number in range(3):
            total = torch.zeros(())
            sides = [tutorial(features, x[number : number + 1]) for x in (images, styles)]
            for a, b in zip(*sides, strict=True):
                grams = []
                for layer in (a, b):
                    n, c, h, w = layer.shape
                    flat = layer.view(n * c, h * w)
                    grams.append(torch.mm(flat, flat.t()).div(n * c * h * w))
                total = total + nn.functional.mse_loss(*grams)
            assert found[number].item() == pytest.approx(total.item(), rel=1e-4)
            assert total.item() > 1e-6
            expected = nn.functional.mse_loss(sides[0][3], sides[1][3])
            assert content[number].item() == pytest.approx(expected.item(), rel=1e-5)


def test_vgg19_looks_at_the_five_convolutions_of_the_paper(vgg_pair: tuple[Any, nn.Module]) -> None:
    with torch.inference_mode():
        found = vgg_pair[0](pictures(1, 9))
    assert [tuple(x.shape[1:]) for x in found] == [
        (64, 64, 64),
        (64, 64, 64),
        (128, 32, 32),
        (128, 32, 32),
        (256, 16, 16),
    ]
    assert sum(p.numel() for p in vgg_pair[0].parameters()) < 1e6  # the rest of the network is not kept


def test_vgg19_from_another_networks_file(tmp_path: Path) -> None:
    from torchvision.models.vgg import cfgs, make_layers

    from concord.metrics.networks.pretrained.vgg19 import load_vgg19

    path = write(make_layers(cfgs["A"], batch_norm=False), tmp_path / "vgg11.pth")
    with pytest.raises(ConcordError, match=r"vgg11.pth: no weights of ModuleDict: it lacks 'features"):
        load_vgg19(path)


# --------------------------------------------------------------------------------------------------------- CLIP tokens


@pytest.fixture(scope="module")
def clip() -> Any:
    """A small CLIP of open_clip's classes with four blocks."""
    import open_clip
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    from concord.metrics.networks.pretrained.clip import Clip

    vision = CLIPVisionCfg(layers=4, width=32, head_width=16, patch_size=8, image_size=32)
    text = CLIPTextCfg(context_length=77, vocab_size=49408, width=16, heads=2, layers=1)
    model = randomised(open_clip.model.CLIP(8, vision, text, quick_gelu=True), 3)
    return Clip(model, "ViT-B-16-quickgelu").eval().requires_grad_(False)


def third_block(visual: Any, x: torch.Tensor) -> torch.Tensor:
    """Patch tokens of prepared images after three blocks, written out from the weights."""
    patches = nn.functional.conv2d(x, visual.conv1.weight, stride=8).flatten(2).mT  # (B, 16, 32)
    start = visual.class_embedding.expand(len(x), 1, -1)
    x = torch.cat([start, patches], dim=1) + visual.positional_embedding
    x = visual.ln_pre(x)
    for block in visual.transformer.resblocks[:3]:
        normed = block.ln_1(x)
        q, k, v = (normed @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(3, dim=-1)
        q, k, v = (y.unflatten(-1, (2, 16)).transpose(1, 2) for y in (q, k, v))  # (B, heads, 17, 16)
        attended = (q @ k.mT / 4).softmax(-1) @ v
        x = x + block.attn.out_proj(attended.transpose(1, 2).flatten(2))
        hidden = block.ln_2(x) @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias
        x = x + (hidden * torch.sigmoid(1.702 * hidden)) @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias
    return x[:, 1:]


def test_style_tokens_are_those_after_the_third_block(clip: Any) -> None:
    from concord.metrics.networks.pretrained.clip_tokens import style_tokens

    images = pictures(2, 10, 48)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    # FreeDoM prepares images in [-1, 1], with the mean and deviation of that range.
    small = nn.functional.interpolate(images * 2 - 1, size=(32, 32), mode="bicubic")
    expected = third_block(clip.model.visual, (small - (mean * 2 - 1)) / (deviation * 2))
    found = style_tokens(clip, images)
    assert found.shape == (2, 16, 32)
    assert torch.allclose(found, expected, atol=2e-4, rtol=1e-4)


def test_style_token_distance_is_freedoms_residual(clip: Any) -> None:
    import numpy as np
    from PIL import Image

    from concord.data.networks import Networks
    from concord.metrics.networks.pretrained.clip_tokens import style_tokens
    from concord.metrics.networks.pretrained.guide_clip import GuideClip
    from concord.metrics.style.style_tokens import StyleTokens

    images = pictures(2, 11, 40)
    styles = [np.random.default_rng(seed).integers(0, 256, (50, 36, 3), dtype=np.uint8) for seed in (0, 1)]
    guide = GuideClip(clip.model, clip.architecture)
    networks = Networks.of({"freedom/text-image": guide})
    observation = Observation(images, [Conditions(style=style) for style in styles], networks)
    scores = StyleTokens().score(observation)
    for number, style in enumerate(styles):
        small = np.asarray(Image.fromarray(style).resize((32, 32), Image.Resampling.BILINEAR))
        reference = torch.from_numpy(small.copy()).permute(2, 0, 1)[None].float() / 255
        a, b = (style_tokens(clip, x)[0].double() for x in (images[number : number + 1], reference))
        residual = torch.mm(a.t(), a) - torch.mm(b.t(), b)
        assert scores[number].value == pytest.approx(torch.linalg.norm(residual).item(), rel=1e-4)
        assert scores[number].status == "ok"


def test_style_tokens_guide(clip: Any) -> None:
    from concord.metrics.networks.pretrained.clip_tokens import style_tokens

    wanted = style_tokens(clip, pictures(1, 12, 32))
    leaf = pictures(1, 13, 32).requires_grad_(True)
    distance = token_gram_distance(style_tokens(clip, leaf), wanted)
    (gradient,) = torch.autograd.grad(distance.sum(), leaf)
    nearer = leaf.detach() - 0.01 * gradient / gradient.abs().max()
    assert token_gram_distance(style_tokens(clip, nearer), wanted).item() < distance.item()

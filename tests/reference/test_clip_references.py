"""CLIP through open_clip: files in both published forms, beside the library's own calls, at a small size."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from face_seer import as_bytes, pictures
from given_networks import seen_by
from PIL import Image
from torch.nn import functional as F

from concord.data.errors import ConcordError
from concord.data.request import Conditions
from concord.metrics.base import OK, Observation, Score
from concord.metrics.networks.pretrained.clip import FACTS, MODELS, encode_text, load_clip, require_quickgelu
from concord.metrics.text.text_distance import TextDistance, cosine_distance
from concord.metrics.text.text_feature_distance import TextFeatureDistance, feature_distance
from concord.metrics.text.text_similarity import TextSimilarity

open_clip = pytest.importorskip("open_clip")

NAME, PLAIN = "concord-tiny-quickgelu", "concord-tiny"
TEXTS = ["a young woman with black hair", "an old man", "x " * 200]


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A CLIP of OpenAI's form with 2 layers, known to open_clip by name, with and without QuickGELU."""
    folder = tmp_path_factory.mktemp("architectures")
    config: dict[str, Any] = {
        "embed_dim": 32,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 48, "layers": 2, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    }
    (folder / f"{NAME}.json").write_text(json.dumps(config))
    (folder / f"{PLAIN}.json").write_text(json.dumps({**config, "quick_gelu": False}))
    open_clip.add_model_config(folder)
    yield
    open_clip.factory._MODEL_CONFIG_PATHS.remove(folder)
    open_clip.factory._MODEL_CONFIGS.pop(NAME)
    open_clip.factory._MODEL_CONFIGS.pop(PLAIN)


@pytest.fixture(scope="module")
def reference() -> Any:
    """open_clip's own network with random weights; scaled so that features differ between images."""
    model = open_clip.create_model(NAME, pretrained=None).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


@pytest.fixture(scope="module")
def file(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "open_clip_pytorch_model.bin"
    torch.save(reference.state_dict(), path)
    return path


def library_features(model: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """By the calls of open_clip's README: preprocess each image, encode_image, tokenizer, encode_text."""
    _, _, preprocess = open_clip.create_model_and_transforms(NAME, pretrained=None)
    batch = torch.stack([preprocess(Image.fromarray(as_bytes(image))) for image in images])
    with torch.inference_mode():
        return model.encode_image(batch), model.encode_text(open_clip.tokenize(TEXTS))


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".safetensors"])
def test_features_are_open_clips_own(reference: Any, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    if suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(reference.state_dict(), path)
    else:
        torch.save(reference.state_dict(), path)
    clip = load_clip(path, architecture=NAME)
    images = pictures(3, size=64)
    image, text = library_features(reference, images)
    with torch.inference_mode():
        assert (clip.image_features(images) - image).abs().max() < 1e-5
        assert (clip.text_features(TEXTS) - text).abs().max() < 1e-5
        assert (clip.embed_images(images) - F.normalize(image, dim=-1)).abs().max() < 1e-6
        assert (clip.embed_texts(TEXTS) - F.normalize(text, dim=-1)).abs().max() < 1e-6
    assert (image[0] - image[1]).norm() > 0.01
    assert not clip.training
    assert not any(parameter.requires_grad for parameter in clip.parameters())


def test_openais_torchscript_archive_loads(reference: Any, tmp_path: Path) -> None:
    """In half precision and with three numbers beside the weights, as OpenAI's files are."""
    path = tmp_path / "ViT-tiny.pt"
    holder = Holder()
    for name, value in reference.state_dict().items():
        holder.put(name, value.half())
    for name in FACTS:
        holder.put(name, torch.tensor(77))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(holder), str(path))
        assert set(FACTS) <= set(torch.jit.load(str(path)).state_dict())
    clip = load_clip(path, architecture=NAME)
    half = open_clip.create_model(NAME, pretrained=None).eval()
    half.load_state_dict({name: value.half().float() for name, value in reference.state_dict().items()})
    images = pictures(2, size=64)
    with torch.inference_mode():
        assert clip.image_features(images).dtype == torch.float32
        assert (clip.image_features(images) - library_features(half, images)[0]).abs().max() < 1e-5


class Holder(torch.nn.Module):
    """Tensors under dotted names, without any computation."""

    def put(self, name: str, value: torch.Tensor) -> None:
        first, _, rest = name.partition(".")
        if not rest:
            self.register_buffer(first, value)
            return
        if first not in self._modules:
            self.add_module(first, Holder())
        inner = self._modules[first]
        assert isinstance(inner, Holder)
        inner.put(rest, value)


def test_preparation_is_pillows_bicubic_of_the_shortest_side_and_a_centre_crop(file: Path) -> None:
    clip = load_clip(file, architecture=NAME)
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 60, 90)).astype(np.float32) / 255)
    small = Image.fromarray(as_bytes(image)).resize((72, 48), Image.Resampling.BICUBIC).crop((12, 0, 60, 48))
    levels = torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1) / 255
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    assert (clip.prepare(image[None])[0] - (levels - mean) / deviation).abs().max() < 1e-5


def test_guide_features_are_freedoms_and_differentiable(file: Path, reference: Any) -> None:
    """Images in [-1, 1] by torch's bicubic to the network's size, normalised with (2 mean - 1, 2 deviation)."""
    clip = load_clip(file, architecture=NAME)
    images = pictures(2, size=64).requires_grad_()
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
    deviation = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
    x = F.interpolate(images * 2 - 1, size=48, mode="bicubic")
    expected = reference.encode_image((x - (2 * mean - 1)) / (2 * deviation))
    found = clip.guide_features(images)
    assert (found - expected).abs().max() < 1e-5
    text = clip.text_features(TEXTS[:2]).detach()
    for distance in (feature_distance, cosine_distance):
        (slope,) = torch.autograd.grad(distance(clip.guide_features(images), text)[0], images)
        assert torch.isfinite(slope).all()
        assert slope[0].abs().max() > 0
        assert not slope[1].any()


def test_scores_are_the_librarys_cosines(file: Path, reference: Any) -> None:
    clip = load_clip(file, architecture=NAME)

    class Judge:
        embed_images, embed_texts = staticmethod(clip.embed_images), staticmethod(clip.embed_texts)

    class Guide:
        image_features, text_features = staticmethod(clip.guide_features), staticmethod(clip.text_features)

    images = pictures(3, size=64)
    with torch.inference_mode():
        observation = Observation(images, [Conditions(text=text) for text in TEXTS], seen_by(Judge(), freedom=Guide()))
        image, text = library_features(reference, images)
        cosine = F.cosine_similarity(image, text).tolist()
        length = (clip.guide_features(images) - text).norm(dim=1).tolist()
        similar, distant = TextSimilarity().score(observation), TextDistance().score(observation)
        far = TextFeatureDistance().score(observation)
    assert similar == [Score(pytest.approx(100 * value, abs=1e-4), OK) for value in cosine]
    assert distant == [Score(pytest.approx(1 - value, abs=1e-6), OK) for value in cosine]
    assert far == [Score(pytest.approx(value, rel=1e-5), OK) for value in length]


# ------------------------------------------------------------------------------------------------- QuickGELU, files


def test_names_without_quickgelu_are_refused(file: Path) -> None:
    with pytest.raises(ConcordError, match=f"'{PLAIN}': OpenAI's weights need '{PLAIN}-quickgelu'"):
        load_clip(file, architecture=PLAIN)
    with pytest.raises(ConcordError, match="unknown CLIP weights 'clip-vit': expected one of clip-rn50, clip-vit-b-32"):
        load_clip(file, name="clip-vit")


def test_the_activations_themselves_are_looked_at() -> None:
    """Random weights hardly tell the two apart: the types of the modules do."""
    require_quickgelu(open_clip.create_model(NAME, pretrained=None), NAME)
    wrong = open_clip.create_model(PLAIN, pretrained=None)
    with pytest.raises(ConcordError, match="was built with 4 GELU and 0 QuickGELU activations"):
        require_quickgelu(wrong, PLAIN)
    mixed = open_clip.create_model(NAME, pretrained=None)
    mixed.visual.transformer.resblocks[1].mlp.gelu = torch.nn.GELU()
    with pytest.raises(ConcordError, match="1 GELU and 3 QuickGELU"):
        require_quickgelu(mixed, NAME)


@pytest.mark.parametrize(
    ("name", "embedding", "layers", "width", "patch", "size"),
    [
        ("clip-vit-b-32", 512, 12, 768, 32, 224),
        ("clip-vit-b-16", 512, 12, 768, 16, 224),
        ("clip-vit-l-14", 768, 24, 1024, 14, 224),
        ("clip-vit-l-14-336", 768, 24, 1024, 14, 336),
    ],
)
def test_every_weight_file_has_the_published_architecture(
    name: str, embedding: int, layers: int, width: int, patch: int, size: int
) -> None:
    config = open_clip.get_model_config(MODELS[name])
    assert config["quick_gelu"] is True
    assert config["embed_dim"] == embedding
    vision = config["vision_cfg"]
    assert (vision["layers"], vision["width"], vision["patch_size"], vision["image_size"]) == (
        layers,
        width,
        patch,
        size,
    )


def test_files_that_are_missing_broken_or_of_another_network_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConcordError, match="concord weights fetch clip-vit-l-14"):
        load_clip(tmp_path / "none.pt")
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"not weights")
    other = tmp_path / "other.pt"
    torch.save(torch.nn.Linear(2, 2).state_dict(), other)
    for path, message in ((broken, "not a PyTorch weight file"), (other, f"no weights of {NAME}")):
        with pytest.raises(ConcordError, match=rf"{path.name}: {message}") as caught:
            load_clip(path, architecture=NAME)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("texts", [TEXTS[:2], ["a"], [*TEXTS, "a"]])
def test_short_texts_leave_out_the_padding_and_nothing_else(reference: Any, texts: list[str]) -> None:
    tokens = open_clip.get_tokenizer(NAME)(texts)
    with torch.inference_mode():
        assert torch.allclose(encode_text(reference, tokens), reference.encode_text(tokens), rtol=1e-4, atol=2e-5)
        seen: list[int] = []
        hook = reference.transformer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
        encode_text(reference, tokens)
        hook.remove()
    assert seen == [int(tokens.argmax(-1).max()) + 1]


def test_a_text_encoder_that_looks_both_ways_is_asked_itself(reference: Any) -> None:
    """Without the mask the padding counts: cutting it off would change the features."""
    tokens = open_clip.get_tokenizer(NAME)(TEXTS[:2])
    mask, reference.attn_mask = reference.attn_mask, torch.zeros_like(reference.attn_mask)
    try:
        with torch.inference_mode():
            assert torch.equal(encode_text(reference, tokens), reference.encode_text(tokens))
    finally:
        reference.attn_mask = mask


@pytest.mark.parametrize("resize", ["bicubic", "bilinear"])
def test_universal_guidances_clip_is_that_of_its_scripts(resize: Literal["bicubic", "bilinear"]) -> None:
    """style_transfer.py:155-178 (bicubic), Guided/Clip_guided.py (bilinear): ImageNet's mean, no antialiasing."""
    from torchvision import transforms
    from torchvision.transforms import functional as TF

    from concord.metrics.networks.pretrained.guide_clip import UniversalClip

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vision = open_clip.CLIPVisionCfg(layers=(1, 1, 1, 1), width=8, image_size=32)
        model = open_clip.CLIP(16, vision, open_clip.CLIPTextCfg(width=16, heads=2, layers=1), quick_gelu=True).eval()
    clip = UniversalClip(model, "RN50-quickgelu", resize)
    images = pictures(2, size=48).requires_grad_(True)
    normalize = transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    x = ((2 * images - 1) + 1) * 0.5
    x = TF.resize(x, [32, 32], interpolation=TF.InterpolationMode(resize), antialias=False)
    wanted = model.encode_image(normalize(x))
    torch.testing.assert_close(clip.guide_features(images), wanted, rtol=1e-4, atol=1e-5)
    loss = -100 * (clip.embed_images(images) @ F.normalize(wanted[:1].detach(), dim=1).T)
    (gradient,) = torch.autograd.grad(loss.sum(), images)
    assert float(gradient[1].abs().max()) > 0
    with pytest.raises(ConcordError, match="style_residual 'gram' takes the tokens of a ViT"):
        clip.block_features(images, (3,))


def test_rn50_has_the_published_architecture() -> None:
    config = open_clip.get_model_config(MODELS["clip-rn50"])
    vision = config["vision_cfg"]
    assert (config["quick_gelu"], config["embed_dim"]) == (True, 1024)
    assert (vision["layers"], vision["width"], vision["image_size"]) == ([3, 4, 6, 3], 64, 224)

"""Stable Diffusion's two forms, written here and loaded by the production loader, against the same architecture written
down a second time on the bare state dict."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ldm_layout as official
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from toy_networks import toy_networks

from concord.data.errors import ConcordError
from concord.data.networks import Networks
from concord.data.request import Conditions, Request
from concord.methods.base import make_method
from concord.methods.guidance.context import Model
from concord.methods.networks.checkpoints import stable_diffusion as stable
from concord.methods.networks.checkpoints.ldm import AutoencoderShape, UNetShape, autoencoder_names, unet_names
from concord.methods.networks.experts import Encoded

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
HEADS, WIDTH, LAYERS, INNER = 4, 32, 2, 64
UNET = UNetShape(32, (1, 2, 2), (2, 1), heads=HEADS, context=WIDTH, inputs=4, outputs=4, blocks=1, size=8)
VAE = AutoencoderShape(latents=4, channels=32, multipliers=(1, 1, 2), blocks=1, size=32)
TEXT = stable.TEXT | {"hidden_size": WIDTH, "intermediate_size": INNER}
TEXT |= {"num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
SHAPE = stable.Shape(UNET, VAE, TEXT)
CAPTIONS = ["a watercolor of the Sea,  it's 12 o'clock!", "an old woman's face", "", "sea " * 120]

LAYOUT = {
    "model.diffusion_model.": official.unet_layout(32, (1, 2, 2), (2, 1), WIDTH, 4, 4, blocks=1),
    "first_stage_model.": official.autoencoder_layout(32, (1, 1, 2), 4, 1),
    "cond_stage_model.transformer.": official.clip_text_layout(WIDTH, INNER, LAYERS, 49_408),
}
DRAWN = {prefix: official.drawn(shapes, seed) for seed, (prefix, shapes) in enumerate(LAYOUT.items())}
UNET_STATE, VAE_STATE, TEXT_STATE = DRAWN.values()


def whole() -> dict[str, Tensor]:
    """As `sd-v1-4.ckpt`."""
    state = {prefix + name: value for prefix, part in DRAWN.items() for name, value in part.items()}
    positions = {"cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None]}
    return official.schedule_tables(0.00085, 0.012) | state | positions


def averaged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As the full file: the average under names without dots, the last step's weights beside it."""
    ema = {f"model_ema.diffusion_model{n.replace('.', '')}": v for n, v in UNET_STATE.items()}
    last = {n: v + 1 if n.startswith("model.") else v for n, v in state.items()}
    return last | ema | {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(470_000)}


def config(folder: Path, part: str, content: Mapping[str, Any], file: str = "config.json") -> None:
    (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / part / file).write_text(json.dumps(content), encoding="utf-8")


def write_folder(folder: Path) -> Path:
    """As `from_pretrained` takes it, with the names of the published folder: its autoencoder has older ones."""
    rename = unet_names(UNET)
    own = {rename(name): name for name in UNET.build().state_dict()}
    config(folder, "unet", {"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.2.2", **UNET.config()})
    save_file({own[n]: v for n, v in UNET_STATE.items()}, folder / "unet" / "diffusion_pytorch_model.safetensors")
    rename = autoencoder_names(3)
    own = {rename(name): stable._older_attention(name) for name in VAE.build().state_dict()}
    config(folder, "vae", {"_class_name": "AutoencoderKL", **VAE.config()})
    flat = {own[n]: v[:, :, 0, 0] if ".attn_1." in n and v.ndim == 4 else v for n, v in VAE_STATE.items()}
    save_file({n: v.contiguous() for n, v in flat.items()}, folder / "vae" / "diffusion_pytorch_model.safetensors")
    config(folder, "text_encoder", {**TEXT, "architectures": ["CLIPTextModel"], "bos_token_id": 0, "eos_token_id": 2})
    positions = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    save_file(TEXT_STATE | positions, folder / "text_encoder" / "model.safetensors")
    numbers = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
    config(folder, "scheduler", {"_class_name": "PNDMScheduler", **numbers}, "scheduler_config.json")
    write_tokenizer(folder / "tokenizer")
    return folder


def write_tokenizer(folder: Path) -> None:
    """CLIP's word pieces in transformers' form, from the table that open_clip carries."""
    import open_clip

    with gzip.open(Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz") as table:
        merges = table.read().decode("utf-8").split("\n")[1 : 49_152 - 256 - 2 + 1]
    folder.mkdir(parents=True)
    pieces = list(open_clip.tokenizer.SimpleTokenizer().encoder)[:-2]  # its two marks have other names
    numbers = {piece: i for i, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(numbers))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    special = {"bos_token": "<|startoftext|>"}
    special |= dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>")
    config(folder, "", {**special, "tokenizer_class": "CLIPTokenizer", "model_max_length": 77}, "tokenizer_config.json")
    config(folder, "", special, "special_tokens_map.json")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stable")
    official.write_checkpoint(folder / "sd-v1-4.ckpt", whole())
    save_file(averaged(whole()), folder / "sd-v1-4-full-ema.safetensors")
    write_folder(folder / "diffusers")
    return folder


FORMS = ("sd-v1-4.ckpt", "sd-v1-4-full-ema.safetensors", "diffusers")


@pytest.fixture(scope="module", params=FORMS)
def loaded(request: pytest.FixtureRequest, files: Path) -> stable.StableDiffusion:
    return stable.load_stable_diffusion(files / request.param, shape=SHAPE)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


# ---------------------------------------------------------------------------------------------------- the same numbers


def test_the_unet_is_the_published_architecture(loaded: stable.StableDiffusion) -> None:
    x, tokens = noise(2, 4, 8, 8), noise(2, 77, WIDTH)
    with torch.no_grad():
        eps = loaded.expert("text")(x, 621, Encoded(tokens))
    torch.testing.assert_close(eps, official.unet_forward(UNET_STATE, x, 621, tokens, HEADS), **CLOSE)


def test_the_autoencoder_is_the_published_architecture(loaded: stable.StableDiffusion) -> None:
    images, z = torch.rand((1, 3, 32, 32), generator=torch.Generator().manual_seed(1)), noise(1, 4, 8, 8)
    with torch.no_grad():
        encoded, decoded = loaded.autoencoder.encode(images), loaded.autoencoder.decode(z * 0.18215)
    torch.testing.assert_close(encoded, official.encode(VAE_STATE, images * 2 - 1) * 0.18215, **CLOSE)
    torch.testing.assert_close(decoded, (official.decode(VAE_STATE, z) + 1) / 2, **CLOSE)
    assert (loaded.latent_shape, loaded.image_size) == ((4, 8, 8), 32)


def test_texts_are_embedded_as_published(loaded: stable.StableDiffusion) -> None:
    ids = loaded.tokenizer(CAPTIONS)
    assert ids.shape == (4, 77)
    assert ids[:, 0].tolist() == [49_406] * 4
    assert ids[2].tolist() == [49_406] + [49_407] * 76  # the empty text: nothing but end marks
    assert int(ids[3, -1]) == 49_407  # cut, with its end mark
    with torch.no_grad():
        asked = [Conditions(text=caption or None) for caption in CAPTIONS]
        tokens = loaded.expert("text").encode(asked).tokens
        empty = loaded.expert("unconditional").encode(asked).tokens
    torch.testing.assert_close(tokens, official.clip_text_forward(TEXT_STATE, ids, HEADS), **CLOSE)
    torch.testing.assert_close(empty, tokens[2:3].expand(4, -1, -1))


def test_both_tokenizers_cut_texts_alike(files: Path) -> None:
    one = stable.load_stable_diffusion(files / "sd-v1-4.ckpt", shape=SHAPE).tokenizer
    assert torch.equal(one(CAPTIONS), stable.load_stable_diffusion(files / "diffusers").tokenizer(CAPTIONS))


def test_the_schedule_is_stable_diffusions(loaded: stable.StableDiffusion) -> None:
    table = official.schedule_tables(0.00085, 0.012)["alphas_cumprod"]
    torch.testing.assert_close(loaded.schedule.alphas_cumprod.float(), table, rtol=0, atol=1e-7)
    assert loaded.schedule.ddim_timesteps(50)[::49] == [981, 1]


# ------------------------------------------------------------------------------------------------- what methods ask for


class PlainGuide:
    """Shows guided methods the image's pixels, at half the size, as the features of its style."""

    def block_features(self, images: Tensor, blocks: Any) -> list[Tensor]:
        return [torch.nn.functional.avg_pool2d(images, 2) - 0.5]

    def guide_features(self, images: Tensor) -> Tensor:
        return self.block_features(images, ())[0].flatten(1)

    def text_features(self, texts: Any) -> Tensor:
        raise NotImplementedError("the text drives the model itself")

    embed_texts = text_features


class SmallWorld:
    """What methods ask of a toys, filled from the checkpoint; the guide is a plain one."""

    def __init__(self, loaded: stable.StableDiffusion) -> None:
        self.device = torch.device("cpu")
        self.schedule, self.autoencoder = loaded.schedule, loaded.autoencoder
        self.experts = {name: loaded.expert(name) for name in ("text", "unconditional")}
        self.latent_shape, self.image_size = loaded.latent_shape, loaded.image_size

    @property
    def networks(self) -> Networks:
        return toy_networks(self, {"text-image": PlainGuide()})


def request(caption: str = CAPTIONS[0]) -> Request:
    return Request.make("checkpoints", "0", 0, Conditions(text=caption))


def test_text_drives_by_classifier_free_guidance(loaded: stable.StableDiffusion) -> None:
    """eps_u + s (eps_c - eps_u), the empty text being u, as the guided methods' model of text with style asks."""
    from concord.methods.base import Batch

    batch = Batch([request()], [torch.Generator()], torch.device("cpu"))
    x = noise(1, 4, 8, 8)
    with torch.no_grad():
        eps, correction = Model(SmallWorld(loaded).networks, batch, 5.0)(x, 401)
    ids = loaded.tokenizer([CAPTIONS[0], ""])
    tokens = official.clip_text_forward(TEXT_STATE, ids, HEADS)
    text, empty = (official.unet_forward(UNET_STATE, x, 401, tokens[i : i + 1], HEADS) for i in (0, 1))
    torch.testing.assert_close(correction, text - empty, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(eps, empty + 6 * (text - empty) - (text - empty), rtol=1e-4, atol=2e-4)


def test_text_only_samples_from_it(files: Path) -> None:
    loaded = stable.load_stable_diffusion(files / "sd-v1-4.ckpt", shape=SHAPE)
    method = make_method("text-only", {"steps": 2}, SmallWorld(loaded).networks)
    images = method.generate([request(), request("another")])
    assert images.shape == (2, 3, 32, 32)
    assert float((images[0] - images[1]).abs().max()) > 1e-3


def in_style(caption: str = CAPTIONS[0]) -> Request:
    style = np.random.default_rng(0).integers(0, 255, (20, 20, 3)).astype(np.uint8)
    return Request.make("checkpoints", "0", 0, Conditions(text=caption, style=style))


@pytest.mark.parametrize("name", ["freedom", "z-magic"])
def test_text_with_style_is_sampled_from_it(files: Path, name: str) -> None:
    """The rows of text with style: the text drives the model, the style guides; stronger guidance, nearer style."""
    loaded = stable.load_stable_diffusion(files / "diffusers")
    request, toys = in_style(), SmallWorld(loaded)
    target = torch.from_numpy(np.asarray(request.conditions.style)).movedim(-1, 0)[None].float() / 255
    target = torch.nn.functional.interpolate(target, (32, 32), mode="bilinear", antialias=True)

    def gram(images: Tensor) -> Tensor:
        features = PlainGuide().block_features(images, ())[0].flatten(2)
        return features @ features.mT

    distances = []
    for strength in (0.0, 0.3):
        values = {"text_by": "model", "steps": 4, "strengths": {"style": strength}, "windows": {"style": (0, 1000)}}
        images = make_method(name, values, toys.networks).generate([request])
        assert images.shape == (1, 3, 32, 32)
        distances.append(float((gram(images) - gram(target)).norm()))
    assert distances[1] < distances[0]


def test_style_aligned_shares_the_one_unet_once(files: Path) -> None:
    """Both experts are the same UNet: its layers are exchanged once, and put back."""
    loaded = stable.load_stable_diffusion(files / "diffusers")
    before = {name: type(p) for name, p in loaded.unet.attn_processors.items()}
    for preset in ("paper", "official"):
        method = make_method(
            "style-aligned", {"preset": preset, "steps": 2, "text_scale": 5}, SmallWorld(loaded).networks
        )
        assert method.generate([in_style()]).shape == (1, 3, 32, 32)
        assert {name: type(p) for name, p in loaded.unet.attn_processors.items()} == before


def test_a_gradient_reaches_x_t_through_unet_and_decoder(loaded: stable.StableDiffusion) -> None:
    """What guidance by a style image differentiates."""
    x = noise(1, 4, 8, 8).requires_grad_(True)
    bound = loaded.expert("text").bind([Conditions(text="sea")], loaded.schedule)
    image = loaded.autoencoder.decode(loaded.schedule.x0_from_eps(bound(x, 501), x, 501))
    (gradient,) = torch.autograd.grad(image.square().mean(), x)
    assert bool(torch.isfinite(gradient).all())
    assert float(gradient.abs().max()) > 0
    assert not any(p.requires_grad for p in loaded.unet.parameters())


# ----------------------------------------------------------------------------------------------- cards and large layout


def test_cards(files: Path) -> None:
    from concord.data.files import sha256_file

    count = sum(official.count(shapes) for shapes in LAYOUT.values())
    one, ema, folder = (stable.load_stable_diffusion(files / form, shape=SHAPE).card for form in FORMS)
    for card in (one, ema, folder):
        assert card["name"] == "stable-diffusion-v1-4"
        assert card["parameters"] == count
        assert card["stored"] == ["float32"]
        assert card["left_out"] == ["safety_checker", "feature_extractor"]
        assert card["ignored"]["positions 0, 1, 2, ..."] == 1
    assert one["sha256"] == sha256_file(files / "sd-v1-4.ckpt")
    assert "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint" in one["not_read"]
    assert any("moving average is used" in reason for reason in ema["ignored"])
    assert ema["parts"]["UNet, moving average"] == official.count(LAYOUT["model.diffusion_model."])
    assert folder["files"]["unet/diffusion_pytorch_model.safetensors"] == sha256_file(
        files / "diffusers" / "unet" / "diffusion_pytorch_model.safetensors"
    )


def test_the_mapping_covers_the_published_widths() -> None:
    """859.5M in the UNet, 83.7M in the autoencoder, 123.1M in the text encoder, as published."""
    with torch.device("meta"):
        unet, vae, text = stable.UNET.build(), stable.AUTOENCODER.build(), stable._text_encoder(stable.TEXT)
    layout = official.unet_layout(320, (1, 2, 4, 4), (4, 2, 1), 768, 4, 4)
    rename = unet_names(stable.UNET)
    assert {rename(n): tuple(v.shape) for n, v in unet.state_dict().items()} == layout
    assert official.count(layout) == 859_520_964
    layout = official.autoencoder_layout(128, (1, 2, 4, 4), 4)
    rename = autoencoder_names(4)
    flat = {n: s[:2] if ".attn_1." in n else s for n, s in layout.items()}
    assert {rename(n): tuple(v.shape) for n, v in vae.state_dict().items()} == flat
    assert official.count(layout) == 83_653_863
    layout = official.clip_text_layout(768, 3072, 12, 49_408)
    assert {f"text_model.{stable._text_name(n)}": tuple(v.shape) for n, v in text.state_dict().items()} == layout
    assert official.count(layout) == 123_060_480


# ------------------------------------------------------------------------------------------------------- one clear line


def refused(path: Path, match: str, version: str = "v1-4") -> None:
    with pytest.raises(ConcordError, match=match) as error:
        stable.load_stable_diffusion(path, version, shape=SHAPE)
    assert "\n" not in str(error.value)


def test_files_that_are_cut_changed_or_another_models_are_refused(files: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((files / "sd-v1-4-full-ema.safetensors").read_bytes()[:100_000])
    refused(cut, r"not a readable weight file \(100,000 bytes; .*expected Stable Diffusion v1\.4")
    state = whole()
    key = "model.diffusion_model.output_blocks.2.1.conv.weight"
    state.pop(key, None)
    state = {n: v for n, v in state.items() if n != "cond_stage_model.transformer.text_model.final_layer_norm.bias"}
    path = official.write_checkpoint(tmp_path / "a.ckpt", state, baggage=False)
    refused(path, r"lacks '.*'")
    other = {f"cond_stage_model.model.{n}": v for n, v in UNET_STATE.items()}
    path = official.write_checkpoint(tmp_path / "v2.ckpt", other, baggage=False)
    refused(path, "looks like Stable Diffusion v2")
    path = official.write_checkpoint(tmp_path / "face.ckpt", official.schedule_tables() | whole(), baggage=False)
    assert stable.load_stable_diffusion(path, shape=SHAPE).card["name"] == "stable-diffusion-v1-4"
    path = official.write_checkpoint(tmp_path / "b.ckpt", whole() | official.schedule_tables(), baggage=False)
    refused(path, "its noise schedule is another one")
    refused(tmp_path / "none.ckpt", "no such weight file")
    refused(files / "diffusers", "version 'v3': expected v1-4 or v1-5", "v3")


def test_half_precision_is_brought_to_float32(tmp_path: Path) -> None:
    half = {n: v.half() if v.is_floating_point() else v for n, v in whole().items()}
    save_file(half, tmp_path / "half.safetensors")
    found = stable.load_stable_diffusion(tmp_path / "half.safetensors", shape=SHAPE)
    assert found.card["stored"] == ["float16"]
    x, tokens = noise(1, 4, 8, 8), noise(1, 7, WIDTH)
    with torch.no_grad():
        eps = found.expert("text")(x, 21, Encoded(tokens))
    rounded = {n: v.half().float() for n, v in UNET_STATE.items()}
    torch.testing.assert_close(eps, official.unet_forward(rounded, x, 21, tokens, HEADS), **CLOSE)


def test_folders_that_lack_a_part_or_are_another_model_are_refused(files: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "folder"
    shutil.copytree(files / "diffusers", folder)

    def put(part: str, file: str = "config.json", **changes: Any) -> None:
        content = json.loads((files / "diffusers" / part / file).read_text())
        config(folder, part, content | changes, file)

    put("unet", in_channels=9)
    refused(folder, r"is an inpainting model \(9 input planes\)")
    put("unet", cross_attention_dim=1024)
    refused(folder, "is another model .UNet looks at texts of width 1024")
    put("unet")
    put("scheduler", "scheduler_config.json", prediction_type="v_prediction")
    refused(folder, "prediction_type 'v_prediction'; expected scaled_linear and epsilon")
    put("scheduler", "scheduler_config.json")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"\0" * 100)
    refused(folder, "not a readable weight file .*expected Stable Diffusion, unet")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    refused(folder, "no such weight file; run `concord weights fetch stable-diffusion-v1-4`")
    refused(tmp_path, r"expected Stable Diffusion as diffusers saves it: folders unet, vae")


def test_the_fetched_folder_is_found_and_a_missing_one_named(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    monkeypatch.setenv("CONCORD_CACHE", str(tmp_path))
    with pytest.raises(ConcordError, match=r"not fetched yet .*`concord weights fetch stable-diffusion-v1-5`"):
        stable.load_stable_diffusion(version="v1-5")
    folder = tmp_path / "weights" / "stable-diffusion-v1-5"
    shutil.copytree(files / "diffusers", folder)
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    assert stable.load_stable_diffusion(version="v1-5").card["name"] == "stable-diffusion-v1-5"


def test_state_of_another_text_encoder_is_named(files: Path, tmp_path: Path) -> None:
    state = {re.sub("layer_norm1", "ln_1", n): v for n, v in whole().items()}
    path = official.write_checkpoint(tmp_path / "c.ckpt", state, baggage=False)
    refused(path, r"\(text encoder\): it lacks '.*layer_norm1")

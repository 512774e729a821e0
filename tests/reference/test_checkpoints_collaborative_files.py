"""Collaborative Diffusion's files in other forms: cards, experts of their own, half precision, and one clear line about
every file that is cut, changed, hostile or another model's."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ldm_layout as official
import pytest
import torch
from collaborative_files import (
    CLOSE,
    DRAWN,
    PIECES,
    SHAPE,
    WORDS,
    conditions,
    load,
    noise,
    of_one_expert,
    parts,
    whole,
    write_folder,
)
from torch import Tensor

from concord.data.errors import ConcordError
from concord.methods.networks.checkpoints import collaborative_diffusion as collab
from concord.methods.networks.experts import Encoded


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("collaborative"))


@pytest.fixture(scope="module")
def networks(folder: Path) -> collab.CollaborativeNetworks:
    return load(folder)


# ------------------------------------------------------------------------------------------------ cards and other files


def test_the_card_tells_what_was_loaded(networks: collab.CollaborativeNetworks, folder: Path) -> None:
    from concord.data.files import sha256_file

    (name, card), *others = networks.cards.items()
    assert not others
    assert name == card["name"] == "collab-256-codiff-mask-text"
    assert card["sha256"] == sha256_file(folder / "256_codiff_mask_text.ckpt")
    logits = 40 * 24 + 40  # the text transformer's output layer
    assert card["parameters"] == sum(official.count(shapes) for shapes in parts(SHAPE).values()) - logits
    assert card["stored"] == ["float32"]
    assert card["dtype"] == "float32"
    assert sorted(card["ignored"].values()) == [2, 12]
    assert "callbacks" in card["not_read"]
    assert "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint" in card["not_read"]


def test_experts_come_from_their_own_files_where_the_joint_one_lacks_them(folder: Path, tmp_path: Path) -> None:
    """A joint file of the dynamic diffusers alone, and the experts' files, are the same networks."""
    only = {n: v for n, v in whole().items() if "confidence_predictor" in n}
    paths = {
        "codiff": official.write_checkpoint(tmp_path / "codiff.ckpt", only),
        "text": official.write_checkpoint(tmp_path / "text.ckpt", of_one_expert("text")),
        "mask": official.write_checkpoint(tmp_path / "mask.ckpt", of_one_expert("seg_mask"), baggage=False),
    }
    found, expected = load(folder, **paths), load(folder)
    x, tokens = noise(1, 3, 8, 8), Encoded(noise(1, 5, 24))
    with torch.no_grad():
        for condition in ("text", "mask"):
            assert torch.equal(found.experts[condition](x, 11, tokens), expected.experts[condition](x, 11, tokens))
        assert torch.equal(found.autoencoder.decode(x), expected.autoencoder.decode(x))
    assert sorted(found.cards) == ["collab-256-codiff-mask-text", "collab-256-mask", "collab-256-text"]
    ignored = found.cards["collab-256-mask"]["ignored"]
    assert ignored["a second copy of the autoencoder"] > 0
    assert ignored["losses of the autoencoder's training"] == 2
    without = load(folder, text=paths["text"], mask=paths["mask"])
    assert without.dynamic_diffusers == {}
    with pytest.raises(ConcordError, match="no dynamic diffuser for 'text'"):
        without.dynamic_diffuser("text")


def test_fetched_files_are_found_and_missing_ones_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import BertTokenizerFast

    monkeypatch.setenv("CONCORD_CACHE", str(tmp_path))
    with pytest.raises(
        ConcordError, match=r"256_codiff_mask_text\.ckpt: not fetched yet .*collab-256-codiff-mask-text"
    ):
        collab.load_collaborative(256, shape=SHAPE)
    place = tmp_path / "weights" / "collab-256-codiff-mask-text"
    place.mkdir(parents=True)
    (place / "256_codiff_mask_text.ckpt").symlink_to(folder / "256_codiff_mask_text.ckpt")
    with pytest.raises(ConcordError, match=r"vocab\.txt: not fetched yet .*bert-base-uncased"):
        collab.load_collaborative(256, shape=SHAPE)
    bert = tmp_path / "weights" / "bert-base-uncased"
    BertTokenizerFast(str(folder / "bert" / "vocab.txt")).save_pretrained(bert)
    (bert / "vocab.txt").write_bytes((folder / "bert" / "vocab.txt").read_bytes())
    (bert / "config.json").write_text('{"model_type": "bert"}')
    found = collab.load_collaborative(256, shape=SHAPE)
    ids = found.expert("text").encoder.prepare(conditions())  # type: ignore[operator]
    assert ids[0].tolist()[:10] == [WORDS.index(word) for word in PIECES]


def test_the_autoencoder_alone(tmp_path: Path) -> None:
    state = DRAWN["first_stage_model."] | {"loss.perceptual_loss.lin0.model.1.weight": torch.ones(1, 4, 1, 1)}
    path = official.write_checkpoint(tmp_path / "256_vae.ckpt", state)
    network, card = collab.load_collaborative_autoencoder(256, path, shape=SHAPE)
    z = noise(1, 3, 8, 8)
    with torch.no_grad():
        expected = (official.decode(DRAWN["first_stage_model."], z / 0.058) + 1) / 2
        torch.testing.assert_close(network.decode(z), expected, **CLOSE)
    assert card["ignored"] == {"losses of the autoencoder's training": 1}


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_brought_to_float32(folder: Path, tmp_path: Path, half: torch.dtype) -> None:
    state = {name: value.to(half) for name, value in whole().items()}
    found = load(folder, codiff=official.write_checkpoint(tmp_path / "half.ckpt", state))
    assert found.cards["collab-256-codiff-mask-text"]["stored"] == [str(half).removeprefix("torch.")]
    x, tokens = noise(1, 3, 8, 8), noise(1, 5, 24)
    unet = {n: v.to(half).float() for n, v in DRAWN["model.text_unet.diffusion_model."].items()}
    with torch.no_grad():
        eps = found.experts["text"](x, 301, Encoded(tokens))
    assert eps.dtype == torch.float32
    torch.testing.assert_close(eps, official.unet_forward(unet, x, 301, tokens, heads=4), **CLOSE)


def test_networks_may_be_kept_in_half_precision(folder: Path, networks: collab.CollaborativeNetworks) -> None:
    paths = {"codiff": folder / "256_codiff_mask_text.ckpt", "tokenizer": folder / "bert"}
    found = collab.load_collaborative(256, paths, dtype=torch.bfloat16, shape=SHAPE)
    x = noise(2, 3, 8, 8)
    with torch.no_grad():
        for condition in ("text", "mask"):
            near = found.expert(condition).bind(conditions(), found.schedule)(x, 501)
            exact = networks.expert(condition).bind(conditions(), networks.schedule)(x, 501)
            assert near.dtype == torch.float32
            assert 0 < float((near - exact).norm() / exact.norm()) < 0.1
        assert found.autoencoder.decode(x).dtype == torch.float32
    assert next(iter(found.cards.values()))["dtype"] == "bfloat16"


# ------------------------------------------------------------------------------------------------------- one clear line


def refused(folder: Path, path: Path, match: str) -> None:
    with pytest.raises(ConcordError, match=match) as error:
        load(folder, codiff=path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def changed(tmp_path: Path, state: Mapping[str, Tensor]) -> Path:
    return official.write_checkpoint(tmp_path / "changed.ckpt", state, baggage=False)


def test_a_truncated_file_is_refused(folder: Path, tmp_path: Path) -> None:
    data = (folder / "256_codiff_mask_text.ckpt").read_bytes()
    for share in (0.0, 0.1, 0.999):
        path = tmp_path / f"{share}.ckpt"
        path.write_bytes(data[: int(share * len(data))])
        refused(folder, path, "not a readable weight file .*both experts.*fetch the file again")


def test_a_page_instead_of_a_file_is_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "page.ckpt"
    path.write_text("<!DOCTYPE html><html>Quota exceeded</html>")
    refused(folder, path, "not a readable weight file")


def test_other_names_are_refused_with_the_first_of_them(folder: Path, tmp_path: Path) -> None:
    key = "model.text_unet.diffusion_model.input_blocks.1.0.in_layers.0.weight"
    state = whole()
    state["model.text_unet.diffusion_model.input_blocks.1.0.in_layer.0.weight"] = state.pop(key)
    refused(folder, changed(tmp_path, state), f"lacks '{re.escape(key)}' \\(1 names are missing, 1 unknown\\)")
    refused(folder, changed(tmp_path, whole() | {"model.sketch_unet.a": torch.ones(2)}), "holds 'model.sketch_unet.a'")
    state = whole()
    state[key] = state[key][:-1]
    refused(folder, changed(tmp_path, state), r"has shape \(31,\), expected \(32,\)")
    state[key] = torch.full((32,), torch.nan)
    refused(folder, changed(tmp_path, state), f"'{re.escape(key)}' holds NaN or infinity")


def test_a_file_of_another_model_is_named(folder: Path, tmp_path: Path) -> None:
    for state, what in (
        ({"cp.resnet.conv1.weight": torch.ones(2)}, "BiSeNet"),
        ({"temb.dense.0.weight": torch.ones(2)}, "a DDPM network such as SDEdit's face model"),
        ({"cond_stage_model.transformer.text_model.a": torch.ones(2)}, "Stable Diffusion v1"),
        ({"input_blocks.0.0.weight": torch.ones(2)}, "a guided-diffusion"),
        (of_one_expert("seg_mask"), "Collaborative Diffusion's mask expert at 256x256"),
    ):
        refused(folder, changed(tmp_path, state), f"it lacks .* it looks like {what}")


def test_the_other_size_is_named(folder: Path, tmp_path: Path) -> None:
    """The file for 512x512 given for 256x256: the UNets agree, the autoencoder has one level more."""
    state = {n: v for n, v in whole().items() if not n.startswith("first_stage_model.")}
    larger = official.drawn(official.autoencoder_layout(32, (1, 1, 2, 2), 3, 1))
    state |= {f"first_stage_model.{name}": value for name, value in larger.items()}
    refused(folder, changed(tmp_path, state), r"at 256x256.*\(autoencoder\): .* dynamic diffusers at 512x512")


def test_another_noise_schedule_is_refused(folder: Path, tmp_path: Path) -> None:
    state = whole() | official.schedule_tables(0.00085, 0.012)
    refused(folder, changed(tmp_path, state), "its noise schedule is another one")


def test_tensors_of_another_type_are_refused(folder: Path, tmp_path: Path) -> None:
    state = whole()
    key = "model.text_unet.diffusion_model.out.0.weight"
    state[key] = state[key].to(torch.float8_e4m3fn)
    refused(folder, changed(tmp_path, state), f"'{re.escape(key)}' is stored as float8_e4m3fn")


class Hostile:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("function", [exec, os.system], ids=["exec", "system"])
def test_nothing_in_a_file_is_run(folder: Path, tmp_path: Path, function: Any) -> None:
    """What stands beside the weights is left out or the file refused; among the weights it is refused."""
    marker = tmp_path / "ran"
    code = f"open({str(marker)!r}, 'w')" if function is exec else f"touch {marker}"
    path = tmp_path / "hostile.ckpt"
    torch.save({"state_dict": whole(), "callbacks": Hostile(function, code)}, path)
    if function is exec:
        load(folder, codiff=path)
    else:
        refused(folder, path, "names 'posix.system', which cannot be read without running code")
    torch.save({"state_dict": {**whole(), "betas": Hostile(function, code)}}, path)
    refused(folder, path, "is something that is not read, no tensor" if function is exec else "names 'posix.system'")
    assert not marker.exists()


def test_a_missing_tokenizer_and_unknown_paths_are_named(folder: Path, tmp_path: Path) -> None:
    given = {"codiff": folder / "256_codiff_mask_text.ckpt"}
    with pytest.raises(ConcordError, match=r"holds no vocab\.txt; expected BERT's tokenizer"):
        collab.load_collaborative(256, {**given, "tokenizer": tmp_path}, shape=SHAPE)
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS, *(f"w{i}" for i in range(60))]))
    with pytest.raises(ConcordError, match="74 word pieces, the text expert knows 40"):
        collab.load_collaborative(256, {**given, "tokenizer": tmp_path}, shape=SHAPE)
    with pytest.raises(ConcordError, match="unknown file 'unet'; expected codiff, text, mask, vae, tokenizer"):
        collab.load_collaborative(256, {"unet": tmp_path})

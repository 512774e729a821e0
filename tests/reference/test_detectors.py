"""Grounding DINO and SAM at a small size: saved as transformers saves them, loaded by the production loaders, and asked
the same as transformers' own post-processing. Random weights: what is proven is the way there and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from layout_world import paint

from concord.data.datasets.layouts.layout import Layout
from concord.data.errors import ConcordError
from concord.metrics.layout.instances import Detector, Segmenter, evaluate_layout
from concord.metrics.networks.pretrained.grounding_dino import load_grounding_dino
from concord.metrics.networks.pretrained.sam import load_sam

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "cat", "dining", "table", "red", "hot", "dog"]


def picture(seed: int = 0, height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Grounding DINO of 0.4 million weights."""
    from transformers import (
        BertConfig,
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    folder = tmp_path_factory.mktemp("groundingdino")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = BertTokenizer.from_pretrained(str(folder))
    small = {
        "encoder_layers": 1,
        "encoder_ffn_dim": 32,
        "encoder_attention_heads": 2,
        "decoder_layers": 2,
        "decoder_ffn_dim": 32,
        "decoder_attention_heads": 2,
        "num_queries": 30,
        "d_model": 32,
    }
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=64,
            embed_dim=16,
            depths=[1, 1, 1, 1],
            num_heads=[1, 2, 4, 4],
            window_size=4,
            out_features=["stage2", "stage3", "stage4"],
        ),
        text_config=BertConfig(
            vocab_size=len(WORDS),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
        ).to_dict(),
        max_text_len=32,
        **small,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = GroundingDinoForObjectDetection(config)
    network.save_pretrained(folder)
    images = GroundingDinoImageProcessor(size={"shortest_edge": 96, "longest_edge": 160})
    GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sam_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SAM of 0.1 million weights at 64 x 64."""
    from transformers import (
        SamConfig,
        SamImageProcessor,
        SamMaskDecoderConfig,
        SamModel,
        SamProcessor,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )

    folder = tmp_path_factory.mktemp("sam")
    vision = SamVisionConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        patch_size=8,
        output_channels=16,
        mlp_dim=32,
        window_size=4,
        global_attn_indexes=[1],
        num_pos_feats=8,
    )
    prompt = SamPromptEncoderConfig(hidden_size=16, image_size=64, patch_size=8, mask_input_channels=4)
    decoder = SamMaskDecoderConfig(
        hidden_size=16, mlp_dim=32, num_hidden_layers=2, num_attention_heads=2, iou_head_hidden_dim=16
    )
    parts: dict[str, Any] = {
        f"{name}_config": part.to_dict()
        for name, part in (("vision", vision), ("prompt_encoder", prompt), ("mask_decoder", decoder))
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = SamModel(SamConfig(**parts))
    network.save_pretrained(folder)
    images = SamImageProcessor(
        size={"longest_edge": 64},
        pad_size={"height": 64, "width": 64},
        mask_size={"longest_edge": 32},
        mask_pad_size={"height": 32, "width": 32},
    )
    SamProcessor(images).save_pretrained(folder)
    return folder


# ------------------------------------------------------------------------------------------------------ the detector


@pytest.fixture(scope="module")
def dino(dino_folder: Path) -> Any:
    return load_grounding_dino(dino_folder)


def transformers_boxes(folder: Path, image: np.ndarray, text: str, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes in [0, 1] and scores by transformers' own way, without suppression of overlaps."""
    from transformers import AutoProcessor, GroundingDinoForObjectDetection

    network = GroundingDinoForObjectDetection.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor(images=image, text=text, return_tensors="pt")
    with torch.inference_mode():
        outputs = network(**inputs)
    (found,) = processor.post_process_grounded_object_detection(
        outputs, inputs["input_ids"], threshold=threshold, text_threshold=0.25, target_sizes=[image.shape[:2]]
    )
    height, width = image.shape[:2]
    return found["boxes"].double().numpy() / (width, height, width, height), found["scores"].double().numpy()


def suppressed(boxes: np.ndarray, scores: np.ndarray, most: float) -> np.ndarray:
    """Greedy suppression written out: the surest box stays, those that overlap it by more than `most` go."""
    left, kept = list(np.argsort(-scores)), []
    while left:
        best = left.pop(0)
        kept.append(boxes[best])
        left = [other for other in left if overlap(boxes[best], boxes[other]) <= most]
    return np.array(kept).reshape(-1, 4)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    both = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 64), (90, 50)])
def test_detections_are_transformers_own(dino: Any, dino_folder: Path, height: int, width: int) -> None:
    image = picture(1, height, width)
    found = dino.detect(image, "Dining table ")
    boxes, scores = transformers_boxes(dino_folder, image, "dining table.", 0.25)
    expected = suppressed(boxes, scores, 0.8)
    assert isinstance(dino, Detector)
    assert found.dtype == np.float64
    assert 0 < len(expected) < 30  # the threshold leaves some out
    assert found == pytest.approx(expected, abs=2e-6)


def test_the_threshold_and_the_suppression_are_the_evaluators(dino: Any, dino_folder: Path) -> None:
    assert (dino.threshold, dino.nms) == (0.25, 0.8)
    image = picture(2)
    for threshold, nms in ((0.25, 0.3), (0.9, 0.8), (1.0, 0.8)):
        boxes, scores = transformers_boxes(dino_folder, image, "cat.", threshold)
        dino.threshold, dino.nms = threshold, nms
        try:
            found = dino.detect(image, "cat")
        finally:
            dino.threshold, dino.nms = 0.25, 0.8
        assert found == pytest.approx(suppressed(boxes, scores, nms), abs=2e-6)
        assert found.shape[1] == 4
    assert len(found) == 0  # no probability exceeds 1: nothing is detected, and that is no error


def test_another_phrase_is_another_question(dino: Any) -> None:
    image = picture(3)
    assert not np.array_equal(dino.detect(image, "cat"), dino.detect(image, "hot dog"))
    assert np.array_equal(dino.detect(image, "cat"), dino.detect(image, "cat."))


# ----------------------------------------------------------------------------------------------------- the segmenter


@pytest.fixture(scope="module")
def sam(sam_folder: Path) -> Any:
    return load_sam(sam_folder)


@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 64), (90, 50)])
def test_masks_are_transformers_own(sam: Any, sam_folder: Path, height: int, width: int) -> None:
    from transformers import SamModel, SamProcessor

    network, processor = SamModel.from_pretrained(sam_folder).eval(), SamProcessor.from_pretrained(sam_folder)
    image, box = picture(4, height, width), np.array([0.1, 0.2, 0.75, 0.9])
    corners = (box * (width, height, width, height)).tolist()
    inputs = processor(images=image, input_boxes=[[corners]], return_tensors="pt")
    inputs["input_boxes"] = inputs["input_boxes"].float()
    with torch.inference_mode():
        sizes = {key: inputs.pop(key) for key in ("original_sizes", "reshaped_input_sizes")}
        outputs = network(**inputs, multimask_output=True)
    (masks,) = processor.image_processor.post_process_masks(outputs.pred_masks, *sizes.values())
    best = int(np.argmax(outputs.iou_scores[0, 0].numpy()))
    found = sam.segment(image, box)
    assert isinstance(sam, Segmenter)
    assert found.dtype == np.bool_
    assert found.shape == (height, width)
    assert np.array_equal(found, masks[0, best].numpy())
    assert 0 < found.mean() < 1
    assert len({mask.tobytes() for mask in masks[0].numpy()}) == 3  # taking the best of the three matters


def test_the_encoder_runs_once_an_image(sam: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    encode = sam.network.get_image_embeddings
    monkeypatch.setattr(sam.network, "get_image_embeddings", lambda pixels: runs.append(1) or encode(pixels))
    boxes = np.array([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]])
    first, second = picture(5), picture(6)
    masks = [sam.segment(image, box) for image in (first, second) for box in boxes]
    assert len(runs) == 2
    assert not np.array_equal(masks[0], masks[1])
    # Asked in another order, with the other image in between, it answers the same.
    again = [sam.segment(image, box) for box in boxes for image in (first, second)]
    assert len(runs) == 6  # only the last image is kept
    for a, b in zip((masks[0], masks[2], masks[1], masks[3]), again, strict=True):
        assert np.array_equal(a, b)


def test_both_serve_the_evaluator(dino: Any, sam: Any) -> None:
    layout = Layout.of("two", [(0.0, 0.0, 0.6, 0.6), (0.4, 0.4, 1.0, 1.0)], ["a red cat", "a green dining table"])
    instances = evaluate_layout(paint(layout, 64), layout, dino, sam, size=64)
    for one, box, name in zip(instances, layout.boxes, layout.categories, strict=True):
        best = max((overlap(box, other) for other in dino.detect(paint(layout, 64), name)), default=0.0)
        assert one.iou == pytest.approx(best, abs=1e-12)


# ------------------------------------------------------------------------------------------------------ wrong folders


def copy(folder: Path, target: Path) -> Path:
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


@pytest.mark.parametrize("load", [load_grounding_dino, load_sam])
def test_missing_folders_and_files_are_one_line(load: Any, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    name = "groundingdino-swint-hf" if load is load_grounding_dino else "sam-vit-h-hf"
    folder: Path = request.getfixturevalue("dino_folder" if load is load_grounding_dino else "sam_folder")
    with pytest.raises(ConcordError, match=f"no such weight file; .* `concord weights fetch {name}`"):
        load(tmp_path / "none")
    for number, file in enumerate(("model.safetensors", "config.json")):
        broken = copy(folder, tmp_path / f"lacks-{number}")
        (broken / file).unlink()
        with pytest.raises(ConcordError, match=f"holds no {file}; expected .* `concord weights fetch {name}`"):
            load(broken)
    broken = copy(folder, tmp_path / "cut")
    (broken / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ConcordError, match=r"no weights of .*; fetch the folder again") as error:
        load(broken)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("load", [load_grounding_dino, load_sam])
def test_every_weight_is_accounted_for(load: Any, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    from safetensors.torch import load_file, save_file

    folder: Path = request.getfixturevalue("dino_folder" if load is load_grounding_dino else "sam_folder")
    state = load_file(folder / "model.safetensors")
    key = next(name for name in state if name.endswith(("fc1.weight", "lin1.weight")))
    cases = {
        "lacks": {name: value for name, value in state.items() if name != key},
        "holds": {**state, "stray.weight": torch.zeros(2)},
        "shape": {**state, key: torch.zeros(3, 3)},
        "ids": {**state, "model.text_backbone.embeddings.position_ids": torch.arange(4)},
    }
    for case, weights in cases.items():
        changed = copy(folder, tmp_path / case)
        save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
        if case == "ids":
            load(changed)  # a buffer of older versions, made anew
            continue
        with pytest.raises(ConcordError, match=r"no weights of .*; fetch the folder again") as error:
            load(changed)
        assert "\n" not in str(error.value)
        assert (key if case != "holds" else "stray.weight") in str(error.value)


def test_the_file_in_the_folder_serves_as_its_path(sam_folder: Path, sam: Any) -> None:
    again = load_sam(sam_folder / "model.safetensors")
    box = np.array([0.2, 0.2, 0.8, 0.8])
    assert np.array_equal(again.segment(picture(7), box), sam.segment(picture(7), box))
    assert json.loads((sam_folder / "config.json").read_text())["model_type"] == "sam"

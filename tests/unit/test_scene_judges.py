"""Detector and segmenter of the world of layouts: what they decode, on what they are trained, what they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from data.errors import ConcordError
from data.synthetic.scenes import CATEGORIES, scene
from methods.training import layout_judges
from methods.training.layout_corpus import Scenes, _draw
from metrics.layout import Detector, Segmenter, evaluate_layout
from metrics.networks.boxes import box_iou
from metrics.networks.scenes import GRID, SceneDetector, SceneSegmenter, cut, pasted, peaks, reduced


@pytest.fixture(scope="module")
def corpus() -> Scenes:
    arrays = {name: torch.from_numpy(value) for name, value in _draw(range(20)).items()}
    return Scenes(**{**arrays, "images": arrays["images"].movedim(-1, 1).contiguous()})


def test_the_corpus_is_the_world(corpus: Scenes) -> None:
    third = scene(3)
    assert np.array_equal(corpus.images[3].movedim(0, -1).numpy(), third.image)
    assert np.array_equal(corpus.instances[3].numpy(), third.instances)
    names = [CATEGORIES[k] for k in corpus.categories[3].tolist() if k >= 0]
    assert tuple(names) == third.layout.categories
    assert np.allclose(corpus.boxes[3, : len(names)].numpy(), third.layout.boxes)
    assert not corpus.boxes[3, len(names) :].any()


def test_the_targets_decode_to_the_boxes(corpus: Scenes) -> None:
    """What the detector is asked to predict is what `peaks` turns into the layout again."""
    heat, near, wanted = layout_judges.targets(corpus, torch.arange(20), len(CATEGORIES))
    assert heat.shape == (20, len(CATEGORIES), GRID, GRID)
    assert bool((heat <= 1).all())
    found = []
    for n in range(20):
        for k in range(6):
            kind = int(corpus.categories[n, k])
            if kind < 0:
                continue
            boxes = peaks(heat[n, kind].numpy(), wanted[n].numpy())
            found.append(float(box_iou(corpus.boxes[n, k].numpy(), boxes).max()))
            assert bool(near[n].any())
    assert np.mean(np.array(found) >= 0.5) == 1.0
    assert np.mean(found) > 0.9


def test_a_perfect_prediction_has_no_loss(corpus: Scenes) -> None:
    heat, near, wanted = layout_judges.targets(corpus, torch.arange(4), len(CATEGORIES))
    sure = torch.where(heat == 1, 20.0, -20.0)
    assert float(layout_judges.focal(sure, heat)) == pytest.approx(0, abs=1e-3)
    assert float(layout_judges.focal(-sure, heat)) > 100
    assert float(layout_judges.box_loss(wanted, near, wanted)) == pytest.approx(0, abs=1e-5)
    assert float(layout_judges.box_loss(2 * wanted, near, wanted)) > 0.5


def test_near_equal_peaks_are_one_and_the_surest_comes_first() -> None:
    centres, sides = np.zeros((GRID, GRID)), np.full((4, GRID, GRID), 0.4)
    centres[10, 10], centres[10, 12], centres[20, 20], centres[5, 25] = 0.5, 0.9, 0.7, 0.1
    found = peaks(centres, sides)
    assert len(found) == 2  # the second is nearly the first, the last is below the threshold
    assert np.allclose(found[0], [0, 0, 12.5 / 32 + 0.4, 10.5 / 32 + 0.4])
    assert peaks(np.zeros((GRID, GRID)), sides).shape == (0, 4)


def test_what_is_cut_out_is_pasted_back() -> None:
    """A mask cut like an image and pasted again is the mask, wherever the box lies."""
    y, x = np.mgrid[:64, :64]
    for box in ([0.2, 0.3, 0.7, 0.8], [0.0, 0.0, 1.0, 1.0], [0.6, 0.05, 0.95, 0.3]):
        low, high = np.array(box[:2]) * 64, np.array(box[2:]) * 64
        middle, half = (low + high) / 2, (high - low) / 2
        disc = ((x + 0.5 - middle[0]) / half[0]) ** 2 + ((y + 0.5 - middle[1]) / half[1]) ** 2 < 0.8
        truth = torch.from_numpy(disc).float()[None, None]
        boxes = torch.tensor([box])
        patch = cut(truth.repeat(1, 3, 1, 1), boxes)
        assert patch.shape == (1, 4, 32, 32)
        back = pasted(patch[:, :1], boxes, 64, 64)[0] > 0
        both = float((back.numpy() & disc).sum() / (back.numpy() | disc).sum())
        assert both > 0.93, box


def test_nothing_is_pasted_outside_the_box() -> None:
    boxes = torch.tensor([[0.25, 0.5, 0.5, 1.0]])
    found = pasted(torch.ones(1, 1, 32, 32), boxes, 64, 64)[0] > 0
    assert torch.nonzero(found).amin(0).tolist() == [32, 16]
    assert torch.nonzero(found).amax(0).tolist() == [63, 31]


def test_they_are_the_evaluators_detector_and_segmenter() -> None:
    detector, segmenter = SceneDetector(CATEGORIES, 8).eval(), SceneSegmenter(8).eval()
    assert isinstance(detector, Detector)
    assert isinstance(segmenter, Segmenter)
    one = scene(12)
    instances = evaluate_layout(one.image, one.layout, detector, segmenter)
    assert len(instances) == one.layout.level
    large = one.image.repeat(8, 0).repeat(8, 1)
    assert np.array_equal(reduced(large), one.image)
    assert np.array_equal(detector.detect(large, "car"), detector.detect(one.image, "car"))
    mask = segmenter.segment(large, np.array([0.1, 0.1, 0.5, 0.9]))
    assert mask.shape == (512, 512)
    assert mask.dtype == np.bool_
    with pytest.raises(ConcordError, match="category 'giraffe': the embedded detector knows ball, car"):
        detector.detect(one.image, "giraffe")


def test_the_detector_looks_at_each_image_anew() -> None:
    """What it keeps from one category to the next belongs to one image."""
    detector = SceneDetector(CATEGORIES, 8).eval()
    seen: list[Tensor] = []
    detector.stem.register_forward_hook(lambda module, args, out: seen.append(out))
    first, second = scene(1).image, scene(2).image
    for image in (first, first, second, first):
        detector.detect(image, "fish")
        detector.detect(image, "car")
    assert len(seen) == 3


def test_learning_lowers_the_losses(corpus: Scenes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout_judges, "scenes", lambda split, limit=None: corpus)
    for kind in (layout_judges.TrainSceneDetector, layout_judges.TrainSceneSegmenter):
        monkeypatch.setattr(kind, "config", {"width": 8})
        task = kind(torch.device("cpu"))
        optimizer = torch.optim.Adam(task.model.parameters(), 5e-3)
        losses = []
        for step in range(8):
            loss = task.loss(torch.Generator().manual_seed(step % 2), 4)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.8 * losses[0]
        state, config = task.outputs(task.model)[kind.name]
        assert config["width"] == 8
        assert set(state) == set(task.model.state_dict())

"""Detector and segmenter of the world of layouts: what they decode, on what they are trained, what they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from concord.data.errors import ConcordError
from concord.data.synthetic.scenes.scene import CATEGORIES, INTERACTIONS, scene
from concord.methods.training import layout_judges
from concord.methods.training.layout_corpus import Scenes, _draw
from concord.metrics.layout.instances import Detector, InteractionJudge, Segmenter, evaluate_layout
from concord.metrics.networks.boxes import box_iou
from concord.metrics.networks.embedded.scenes import (
    GRID,
    SceneDetector,
    SceneInteractions,
    SceneSegmenter,
    cut,
    pair_planes,
    pasted,
    peaks,
    reduced,
)


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


def test_the_targets_of_mirrored_scenes_decode_to_the_mirrored_boxes(corpus: Scenes) -> None:
    turned = (torch.arange(20) % 2 == 0)[:, None, None, None]
    plain = layout_judges.targets(corpus, torch.arange(20), len(CATEGORIES))
    heat, near, wanted = layout_judges.mirrored(turned, *plain)
    for n in range(20):
        for kind in sorted(set(corpus.categories[n].tolist()) - {-1}):
            expected = peaks(plain[0][n, kind].numpy(), plain[2][n].numpy())
            found = peaks(heat[n, kind].numpy(), wanted[n].numpy())
            if n % 2 == 0:
                expected = np.stack([1 - expected[:, 2], expected[:, 1], 1 - expected[:, 0], expected[:, 3]], 1)
            assert np.allclose(sorted(found.tolist()), sorted(expected.tolist()), atol=1e-6)
        assert near[n].sum() == plain[1][n].sum()


def test_a_perfect_prediction_has_no_loss(corpus: Scenes) -> None:
    heat, near, wanted = layout_judges.targets(corpus, torch.arange(4), len(CATEGORIES))
    sure = torch.where(heat == 1, 20.0, -20.0)
    assert float(layout_judges.focal(sure, heat)) == pytest.approx(0, abs=1e-3)
    assert float(layout_judges.focal(-sure, heat)) > 100
    assert float(layout_judges.box_loss(wanted, near, wanted)) == pytest.approx(0, abs=1e-5)
    assert float(layout_judges.box_loss(2 * wanted, near, wanted)) > 0.5


def test_a_mirrored_picture_has_the_mirrored_detections() -> None:
    """Exactly, whatever the weights: the detector looks both ways."""
    torch.manual_seed(0)
    detector = SceneDetector(CATEGORIES, width=8).eval()
    with torch.no_grad():
        detector.centres.bias.fill_(0.0)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    own, turned = (detector.detect(np.ascontiguousarray(x), "car") for x in (image, image[:, ::-1]))
    assert len(own) > 3
    mirrored = np.stack([1 - turned[:, 2], turned[:, 1], 1 - turned[:, 0], turned[:, 3]], 1)
    assert np.allclose(sorted(own.tolist()), sorted(mirrored.tolist()), atol=1e-4)
    with torch.inference_mode():
        centres, sides = detector(torch.rand(1, 3, 64, 64))
        assert not torch.allclose(centres, centres.flip(-1), atol=1e-3)  # one look is not symmetric
        assert bool((sides > 0).all())


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
    for kind in (
        layout_judges.TrainSceneDetector,
        layout_judges.TrainSceneSegmenter,
        layout_judges.TrainSceneInteractions,
    ):
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


# --------------------------------------------------------------------------------------------------------- interactions


def test_pairs_are_the_worlds_interactions(corpus: Scenes) -> None:
    """Every ordered pair once; a link in both orders, anything else in its own."""
    pairs = layout_judges.ordered_pairs(corpus)
    for n in range(20):
        made = scene(n)
        rows = pairs[pairs[:, 0] == n][:, 1:].tolist()
        level = made.layout.level
        assert len(rows) == level * (level - 1)
        expected = {(s, o): kind for s, kind, o in made.interactions}
        expected |= {(o, s): kind for s, kind, o in made.interactions if kind == "link"}
        assert {(s, o): INTERACTIONS[k - 1] for s, o, k in rows if k} == expected
    assert int((pairs[:, 3] > 0).sum()) > 10


def test_planes_tell_the_way_from_subject_to_object() -> None:
    left, right = torch.tensor([[0.0, 0.25, 0.25, 0.75]]), torch.tensor([[0.75, 0.25, 1.0, 0.75]])
    planes = pair_planes(left, right, 64)[0]
    assert planes.shape == (4, 64, 64)
    assert planes[0].sum() == planes[1].sum() == 16 * 32
    assert planes[0, 32, 8] == planes[1, 32, 56] == 1
    middle = planes[2, 32]
    assert float(middle[8]) == pytest.approx(0, abs=0.02)
    assert float(middle[56]) == pytest.approx(1, abs=0.02)
    assert float(planes[3, 32].abs().max()) == pytest.approx(0, abs=0.02)
    turned = pair_planes(right, left, 64)[0]
    assert torch.equal(turned[0], planes[1])
    # the other way round, both coordinates start at the other end
    assert torch.allclose(turned[2, :, 12:52], 1 - planes[2, :, 12:52], atol=1e-5)
    assert torch.allclose(turned[3], -planes[3], atol=1e-5)


def test_the_judge_of_interactions_reads_large_images_as_small_ones() -> None:
    judge = SceneInteractions(INTERACTIONS, 8).eval()
    assert isinstance(judge, InteractionJudge)
    one = scene(12)
    boxes = one.layout.boxes[0], one.layout.boxes[1]
    large = one.image.repeat(8, 0).repeat(8, 1)
    assert judge.judge(large, *boxes) == judge.judge(one.image, *boxes)
    assert judge.judge(one.image, *boxes) in (None, *INTERACTIONS)
    with torch.no_grad():
        last = judge.head[-1]
        assert isinstance(last, torch.nn.Linear)
        last.weight.zero_()
        last.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 5.0, 0.0]))
    assert judge.judge(one.image, *boxes) == "on"
    errors = layout_judges.interaction_errors(judge, _few())
    assert errors["by_kind"]["on"] == 1.0
    assert errors["by_kind"]["link"] == 0.0
    assert errors["pairs_without_one_given_none"] == 0.0


def _few() -> Scenes:
    arrays = {name: torch.from_numpy(value) for name, value in _draw(range(40)).items()}
    return Scenes(**{**arrays, "images": arrays["images"].movedim(-1, 1).contiguous()})

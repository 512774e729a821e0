"""Masked images, what restores them without training, and the scores that they and drawn masks have of their own."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import toy_world
from toy_networks import toy_networks

from concord.benchmarks.plan.requests import make_request_set
from concord.benchmarks.suite import read_suite
from concord.data.conditions.masked_image import GREY, GREY_LEVEL, MaskedImage, known_pixels
from concord.data.datasets.faces.open import open_faces
from concord.data.errors import ConcordError
from concord.data.labels import CLASSES, PALETTE
from concord.data.networks import Networks
from concord.data.request import Conditions, Request
from concord.methods.base import get_method, make_params
from concord.methods.core.schedule import Schedule
from concord.metrics.base import Observation, get_metric
from concord.metrics.segmentation.drawn_mask import drawn_confusions

NOBODY: Any = SimpleNamespace()  # metrics that look through no network

# ----------------------------------------------------------------------------------------------------- what is hidden


def test_patches_are_nested_and_belong_to_the_face() -> None:
    five, ten, twenty = (known_pixels("27003", m, 64) for m in (5, 10, 20))
    assert not bool((~five & ten).any())  # what 5 patches hide, 10 hide too
    assert not bool((~ten & twenty).any())
    assert np.array_equal(five, known_pixels("27003", 5, 64))
    assert not np.array_equal(five, known_pixels("27004", 5, 64))
    shares = [float((~known_pixels(str(i), 5, 64)).mean()) for i in range(200)]
    assert 0.15 < np.mean(shares) < 5 / 16  # overlaps and cuts leave less than five whole patches
    assert max(shares) <= 5 / 16


def test_patches_beyond_the_border_are_cut() -> None:
    found = [~known_pixels(str(i), 1, 64) for i in range(200)]
    sizes = {(int(hidden.any(1).sum()), int(hidden.any(0).sum())) for hidden in found}
    assert max(sizes) <= (16, 16)
    assert (16, 16) in sizes
    assert any(rows < 16 or columns < 16 for rows, columns in sizes)  # at the right or the lower border
    assert all(hidden.sum() == hidden.any(1).sum() * hidden.any(0).sum() for hidden in found)  # one rectangle
    assert known_pixels("1", 3, 256).shape == (256, 256)


def test_no_patches_are_refused() -> None:
    for wrong in (0, -1):
        with pytest.raises(ConcordError, match=f"{wrong} patches; expected 1 or more"):
            known_pixels("1", wrong, 64)


def test_a_request_set_hides_them(tmp_path: Path) -> None:
    faces = open_faces(toy_world.write_tree(tmp_path / "tree", 3))
    sets = [
        make_request_set("toys", faces, ["masked_image"], 64, 3, options={"masked_image": {"patches": m}})
        for m in (5, 10)
    ]
    given = [s.conditions_of(s.requests[1], s.conditions).masked_image for s in sets]
    for m, condition in zip((5, 10), given, strict=True):
        assert condition is not None
        picture, known = condition
        assert np.array_equal(known, known_pixels("1", m, 64))
        assert bool((picture[~known] == GREY_LEVEL).all())
        assert np.array_equal(picture[known], faces.items[1].image(64)[known])
    again = MaskedImage(patches=5).read(faces.items[1], 64)
    assert given[0] is not None
    assert np.array_equal(again[0], given[0][0])
    plain = make_request_set("toys", faces, ["source_image"], 64, 3)
    source = plain.conditions_of(plain.requests[1], ["source_image"]).source_image
    assert source is not None
    assert np.array_equal(source, faces.items[1].image(64))
    with pytest.raises(ConcordError, match="condition 'masked_image': option 'patches' is missing"):
        make_request_set("toys", faces, ["masked_image"], 64, 3)


def test_the_grey_of_hidden_pixels_is_one_number() -> None:
    """Datasets hide in uint8, methods in [0, 1]: the same grey, zero in [-1, 1] within half a level."""
    assert (GREY, GREY_LEVEL) == (0.5, 128)
    assert abs(GREY_LEVEL / 255 - GREY) <= 0.5 / 255


def test_a_suite_says_how_many(tmp_path: Path) -> None:
    with pytest.raises(ConcordError, match="'masked_image': option 'patches' is missing"):
        read_suite(str(toy_world.write_suite(tmp_path, conditions="conditions: [text, mask, masked_image]")))
    lines = "conditions: [text, mask, masked_image]\noptions: {masked_image: {patches: 0}}"
    with pytest.raises(ConcordError, match="patches"):
        read_suite(str(toy_world.write_suite(tmp_path, conditions=lines)))
    lines = "conditions: [text, mask, masked_image]\noptions: {masked_image: {patches: 5}}"
    assert read_suite(str(toy_world.write_suite(tmp_path, conditions=lines))).options == {
        "masked_image": {"patches": 5}
    }


# ---------------------------------------------------------------------------------------------------------- baselines


class FlatWorld:
    """Latents are images of 8x8; the denoiser finds no noise."""

    device, schedule, image_size = torch.device("cpu"), Schedule.scaled_linear(), 8
    autoencoder = SimpleNamespace(encode=lambda x: x * 2 - 1, decode=lambda z: (z + 1) / 2)

    def __init__(self, exact: bool = False) -> None:
        self.exact, self.calls = exact, list[int]()

    def unconditional(self) -> Any:
        def denoise(x_t: torch.Tensor, t: int) -> torch.Tensor:
            self.calls.append(t)
            abar = self.schedule.abar(t, x_t)
            return (x_t - abar.sqrt() * 0.3) / (1 - abar).sqrt()  # every image is flat, of latent value 0.3

        return SimpleNamespace(bind=lambda conditions, schedule: denoise)

    @property
    def networks(self) -> Networks:
        return toy_networks(self, **{"expert/unconditional": self.unconditional()})


def eight(known: np.ndarray) -> list[Request]:
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return [Request.make("toy", "0", 0, Conditions(masked_image=(picture, known)))]


def run(name: str, toys: FlatWorld, **params: Any) -> torch.Tensor:
    kind = get_method(name)
    half = np.repeat([[True] * 4 + [False] * 4], 8, axis=0)
    return kind(make_params(kind, params), toys.networks).generate(eight(half))[0]


def test_sdedit_denoises_from_its_start() -> None:
    toys = FlatWorld()
    image = run("sdedit", toys, start=0.5, steps=100)
    assert toys.calls == list(range(491, 0, -10))
    torch.testing.assert_close(image, torch.full_like(image, 0.65), atol=0.1, rtol=0)  # what its model believes in
    toys = FlatWorld()
    little = run("sdedit", toys, start=0.001, steps=1000)  # almost no noise: one step back to the model's belief
    assert toys.calls == [1]
    assert little.shape == (3, 8, 8)
    with pytest.raises(ConcordError, match="parameter 'start'"):
        run("sdedit", toys, start=0)


def test_clean_masked_is_the_masked_image() -> None:
    image = run("clean-masked", FlatWorld())
    original = torch.from_numpy(eight(np.ones((8, 8), bool))[0].conditions.masked_image[0]).movedim(-1, 0) / 255  # type: ignore[index]
    assert torch.equal(image[..., :4], original[..., :4])
    assert bool((image[..., 4:] == 0.5).all())


# ------------------------------------------------------------------------------------------------------------- scores


def test_psnr_of_what_was_known() -> None:
    original = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.2
    known = np.zeros((8, 8), dtype=bool)
    known[:3] = True
    made = original.clone()
    made[1, :, :3] += 0.1  # of what is known
    made[2, :, 3:] += 0.3  # of what is not
    conditions = [Conditions(masked_image=(np.zeros((8, 8, 3), np.uint8), known))] * 3
    metric: Any = get_metric("psnr-unmasked")
    scores = metric.score(Observation(made, conditions, NOBODY, original))
    assert [s.value for s in scores] == pytest.approx([100, 20, 100], abs=1e-3)
    noisy = (original + 0.05 * torch.randn(original.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    squares = [float(a - b) ** 2 for a, b in zip(noisy[0, :, :3].ravel(), original[0, :, :3].ravel(), strict=True)]
    want = -10 * math.log10(sum(squares) / len(squares))
    found = metric.score(Observation(noisy, conditions, NOBODY, original))
    assert found[0].value == pytest.approx(want, rel=1e-5)
    nothing = [Conditions(masked_image=(np.zeros((8, 8, 3), np.uint8), ~np.ones((8, 8), bool)))] * 3
    hidden = metric.score(Observation(made, nothing, NOBODY, original))
    assert [(s.value, s.status) for s in hidden] == [(0.0, "nothing is known")] * 3
    small = [Conditions(masked_image=(np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), bool)))] * 3
    with pytest.raises(ConcordError, match="what is known of a masked image has shape"):
        metric.score(Observation(made, small, NOBODY, original))
    with pytest.raises(ConcordError, match="condition 'masked_image'"):
        metric.score(Observation(made, [Conditions()] * 3, NOBODY, original))


def drawn(classes: np.ndarray, mask: np.ndarray) -> Observation:
    images = torch.from_numpy(PALETTE[classes]).movedim(-1, 1).float() / 255
    return Observation(images, [Conditions(mask=m) for m in mask], NOBODY)


def test_drawn_masks_are_read_exactly() -> None:
    rng = np.random.default_rng(0)
    mask, classes = rng.integers(0, CLASSES, (2, 4, 12, 12))
    counts = drawn(classes, mask).memo(drawn_confusions)
    assert counts.shape == (4, CLASSES**2)
    confusion = np.zeros((CLASSES, CLASSES))
    np.add.at(confusion, (mask.ravel(), classes.ravel()), 1)
    assert np.array_equal(counts.sum(0).reshape(CLASSES, CLASSES), confusion)
    right = np.diag(confusion)
    nothing = np.zeros((0, CLASSES**2), np.float32)
    want = {
        "pixel-accuracy": 100 * right.sum() / confusion.sum(),
        "drawn-class-accuracy": np.mean(right / confusion.sum(1)),
        "drawn-class-iou": np.mean(right / (confusion.sum(0) + confusion.sum(1) - right)),
    }
    for name, value in want.items():
        metric: Any = get_metric(name)
        assert metric.compute(counts, nothing) == pytest.approx(value)
        assert metric.compute(drawn(mask, mask).memo(drawn_confusions), nothing) == metric.bounds[1]
    near = drawn(classes, mask)
    near.images += 0.01 * torch.sign(torch.randn(near.images.shape, generator=torch.Generator().manual_seed(0)))
    assert np.array_equal(near.memo(drawn_confusions), counts)  # colours are further apart than a few levels
    assert math.isfinite(want["drawn-class-iou"])


def test_a_drawn_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ConcordError, match="is 4x4 pixels, its image of classes 12x12"):
        drawn(np.zeros((1, 12, 12), int), np.zeros((1, 4, 4), int)).memo(drawn_confusions)
    images = torch.zeros(1, 3, 4, 4)
    with pytest.raises(ConcordError, match="no condition 'mask'"):
        Observation(images, [Conditions()], NOBODY).memo(drawn_confusions)


# ------------------------------------------------------------------------------------------------------ what is shown


def test_grids_show_what_was_masked_and_what_was_to_be_parsed(tmp_path: Path) -> None:
    """The images of the request set again, for the grid and for every request; kept beside the report as they are."""
    from concord.reports.figures.conditions import dataset_conditions, keep_conditions, kept_conditions
    from concord.reports.figures.grid import condition_image

    faces = open_faces(toy_world.write_tree(tmp_path / "tree", 3))
    names = ["masked_image", "source_image"]
    asked = make_request_set("toys", faces, names, 64, 3, options={"masked_image": {"patches": 5}})
    run: Any = SimpleNamespace(
        ids=[request.id for request in asked.requests],
        manifest={"image_size": 64, "data": {"fingerprint": asked.fingerprint}},
    )
    shown = dataset_conditions(faces, run, 2, names, asked.options)
    assert list(shown) == run.ids[:2]
    keep_conditions(tmp_path, "toys", shown)
    kept = kept_conditions(tmp_path, "toys", run.ids[:2])
    for request, (name, every) in zip(asked.requests, shown.every(), strict=True):
        given = asked.conditions_of(request, names)
        assert name == request.id
        for found in [every, *([shown[name], kept[name]] if name in shown else [])]:
            assert found.masked_image is not None
            assert given.masked_image is not None
            assert np.array_equal(found.masked_image[0], given.masked_image[0])
            assert np.array_equal(found.masked_image[1], given.masked_image[1])
            assert np.array_equal(found.source_image, given.source_image)
        drawn = condition_image("masked_image", every, None, 64)
        assert drawn is not None
        hidden = ~given.masked_image[1]
        assert hidden.any()
        assert set(np.unique(drawn[hidden])) <= {205, 235}  # a checked grey
        assert np.array_equal(drawn[~hidden], request.item.image(64)[~hidden])
    plain = dataset_conditions(faces, run, 2, ["text"])
    assert plain[run.ids[0]].masked_image is None

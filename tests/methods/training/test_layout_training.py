"""Training of the world of layouts' generators, on a few scenes and at tiny widths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from concord.data.checkpoints import load_weights
from concord.data.datasets.layouts.layout import COLOURS
from concord.data.synthetic.scenes.scene import reference, scene
from concord.methods.networks.autoencoder import Autoencoder
from concord.methods.networks.experts import Encoded
from concord.methods.networks.layout_experts import LayoutBatch, LayoutExpert
from concord.methods.training import all_tasks, layouts
from concord.methods.training.layout_corpus import Scenes, _draw
from concord.methods.training.trainer import train

TRAINED = ("scenes-trunk", "scenes-interaction", "scenes-attribute", "scenes-style")


@pytest.fixture(scope="module")
def corpus() -> Scenes:
    arrays = {name: torch.from_numpy(value) for name, value in _draw(range(12)).items()}
    return Scenes(**{**arrays, "images": arrays["images"].movedim(-1, 1).contiguous()})


@pytest.fixture
def tiny(corpus: Scenes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve scenes with their references, a small untrained autoencoder, small models."""
    pictures = torch.from_numpy(np.stack([reference(k) for k in range(12)]))
    autoencoder = Autoencoder(width=16, fine_width=16, blocks=1)
    autoencoder.fit_linear(corpus.pictures(torch.arange(12)))
    autoencoder.eval().requires_grad_(False)
    monkeypatch.setattr(layouts, "scenes", lambda split, limit=None: corpus)
    monkeypatch.setattr(layouts, "load_autoencoder", lambda device, name: autoencoder)
    monkeypatch.setattr(layouts, "references", lambda split, count: pictures[:count])
    monkeypatch.setattr(layouts.TrainLayoutExpert, "channels", (16, 16, 16))


def test_a_layout_is_that_of_its_scene(corpus: Scenes) -> None:
    for index in range(12):
        found, wanted = layouts.layout_of(corpus, index), scene(index)
        assert found.labels == wanted.layout.labels
        assert found.interactions == wanted.interactions
        np.testing.assert_allclose(found.boxes, wanted.layout.boxes, atol=1e-6)


def test_a_mirrored_scene_has_its_mirrored_boxes(tiny: None, corpus: Scenes) -> None:
    data = layouts.SceneLatents("train", torch.device("cpu"))
    assert len(data.values) == 2 * len(corpus)
    autoencoder = layouts.load_autoencoder(torch.device("cpu"), "")
    mirrored = autoencoder.encode(corpus.pictures(torch.tensor([5])).flip(-1))
    torch.testing.assert_close(data.values[12 + 5 : 12 + 6], mirrored, atol=1e-4, rtol=1e-4)
    own, other = data.layouts(torch.tensor([5])), data.layouts(torch.tensor([12 + 5]))
    level = scene(5).layout.level
    torch.testing.assert_close(other.boxes[0, :level, 0], 1 - own.boxes[0, :level, 2])
    torch.testing.assert_close(other.boxes[0, :level, 1], own.boxes[0, :level, 1])
    assert not bool(other.boxes[0, level:].any())
    for name in ("categories", "colours", "interactions"):
        assert torch.equal(getattr(own, name), getattr(other, name))


def test_the_tasks_are_known() -> None:
    known = all_tasks()
    assert {"scenes-autoencoder", *TRAINED} <= set(known)
    for name in TRAINED:
        assert known[name].world == "SynthScenes"
        assert "scenes-autoencoder" in known[name].depends_on


@pytest.mark.parametrize("name", TRAINED)
def test_two_steps_make_weights_that_load(
    tiny: None, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = all_tasks()[name]
    monkeypatch.setattr(kind, "trunk", None)
    monkeypatch.setattr(kind, "evaluate", lambda self, model: {"n": 0})
    task = kind(torch.device("cpu"), tmp_path)
    (card,) = train(task, steps=2, checkpoints=tmp_path / "checkpoints", progress=False)
    assert card["data"] == "SynthScenes"
    state, card = load_weights(name, tmp_path)
    LayoutExpert(**card["config"]).load_state_dict(state)


def test_learning_lowers_the_loss(tiny: None) -> None:
    task = layouts.TrainInteraction(torch.device("cpu"))
    optimizer = torch.optim.Adam(task.model.parameters(), 3e-3)
    losses = []
    for step in range(12):
        loss = task.loss(torch.Generator().manual_seed(step % 2), 8)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_some_rows_learn_the_null_condition_and_some_instances_any_colour(
    tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = layouts.TrainAttribute(torch.device("cpu"))
    seen: list[tuple[LayoutBatch, Tensor | None]] = []
    forward = task.expert.encoder.forward

    def watched(given: LayoutBatch, drop: Tensor | None = None) -> Encoded:
        seen.append((given, drop))
        return forward(given, drop)

    monkeypatch.setattr(task.expert.encoder, "forward", watched)
    for step in range(20):
        with torch.no_grad():
            task.loss(torch.Generator().manual_seed(step), 16)
    dropped = torch.cat([drop for _, drop in seen if drop is not None]).float()
    assert len(dropped) == 20 * 16
    assert 0.05 < float(dropped.mean()) < 0.16
    colours = torch.cat([given.colours for given, _ in seen])
    assert 0.02 < float((colours[colours >= 0] == len(COLOURS)).float().mean()) < 0.09
    task.learning, seen[:] = False, []
    with torch.no_grad():
        task.loss(torch.Generator().manual_seed(0), 16)
    assert seen[0][1] is None
    assert not bool((seen[0][0].colours == len(COLOURS)).any())


def test_the_style_model_sees_the_reference_of_each_scene_turned_as_the_scene_is(
    tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = layouts.TrainStyle(torch.device("cpu"))
    seen: list[tuple[Tensor, Tensor | None]] = []
    forward = task.expert.encoder.forward

    def watched(given: Tensor, drop: Tensor | None = None) -> Encoded:
        seen.append((given, drop))
        return forward(given, drop)

    monkeypatch.setattr(task.expert.encoder, "forward", watched)
    with torch.no_grad():
        task.told(torch.tensor([3, 12 + 3]), torch.Generator().manual_seed(0))
    assert np.array_equal(seen[0][0][0], reference(3))
    assert np.array_equal(seen[0][0][1], reference(3)[:, ::-1])
    assert seen[0][1] is not None


def test_grounds_are_told_from_others(corpus: Scenes) -> None:
    """A scene's own image has its ground; the next scene's is far from it."""
    described = [layouts.layout_of(corpus, k) for k in range(12)]
    images = corpus.pictures(torch.arange(12))
    assert layouts.grounds(images, images, described) == 0.0
    assert layouts.grounds(images.roll(1, 0), images, described) > 10


def test_a_model_starts_from_the_trunk(tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = layouts.TrainTrunk(torch.device("cpu"), tmp_path)
    state = {k: v.half().float() for k, v in first.model.state_dict().items()}
    monkeypatch.setattr(layouts, "load_weights", lambda name: (state, {}))
    second = layouts.TrainAttribute(torch.device("cpu"), tmp_path)
    assert second.trunk == "scenes-trunk"
    second.start()
    own = second.model.state_dict()
    assert torch.equal(own["unet.mid_block.resnets.0.conv1.weight"], state["unet.mid_block.resnets.0.conv1.weight"])
    assert torch.equal(own["encoder.shading.network.0.weight"], state["encoder.shading.network.0.weight"])
    shared = own["unet.conv_in.weight"].shape[1]
    assert shared < state["unet.conv_in.weight"].shape[1]
    assert torch.equal(own["unet.conv_in.weight"], state["unet.conv_in.weight"][:, :shared])
    assert "encoder.colour.weight" not in state  # it alone hears of colours


def test_success_is_what_the_judges_see(corpus: Scenes) -> None:
    """All of the world's own images succeed but for the judges' errors; another scene's image does not."""
    own = [layouts.layout_of(corpus, k) for k in range(12)]
    images = corpus.pictures(torch.arange(12))
    right, wrong = layouts.success(images, own), layouts.success(images.flip(-1), own)
    assert right["placed"] >= right["placed_and_coloured"] > 0.85
    assert wrong["placed_and_coloured"] < 0.5
    assert right["instances"] == sum(one.level for one in own)

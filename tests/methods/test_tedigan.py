"""TediGAN on a toy generator of 16x16 images: mixing, optimisation, inversion, batches, and bad input."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from concord.data.checkpoints import load_weights, save_weights
from concord.data.errors import ConcordError
from concord.data.networks import Networks
from concord.data.request import Conditions, Request
from concord.methods.base import make_params
from concord.methods.networks.stylegan import MaskToCode, StyleGenerator, TextToCode
from concord.methods.tedigan import Objective, TediGAN, mix_styles, optimise, ramp
from concord.methods.training import all_tasks, get_task
from concord.methods.training import stylegan as training
from concord.methods.training.trainer import train

SIDE, LAYERS, WIDTH = 16, 6, 5


class ToyPair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(48, 6))

    def guide_features(self, images: Tensor) -> Tensor:
        return self.image(images)

    def embed_images(self, images: Tensor) -> Tensor:
        return nn.functional.normalize(self.image(images), dim=1)

    def block_features(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        return [images]

    def text_features(self, captions: Sequence[str]) -> Tensor:
        return self.embed_texts(captions)

    @torch.inference_mode()
    def embed_texts(self, captions: Sequence[str]) -> Tensor:
        rows = [torch.arange(1.0, 7) * len(c) for c in captions]
        return nn.functional.normalize(torch.stack(rows).sin(), dim=1)


class ToyFeatures:
    def perceptual_distance(self, images: Tensor, originals: Tensor) -> Tensor:
        return (images - originals).abs().mean((1, 2, 3))


class ToyWorld:
    device = torch.device("cpu")

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = StyleGenerator((8, 6, 4), WIDTH, 2)
            for layer in self.network.layers:
                layer.strength.data.fill_(0.2)  # type: ignore[operator]
            self.encoders = {
                "mask": MaskToCode(LAYERS, WIDTH, 8, SIDE),
                "text": TextToCode(LAYERS, WIDTH, 6, 16),
            }
            for encoder in self.encoders.values():  # a trained encoder does not stay at the mean
                for layer in encoder.modules():
                    if isinstance(layer, nn.Linear):
                        nn.init.normal_(layer.weight, std=0.3)
            self.pair = ToyPair().eval().requires_grad_(False)
            self.guides = {"guide/text-image": self.pair, "guide/features": ToyFeatures()}
        self.network.measure(500)
        for module in (self.network, *self.encoders.values()):
            module.eval().requires_grad_(False)

    @property
    def networks(self) -> Networks:
        encoders = {f"stylegan/{name}": encoder for name, encoder in self.encoders.items()}
        return Networks.of({"stylegan": self.network, **encoders, **self.guides})


TOYS = ToyWorld()


def method(**params: Any) -> TediGAN:
    return TediGAN(make_params(TediGAN, {"split": 3, **params}), TOYS.networks)


def requests(names: Sequence[str] = ("text", "mask"), count: int = 3) -> list[Request]:
    made = []
    for k in range(count):
        rng = np.random.default_rng(k)
        values: dict[str, Any] = {
            "text": "word " * (k + 1),
            "mask": rng.integers(0, 19, (SIDE, SIDE)),
            "source_image": rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8),
        }
        made.append(Request.make("toy", str(k), 0, Conditions(**{name: values[name] for name in names})))
    return made


# -------------------------------------------------------------------------------------------------------- style mixing


def test_mixing_takes_each_layer_from_one_code() -> None:
    a, b = torch.zeros(2, LAYERS, WIDTH), torch.ones(2, LAYERS, WIDTH)
    for split in range(LAYERS + 1):
        assert mix_styles(a, b, split)[0, :, 0].tolist() == [0.0] * split + [1.0] * (LAYERS - split)


def test_mixing_at_the_ends_is_the_pure_codes() -> None:
    both = requests()
    mask_only = [replace(r, conditions=Conditions(mask=r.conditions.mask)) for r in both]
    text_only = [replace(r, conditions=Conditions(text=r.conditions.text)) for r in both]
    by_mask, by_text = method().generate(mask_only), method().generate(text_only)
    assert torch.equal(method(split=LAYERS).generate(both), by_mask)
    assert torch.equal(method(split=0).generate(both), by_text)
    mixed = method(split=3).generate(both)
    assert not torch.allclose(mixed, by_mask, atol=1e-3)
    assert not torch.allclose(mixed, by_text, atol=1e-3)


def test_the_text_reaches_no_layer_before_the_split() -> None:
    first = requests()
    second = [replace(r, conditions=r.conditions.replace(text="another caption")) for r in first]
    seen: list[Tensor] = []
    hook = TOYS.network.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    try:
        for given in (first, second):
            method(split=4).generate(given)
    finally:
        hook.remove()
    assert torch.equal(seen[0][:, :4], seen[1][:, :4])
    assert bool((seen[0][:, 4:] != seen[1][:, 4:]).any())


def test_diversity_moves_the_texts_layers_with_the_seed() -> None:
    one = requests(count=1)
    other = [replace(one[0], seed=one[0].seed + 1)]
    plain = float((method().generate(one) - method().generate(other)).abs().mean())
    varied = float((method(diversity=1.0).generate(one) - method(diversity=1.0).generate(other)).abs().mean())
    assert 0 < plain < varied


# --------------------------------------------------------------------------------------------- what an image depends on


@pytest.mark.parametrize(
    ("names", "params"),
    [
        (("text", "mask"), {}),
        (("text", "mask"), {"steps": 6}),
        (("text",), {"preset": "official", "steps": 6}),
        (("text", "mask", "source_image"), {"inversion_steps": 5}),
    ],
)
def test_an_image_does_not_depend_on_its_batch(names: tuple[str, ...], params: dict[str, Any]) -> None:
    given, maker = requests(names), method(**params)
    together = maker.generate(given)
    assert together.shape == (3, 3, SIDE, SIDE)
    apart = torch.cat([maker.generate([request]) for request in given])
    # Adam divides by its gradient's size: rounding differences of a batch grow a little while it optimises
    assert torch.allclose(together, apart, atol=2e-3 if params else 1e-6)
    assert torch.equal(together, maker.generate(given))
    assert torch.allclose(maker.generate(given[::-1]).flip(0), together, atol=2e-3 if params else 1e-6)


def test_another_seed_is_another_image() -> None:
    given = requests(count=2)
    moved = [given[0], replace(given[1], seed=given[1].seed + 1)]
    first, second = method().generate(given), method().generate(moved)
    assert torch.equal(first[0], second[0])
    assert float((first[1] - second[1]).abs().max()) > 1 / 255


def test_it_works_inside_inference_mode() -> None:
    with torch.inference_mode():
        images = method(steps=3).generate(requests())
    assert torch.equal(images, method(steps=3).generate(requests()))


# -------------------------------------------------------------------------------------------------------- optimisation


def test_the_rate_rises_stays_and_falls() -> None:
    found = [ramp(step, 200) for step in range(200)]
    assert found[0] == 0
    assert found[5] == pytest.approx(0.5)  # half of the first 5 %
    assert found[10:150] == pytest.approx([1.0] * 140)
    assert found[175] == pytest.approx(0.5)  # half-way down the cosine of the last 25 %
    assert found[199] == pytest.approx(0.5 - 0.5 * math.cos(math.pi * 0.02), abs=1e-9)
    assert all(a >= b for a, b in itertools.pairwise(found[150:]))


def test_the_objective_is_the_sum_of_its_terms() -> None:
    images, target = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    code, first = torch.randn(2, LAYERS, WIDTH), torch.randn(2, LAYERS, WIDTH)
    objective = Objective(
        target, first, lambda a, b: (a - b).abs().amax((1, 2, 3)), lambda a: a.mean((1, 2, 3)), 3.0, 5.0, 7.0, 11.0
    )
    for k in range(2):
        expected = (
            3 * float(((images[k] - target[k]) ** 2).mean())
            + 5 * float((images[k] - target[k]).abs().max())
            + 7 * float(((code[k] - first[k]) ** 2).mean())
            + 11 * float(images[k].mean())
        )
        assert float(objective(images, code)[k]) == pytest.approx(expected, rel=1e-5)


def test_optimisation_lowers_every_images_loss_and_the_regulariser_holds_it() -> None:
    network = TOYS.network
    start = network.plus(network.w_mean.expand(3, -1))
    noise = [torch.zeros(3, 1, s, s) for s in network.noise_sizes]
    targets = network(start + 0.5 * torch.randn(start.shape, generator=torch.Generator().manual_seed(1)), noise)

    def run(weight: float) -> tuple[Tensor, list[Tensor]]:
        objective = Objective(targets, start, ToyFeatures().perceptual_distance, code_weight=weight)
        return optimise(lambda code: network(code, noise), objective, start, 60, 0.05)

    free, losses = run(0.0)
    assert bool((losses[-1] < 0.5 * losses[0]).all())
    held, _ = run(100.0)
    assert float((held - start).square().mean()) < 0.1 * float((free - start).square().mean())


def test_optimising_for_the_text_brings_the_picture_nearer_to_it() -> None:
    given = requests()
    wanted = TOYS.pair.embed_texts([r.conditions.text or "" for r in given])

    def cosine(images: Tensor) -> Tensor:
        return (TOYS.pair.embed_images(images) * wanted).sum(1)

    before = cosine(method().generate(given))
    after = cosine(method(steps=40, rate=0.05).generate(given))
    assert bool((after > before).all())


def test_inversion_comes_near_the_picture() -> None:
    network = TOYS.network
    noise = [torch.zeros(1, 1, s, s) for s in network.noise_sizes]
    picture = network(
        network.plus(network.map(torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(3)))), noise
    )
    uint8 = (picture[0].clamp(0, 1).movedim(0, -1) * 255).round().byte().numpy()
    request = [Request.make("toy", "0", 0, Conditions(source_image=uint8))]
    original = torch.from_numpy(uint8).movedim(-1, 0)[None].float() / 255
    errors = [
        float((method(inversion_steps=steps, inversion_rate=0.05).generate(request) - original).square().mean())
        for steps in (1, 150)
    ]
    assert errors[1] < 0.6 * errors[0]


def test_editing_keeps_the_inverted_code_where_no_condition_speaks() -> None:
    given = requests(("text", "source_image"))
    alone = [replace(r, conditions=Conditions(source_image=r.conditions.source_image)) for r in given]
    inverted = method(inversion_steps=5).generate(alone)
    assert torch.allclose(method(inversion_steps=5, edit=0.0).generate(given), inverted, atol=1e-6)
    assert torch.allclose(method(inversion_steps=5, split=LAYERS).generate(given), inverted, atol=1e-6)
    assert not torch.allclose(method(inversion_steps=5).generate(given), inverted, atol=1e-3)


# ----------------------------------------------------------------------------------------------------------- bad input


def test_presets() -> None:
    paper, official = make_params(TediGAN), make_params(TediGAN, {"preset": "official"})
    assert isinstance(paper, TediGAN.Params)
    assert isinstance(official, TediGAN.Params)
    assert (paper.mixing, paper.steps, paper.start) == (True, 0, "code")
    assert (official.mixing, official.steps, official.start, official.rate) == (False, 200, "mean", 0.1)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"mixing": False}, "a text would do nothing"),
        ({"split": -1}, "parameter 'split'"),
        ({"edit": 1.5}, "parameter 'edit'"),
        ({"splits": 3}, "unknown parameter 'splits'"),
    ],
)
def test_bad_parameters(params: dict[str, Any], said: str) -> None:
    with pytest.raises(ConcordError, match=said):
        make_params(TediGAN, params)


def test_bad_requests() -> None:
    with pytest.raises(ConcordError, match=r"parameter 'split': 7; expected 0\.\.6"):
        method(split=7).generate(requests())
    with pytest.raises(ConcordError, match=r"'mask' has shape \(8, 8\): the embedded models expect \(16, 16\)"):
        method().generate([Request("a", 0, Conditions(mask=np.zeros((8, 8), np.int64)))])
    with pytest.raises(ConcordError, match=r"'source_image' has shape \(8, 8, 3\)"):
        method().generate([Request("a", 0, Conditions(source_image=np.zeros((8, 8, 3), np.uint8)))])
    with pytest.raises(ConcordError, match="does not take condition 'landmarks'"):
        method().generate([Request("a", 0, Conditions(landmarks=np.zeros((68, 2), np.float32)))])
    with pytest.raises(ConcordError, match="needs at least 1 of mask, source_image, text"):
        method().generate([Request("a", 0, Conditions())])
    with pytest.raises(ConcordError, match="bring different conditions"):
        method().generate([requests(("text",))[0], requests(("mask",))[1]])


def test_a_profile_without_the_generator_is_named() -> None:
    poor = TediGAN(make_params(TediGAN), Networks.of({}))
    with pytest.raises(ConcordError, match="has no role 'stylegan'"):
        poor.generate(requests())


# ------------------------------------------------------------------------------------------------------------ training


def test_the_tasks_can_be_trained_by_name() -> None:
    tasks, networks = all_tasks(), ["faces-stylegan", "faces-stylegan-mask", "faces-stylegan-text"]
    assert [name for name in tasks if name in networks] == networks
    assert get_task("faces-stylegan") is training.TrainStyleGAN
    for name in networks[1:]:
        assert "faces-stylegan" in tasks[name].depends_on


class Faces:
    """Eight images of noise in place of the corpus."""

    def __len__(self) -> int:
        return 8

    def pictures(self, index: Tensor) -> Tensor:
        return torch.rand((8, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(2))[index]


class Small(training.TrainStyleGAN):
    generator_config: ClassVar[dict[str, Any]] = {"channels": [8, 6, 4], "width": WIDTH, "depth": 2}
    discriminator_config: ClassVar[dict[str, Any]] = {"channels": [6, 4]}

    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        return {}


def test_r1_enters_every_16th_step_times_16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "corpus", lambda split: Faces())
    monkeypatch.setattr(training, "r1_penalty", lambda critic, reals: torch.tensor(0.5))
    task = Small(torch.device("cpu"), tmp_path)

    def loss(step: int, gamma: float) -> float:
        monkeypatch.setattr(Small, "gamma", gamma)
        return float(task.loss(torch.Generator().manual_seed((Small.seed << 32) + step), 4).detach())

    added = [loss(step, 3.0) - loss(step, 0.0) for step in (0, 1, 15, 16, 17, 32)]
    assert added == pytest.approx([12.0, 0, 0, 12.0, 0, 12.0], abs=1e-5)  # 16 * 3 / 2 * 0.5


def test_adversarial_training_resumes_and_keeps_both_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps at once, and two resumed for a third, end in the same weights; the generator's w is measured."""

    monkeypatch.setattr(training, "corpus", lambda split: Faces())
    ends = []
    for folder, stop in ((tmp_path / "whole", None), (tmp_path / "cut", 2)):
        task = Small(torch.device("cpu"), folder)
        first = task.pair.generator.constant.detach().clone()
        if stop is not None:
            seen, loss = [0], task.loss

            def stopping(generator: torch.Generator, batch: int, seen: Any = seen, loss: Any = loss) -> Tensor:
                seen[0] += 1
                if seen[0] > 2:
                    raise KeyboardInterrupt
                return loss(generator, batch)

            task.loss = stopping  # type: ignore[method-assign]
            with pytest.raises(KeyboardInterrupt):
                train(task, 3, checkpoints=folder, every_seconds=0, progress=False)
            task = Small(torch.device("cpu"), folder)
        cards = train(task, 3, checkpoints=folder, every_seconds=0, progress=False)
        assert [card["name"] for card in cards] == ["faces-stylegan"]
        ends.append(load_weights("faces-stylegan", folder)[0])
        assert float((ends[-1]["constant"] - first).abs().max()) > 0
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
    assert float(ends[0]["w_mean"].abs().max()) > 0
    with pytest.raises(ConcordError, match="its discriminator was not kept; train anew"):
        train(Small(torch.device("cpu"), tmp_path / "whole"), 1, checkpoints=tmp_path / "further", further=True)


class SomeFaces:
    """Eight noisy images of 64x64 with masks and captions, in place of the corpus."""

    beard_and_age: ClassVar[list[str]] = [f"a face with a beard, {age} years old" for age in range(20, 60, 5)]
    overall = beard_and_age
    masks = torch.randint(19, (8, 64, 64), generator=torch.Generator().manual_seed(1)).byte()

    def __len__(self) -> int:
        return 8

    def pictures(self, index: Tensor) -> Tensor:
        rough = torch.rand((8, 3, 8, 8), generator=torch.Generator().manual_seed(2))
        return nn.functional.interpolate(rough, 64)[index]


@pytest.mark.parametrize("kind", [training.TrainMaskToCode, training.TrainTextToCode])
def test_encoders_learn_through_the_frozen_generator(
    kind: type[training.TrainStyleEncoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"channels": [8, 8, 8, 8, 8], "width": 8, "depth": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        network = StyleGenerator(**config)  # type: ignore[arg-type]
    network.measure(200)
    save_weights("faces-stylegan", network.state_dict(), {"config": config}, tmp_path)
    monkeypatch.setattr(training, "corpus", lambda split: SomeFaces())
    task = kind(torch.device("cpu"), tmp_path)

    def measured() -> float:
        with torch.no_grad():
            return float(task.loss(torch.Generator().manual_seed(3), 8))

    before, frozen = measured(), task.generator.constant.clone()
    adam = torch.optim.Adam(task.model.parameters(), lr=3e-3)
    for step in range(8):
        adam.zero_grad()
        task.loss(torch.Generator().manual_seed(step), 4).backward()
        adam.step()
    assert measured() < before
    assert torch.equal(task.generator.constant, frozen)
    ((name, (state, settings)),) = task.outputs(task.model).items()
    assert name == kind.name
    again = {"faces-stylegan-mask": MaskToCode, "faces-stylegan-text": TextToCode}[name](**settings)
    again.load_state_dict(state)

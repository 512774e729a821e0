"""The methods over layout models, on small random networks: special cases, evaluation counts, refusals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from layout_models import BOXES, LABELS, expert, layout
from toy_networks import toy_networks

from concord.benchmarks.run.meter import EvaluationCounter
from concord.data.errors import ConcordError
from concord.data.networks import Networks
from concord.data.request import Conditions, Request
from concord.methods.amdm import AmdmLayouts, spherical_weights
from concord.methods.base import Method, make_params
from concord.methods.composable import ComposableLayouts
from concord.methods.core.noise import draw_noise
from concord.methods.core.sampler import ddim, ddim_step
from concord.methods.core.schedule import Schedule
from concord.methods.networks.autoencoder import Autoencoder
from concord.methods.networks.experts import LATENT
from concord.methods.networks.layout_experts import KINDS, LayoutExpert
from concord.methods.single import LayoutAttribute, LayoutInteraction, LayoutStyle

STEPS = 5


class SmallWorld:
    """What the methods ask of a toys."""

    device = torch.device("cpu")
    schedule = Schedule.scaled_linear()
    latent_shape = LATENT

    def __init__(self) -> None:
        self.experts = {kind: expert(kind) for kind in KINDS}
        autoencoder = Autoencoder(width=16, fine_width=16, blocks=1)
        images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        autoencoder.fit_linear(torch.nn.functional.avg_pool2d(images, 5, stride=1, padding=2))
        self.autoencoder = autoencoder.eval().requires_grad_(False)

    def layout_expert(self, kind: str) -> LayoutExpert:
        return self.experts[kind]

    @property
    def networks(self) -> Networks:
        return toy_networks(self)


TOYS = SmallWorld()
TWO = ("interaction", "attribute")


def make(kind: type[Method], **params: Any) -> Method:
    return kind(make_params(kind, {"steps": STEPS, **params}), TOYS.networks)


def requests(count: int = 2) -> list[Request]:
    layouts = [layout(), layout(LABELS[:2], BOXES[:2], ()), layout(LABELS[1:], BOXES[1:], ((0, "on", 1),))]
    return [Request.make("toy", str(k), 0, Conditions(layout=layouts[k])) for k in range(count)]


def styled(count: int = 2, layouts: bool = True) -> list[Request]:
    """The same with a reference image, or with that alone."""
    pictures = np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
    asked = [one.conditions.layout if layouts else None for one in requests(count)]
    given = [Conditions(layout=each, style=picture) for each, picture in zip(asked, pictures, strict=True)]
    return [Request.make("toy", str(k), 0, conditions) for k, conditions in enumerate(given)]


def generators(asked: Sequence[Request]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(one.seed) for one in asked]


def alone(kind: str, asked: Sequence[Request], guidance: float) -> torch.Tensor:
    """The image of one model, by the plain sampler."""
    denoise = TOYS.layout_expert(kind).bind([one.conditions for one in asked], TOYS.schedule, guidance)
    x_0 = ddim(denoise, TOYS.schedule, generators(asked), LATENT, "cpu", STEPS)
    with torch.inference_mode():
        return TOYS.autoencoder.decode(x_0).clamp(0, 1)


@pytest.mark.parametrize(
    ("kind", "model"),
    [(LayoutInteraction, "interaction"), (LayoutAttribute, "attribute"), (LayoutStyle, "style")],
)
def test_a_model_alone_is_the_plain_sampler(kind: type[Method], model: str) -> None:
    asked = styled(layouts=False) if model == "style" else requests()
    for guidance in (1.0, 2.0):
        assert torch.equal(make(kind, guidance=guidance).generate(asked), alone(model, asked, guidance))


# ---------------------------------------------------------------------------------------------------------------- AMDM


@pytest.mark.parametrize("order", [TWO, TWO[::-1]])
def test_without_aggregation_the_first_model_goes_alone(order: tuple[str, str]) -> None:
    images = make(AmdmLayouts, order=order, aggregation_steps=0, guidance=2.0).generate(requests())
    assert torch.equal(images, alone(order[0], requests(), 2.0))


def test_the_interaction_model_goes_on_alone_unless_an_order_says_otherwise() -> None:
    plain = make(AmdmLayouts, aggregation_steps=2).generate(requests())
    assert torch.equal(plain, make(AmdmLayouts, aggregation_steps=2, order=TWO).generate(requests()))
    assert not torch.equal(plain, make(AmdmLayouts, aggregation_steps=2, order=TWO[::-1]).generate(requests()))


def test_a_weight_of_one_without_correction_is_the_first_model() -> None:
    images = make(AmdmLayouts, aggregation_steps=3, weights=(1.0,), optimise=False).generate(requests())
    torch.testing.assert_close(images, alone("interaction", requests(), 2.0), atol=1e-5, rtol=0)


def test_two_models_are_algorithm_one() -> None:
    """Algorithm 1 spelt out: s steps of both, equation 9, equation 10, then the first model."""
    w, s, share, guidance = 0.6, 2, (0.1, 0.2), 2.0
    asked = requests(3)
    images = make(AmdmLayouts, aggregation_steps=s, weights=(w,), step_sizes=share, guidance=guidance).generate(asked)
    schedule = TOYS.schedule
    models = [TOYS.layout_expert(k).bind([one.conditions for one in asked], schedule, guidance) for k in TWO]
    size = float(torch.tensor(LATENT).prod()) ** 0.5
    times = schedule.ddim_timesteps(STEPS)
    x = [draw_noise(generators(asked), LATENT)] * 2
    for k, t in enumerate(times):
        previous = times[k + 1] if k + 1 < len(times) else -1
        active = models if k < s else models[:1]
        own = [ddim_step(schedule, m(x_t, t), x_t, t, previous) for m, x_t in zip(active, x, strict=False)]
        if k >= s:
            x = [own[0], x[1]]
            continue
        mixed = w * own[0] + (1 - w**2) ** 0.5 * own[1]
        away = [mixed - mu for mu in own]
        lengths = [d.flatten(1).norm(dim=1)[:, None, None, None] for d in away]
        x = [mixed - e * size * d / n for e, d, n in zip(share, away, lengths, strict=True)]
    with torch.inference_mode():
        torch.testing.assert_close(images, TOYS.autoencoder.decode(x[0]).clamp(0, 1), atol=1e-4, rtol=1e-4)
    assert spherical_weights([w]) == [w, (1 - w**2) ** 0.5]


@pytest.mark.parametrize(("guidance", "rows"), [(1.0, 1), (2.0, 2)])
def test_an_added_model_costs_its_share_of_the_steps(guidance: float, rows: int) -> None:
    """1 + s / T, each evaluation of two rows with guidance; the correction evaluates nothing."""
    s, n = 3, 2
    found = {}
    for optimise in (True, False):
        method = make(AmdmLayouts, aggregation_steps=s, optimise=optimise, guidance=guidance)
        counter = EvaluationCounter(method.denoisers())
        method.generate(requests(n))
        counter.close()
        found[optimise] = counter.rows
    own, lent = rows * n * STEPS, rows * n * s
    assert found[True] == found[False] == {"eps-interaction": own, "eps-attribute": lent, "eps-style": 0}


def test_a_third_model_lends_too() -> None:
    """With a reference image three models go together; each added one costs s steps, and changes the image."""
    s, n = 2, 2
    method = make(AmdmLayouts, aggregation_steps=s)
    counter = EvaluationCounter(method.denoisers())
    three = method.generate(styled())
    counter.close()
    assert counter.rows == {"eps-interaction": 2 * n * STEPS, "eps-attribute": 2 * n * s, "eps-style": 2 * n * s}
    assert not torch.allclose(three, method.generate(requests()), atol=1e-3)
    # a share of 1 of the first two, and nothing of the third, is those two
    both = make(AmdmLayouts, aggregation_steps=s, aggregate="slerp", optimise=False, weights=(0.4, 1.0))
    two = make(AmdmLayouts, aggregation_steps=s, aggregate="slerp", optimise=False, weights=(0.4,))
    torch.testing.assert_close(both.generate(styled()), two.generate(requests()), atol=1e-4, rtol=0)


@pytest.mark.parametrize("order", [("interaction",), ("interaction", "style"), ("attribute", "attribute")])
def test_an_order_of_other_models_is_refused(order: tuple[str, ...]) -> None:
    with pytest.raises(ConcordError, match=r"'order': .* expected each of interaction, attribute"):
        make(AmdmLayouts, order=order).generate(requests())


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"weights": (1.5,)}, "weights"),
        ({"weights": (-0.1,)}, "weights"),
        ({"aggregation_steps": 6}, "aggregation_steps"),
        ({"guidance": -1.0}, "guidance"),
    ],
)
def test_a_wrong_parameter_is_named(params: dict[str, Any], name: str) -> None:
    with pytest.raises(ConcordError, match=name):
        make(AmdmLayouts, **params)


def test_models_of_another_schedule_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Schedule.scaled_linear(end=0.02)
    model = TOYS.experts["attribute"]
    monkeypatch.setattr(
        model, "bind", lambda given, schedule, guidance: LayoutExpert.bind(model, given, other, guidance)
    )
    with pytest.raises(ConcordError, match="model 'attribute' has another noise schedule"):
        make(AmdmLayouts).generate(requests())


# ---------------------------------------------------------------------------------------------------------- composable


def test_the_sum_of_predictions_is_its_equation() -> None:
    asked, w = requests(), 0.8
    conditions = [one.conditions for one in asked]
    plain, null = ([TOYS.layout_expert(k).bind(conditions, TOYS.schedule, g) for k in TWO] for g in (1.0, 0.0))

    def denoise(x_t: torch.Tensor, t: int) -> torch.Tensor:
        own, none = ([model(x_t, t) for model in models] for models in (plain, null))
        return sum(none) / 2 + w * sum(a - b for a, b in zip(own, none, strict=True))  # type: ignore[return-value]

    x_0 = ddim(denoise, TOYS.schedule, generators(asked), LATENT, "cpu", STEPS)
    with torch.inference_mode():
        expected = TOYS.autoencoder.decode(x_0).clamp(0, 1)
    found = make(ComposableLayouts, weight=w).generate(asked)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_the_average_of_plain_predictions_takes_one_row_each() -> None:
    method = make(ComposableLayouts, weight=0.5)
    counter = EvaluationCounter(method.denoisers())
    method.generate(requests())
    counter.close()
    assert counter.rows == {"eps-interaction": 2 * STEPS, "eps-attribute": 2 * STEPS, "eps-style": 0}


@pytest.mark.parametrize("kind", [LayoutInteraction, LayoutAttribute, LayoutStyle, ComposableLayouts, AmdmLayouts])
def test_an_image_does_not_depend_on_its_batch(kind: type[Method]) -> None:
    asked = styled(3, "layout" in kind.conditions) if "style" in kind.conditions else requests(3)
    method = make(kind)
    together = method.generate(asked)
    apart = torch.cat([method.generate([one]) for one in asked[::-1]]).flip(0)
    torch.testing.assert_close(together, apart, atol=1 / 255, rtol=0)


def test_a_request_without_a_layout_is_refused() -> None:
    with pytest.raises(ConcordError, match="needs at least 1 of layout"):
        make(LayoutInteraction).generate([Request.make("toy", "0", 0, Conditions())])

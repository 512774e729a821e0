"""FreeDoM against steps worked out by hand and loops that spell its scripts out; what it must not depend on."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_guidance import NAMES, SHAPE, Quadratic, ToyWorld, make, make_context, requests

from concord.data.errors import ConcordError
from concord.data.request import Conditions, Request
from concord.methods.base import Trace, make_method
from concord.methods.core.sampler import Step, ddim, guided
from concord.methods.freedom import FreeDoM
from concord.methods.guidance.energies import make_energies
from concord.methods.single import Unconditional


def own(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(request.seed) for request in requests(count)]


def test_a_step_on_a_linear_model_is_the_one_worked_out_by_hand() -> None:
    """x_t = 1.2, eps = 0.3 x_t, E = (2 x_0|t - 1)^2 / (2 * 0.5), DDIM without noise from t = 501 to 491."""
    context = make_context(
        lambda x, t: 0.3 * x,
        [Quadratic("mask", torch.tensor([[2.0]]), torch.tensor([[1.0]]), 0.5)],
        FreeDoM.Params(strengths={"mask": 0.7}),
        1,
    )
    method = make(FreeDoM, strengths={"mask": 0.7})
    step = Step("ddim", ToyWorld.schedule, 501, 491, None)
    with torch.enable_grad():
        found = method.correct(context, torch.full((1, 1, 1, 1), 1.2), step, ["mask"], Trace())

    abar, before = (float(ToyWorld.schedule.alphas_cumprod[t]) for t in (501, 491))
    x_0 = (1.2 - math.sqrt(1 - abar) * 0.36) / math.sqrt(abar)
    dx_0 = (1 - math.sqrt(1 - abar) * 0.3) / math.sqrt(abar)
    gradient = (2 * x_0 - 1) * 2 / 0.5 * dx_0
    expected = math.sqrt(before) * x_0 + math.sqrt(1 - before) * 0.36 - 0.7 * math.sqrt(abar) * gradient
    assert float(found) == pytest.approx(expected, rel=1e-5)


def by_hand(names: tuple[str, ...], steps: int, kind: str, eta: float, strengths: dict[str, float]) -> Tensor:
    """Each request alone, each condition with a graph of its own, as the scripts do it."""
    images = []
    for request in requests(3, names):
        toys = ToyWorld()
        schedule = toys.schedule
        energies = make_energies(names, [request], toys.guide, FreeDoM.Params(), 8)  # type: ignore[arg-type]
        denoise = toys.expert("unconditional").bind([request.conditions], schedule)

        def correct(
            x: Tensor, step: Step, energies: Any = energies, denoise: Any = denoise, toys: Any = toys
        ) -> Tensor:
            moved = step(x, denoise(x, step.t))
            abar = toys.schedule.abar(step.t, x)
            before = toys.schedule.abar(max(step.t_previous, 0), x)
            for name, energy in energies.items():
                if (name in ("mask", "landmarks") and step.t <= 200) or (name == "identity" and step.t <= 100):
                    continue
                with torch.enable_grad():
                    leaf = x.clone().requires_grad_(True)
                    eps = denoise(leaf, step.t)
                    x_0 = (leaf - (1 - abar).sqrt() * eps) / abar.sqrt()
                    (gradient,) = torch.autograd.grad(energy(toys.autoencoder.decode(x_0)).sum(), leaf)
                rho = strengths[name] * abar.sqrt()
                if name == "text":
                    c_1 = before.sqrt() * (1 - abar / before) / (1 - abar)
                    length = eps.square().mean().sqrt() * (1 - abar).sqrt() / abar.sqrt() * c_1
                    rho = strengths[name] * length / gradient.square().mean().sqrt()
                moved = moved - rho * gradient
            return moved.detach()

        generators = [torch.Generator().manual_seed(request.seed)]
        x_0 = guided(correct, schedule, generators, SHAPE, "cpu", steps, kind, eta)  # type: ignore[arg-type]
        images.append(toys.autoencoder.decode(x_0))
    return torch.cat(images)


@pytest.mark.parametrize("names", [("text",), ("mask", "landmarks"), ("text", "identity", "mask")])
def test_it_is_the_sum_of_its_scripts(names: tuple[str, ...]) -> None:
    strengths = {"text": 0.3, "identity": 2.0, "mask": 20.0, "landmarks": 20.0}
    found = make(FreeDoM, steps=8, strengths=strengths).generate(requests(3, names))
    kind, eta = ("ancestral", 0.0) if "text" in names else ("ddim", 0.5)
    torch.testing.assert_close(found, by_hand(names, 8, kind, eta, strengths), rtol=1e-4, atol=1e-5)
    free = make(FreeDoM, steps=8, strengths=dict.fromkeys(NAMES, 0)).generate(requests(3, names))
    assert float((found - free).abs().max()) > 0.005


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_strength_zero_is_the_unguided_sample(eta: float) -> None:
    names = ("mask", "landmarks", "identity")
    zero = make(FreeDoM, steps=7, sampler="ddim", eta=eta, strengths=dict.fromkeys(NAMES, 0)).generate(
        requests(3, names)
    )
    plain = make(Unconditional, steps=7, eta=eta).generate(requests(3, ()))
    assert torch.equal(zero, plain)


def test_a_condition_of_strength_zero_is_as_if_absent() -> None:
    weak = make(FreeDoM, steps=6, strengths={"text": 0.1, "mask": 0.0}).generate(requests(3, ("text", "mask")))
    alone = make(FreeDoM, steps=6, strengths={"text": 0.1}).generate(requests(3, ("text",)))
    assert torch.equal(weak, alone)


def test_guidance_lowers_the_energy() -> None:
    toys, asked = ToyWorld(), requests(6, ("landmarks",))
    energy = make_energies(["landmarks"], asked, toys.guide, FreeDoM.Params(), 8)["landmarks"]  # type: ignore[arg-type]
    values = [
        energy(make(FreeDoM, steps=20, strengths={"landmarks": strength}).generate(asked)).mean()
        for strength in (0.0, 1.0, 4.0)
    ]
    assert values[0] > values[1] > values[2]


def test_an_image_depends_on_its_request_alone_and_batches_of_one_are_as_good_as_eight() -> None:
    asked = requests(8, NAMES)
    method = make(FreeDoM, steps=10, strengths={"text": 0.05, "identity": 2.0, "mask": 0.4, "landmarks": 1.0})
    together = method.generate(asked)
    alone = torch.cat([method.generate([request]) for request in asked])
    assert float((together - alone).abs().max()) < 1e-4
    torch.manual_seed(123)
    assert torch.equal(method.generate(asked), together)


def test_the_coded_norm_couples_the_batch_and_nothing_at_one_image() -> None:
    asked = requests(4, ("mask",))
    coded, paper = (make(FreeDoM, steps=8, norm=norm, strengths={"mask": 150.0}) for norm in ("batch", "sample"))
    torch.testing.assert_close(coded.generate(asked[:1]), paper.generate(asked[:1]), rtol=1e-4, atol=1e-5)
    assert float((coded.generate(asked)[:1] - coded.generate(asked[:1])).abs().max()) > 1e-3
    official = make(FreeDoM, preset="official").params
    assert (official.norm, official.text_residual, official.kind(["mask"])) == ("batch", "raw", "ddim-official")


def test_traces_tell_losses_and_cosines_and_change_nothing() -> None:
    asked = requests(3, ("text", "mask", "identity"))
    method = make(FreeDoM, steps=5, strengths={"text": 0.05, "identity": 2.0})
    trace = Trace("gradient-cosine", "condition-loss")
    assert torch.equal(method.generate(asked, trace), method.generate(asked))
    steps, losses = trace.stacked("condition-loss")
    assert (steps, losses.shape) == ([801, 601, 401, 201, 1], (3, 5, 3))
    assert trace.parts["condition-loss"] == ("text", "identity", "mask")
    steps, cosines = trace.stacked("gradient-cosine")
    assert (steps, cosines.shape) == ([801, 601, 401, 201], (3, 4, 3))  # at t = 1 the mask does not guide any more
    assert trace.parts["gradient-cosine"] == ("text|identity", "text|mask", "identity|mask")
    assert float(cosines.abs().max()) <= 1


def test_a_text_driven_model_takes_the_text() -> None:
    """text_by 'model': eps_u + scale (eps_c - eps_u) samples, and only the style has an energy."""
    asked = requests(2, ("text", "style"))
    zero = make(FreeDoM, steps=6, sampler="ddim", eta=0, text_by="model", text_scale=2, strengths={"style": 0})
    toys = ToyWorld()
    images = []
    for request in asked:
        text, free = (toys.expert(n).bind([request.conditions], toys.schedule) for n in ("text", "unconditional"))
        generators = [torch.Generator().manual_seed(request.seed)]
        x_0 = ddim(
            lambda x, t, text=text, free=free: free(x, t) + 2 * (text(x, t) - free(x, t)),
            toys.schedule,
            generators,
            SHAPE,
            "cpu",
            6,
        )
        images.append(toys.autoencoder.decode(x_0))
    torch.testing.assert_close(zero.generate(asked), torch.cat(images), rtol=1e-4, atol=1e-5)
    trace = Trace("condition-loss")
    guided_ = make(FreeDoM, steps=6, text_by="model", text_scale=2, strengths={"style": 0.3})
    assert float((guided_.generate(asked, trace) - zero.generate(asked)).abs().max()) > 1e-3
    assert trace.parts["condition-loss"] == ("style",)
    assert set(guided_.denoisers()) == {"eps-unconditional", "eps-text", "backward"}


def test_every_pass_is_counted() -> None:
    """One forward at x_t for all; the mask and the landmarks share one pass backwards, the text has its own."""
    method = make(FreeDoM, steps=10)
    rows = dict.fromkeys(method.denoisers(), 0)

    def count(name: str) -> Any:
        def hook(module: Any, args: Any) -> None:
            rows[name] += len(args[0])

        return hook

    for name, network in method.denoisers().items():
        network.register_forward_pre_hook(count(name))
    method.generate(requests(3, ("text", "mask", "landmarks")))
    active = sum(t > 200 for t in method.schedule.ddim_timesteps(10))
    assert rows == {"eps-unconditional": 30, "backward": 3 * (10 + active)}


def test_bad_requests_and_parameters_are_named() -> None:
    method = make(FreeDoM, steps=2)
    with pytest.raises(ConcordError, match="needs at least 1 of identity, landmarks, mask, style, text; got none"):
        method.generate([Request("a-0", 1, Conditions())])
    with pytest.raises(ConcordError, match="different conditions"):
        method.generate([*requests(1, ("text",)), *requests(1, ("mask",))])
    nothing: Any = lambda: pytest.fail("the networks must not be loaded")  # noqa: E731
    with pytest.raises(ConcordError, match=r"'order': .*expected each of text, identity, mask, landmarks, style"):
        make_method("freedom", {"order": ["mask", "colour"]}, nothing)
    with pytest.raises(ConcordError, match="strengths"):
        make_method("freedom", {"strengths": {"colour": 1}}, nothing)
    with pytest.raises(ConcordError, match=r"strengths\.text.*got -1"):
        make_method("freedom", {"strengths": {"text": -1}}, nothing)
    with pytest.raises(ConcordError, match="guide 'judge'"):
        make(FreeDoM, steps=2, guide="judge").generate(requests(1))
    allowed = make(FreeDoM, steps=2, guide="judge", judge_may_guide=True).generate(requests(1))
    assert torch.equal(allowed, make(FreeDoM, steps=2).generate(requests(1)))  # the toy judge has the guide's weights


def test_nan_stops_at_its_condition_and_step() -> None:
    method = make(FreeDoM, steps=5)
    parser = method.networks.pool.loaded["guide/parser"]
    method.networks.pool.loaded["guide/parser"] = lambda x: parser(x) * float("nan")
    with pytest.raises(ConcordError, match=r"condition 'mask', step t = 801: NaN .* of request 0-0 \(3 in all\)"):
        method.generate(requests(3))

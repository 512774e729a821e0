"""Universal Guidance against its equations spelled out."""

from __future__ import annotations

import pytest
import torch
from toy_guidance import ToyParser, ToyWorld, make, requests

from concord.data.errors import ConcordError
from concord.methods.base import Batch, Trace
from concord.methods.core.sampler import Step, ddim_step
from concord.methods.guidance.energies import make_energies
from concord.methods.single import Unconditional
from concord.methods.ugd import UniversalGuidance

T, BEFORE = 501, 491
NAMES = ("text", "mask")
STRENGTHS = {"text": 0.5, "mask": 3.0, "identity": 0.0, "style": 0.0}


@pytest.mark.parametrize(("forward", "backward"), [(True, 0), (False, 3), (True, 2)])
def test_a_step_is_the_papers(forward: bool, backward: int) -> None:
    asked, toys = requests(2, NAMES), ToyWorld()
    method = make(UniversalGuidance, forward=forward, backward_steps=backward, backward_rate=0.05, strengths=STRENGTHS)
    batch = Batch(asked, [torch.Generator()] * 2, torch.device("cpu"))
    context = method.context(batch, NAMES, False)
    x = torch.randn(2, *toys.latent_shape, generator=torch.Generator().manual_seed(1))
    with torch.enable_grad():
        found = method.correct(context, x, Step("ddim", toys.schedule, T, BEFORE, None), NAMES, Trace()).detach()

    energies = make_energies(NAMES, asked, toys.guide, method.params, 8)  # type: ignore[arg-type]
    denoise = toys.expert("unconditional").bind([r.conditions for r in asked], toys.schedule)
    abar = toys.schedule.alphas_cumprod[T].float()

    def loss(x_0: torch.Tensor) -> torch.Tensor:
        images = toys.autoencoder.decode(x_0)
        return sum((STRENGTHS[name] * energy(images).sum() for name, energy in energies.items()), start=torch.zeros(()))

    leaf = x.clone().requires_grad_(True)
    raw = denoise(leaf, T)
    z_0 = (leaf - (1 - abar).sqrt() * raw) / abar.sqrt()
    eps = raw.detach()
    if forward:
        eps = eps + (1 - abar).sqrt() * torch.autograd.grad(loss(z_0), leaf)[0]
    if backward:
        delta = torch.zeros_like(x)
        for _ in range(backward):
            moved = (z_0.detach() + delta).requires_grad_(True)
            delta = delta - 0.05 * torch.autograd.grad(loss(moved), moved)[0]
        eps = eps - (abar / (1 - abar)).sqrt() * delta
    torch.testing.assert_close(found, ddim_step(toys.schedule, eps, x, T, BEFORE), rtol=1e-4, atol=1e-5)


def test_every_step_is_taken_k_times() -> None:
    trace = Trace("condition-loss")
    make(UniversalGuidance, steps=3, repeat=4).generate(requests(2, NAMES), trace)
    assert trace.stacked("condition-loss")[0] == [667] * 4 + [334] * 4 + [1] * 4
    trace = Trace("condition-loss")
    make(UniversalGuidance, steps=3, repeat=4, repeat_last_step=False).generate(requests(2, NAMES), trace)
    assert trace.stacked("condition-loss")[0] == [667] * 4 + [334] * 4 + [1]


@pytest.mark.parametrize(
    "params", [{}, {"forward": False, "backward_steps": 3, "backward_rate": 1.0}], ids=["forward", "backward"]
)
def test_guidance_lowers_the_energy(params: dict) -> None:  # type: ignore[type-arg]
    asked, toys = requests(6, ("identity",)), ToyWorld()
    energy = make_energies(["identity"], asked, toys.guide, UniversalGuidance.Params(), 8)["identity"]  # type: ignore[arg-type]
    values = []
    for strength in (0.0, 300.0):
        strengths = {"identity": strength}
        images = make(UniversalGuidance, steps=20, repeat=2, strengths=strengths, **params).generate(asked)
        values.append(float(energy(images).mean()))
    assert values[1] < values[0] - 0.02


def test_strength_zero_is_the_unguided_sample() -> None:
    zero = {"text": 0, "mask": 0}
    found = make(UniversalGuidance, steps=7, repeat=1, strengths=zero).generate(requests(3, NAMES))
    assert torch.equal(found, make(Unconditional, steps=7).generate(requests(3, ())))


def test_an_image_depends_on_its_request_alone() -> None:
    asked = requests(8, ("text", "style"))
    method = make(UniversalGuidance, steps=5, repeat=2, text_by="model", backward_steps=2, strengths={"style": 0.5})
    together = method.generate(asked)
    assert float((together - torch.cat([method.generate([request]) for request in asked])).abs().max()) < 1e-4
    assert torch.equal(method.generate(asked), together)


def test_nan_names_its_condition_and_landmarks_are_refused() -> None:
    method = make(UniversalGuidance, steps=3)
    with pytest.raises(ConcordError, match="does not take condition 'landmarks'"):
        method.generate(requests(1, ("landmarks",)))
    parser = method.networks.get("guide/parser", ToyParser)
    plain = parser.forward
    parser.forward = lambda x, plain=plain: plain(x) * float("nan")
    with pytest.raises(ConcordError, match="method 'ugd', condition 'mask', step t = 667: NaN"):
        method.generate(requests(2))

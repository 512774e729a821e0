"""Energies, step sizes, base steps and the products with Jacobians and Hessians that guided methods are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn
from toy_guidance import NAMES, SHAPE, SIDE, Quadratic, ToyGuide, ToyPair, ToyWorld, make_context, requests

from concord.data.errors import ConcordError
from concord.data.request import Conditions, Request
from concord.methods.core.sampler import Step, ddim, ddim_step, ddpm_step, guided, reverse_diffusion_step
from concord.methods.core.schedule import Schedule
from concord.methods.guidance import autodiff as hvp
from concord.methods.guidance.energies import make_energies, objective, step_size
from concord.methods.guidance.parameters import EnergyParams, GuidedParams
from concord.metrics.networks.embedded.perceptual import style_distance

SCHEDULE = Schedule.scaled_linear()


def images(count: int = 3, seed: int = 0) -> Tensor:
    return torch.rand((count, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(seed))


def energies(**params: Any) -> dict[str, Any]:
    return make_energies(NAMES, requests(3, NAMES), ToyGuide(), EnergyParams(**params), SIDE)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------- energies


def test_every_energy_is_the_norm_of_its_residual() -> None:
    guide, asked, x = ToyGuide(), requests(3, NAMES), images()
    pair, found = guide.get("text-image"), {name: energy(x) for name, energy in energies().items()}
    for i in range(3):
        c = asked[i].conditions
        text = pair.embed_images(x[i : i + 1]) - pair.embed_texts([c.text])
        torch.testing.assert_close(found["text"][i], torch.linalg.norm(text))
        person = torch.from_numpy(c.identity).movedim(-1, 0)[None] / 255
        network = guide.get("identity")
        torch.testing.assert_close(
            found["identity"][i], torch.linalg.norm(network.embed(x[i : i + 1]) - network.embed(person))
        )
        seen = guide.get("parser")(x[i : i + 1]).softmax(dim=1)
        wanted = nn.functional.one_hot(torch.from_numpy(c.mask), 19).movedim(-1, 0)
        torch.testing.assert_close(found["mask"][i], torch.linalg.norm(seen - wanted))
        points = (guide.get("landmarks")(x[i : i + 1])[0] - torch.from_numpy(c.landmarks)) / SIDE
        torch.testing.assert_close(found["landmarks"][i], torch.linalg.norm(points))
        grams = []
        for picture in (x[i : i + 1], torch.from_numpy(c.style).movedim(-1, 0)[None] / 255):
            (f,) = (feature.flatten(2)[0] for feature in pair.block_features(picture, (3,)))
            grams.append(f @ f.T / f.shape[1])
        torch.testing.assert_close(found["style"][i], torch.linalg.norm(grams[0] - grams[1]))


def test_unit_text_energy_falls_as_the_cosine_rises() -> None:
    pair, x = ToyGuide().get("text-image"), images()
    cosine = (pair.embed_images(x) * pair.embed_texts(["a", "aa", "aaa"])).sum(dim=1)
    torch.testing.assert_close(energies()["text"](x), (2 - 2 * cosine).sqrt())


def test_mask_energies_are_least_where_the_map_is_right() -> None:
    class Sure(nn.Module):
        """A parser whose logits are the image's first channel times one class's direction."""

        def forward(self, x: Tensor) -> Tensor:
            labels = (x[:, 0] * 18).round().long()
            return 18 * nn.functional.one_hot(labels, 19).movedim(-1, 1).float() * 19 / 18

    guide, asked = ToyGuide(), requests(2, ("mask",))
    guide.kinds["parser"] = Sure()
    right = torch.stack([torch.from_numpy(r.conditions.mask).float() / 18 for r in asked])[:, None].expand(
        -1, 3, -1, -1
    )
    for kind in ("probabilities", "logits", "cross-entropy"):
        p = EnergyParams(mask_residual=kind)  # type: ignore[arg-type]
        energy = make_energies(["mask"], asked, guide, p, SIDE)["mask"]  # type: ignore[arg-type]
        assert float(energy(right).max()) < 1e-3
        assert float(energy(right.flip(0)).min()) > 1


def test_a_smaller_map_is_compared_at_the_parsers_size() -> None:
    guide, asked = ToyGuide(), requests(2, ("mask",))
    small = [replace(r, conditions=Conditions(mask=r.conditions.mask[::2, ::2])) for r in asked]
    large = [
        replace(r, conditions=Conditions(mask=r.conditions.mask[::2, ::2].repeat(2, 0).repeat(2, 1))) for r in asked
    ]
    found = [make_energies(["mask"], rs, guide, EnergyParams(), SIDE)["mask"](images(2)) for rs in (small, large)]  # type: ignore[arg-type]
    torch.testing.assert_close(*found)


def test_the_papers_networks_are_looked_at_as_freedom_does() -> None:
    """MobileFaceNet sees the wanted face's square in every image; CLIP is asked for its guide preparation."""
    from concord.metrics.face.square import face_square, landmark_vector
    from concord.metrics.networks.pretrained.mobilefacenet import MobileFaceNet, SquareLandmarks

    class Pair(ToyPair):
        def guide_features(self, images: Tensor) -> Tensor:
            return 3 * self.image(images)

        def text_features(self, captions: Sequence[str]) -> Tensor:
            return 2 * self.embed_texts(captions)

    guide, asked, x = ToyGuide(), requests(2, ("text", "landmarks")), images(4)
    network = SquareLandmarks(MobileFaceNet(width=8)).eval().requires_grad_(False)
    guide.kinds |= {"landmarks": network, "text-image": Pair()}
    found = make_energies(["landmarks"], asked, guide, EnergyParams(), SIDE)["landmarks"](x)  # type: ignore[arg-type]
    for row in range(4):
        points = torch.from_numpy(asked[row % 2].conditions.landmarks)[None]
        squares = [face_square(points[0].numpy())]
        away = network(x[row : row + 1], squares) - landmark_vector(points, squares)
        torch.testing.assert_close(found[row], torch.linalg.norm(away), rtol=1e-4, atol=1e-5)
    pair, captions = guide.get("text-image"), ["a", "aa"]
    for kind in ("raw", "unit"):
        energy = make_energies(["text"], asked, guide, EnergyParams(text_residual=kind), SIDE)["text"]  # type: ignore[arg-type]
        seen, told = pair.guide_features(x[:2]), pair.text_features(captions)
        if kind == "unit":
            seen, told = nn.functional.normalize(seen, dim=1), nn.functional.normalize(told, dim=1)
        torch.testing.assert_close(energy(x[:2]), torch.linalg.norm(seen - told, dim=1))


def test_relative_style_is_the_metrics_distance() -> None:
    guide, asked, x = ToyGuide(), requests(3, ("style",)), images()
    found = make_energies(["style"], asked, guide, EnergyParams(style_residual="relative"), SIDE)["style"](x)  # type: ignore[arg-type]
    pictures = torch.stack([torch.from_numpy(r.conditions.style).movedim(-1, 0) / 255 for r in asked])
    torch.testing.assert_close(
        found, style_distance(guide.get("features").style_features(x), guide.get("features").style_features(pictures))
    )


def test_energies_of_blocks_are_those_of_their_rows() -> None:
    x = images(6)
    for energy in energies().values():
        torch.testing.assert_close(energy(x), torch.cat([energy(x[:3]), energy(x[3:])]))


def test_a_gradient_does_not_depend_on_its_neighbours_unless_coded_so() -> None:
    energy = energies()["text"]
    gradients = []
    for norm, changed in (("sample", False), ("sample", True), ("batch", False), ("batch", True)):
        x = images()
        if changed:
            x[2] = 1 - x[2]
        x.requires_grad_(True)
        gradients.append(torch.autograd.grad(objective(energy(x), norm), x)[0][0])
    torch.testing.assert_close(gradients[0], gradients[1])
    assert float((gradients[2] - gradients[3]).abs().max()) > 1e-4
    whole = energy(images()).square().sum().sqrt()  # the coded norm: one over the whole tensor of residuals
    torch.testing.assert_close(objective(energy(images()), "batch"), whole)
    torch.testing.assert_close(gradients[2], gradients[0] * energy(images())[0] / whole)


def test_an_energy_without_residual_has_finite_derivatives() -> None:
    x = torch.zeros(1, 3, SIDE, SIDE, requires_grad=True)
    energy = Quadratic("a", torch.zeros(1, 3 * SIDE**2), torch.zeros(1, 1), 1.0)
    value = super(Quadratic, energy).measure(energy.residual(x, energy.target))
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    assert bool(torch.isfinite(torch.autograd.grad(slope.sum(), x)[0]).all())


# ------------------------------------------------------------------------------------------------------------ bad input


def test_bad_conditions_are_named() -> None:
    def refused(name: str, value: Any, match: str) -> None:
        request = Request("17-0", 1, Conditions(**{name: value}))
        with pytest.raises(ConcordError, match=match) as caught:
            make_energies([name], [request], ToyGuide(), EnergyParams(), SIDE)  # type: ignore[arg-type]
        assert "request 17-0" in str(caught.value)
        assert "\n" not in str(caught.value)

    for name in NAMES:
        with pytest.raises(ConcordError, match=f"condition '{name}' guides but is missing"):
            make_energies([name], [Request("17-0", 1, Conditions())], ToyGuide(), EnergyParams(), SIDE)  # type: ignore[arg-type]
    refused("identity", np.zeros((SIDE, SIDE, 3), np.uint8), "shows no face; expected one face")
    refused("identity", np.zeros(24, np.float32), r"shape \(24,\) and type float32; expected an image")
    points = np.full((68, 2), 3.0, np.float32)
    refused("landmarks", points[:5], r"shape \(5, 2\); expected \(68, 2\)")
    for bad in (-0.5, SIDE + 0.5, np.nan):
        points[7, 1] = bad
        refused("landmarks", points, "landmark 7 .* outside the image")


def test_a_judge_guides_only_with_leave() -> None:
    asked = requests(1, ("text",))
    with pytest.raises(ConcordError, match=r"guide 'judge'.*judge_may_guide"):
        make_energies(["text"], asked, ToyWorld().judge, EnergyParams(), SIDE)  # type: ignore[arg-type]
    assert make_energies(["text"], asked, ToyWorld().judge, EnergyParams(judge_may_guide=True), SIDE)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["faces", "no faces"])
def test_the_embedded_guide_knows_a_face_when_it_sees_one(kind: str) -> None:
    from concord.data.networks import Networks
    from concord.data.synthetic import face
    from concord.metrics.networks.embedded.parser import SynthParser

    guide = Networks("embedded").get("guide/parser", SynthParser)
    if kind == "faces":
        drawn = [torch.from_numpy(face(27_000 + i).image).movedim(-1, 0).float() / 255 for i in range(24)]
        assert bool(guide.has_face(torch.stack(drawn)).all())
        return
    generator = torch.Generator().manual_seed(0)
    rough = torch.rand(3, 3, 6, 6, generator=generator)
    flat = torch.tensor([[0.0], [1.0], [0.5]]).reshape(3, 1, 1, 1).expand(3, 3, 64, 64)
    stripes = (torch.arange(64) // 8 % 2).float().expand(1, 3, 64, 64)
    pictures = torch.cat(
        [torch.rand(3, 3, 64, 64, generator=generator), flat, stripes, nn.functional.interpolate(rough, 64)]
    )
    assert not bool(guide.has_face(pictures).any())


# ----------------------------------------------------------------------------------------------------------- step sizes


def test_step_sizes_are_those_of_the_scripts() -> None:
    gradient, eps, correction = torch.randn(3, 2, *SHAPE, generator=torch.Generator().manual_seed(1))
    abar, before = SCHEDULE.alphas_cumprod[501], SCHEDULE.alphas_cumprod[491]
    c_1 = before.sqrt() * (1 - abar / before) / (1 - abar)
    p = EnergyParams(text_scale=5.0)

    def size(rule: Any, correction: Tensor | None = None, p: EnergyParams = p) -> Any:
        return step_size(rule, 0.3, gradient, eps, correction, abar, c_1, p)

    assert float(size("sqrt-abar")) == pytest.approx(0.3 * float(abar) ** 0.5)
    for row in range(2):
        share = eps[row].square().mean().sqrt() * (1 - abar).sqrt() / abar.sqrt() * c_1
        expected = 0.3 * float(share / gradient[row].square().mean().sqrt())
        assert float(size("relative")[row]) == pytest.approx(expected, rel=1e-5)
        assert float(size("relative-correction")[row]) == pytest.approx(expected, rel=1e-5)  # no text drives the model
        driven = 0.3 * float(correction[row].square().mean().sqrt() * 5 / gradient[row].square().mean().sqrt())
        assert float(size("relative-correction", correction)[row]) == pytest.approx(driven, rel=1e-5)
    over_all = size("relative", p=EnergyParams(norm="batch"))
    assert over_all.shape == (1, 1, 1, 1)
    assert float(size("score")) == pytest.approx(0.3 * float((1 - abar / before) / (abar / before).sqrt()))


def test_windows_and_repeats() -> None:
    p = GuidedParams(windows={"mask": (200, 800)}, repeat=3, repeat_window=(400, 700))  # type: ignore[arg-type]
    assert [p.guides("mask", t) for t in (1, 200, 201, 799, 800)] == [False, False, True, True, False]
    assert p.guides("text", 1)
    assert [p.repeats(t) for t in (399, 400, 700, 701)] == [1, 3, 3, 1]
    assert not GuidedParams(strengths={"text": 0}).guides("text", 500)  # type: ignore[arg-type]
    assert GuidedParams(strengths={"text": 0.5}).strengths.mask == 0.2  # type: ignore[arg-type]
    assert GuidedParams(order=("mask",)).order[:2] == ("mask", "text")
    assert [GuidedParams().kind(names) for names in (["text", "mask"], ["mask"])] == ["ancestral", "ddim"]


# ----------------------------------------------------------------------------------------------------------- base steps


def test_ancestral_step_is_ddpms_posterior() -> None:
    """Against diffusers, on consecutive timesteps (its strided posterior is the same formula)."""
    scheduler = DDPMScheduler(
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule="scaled_linear",
        clip_sample=False,
        variance_type="fixed_small",
    )
    scheduler.set_timesteps(1000)
    x, eps, z = torch.randn(3, 2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    for t in (5, 500, 990):
        mean = ddpm_step(SCHEDULE, eps, x, t, t - 1)
        generator = torch.Generator().manual_seed(3)
        drawn = scheduler.step(eps, t, x, generator=generator).prev_sample
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
        torch.testing.assert_close(ddpm_step(SCHEDULE, eps, x, t, t - 1, noise), drawn, rtol=1e-4, atol=1e-4)
        loud, quiet = (ddim_step(SCHEDULE, eps, x, t, t - 1, 1.0, noise) for noise in (z, 0 * z))
        torch.testing.assert_close(ddpm_step(SCHEDULE, eps, x, t, t - 1, z) - mean, loud - quiet)


def test_ancestral_step_is_ddim_with_eta_one() -> None:
    x, eps, z = torch.randn(3, 2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(ddpm_step(SCHEDULE, eps, x, 501, 491, z), ddim_step(SCHEDULE, eps, x, 501, 491, 1.0, z))


def test_reverse_diffusion_nears_the_ancestral_step_as_steps_shrink() -> None:
    x, eps = torch.randn(2, 1, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    gaps = []
    for stride in (20, 2):
        a, b = (
            ddpm_step(SCHEDULE, eps, x, 500, 500 - stride),
            reverse_diffusion_step(SCHEDULE, eps, x, 500, 500 - stride),
        )
        gaps.append(float((a - b).norm() / (a - x).norm()))
    assert gaps[1] < gaps[0] / 5 < 0.05


def test_coded_ddim_has_the_deviation_of_the_scripts() -> None:
    x, eps, z = torch.randn(3, 1, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    found = Step("ddim-official", SCHEDULE, 501, 491, z, 0.5)(x, eps)
    abar, before = SCHEDULE.alphas_cumprod[501], SCHEDULE.alphas_cumprod[491]
    x_0 = (x - (1 - abar).sqrt() * eps) / abar.sqrt()
    expected = before.sqrt() * x_0 + (1 - before).sqrt() * 0.5 * z + (1 - before).sqrt() * 0.75**0.5 * eps
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_a_loop_without_guidance_is_ddim_bit_by_bit(eta: float) -> None:
    def denoise(x: Tensor, t: int) -> Tensor:
        return torch.tanh(x) * (t / 1000)

    def own() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in (1, 2)]

    plain = ddim(denoise, SCHEDULE, own(), SHAPE, "cpu", 12, eta)
    free = guided(lambda x, step: step(x, denoise(x, step.t)), SCHEDULE, own(), SHAPE, "cpu", 12, "ddim", eta)
    assert torch.equal(plain, free)


def test_time_travel_takes_every_turn_and_keeps_the_noise_level() -> None:
    """Standard normal data, every step drawn from its true transition: x_t stays standard normal on every way."""
    visits: list[int] = []

    def correct(x: Tensor, step: Step) -> Tensor:
        visits.append(step.t)
        kept = SCHEDULE.abar(step.t, x) / SCHEDULE.abar(max(step.t_previous, 0), x)
        return kept.sqrt() * x + (0.0 if step.noise is None else (1 - kept).sqrt() * step.noise)

    own = [torch.Generator().manual_seed(seed) for seed in range(64)]
    x = guided(correct, SCHEDULE, own, (8, 8), "cpu", 5, "ancestral", repeats=lambda t: 3 if t > 500 else 1)
    assert visits == [801] * 3 + [601] * 3 + [401, 201, 1]
    assert float(x.std()) == pytest.approx(1, abs=0.03)


# --------------------------------------------------------------------------------------- products with derivatives


class Analytic(nn.Module):
    """A smooth scalar field of 6 numbers with known derivatives (by torch's own full Jacobian and Hessian)."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.m = torch.randn(6, 6, generator=generator, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.m).square().sum(dim=-1) + torch.sin(x).prod(dim=-1)


def test_products_are_those_of_the_explicit_jacobian_and_hessian() -> None:
    field = Analytic()
    x, v = torch.randn(2, 6, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(field, x)
    leaf = x[None].clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(field(leaf).sum(), leaf, create_graph=True)
    (exact,) = hvp.vjp(gradient, leaf, v[None, None], retain_graph=True)
    torch.testing.assert_close(exact[0], hessian @ v, rtol=1e-10, atol=1e-10)
    jacobian = torch.autograd.functional.jacobian(lambda y: torch.sin(y @ field.m) * y, x)
    out = torch.sin(leaf @ field.m) * leaf
    both = hvp.vjp(out, leaf, torch.stack([v[None], 2 * v[None]]))
    torch.testing.assert_close(both[:, 0], torch.stack([jacobian.T @ v, 2 * jacobian.T @ v]), rtol=1e-10, atol=1e-10)

    def slope(y: Tensor) -> Tensor:
        y = y.detach().requires_grad_(True)
        return torch.autograd.grad(field(y).sum(), y)[0]

    near = hvp.difference(slope, x[None], slope(x[None]), v[None], h=1e-6)
    torch.testing.assert_close(near[0], hessian @ v, rtol=1e-4, atol=1e-4)
    assert not bool(hvp.difference(slope, x[None], slope(x[None]), 0 * v[None]).any())


def test_products_of_rows_are_their_own() -> None:
    field = Analytic()
    x, v = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    v[1] *= 1e-6  # rows of very different lengths take steps of the same length
    slope = torch.func.vmap(torch.func.grad(lambda y: field(y)))
    together = hvp.difference(slope, x, slope(x), v, h=1e-6)
    for row in range(4):
        exact = torch.autograd.functional.hessian(field, x[row]) @ v[row]
        torch.testing.assert_close(together[row], exact, rtol=1e-3, atol=1e-4 * float(v[row].norm()))


def test_the_plain_attention_kernel_is_chosen_only_inside() -> None:
    q = torch.randn(1, 1, 4, 8, requires_grad=True)

    def twice() -> Tensor:
        out = nn.functional.scaled_dot_product_attention(q, q, q)
        (gradient,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
        return torch.autograd.grad(gradient.sum(), q)[0]

    with hvp.twice_differentiable():
        assert bool(torch.isfinite(twice()).all())
    with pytest.raises(RuntimeError, match="derivative"):
        twice()


def test_a_bad_gradient_names_condition_step_and_request() -> None:
    a = torch.eye(3 * 4 * 4)[:2]
    energy = Quadratic("mask", a, torch.zeros(2, 2), 1.0)

    def broken(x: Tensor) -> Tensor:
        return torch.cat([x[:1], x[1:] * float("nan")])

    context = make_context(lambda x, t: x, [energy], GuidedParams(), 2, decode=broken, method="freedom")
    with torch.enable_grad():
        state = context.evaluate(torch.ones(2, 3, 4, 4), 500)
    with pytest.raises(ConcordError, match=r"'freedom', condition 'mask', step t = 500: NaN or .* of request r1"):
        context.gradient("mask", state, 500)

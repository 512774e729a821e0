"""Z-Magic against the explicit matrices of its equations, and against FreeDoM where the two agree."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_guidance import NAMES, Linear, Quadratic, ToyWorld, make, make_context, requests

from concord.data.errors import ConcordError
from concord.methods.base import Trace
from concord.methods.core.sampler import Step
from concord.methods.core.schedule import Schedule
from concord.methods.freedom import FreeDoM
from concord.methods.guidance.cagrad import cagrad
from concord.methods.guidance.energies import Energy
from concord.methods.z_magic import ZMagic

T, BEFORE, SIZE = 501, 491, 5
M = torch.randn(4, SIZE, SIZE, generator=torch.Generator().manual_seed(3), dtype=torch.float64) / SIZE**0.5
RULES = dict.fromkeys(NAMES, "sqrt-abar")
STRENGTHS = {"text": 0.3, "mask": 0.5, "identity": 0.2, "landmarks": 0.4}


class Field(Energy):
    """A smooth energy of 5 numbers, different for every condition."""

    def __init__(self, name: str, rows: int) -> None:
        self.condition, self.m = name, M[NAMES.index(name) % 4]  # type: ignore[misc]
        self.target = torch.zeros(rows, 1)

    def residual(self, images: Tensor, target: Tensor) -> Tensor:
        x = images.flatten(1)
        return torch.tanh(x @ self.m) + 0.3 * x.square() - 0.5


def model(x: Tensor, t: int) -> Tensor:
    """A smooth eps whose Jacobian is not symmetric."""
    return (torch.tanh(x.flatten(1) @ M[3]) * (t / 1000)).reshape(x.shape)


def decode(x: Tensor) -> Tensor:
    return x + 0.1 * torch.sin(3 * x)


def corrected(names: tuple[str, ...], x: Tensor, noise: Tensor | None = None, **params: Any) -> Tensor:
    """The production step on the fields."""
    method = make(ZMagic, rules=RULES, strengths=STRENGTHS, stop=-1, order=names, **params)
    context = make_context(model, [Field(name, len(x)) for name in names], method.params, len(x), decode)
    with torch.enable_grad():
        return method.correct(
            context, x, Step("ancestral", ToyWorld.schedule, T, BEFORE, noise), names, Trace()
        ).detach()


def by_matrices(
    names: tuple[str, ...], x: Tensor, noise: Tensor | None = None, hessian: bool = True, t: int = T
) -> Any:
    """Gradients of every ordered pair for one row x (1, 5, 1, 1): explicit A and H, equations 6 and 7 not used."""
    schedule, step = ToyWorld.schedule, Step("ancestral", ToyWorld.schedule, T, BEFORE, noise)

    def energy(name: str, y: Tensor, at: int) -> Tensor:
        z = y.reshape(1, SIZE, 1, 1)
        return Field(name, 1)(decode(schedule.x0_from_eps(model(z, at), z, at)))[0]

    def base(y: Tensor) -> Tensor:
        z = y.reshape(1, SIZE, 1, 1)
        return step(z, model(z, T)).flatten()

    flat, root = x.flatten(), float(schedule.alphas_cumprod[T]) ** 0.5
    a = torch.autograd.functional.jacobian(base, flat)
    first, pairs = {}, {}
    for i in names:
        rho_i = STRENGTHS[i] * root
        first[i] = rho_i * torch.autograd.functional.jacobian(lambda y, i=i: energy(i, y, T), flat)
        h = torch.autograd.functional.hessian(lambda y, i=i: energy(i, y, T), flat)
        x_hat = base(flat) - first[i]
        for j in names:
            if j != i:
                g = STRENGTHS[j] * root * torch.autograd.functional.jacobian(lambda y, j=j: energy(j, y, t), x_hat)
                pairs[i, j] = a.T @ g - (rho_i * h @ g if hessian else 0)
    return base(flat), first, pairs


def points(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, SIZE, 1, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("noisy", [False, True])
def test_algorithm_1_is_that_of_the_explicit_jacobian_and_hessian(noisy: bool) -> None:
    x, noise = points(3), points(3, 1) if noisy else None
    found = corrected(("text", "mask"), x, noise, hvp="exact")
    without = corrected(("text", "mask"), x, noise, hvp="none")
    for row in range(3):
        z = None if noise is None else noise[row : row + 1]
        base, first, pairs = by_matrices(("text", "mask"), x[row], z)
        expected = base - first["text"] - pairs["text", "mask"]
        torch.testing.assert_close(found[row].flatten(), expected, rtol=1e-10, atol=1e-10)
        base, first, bare = by_matrices(("text", "mask"), x[row], z, hessian=False)
        torch.testing.assert_close(
            without[row].flatten(), base - first["text"] - bare["text", "mask"], rtol=1e-10, atol=1e-10
        )
        assert float((pairs["text", "mask"] - bare["text", "mask"]).norm()) > 1e-3  # the Hessian matters here
    near = corrected(("text", "mask"), x, noise, hvp="finite-difference", hvp_step=1e-6)
    torch.testing.assert_close(near, found, rtol=1e-5, atol=1e-5)


def test_x_hat_may_be_looked_at_a_timestep_earlier() -> None:
    x = points(2)
    found = corrected(("text", "mask"), x, hvp="exact", eval_timestep="previous")
    for row in range(2):
        base, first, pairs = by_matrices(("text", "mask"), x[row], t=BEFORE)
        torch.testing.assert_close(
            found[row].flatten(), base - first["text"] - pairs["text", "mask"], rtol=1e-9, atol=1e-9
        )


def test_the_order_of_two_conditions_changes_what_the_equations_say() -> None:
    x = points(2)
    for names in (("text", "mask"), ("mask", "text")):
        found = corrected(names, x, hvp="exact")
        for row in range(2):
            base, first, pairs = by_matrices(names, x[row])
            expected = base - first[names[0]] - pairs[names]
            torch.testing.assert_close(found[row].flatten(), expected, rtol=1e-10, atol=1e-10)
    assert float((corrected(("text", "mask"), x) - corrected(("mask", "text"), x)).abs().max()) > 1e-3


@pytest.mark.parametrize("names", [("text", "mask", "identity"), ("text", "identity", "mask", "landmarks")])
@pytest.mark.parametrize("c", [0.0, 0.5])
def test_algorithm_2_joins_all_ordered_pairs(names: tuple[str, ...], c: float) -> None:
    x = points(3)
    found = corrected(names, x, hvp="exact", cagrad_c=c)
    near = corrected(names, x, hvp="finite-difference", hvp_step=1e-6, cagrad_c=c)
    torch.testing.assert_close(near, found, rtol=1e-4, atol=1e-4)
    for row in range(3):
        base, first, pairs = by_matrices(names, x[row])
        tasks = torch.stack([first[i] + pairs[i, j] for i, j in pairs])[:, None]
        expected = base - len(names) / 2 * cagrad(tasks, c)[0]
        torch.testing.assert_close(found[row].flatten(), expected, rtol=1e-8, atol=1e-8)


def test_the_authors_code_starts_once_and_doubles() -> None:
    x = points(2)
    for names in (("text", "mask"), ("text", "mask", "identity")):
        found = corrected(names, x, hvp="none", joining="official")
        for row in range(2):
            base, first, pairs = by_matrices(names, x[row], hessian=False)
            parts = torch.stack([first["text"], *(pairs["text", j] for j in names[1:])])[:, None]
            joined = cagrad(parts, 0.5)[0] / (1.5 if len(names) == 2 else 1.25)
            expected = base - 2 * parts.sum(dim=0)[0] - joined
            torch.testing.assert_close(found[row].flatten(), expected, rtol=1e-8, atol=1e-8)
    official = make(ZMagic, preset="official").params
    assert (official.hvp, official.joining, official.norm) == ("none", "official", "batch")
    assert (official.strengths.mask, official.strengths.text) == (0.1, 0.02)


@pytest.mark.parametrize("names", [("text", "mask"), ("text", "mask", "identity"), NAMES[:4]])
@pytest.mark.parametrize("hvp", ["exact", "finite-difference", "none"])
def test_without_curvature_and_with_a_still_model_it_is_freedom(names: tuple[str, ...], hvp: str) -> None:
    """H = 0: linear energies of a linear prediction. A = I: a model under which the unguided step stands still."""
    schedule = Schedule(torch.tensor([0.5, 0.25, 0.0625], dtype=torch.float64))  # roots that floats hold exactly
    step = Step("ddim", schedule, 2, 1, None)
    root, before = 0.25, 0.5
    still = (1 - before / root) / ((1 - 0.25) ** 0.5 - before * (1 - 0.0625) ** 0.5 / root)  # x_{t'} = x_t
    generator = torch.Generator().manual_seed(1)
    slopes = {name: torch.randint(-4, 5, (1, SIZE), generator=generator).double() for name in names}
    params: dict[str, Any] = {"rules": RULES, "order": names, "windows": dict.fromkeys(NAMES, (-1, 1000))}
    x = points(2)
    moved = []
    for kind, extra in ((FreeDoM, {}), (ZMagic, {"hvp": hvp, "cagrad_c": 0.0, "stop": -1})):
        method = make(kind, **params, strengths=dict.fromkeys(NAMES, 0.5), **extra)
        energies = [Linear(name, slopes[name], torch.zeros(2, 1), 1.0) for name in names]
        context = make_context(lambda y, t: still * y, energies, method.params, 2)
        context.schedule = schedule
        with torch.enable_grad():
            moved.append(method.correct(context, x, step, names, Trace()).detach())
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-14, atol=1e-14)
    assert float((moved[0] - x).abs().max()) > 0.1  # and it does move


def test_one_condition_is_freedoms_step() -> None:
    asked = requests(3, ("mask",))
    strengths = {"mask": 0.4}
    alone = make(ZMagic, steps=6, strengths=strengths, stop=200, sampler="ddim").generate(asked)
    torch.testing.assert_close(alone, make(FreeDoM, steps=6, strengths=strengths).generate(asked), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("names", [("text", "mask"), ("text", "identity", "mask")])
def test_difference_and_exact_product_agree_on_networks(names: tuple[str, ...]) -> None:
    asked = requests(3, names)
    strengths = {"text": 0.5, "mask": 40.0, "identity": 2.0}
    exact, near, bare = (
        make(ZMagic, steps=8, hvp=hvp, strengths=strengths).generate(asked)
        for hvp in ("exact", "finite-difference", "none")
    )
    assert float((exact - near).abs().max()) < 2e-3
    assert float((exact - bare).abs().max()) > 3 * float((exact - near).abs().max())


def test_strength_zero_and_the_final_steps_are_unguided() -> None:
    asked = requests(3, ("text", "mask"))
    free = make(FreeDoM, steps=6, strengths=dict.fromkeys(NAMES, 0)).generate(asked)
    assert torch.equal(make(ZMagic, steps=6, strengths=dict.fromkeys(NAMES, 0)).generate(asked), free)
    assert torch.equal(make(ZMagic, steps=6, stop=1000).generate(asked), free)
    assert not torch.equal(make(ZMagic, steps=6, stop=200).generate(asked), free)


def test_the_step_at_stop_itself_is_unguided() -> None:
    """t > stop: of 201, 200 and 199 the first alone is guided at --stop 200."""
    params = make(ZMagic, stop=200, windows=dict.fromkeys(NAMES, (-1, 1000))).params
    assert [t for t in (202, 201, 200, 199) if params.guides("text", t)] == [202, 201]
    asked, timesteps = requests(2, ("text", "mask")), ToyWorld.schedule.ddim_timesteps(5)
    for place, t in enumerate(timesteps[:-1]):  # at and below `stop` the losses alone are told, nothing is corrected
        trace = Trace("gradient-cosine")
        windows = dict.fromkeys(NAMES, (-1, 1000))
        make(ZMagic, steps=5, stop=t, windows=windows).generate(asked, trace)
        assert trace.steps.get("gradient-cosine", []) == timesteps[:place]


@pytest.mark.parametrize("hvp", ["exact", "finite-difference"])
def test_an_image_depends_on_its_request_alone(hvp: str) -> None:
    asked = requests(8, ("text", "identity", "mask"))
    method = make(ZMagic, steps=8, hvp=hvp, strengths={"text": 0.05, "identity": 1.0, "mask": 0.3})
    together = method.generate(asked)
    alone = torch.cat([method.generate([request]) for request in asked])
    # The difference quotient divides float32's rounding by h = 0.01, hence its wider tolerance.
    assert float((together - alone).abs().max()) < (1e-4 if hvp == "exact" else 1e-3)
    assert torch.equal(method.generate(asked), together)


def test_traces_tell_losses_and_conditional_cosines_and_change_nothing() -> None:
    asked = requests(2, ("text", "identity", "mask"))
    method = make(ZMagic, steps=5, order=("mask", "identity", "text"))
    trace = Trace("gradient-cosine", "condition-loss")
    assert torch.equal(method.generate(asked, trace), method.generate(asked))
    assert trace.parts["gradient-cosine"] == tuple(
        "|".join(pair) for pair in combinations(("mask", "identity", "text"), 2)
    )
    assert trace.stacked("gradient-cosine")[0] == [801, 601, 401, 201]
    assert trace.parts["condition-loss"] == ("mask", "identity", "text")
    assert trace.stacked("condition-loss")[0] == [801, 601, 401, 201, 1]


def test_a_text_driven_model_goes_first() -> None:
    """One energy after a driving text: x^ is the unguided step, and the gradient at it is carried back by A alone."""
    asked = requests(2, ("text", "style"))
    params = {"steps": 6, "text_by": "model", "text_scale": 2, "strengths": {"style": 0.3}}
    runs = [make(ZMagic, hvp=hvp, **params).generate(asked) for hvp in ("exact", "finite-difference", "none")]
    torch.testing.assert_close(runs[0], runs[2], rtol=1e-4, atol=1e-5)
    assert torch.equal(runs[1], runs[2])
    assert float((runs[2] - make(FreeDoM, **params).generate(asked)).abs().max()) > 1e-3
    three = make(ZMagic, **params).generate(requests(2, ("text", "style", "mask")))
    assert bool(torch.isfinite(three).all())


@pytest.mark.parametrize(
    ("names", "hvp", "forward", "backward", "second"),
    [
        # per guided step and image: x_t, x^ and the difference's point; g_1, g_x^, A g and the difference's gradient
        (("text", "mask"), "finite-difference", 3, 4, 0),
        (("text", "mask"), "exact", 2, 2, 1),
        (("text", "mask"), "none", 2, 3, 0),
        (("text", "identity", "mask"), "finite-difference", 1 + 3 + 6, 3 + 6 + 6 + 6, 0),
        (("text", "identity", "mask"), "exact", 1 + 3, 3 + 6, 6),
    ],
)
def test_every_pass_is_counted(names: tuple[str, ...], hvp: str, forward: int, backward: int, second: int) -> None:
    method = make(ZMagic, steps=10, hvp=hvp)
    rows = dict.fromkeys(method.denoisers(), 0)

    def count(name: str) -> Any:
        def hook(module: Any, args: Any) -> None:
            rows[name] += len(args[0])

        return hook

    for name, network in method.denoisers().items():
        network.register_forward_pre_hook(count(name))
    method.generate(requests(3, names))
    steps = sum(t > 200 for t in method.schedule.ddim_timesteps(10))
    assert rows == {
        "eps-unconditional": 3 * (steps * forward + 10 - steps),
        "backward": 3 * steps * backward,
        "second-order": 3 * steps * second,
    }


def test_nan_stops_at_its_condition_and_step() -> None:
    for hvp in ("exact", "finite-difference"):
        method = make(ZMagic, steps=5, hvp=hvp)
        parser = method.networks.pool.loaded["guide/parser"]
        method.networks.pool.loaded["guide/parser"] = lambda x, parser=parser: parser(x) * float("nan")
        with pytest.raises(ConcordError, match=r"method 'z-magic', condition 'mask', step t = 801: NaN"):
            method.generate(requests(2))


def test_a_quadratic_world_carries_its_curvature_exactly() -> None:
    """On a linear model and quadratic energies a forward difference is exact whatever h."""
    energies = [Quadratic(n, M[k, :2], torch.ones(2, 2).double(), 0.5) for k, n in enumerate(("text", "mask"))]
    runs = []
    for hvp, h in (("exact", 1.0), ("finite-difference", 1.0), ("finite-difference", 0.01)):
        method = make(ZMagic, rules=RULES, strengths=STRENGTHS, stop=-1, hvp=hvp, hvp_step=h)
        context = make_context(lambda y, t: 0.3 * y, energies, method.params, 2)
        with torch.enable_grad():
            step = Step("ancestral", ToyWorld.schedule, T, BEFORE, None)
            runs.append(method.correct(context, points(2), step, ["text", "mask"], Trace()).detach())
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(runs[0], runs[2], rtol=1e-9, atol=1e-9)

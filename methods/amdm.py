"""AMDM (arXiv:2410.01262): several diffusion models take the first s steps together, then one continues alone.

    x'_{t-1}   = w x^1_{t-1} + sqrt(1 - w^2) x^2_{t-1}                       spherical aggregation    (equation 9)
    x^i_{t-1}  = x'_{t-1} - eta_i (x'_{t-1} - mu_i) / |x'_{t-1} - mu_i|      manifold optimisation    (equation 10)

in the first s of T steps (Algorithm 1; Algorithm 2 for N models). mu_i is the mean of model i's own step (equation 6),
so that its prediction is used twice and no network is evaluated for the correction. An added model costs s / T of a
sample.

Equation 9 keeps the norm of orthogonal vectors. Models that share x_T (as the paper has it) are far from that in the
first steps: with w = 0.5, two parallel samples grow by (w + sqrt(1 - w^2)) = 1.366, and it is equation 10 that takes
the growth away again: 45 of the 128 that a latent of Stable Diffusion is long are 35 %.

The words of section 3.3 are spherical linear interpolation, which equation 9 is for orthogonal vectors alone.
`aggregate: slerp` is that of the angle between the samples (Shoemake 1985), with the same weights where they are
orthogonal: it keeps the norm at any angle, and is ours.

For three models and more the printed weights (prod w; sqrt(1 - w_1^2) prod w; ...; prod sqrt(1 - w^2)) have no unit
norm: sum of squares 1 - w_1^2 (1 - w_2^2) for three, 0.913^2 at the paper's 0.47 and 0.5. `unit_norm` gives those of
repeated equation 9, ((x^1, x^2), x^3), ..., which have; for two models they are the same.

Preset "official" is the authors' code (Hammour-steak/AMDM at dba837a; interactmigc.py, interactmigcip.py) where it
differs:

    first_step       aggregation from the second step on (infer800.py: steps 1 to 3 of 0 to 49; the demos go on to 7)
    shared_start     each model starts from noise of its own
    mean             mu is a step late (`official_mean`)
    norm_over        the norm of equation 10 runs over the whole batch
    step_unit        45 and 55 as they are printed, whatever the latents' size
    noise_last_step  diffusers' DDIM: where eta is above 0 the last step draws noise, too

Their loop runs every model to its end and keeps a picture of each; here the others stop where they no longer matter.

The paper aggregates layout models of Stable Diffusion; any models that share latents, schedule and sampler will do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from concord.data.conditions.base import condition_names
from concord.data.errors import ConcordError
from concord.methods.base import Batch, Method, Trace, register
from concord.methods.core.experts import LAYOUT_MODELS, guided_rows, layout_models, modalities
from concord.methods.core.noise import draw_noise
from concord.methods.core.sampler import Denoiser, ddim_step
from concord.methods.core.schedule import Schedule
from concord.methods.core.tunable import TuneRange
from concord.methods.networks.protocols import GuidedDenoiser, TrainedDenoiser, WithLatents, WithSchedule

PAPER_WEIGHTS = {2: (0.5,), 3: (0.47, 0.5)}  # w_1 .. w_{N-1}, section 4
PAPER_STEP_SIZES = {2: (45.0, 55.0), 3: (45.0, 40.0, 35.0)}  # eta_1 .. eta_N, section 4
PAPER_NORM = math.sqrt(4 * 64 * 64)  # 128, of standard normal noise in the latents of Stable Diffusion
EPS = 1e-6  # of the noise's norm: what is nearer to mu than rounding can tell has no direction towards it

Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class Model:
    """One of the models that are aggregated, its condition fixed."""

    name: str
    denoise: Denoiser
    schedule: Schedule
    latent_shape: tuple[int, ...]


A = TypeVar("A", bound="Amdm.Params")


@register
class Amdm(Method[A]):
    """Spherical aggregation and manifold optimisation of N conditional models (Algorithm 2)."""

    name, title, paper = "amdm", "AMDM", "arXiv:2410.01262"
    citation = "Aggregation of Multi Diffusion Models for Enhancing Learned Representations. arXiv 2024"
    conditions = frozenset({"text", "mask"})
    minimum_conditions = 2
    training_free = True
    auto_include = False  # which model continues alone, and after how many steps, has to be chosen

    class Params(Method.Params):
        old_values: ClassVar[Mapping[str, Mapping[str, str]]] = {"mean": {"coded": "official"}}

        steps: int = Field(50, ge=1, le=1000)  # T, section 4
        eta: float = Field(0.0, ge=0, le=1)  # noise of DDIM; section 4 samples by DDIM
        noise_last_step: bool = False  # noise in the last step, too, where eta > 0
        order: tuple[str, ...] = ()  # theta_1 (continues alone), theta_2, ...; the conditions' usual order if empty
        aggregation_steps: Annotated[int, TuneRange(1, 30)] = Field(3, ge=0, validate_default=True)  # s, section 4
        first_step: int = Field(0, ge=0)  # Algorithm 1: t > T - s; the authors' code leaves out the first step
        weights: Annotated[tuple[Share, ...], TuneRange(0.1, 0.95)] = ()
        # w_1 .. w_{N-1}; section 4's for two and three models if empty
        aggregate: Literal["spherical", "slerp", "average"] = "spherical"
        # 'spherical': equation 9; no paper's: 'slerp' (see the file's head) and 'average', the mean of the samples
        unit_norm: bool = False  # True: weights of unit norm for N > 2 too, which those of paper and code are not
        optimise: bool = True  # False: aggregation without equation 10
        step_sizes: Annotated[tuple[NotNegative, ...], TuneRange(0.03, 3, share=True, when={"optimise": [True]})] = ()
        # eta_1 .. eta_N; section 4's if empty
        step_unit: Literal["share", "absolute"] = "share"
        # 'share': of the norm of standard normal latents, where section 4's 45 is 45/128 as in its own latents;
        # 'absolute': as printed, whatever the latents' size
        norm_over: Literal["sample", "batch"] = "sample"  # of equation 10; the code takes the norm of the whole batch
        mean: Literal["step", "official"] = "step"  # mu: equation 6; the code is a step late (`official_mean`)
        shared_start: bool = True  # one x_T for all models (Algorithm 1); the code draws one for each

        @classmethod
        def official(cls) -> dict[str, Any]:
            return {
                "first_step": 1,
                "shared_start": False,
                "mean": "official",
                "norm_over": "batch",
                "step_unit": "absolute",
                "noise_last_step": True,
            }

        @field_validator("aggregation_steps")
        @classmethod
        def _no_more_than_there_are(cls, value: int, info: ValidationInfo) -> int:
            if value > info.data.get("steps", value):
                raise ValueError(f"expected at most the {info.data['steps']} sampling steps")
            return value

        @field_validator("first_step")
        @classmethod
        def _inside(cls, value: int, info: ValidationInfo) -> int:
            steps, count = info.data.get("steps", value), info.data.get("aggregation_steps", 0)
            if value + count > steps:
                raise ValueError(f"expected at most {steps - count}: {count} of {steps} steps aggregate from there")
            return value

        @field_validator("mean")
        @classmethod
        def _has_a_step_before(cls, value: str, info: ValidationInfo) -> str:
            if value == "official" and info.data.get("first_step", 1) < 1:
                raise ValueError("'official' needs the prediction of the step before: expected first_step of 1 or more")
            return value

        @property
        def end(self) -> int:
            """The steps in which all models take part; from there on theta_1 continues alone."""
            return self.first_step + self.aggregation_steps if self.aggregation_steps else 0

    def models(self, batch: Batch) -> list[Model]:
        """theta_1 .. theta_N of the batch's conditions; ConcordError where they are not the ones of `order`."""
        known = self.model_names(modalities(batch))
        names = list(self.params.order) or known
        if sorted(names) != sorted(known):
            expected = f"expected each of {', '.join(known)}"
            raise ConcordError(f"method '{self.name}', parameter 'order': {', '.join(names)}; {expected}")
        return [self.model(name, batch) for name in names]

    @staticmethod
    def model_names(conditions: Sequence[str]) -> list[str]:
        """The models that these conditions call for, in their usual order."""
        return [name for name in condition_names() if name in conditions]

    def model(self, name: str, batch: Batch) -> Model:
        """One model, bound to the batch's condition."""
        expert = self.networks.get(f"expert/{name}", TrainedDenoiser)
        bound = expert.bind(batch.conditions, self.schedule)
        shape = expert.latent_shape if isinstance(expert, WithLatents) else self.space.latent_shape
        return Model(name, bound, self.schedule_of(bound), tuple(shape))

    def schedule_of(self, bound: Denoiser) -> Schedule:
        """What a bound model was trained under."""
        return bound.schedule if isinstance(bound, WithSchedule) else self.schedule

    def denoisers(self) -> Mapping[str, nn.Module]:
        return {f"eps-{name}": self.networks.get(f"expert/{name}", nn.Module) for name in sorted(self.conditions)}

    @classmethod
    def roles(cls, params: A, conditions: Sequence[str]) -> tuple[str, ...]:
        return ("schedule", "space", *(f"expert/{name}" for name in sorted(cls.conditions)))

    @classmethod
    def evaluations(
        cls, params: A, conditions: Sequence[str], timesteps: Sequence[int] | None = None
    ) -> Mapping[str, float]:
        first, *others = list(params.order) or cls.model_names(conditions)  # theta_1, ..
        return {f"eps-{first}": params.steps, **{f"eps-{name}": params.end for name in others}}

    @torch.inference_mode()
    def sample(self, batch: Batch, trace: Trace) -> Tensor:
        models = self.models(batch)
        check_compatible(self.name, models)
        return self.space.decode(self.aggregated(models, batch))

    def aggregated(self, models: Sequence[Model], batch: Batch) -> Tensor:
        """x_0 of theta_1 (B, C, h, w): Algorithm 2, of which Algorithm 1 is the case of two models."""
        p = self.params
        n, schedule, shape = len(models), models[0].schedule, models[0].latent_shape
        weights = _one_for_each(self.name, "weights", p.weights, PAPER_WEIGHTS, n, n - 1)
        sizes = _one_for_each(self.name, "step_sizes", p.step_sizes, _paper_sizes(p.step_unit), n, n)
        sizes = [size * (math.sqrt(math.prod(shape)) if p.step_unit == "share" else 1.0) for size in sizes]
        coefficients = [1 / n] * n if p.aggregate == "average" else spherical_weights(weights, p.unit_norm)

        x = [draw_noise(batch.generators, shape, batch.device)]  # line 1
        x += [x[0] if p.shared_start else draw_noise(batch.generators, shape, batch.device) for _ in models[1:]]
        earlier: list[Tensor] = []
        timesteps = schedule.ddim_timesteps(p.steps)
        for k, (t, t_previous) in enumerate(zip(timesteps, [*timesteps[1:], -1], strict=True)):  # line 2
            if k >= p.end:
                x = x[:1]  # what the others would do from here on is not part of theta_1's sample
            eps = [model.denoise(x_t, t) for model, x_t in zip(models, x, strict=False)]  # (B, C, h, w) each
            eta = p.eta if t_previous >= 0 or p.noise_last_step else 0.0
            pairs = list(zip(eps, x, strict=True))
            mean = [ddim_step(schedule, e, x_t, t, t_previous, eta, torch.zeros_like(x_t)) for e, x_t in pairs]  # eq. 6
            drawn = mean
            if eta > 0:  # lines 3 and 5; fresh noise follows the request's own stream, theta_1's first
                fresh = [draw_noise(batch.generators, shape, batch.device) for _ in x]
                drawn = [
                    ddim_step(schedule, e, x_t, t, t_previous, eta, z) for (e, x_t), z in zip(pairs, fresh, strict=True)
                ]
            if p.first_step <= k < p.end:
                if p.mean == "official":
                    before = timesteps[k - 1]
                    mean = [official_mean(schedule, e, x_t, before) for e, x_t in zip(earlier, x, strict=True)]
                mixed = slerp(drawn, weights) if p.aggregate == "slerp" else aggregate(drawn, coefficients)  # line 6
                if p.optimise:
                    ends = zip(mean, sizes, strict=True)
                    drawn = [manifold_step(mixed, mu, size, p.norm_over) for mu, size in ends]  # line 7, equation 10
                else:
                    drawn = [mixed] * n
            x, earlier = drawn, eps
        return x[0]


@register
class AmdmLayouts(Amdm["AmdmLayouts.Params"]):
    """AMDM over the layout models, as in its paper: the interaction model continues alone after the first s steps.

    order: of 'interaction', 'attribute' and, with a reference image, 'style'.
    """

    name, title = "amdm-layouts", "AMDM"
    conditions = frozenset({"layout", "style"})
    minimum_conditions = 1  # one layout is the condition of two models

    class Params(Amdm.Params):
        guidance: Annotated[float, TuneRange(1, 7.5)] = Field(2.0, ge=0)
        # classifier-free, of every model; 7.5 is for Stable Diffusion

        @classmethod
        def official(cls) -> dict[str, Any]:
            return {**super().official(), "guidance": 7.5}

    @staticmethod
    def model_names(conditions: Sequence[str]) -> list[str]:
        return layout_models(conditions)

    def model(self, name: str, batch: Batch) -> Model:
        expert = self.networks.get(f"expert/{name}", GuidedDenoiser)
        bound = expert.bind(batch.conditions, self.schedule, self.params.guidance)
        return Model(name, bound, self.schedule_of(bound), self.space.latent_shape)

    def denoisers(self) -> Mapping[str, nn.Module]:
        return {f"eps-{kind}": self.networks.get(f"expert/{kind}", nn.Module) for kind in LAYOUT_MODELS}

    @classmethod
    def roles(cls, params: Params, conditions: Sequence[str]) -> tuple[str, ...]:
        return ("schedule", "space", *(f"expert/{kind}" for kind in LAYOUT_MODELS))

    @classmethod
    def evaluations(
        cls, params: Params, conditions: Sequence[str], timesteps: Sequence[int] | None = None
    ) -> Mapping[str, float]:
        rows = guided_rows(params.guidance)
        counts = super().evaluations(params, conditions, timesteps)
        return {f"eps-{kind}": rows * counts.get(f"eps-{kind}", 0) for kind in LAYOUT_MODELS}


# ------------------------------------------------------------------------------------------------------- the equations


def spherical_weights(weights: Sequence[float], unit_norm: bool = False) -> list[float]:
    """N coefficients from w_1 .. w_{N-1} in [0, 1]: of x^1 .. x^N in Algorithm 2, line 6 (equation 9 for N = 2).

    As printed, the k-th is prod_{j<k} sqrt(1 - w_j^2) prod_{j>=k} w_j. With `unit_norm` it is sqrt(1 - w_{k-1}^2)
    prod_{j>=k} w_j: equation 9 again and again, whose squares sum to 1.
    """
    rest = [math.sqrt(1 - w**2) for w in weights]
    found = []
    for k in range(len(weights) + 1):
        others = rest[k - 1 : k] if unit_norm and k else rest[:k]
        found.append(math.prod(others) * math.prod(weights[k:]))
    return found


def aggregate(samples: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    """x' = sum_i c_i x^i, like one of the samples (B, C, h, w)."""
    mixed = coefficients[0] * samples[0]
    for c, sample in zip(coefficients[1:], samples[1:], strict=True):
        mixed = mixed + c * sample
    return mixed


def slerp(samples: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Spherical linear interpolation (B, C, h, w) of two samples after the other, by the angle of each pair's rows.

    A weight w says how far: a share 2/pi arccos(w) of the way, so that orthogonal samples get w and sqrt(1 - w^2).
    """
    mixed = samples[0]
    for w, sample in zip(weights, samples[1:], strict=True):
        share = 2 / math.pi * math.acos(w)
        norms = [v.flatten(1).norm(dim=1).clamp(min=1e-30) for v in (mixed, sample)]
        cosine = (mixed * sample).flatten(1).sum(dim=1) / (norms[0] * norms[1])
        angle = cosine.double().clamp(-1, 1).arccos()[:, None, None, None]  # (B, 1, 1, 1)
        flat = angle < 1e-4  # sines of tiny angles: the chord is the arc
        sine = torch.where(flat, torch.ones_like(angle), angle.sin())
        parts = [torch.where(flat, torch.full_like(angle, k), (k * angle).sin() / sine) for k in (1 - share, share)]
        mixed = parts[0].to(mixed.dtype) * mixed + parts[1].to(mixed.dtype) * sample
    return mixed


def manifold_step(x: Tensor, mu: Tensor, distance: float, over: Literal["sample", "batch"] = "sample") -> Tensor:
    """Equation 10: x moved by exactly `distance` towards mu, past it where it is nearer; all (B, C, h, w).

    That is up the gradient of the density of N(mu, sigma^2 I), whatever sigma. over: 'sample' moves every sample by
    that distance, 'batch' the batch as one vector. What lies on mu stays there: it has no direction.
    """
    away = x - mu
    dimensions = tuple(range(1 if over == "sample" else 0, x.ndim))
    norm = away.square().sum(dim=dimensions, keepdim=True).sqrt()
    still = norm <= EPS * math.sqrt(math.prod(x.shape[dimensions[0] :]))
    return torch.where(still, x, x - distance * away / norm.clamp(min=1e-30))


def official_mean(schedule: Schedule, eps_before: Tensor, x_t: Tensor, t_before: int) -> Tensor:
    """mu as the authors' code has it: a step late, and one of the 1,000 training steps long.

    (x_t - (1 - a) / sqrt(1 - abar) eps) / sqrt(a) with the input x_t of this step, but the prediction eps, a =
    abar_t / abar_{t-1} and abar of the step before. Over the strided steps of a sampler it hardly moves: at t = 981 of
    Stable Diffusion it is 1.006 x - 0.012 eps.
    """
    abar = schedule.abar(t_before, x_t)
    a = abar / schedule.abar(t_before - 1, x_t) if t_before > 0 else abar
    return (x_t - (1 - a) / (1 - abar).sqrt() * eps_before) / a.sqrt()


# --------------------------------------------------------------------------------------------------------------- checks


def check_compatible(method: str, models: Sequence[Model]) -> None:
    """Raise ConcordError unless all models have the first one's latents and noise schedule (section 3.3)."""
    first = models[0]
    for other in models[1:]:
        if other.latent_shape != first.latent_shape:
            raise ConcordError(
                f"method '{method}': model '{other.name}' works in latents of shape {other.latent_shape}, "
                f"'{first.name}' in {first.latent_shape}; expected models over one autoencoder"
            )
        ours, theirs = first.schedule.alphas_cumprod, other.schedule.alphas_cumprod
        if ours.shape != theirs.shape or not torch.equal(ours, theirs):
            raise ConcordError(
                f"method '{method}': model '{other.name}' has another noise schedule ({len(theirs)} steps, down to "
                f"{float(theirs[-1]):.4g}) than '{first.name}' ({len(ours)}, {float(ours[-1]):.4g}); expected one"
            )


def _paper_sizes(unit: str) -> dict[int, tuple[float, ...]]:
    if unit == "absolute":
        return PAPER_STEP_SIZES
    return {n: tuple(size / PAPER_NORM for size in sizes) for n, sizes in PAPER_STEP_SIZES.items()}


def _one_for_each(
    method: str, name: str, given: Sequence[float], paper: Mapping[int, Sequence[float]], models: int, count: int
) -> list[float]:
    """The values given, or the paper's for that many models."""
    found = list(given or paper.get(models, ()))
    if len(found) != count:
        raise ConcordError(
            f"method '{method}', parameter '{name}': {len(found)} values for {models} models; expected {count}"
        )
    return found

"""Every constant of preset "official" is changed alone: the comparisons of test_official_* have to see each of them.

A plant that leaves the sample within 1e-8 of the authors' would mean that a reference is blind to that constant.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any
from unittest import mock

import pytest
import torch
from official_world import World, off
from reference import test_official_amdm as amdm
from reference import test_official_collaborative as collaborative
from reference import test_official_composable as composable
from reference import test_official_freedom as freedom
from reference import test_official_mt_diffusion as mt_diffusion
from reference import test_official_sdedit as sdedit
from reference import test_official_style_aligned as style_aligned
from reference import test_official_tedigan as tedigan
from reference import test_official_ugd as ugd
from reference import test_official_z_magic as z_magic
from torch import Tensor
from toy_guidance import requests

from concord.methods.base import all_methods
from concord.methods.freedom import FreeDoM
from concord.methods.guidance import cagrad_published
from concord.methods.ugd import UniversalGuidance
from concord.methods.z_magic import ZMagic

SEEN = 1e-8  # ten times what the comparisons allow
FACES = {"preset": "official", "strengths": freedom.STRENGTHS}
MAGIC = {"preset": "official", "strengths": z_magic.RHO}
STYLE = {"preset": "official", "text_by": "model"}

Case = tuple[Any, tuple[str, ...], bool, dict[str, Any], Callable[[World], Tensor]]
CASES: dict[str, Case] = {
    "freedom text": (FreeDoM, ("text",), True, FACES, lambda w: freedom.faces(w, freedom.STOPS)),
    "freedom mask": (FreeDoM, ("mask",), True, FACES, lambda w: freedom.faces(w, freedom.STOPS)),
    "freedom identity": (FreeDoM, ("identity",), True, FACES, lambda w: freedom.faces(w, freedom.STOPS)),
    "freedom landmarks": (FreeDoM, ("landmarks",), True, FACES, lambda w: freedom.faces(w, freedom.STOPS)),
    "freedom style": (FreeDoM, ("text", "style"), False, STYLE, freedom.style),
    "z-magic text + mask": (
        ZMagic, ("text", "mask"), True, MAGIC, lambda w: z_magic.faces(w, ("text", "mask"), z_magic.RHO)),
    "z-magic identity + landmarks": (
        ZMagic, ("identity", "landmarks"), True, MAGIC,
        lambda w: z_magic.faces(w, ("identity", "landmarks"), z_magic.RHO)),
    "z-magic three": (
        ZMagic, z_magic.THREE, True, MAGIC, lambda w: z_magic.faces(w, z_magic.THREE, z_magic.RHO | {"mask": 0.2})),
    "z-magic style": (ZMagic, ("text", "style"), False, STYLE, z_magic.style),
    "ugd style": (
        UniversalGuidance, ("text", "style"), False,
        {**ugd.EVERYWHERE, "text_by": "model", "steps": 20, "repeat": 3, "text_scale": 2.0},
        lambda w: ugd.stable_diffusion(w, 20, 3, 2.0, {"style": ugd.STRENGTHS["style"]})),
    "ugd style with noise": (
        UniversalGuidance, ("text", "style"), False,
        {**ugd.EVERYWHERE, "text_by": "model", "steps": 20, "repeat": 1, "text_scale": 2.0, "eta": 1.0},
        lambda w: ugd.stable_diffusion(w, 20, 1, 2.0, {"style": ugd.STRENGTHS["style"]}, 1.0)),
    "ugd identity": (
        UniversalGuidance, ("identity",), True, {**ugd.EVERYWHERE, "steps": 20, "repeat": 3},
        lambda w: ugd.imagenet(w, 20, 3, {"identity": ugd.STRENGTHS["identity"]}, 0)),
    "ugd text": (
        UniversalGuidance, ("text",), True, {**ugd.EVERYWHERE, "steps": 20, "repeat": 3},
        lambda w: ugd.imagenet(w, 20, 3, {"text": ugd.STRENGTHS["text"]}, 0)),
    "ugd mask backward": (
        UniversalGuidance, ("mask",), True,
        {**ugd.EVERYWHERE, "steps": 10, "repeat": 2, "backward_steps": 3, "backward_rate": 0.05,
         "backward_cutoff": 3.3},
        lambda w: ugd.imagenet(w, 10, 2, {"mask": ugd.STRENGTHS["mask"]}, 3, rate=0.05, cutoff=3.3)),
}  # fmt: skip  # a table

PLANTS: dict[str, list[dict[str, Any]]] = {
    "freedom text": [
        {"norm": "sample"}, {"text_residual": "unit"}, {"strengths": {"text": 0.0201}}, {"steps": 90},
        {"windows": {"text": (1, 1000)}}, {"sampler": "ddim"}, {"sampler": "reverse-diffusion"},
        {"rules": {"text": "sqrt-abar"}}],
    "freedom mask": [
        {"norm": "sample"}, {"ddim_noise": "paper"}, {"eta": 0.49}, {"windows": {"mask": (200, 1000)}},
        {"windows": {"mask": (211, 1000)}}, {"strengths": {"mask": 2.001}}, {"repeat": 2}, {"sampler": "ancestral"}],
    "freedom identity": [{"windows": {"identity": (100, 1000)}}, {"windows": {"identity": (111, 1000)}}],
    "freedom landmarks": [{"windows": {"landmarks": (200, 1000)}}, {"windows": {"landmarks": (211, 1000)}}],
    "freedom style": [
        {"noise_last_step": False}, {"style_repeat": 2}, {"style_repeat": None}, {"style_repeat_window": (402, 700)},
        {"style_repeat_window": (400, 690)}, {"windows": {"style": (301, 700)}}, {"windows": {"style": (300, 691)}},
        {"strengths": {"style": 0.201}}, {"text_scale": 5.01},
        {"repeat_last_step": True, "style_repeat_window": (0, 700)},
        {"norm": "sample"}],
    "z-magic text + mask": [
        {"stop": 200}, {"stop": 211}, {"stop_text": True}, {"cagrad_per_channel": False}, {"cagrad_solver": "exact"},
        {"cagrad_c": 0.51}, {"hvp": "exact"}, {"eval_timestep": "previous"}, {"joining": "paper"}, {"norm": "sample"},
        {"text_residual": "unit"}, {"strengths": {"mask": 0.101}}, {"order": ("mask", "text")}, {"sampler": "ddim"}],
    "z-magic identity + landmarks": [
        {"stop": 200}, {"stop": 211}, {"ddim_noise": "paper"}, {"eta": 0.49}, {"sampler": "ancestral"},
        {"cagrad_per_channel": False}, {"cagrad_solver": "exact"}, {"order": ("landmarks", "identity")},
        {"norm": "sample"}],
    "z-magic three": [
        {"branch_noise": "shared"}, {"mask_strength_of_three": None}, {"order": ("text", "identity", "mask")},
        {"cagrad_per_channel": False}, {"cagrad_solver": "exact"}, {"stop": 200}, {"stop_text": True}],
    "z-magic style": [
        {"windows": {"style": (301, 1000)}}, {"windows": {"style": (300, 991)}}, {"strengths": {"style": 0.15}},
        {"style_repeat": 2}, {"style_repeat": None}, {"repeat_last_step": False}, {"noise_last_step": False},
        {"correction_at": "x_t"}, {"text_scale": 5.01}, {"style_repeat_window": (400, 700)}],
    "ugd style": [
        {"repeat_last_step": False}, {"repeat": 2}, {"style_residual": "embedding"}, {"text_scale": 2.01},
        {"encoder": "text-image"}, {"forward": False}, {"steps": 25},
        {"strengths": {**ugd.STRENGTHS, "style": 0.401}}, {"eta": 0.1}],
    "ugd identity": [{"identity_residual": "unit"}, {"clip_x0": "never"}, {"repeat_last_step": False}],
    "ugd text": [{"text_residual": "unit"}, {"text_residual": "raw"}, {"encoder": "text-image"}, {"clip_x0": "never"}],
    "ugd style with noise": [{"noise_last_step": False}, {"eta": 0.5}],
    "ugd mask backward": [
        {"backward_optimizer": "descent"}, {"backward_scaled": True}, {"backward_start": "unguided"},
        {"backward_cutoff": None}, {"backward_rate": 0.051}, {"backward_steps": 2}, {"clip_x0": "never"},
        {"mask_residual": "probabilities"}],
}  # fmt: skip  # a table


@cache
def reference(case: str) -> Tensor:
    kind, names, pixels, params, spelled_out = CASES[case]
    world = World(kind, names, pixels, **params)
    found = world.images(spelled_out(world))
    assert off(world.sample(), found) < 1e-9
    return found


@pytest.mark.long
@pytest.mark.parametrize(
    ("case", "plant"),
    [(case, plant) for case, plants in PLANTS.items() for plant in plants],
    ids=lambda value: value if isinstance(value, str) else ",".join(f"{k}={v}" for k, v in value.items()),
)
def test_a_changed_parameter_is_seen(case: str, plant: dict[str, Any]) -> None:
    kind, names, pixels, params, _ = CASES[case]
    changed = {**params, **plant}
    for group in ("strengths",):
        if group in plant and group in params:
            changed[group] = {**params[group], **plant[group]}
    assert off(World(kind, names, pixels, **changed).sample(), reference(case)) > SEEN


@pytest.mark.long
@pytest.mark.parametrize(
    ("case", "name", "value"),
    [("z-magic text + mask", "TWO", 1e-5), ("z-magic three", "SEVERAL", 1e-7)],
)
def test_a_changed_constant_of_the_published_solver_is_seen(case: str, name: str, value: float) -> None:
    kind, names, pixels, params, _ = CASES[case]
    with mock.patch.object(cagrad_published, name, value):
        assert off(World(kind, names, pixels, **params).sample(), reference(case)) > SEEN


# ------------------------------------------------------------------------------------------ methods without guidance

TWO, THREE = ("text", "mask"), ("text", "mask", "style")


def aggregated(names: tuple[str, ...], **plant: Any) -> Tensor:
    toys, given = amdm.Models(), {"steps": 20, "aggregation_steps": 7, "step_sizes": amdm.SIZES[len(names)], "eta": 0.5}
    with torch.inference_mode():
        return amdm.sampled(toys, requests(amdm.BATCH, names), names, **{**given, **plant})


def aggregated_by_them(names: tuple[str, ...]) -> Tensor:
    asked, sizes = [request.conditions for request in requests(amdm.BATCH, names)], amdm.SIZES[len(names)]
    with torch.inference_mode():
        return amdm.loop(amdm.Models(), names, asked, amdm.WEIGHTS[len(names)], sizes, 20, 7, 0.5)


def joined(**plant: Any) -> Tensor:
    given = {"preset": "official", "steps": 20}
    return collaborative.sampled(collaborative.Toys(), requests(2, TWO), **{**given, **plant})


def joined_by_them() -> Tensor:
    asked = [request.conditions for request in requests(2, TWO)]
    with torch.inference_mode():
        return collaborative.sampler(collaborative.Toys(), asked, 20, 1.0, True, 2.0)


def styled(**plant: Any) -> Tensor:
    given = {"steps": 10, "reference_caption": "a painting."}
    with torch.inference_mode():
        return style_aligned.sampled(style_aligned.Toys(), requests(2, ("text", "style")), **{**given, **plant})


def styled_by_them() -> Tensor:
    with torch.inference_mode():
        asked = requests(2, ("text", "style"))
        return style_aligned.pictured(style_aligned.Toys(), asked, "a painting.", 10, 5)


def composed(names: tuple[str, ...], **plant: Any) -> Tensor:
    given = {"steps": 20, "eta": 0.5}
    return composable.sampled(composable.Experts(), requests(2, names), **{**given, **plant})


def composed_by_them(names: tuple[str, ...]) -> Tensor:
    return composable.pipeline(composable.Experts(), requests(2, names), names, 20, 0.5, [7.5] * len(names))


def edited(**plant: Any) -> Tensor:
    return sdedit.sampled(sdedit.Toys(pixels=True), sdedit.masked(), **{"start": 300.5 / 1001, **plant})


def edited_by_them() -> Tensor:
    return sdedit.edited(sdedit.Toys(pixels=True), sdedit.masked(), 300)


def optimised(**plant: Any) -> Tensor:
    return tedigan.sampled(tedigan.Both(), tedigan.asked(), **{"steps": 20, **plant})


def optimised_by_them() -> Tensor:
    return torch.cat([tedigan.demo(tedigan.Toys(), request, 20) for request in tedigan.asked()])


def multi_task(**plant: Any) -> Tensor:
    known, start = mt_diffusion.Stream(mt_diffusion.SHAPE, 1)(), mt_diffusion.Stream(mt_diffusion.SHAPE, 2)()
    with torch.inference_mode():
        return mt_diffusion.sampled(plant.get("kind", "bounded"), known, start, **plant)[0]


def multi_task_by_hand() -> Tensor:
    known, start = mt_diffusion.Stream(mt_diffusion.SHAPE, 1)(), mt_diffusion.Stream(mt_diffusion.SHAPE, 2)()
    with torch.inference_mode():
        return mt_diffusion.algorithm("bounded", known, start, None)[0]


OTHERS: dict[str, tuple[Callable[..., Tensor], Callable[[], Tensor], list[dict[str, Any]]]] = {
    "amdm two": (partial(aggregated, TWO), partial(aggregated_by_them, TWO), [
        {"first_step": 2}, {"shared_start": True}, {"mean": "step"}, {"norm_over": "sample"}, {"step_unit": "share"},
        {"noise_last_step": False}, {"eta": 0.49}, {"weights": (0.51,)}, {"aggregate": "average"},
        {"aggregate": "slerp"}, {"optimise": False}, {"step_sizes": (0.91, 1.1)}, {"step_sizes": (0.9, 1.11)},
        {"aggregation_steps": 6}, {"order": ("mask", "text")}]),
    "amdm three": (partial(aggregated, THREE), partial(aggregated_by_them, THREE), [
        {"weights": (0.48, 0.5)}, {"weights": (0.47, 0.51)}, {"unit_norm": True}, {"step_sizes": (0.9, 0.8, 0.71)},
        {"order": ("text", "style", "mask")}]),
    "collaborative": (joined, joined_by_them, [
        {"eta": 0.99}, {"noise_last_step": False}, {"mask_schedule": "none"}, {"mask_factor": 2.01},
        {"vary_in_space": False}, {"vary_in_time": False}, {"steps": 25}]),
    "style-aligned": (styled, styled_by_them, [
        {"share": False}, {"share_norms": False}, {"score_shift": 0.69}, {"invert_scale": 2.01},
        {"reference_caption": ""}, {"reference_offset": 4}, {"timesteps": "latent-diffusion"}, {"text_scale": 10.01}]),
    "composable": (partial(composed, TWO), partial(composed_by_them, TWO), [
        {"combine": "average"}, {"weight": 7.51}, {"eta": 0.49}, {"noise_last_step": False}, {"steps": 25}]),
    "composable three": (partial(composed, THREE), partial(composed_by_them, THREE), [
        {"combine": "average"}, {"weight": 5.0}]),
    "sdedit": (edited, edited_by_them, [{"start": 301.5 / 1001}, {"start": 299.5 / 1001}, {"steps": 500}]),
    "tedigan": (optimised, optimised_by_them, [
        {"mixing": True}, {"start": "code"}, {"last_update": True}, {"pixel_weight": 1.0}, {"perceptual_weight": 0.11},
        {"code_weight": 2.01}, {"text_weight": 1.01}, {"rate": 0.101}, {"ramp_up": 0.06}, {"ramp_down": 0.26},
        {"steps": 19}]),
    "mt-diffusion": (multi_task, multi_task_by_hand, [
        {"kind": "paper"}, {"scale": 1.01}, {"eta": 0.99}, {"steps": 500}]),
}  # fmt: skip  # a table


@cache
def other_reference(case: str) -> Tensor:
    run, reference_of, _ = OTHERS[case]
    found = reference_of()
    assert off(run(), found) < 1e-9
    return found


@pytest.mark.long
@pytest.mark.parametrize(
    ("case", "plant"),
    [(case, plant) for case, (*_, plants) in OTHERS.items() for plant in plants],
    ids=lambda value: value if isinstance(value, str) else ",".join(f"{k}={v}" for k, v in value.items()),
)
def test_a_changed_parameter_of_a_method_without_guidance_is_seen(case: str, plant: dict[str, Any]) -> None:
    run, *_ = OTHERS[case]
    assert off(run(**plant), other_reference(case)) > SEEN


def test_every_value_of_a_preset_is_planted() -> None:
    """A value that preset "official" sets, and no plant changes, might be anything."""
    planted: dict[str, set[str]] = {}
    for case, plants in PLANTS.items():
        planted.setdefault(CASES[case][0].name, set()).update(name for plant in plants for name in plant)
    for case, (*_, plants) in OTHERS.items():
        planted.setdefault(case.split()[0], set()).update(name for plant in plants for name in plant)
    for name, found in planted.items():
        if name in all_methods():
            assert set(all_methods()[name].Params.official()) - found - BY_ENERGIES == set(), name


BY_ENERGIES = {"identity_window", "style_reference"}
"""How an energy prepares its pictures, which toy networks do not: tests of the networks plant these."""

"""Every constant of preset "official" is changed alone: the comparisons of test_official_* have to see each of them.

A plant that leaves the sample within 1e-8 of the authors' would mean that a reference is blind to that constant.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any
from unittest import mock

import pytest
from official_world import World, off
from reference import test_official_freedom as freedom
from reference import test_official_ugd as ugd
from reference import test_official_z_magic as z_magic
from torch import Tensor

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
        {"strengths": {**ugd.STRENGTHS, "style": 0.401}}, {"eta": 0.1}],
    "ugd identity": [{"identity_residual": "unit"}, {"clip_x0": "never"}, {"repeat_last_step": False}],
    "ugd text": [{"text_residual": "unit"}, {"text_residual": "raw"}],
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

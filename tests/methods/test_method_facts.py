"""What a method states of itself, by the names of today and of before."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import concord.methods.base as base
from concord.data.errors import ConcordWarning
from concord.data.networks import Networks
from concord.methods.plugins import load_plugin

OLD = """
import torch
from concord.methods.base import Method, register

@register
class Old(Method):
    "Written before any of today's names."
    name, title, paper = "old", "Old", "none"
    conditions = frozenset({"text"})
    training_free = True

    class Params(Method.Params):
        steps: int = 3

    mixer = torch.nn.Identity()

    def networks(self):
        return {"mixer": self.mixer}

    def sample(self, batch, trace):
        return torch.zeros(len(batch), 3, 8, 8) + self.params.steps / 10
"""


@pytest.fixture
def registry() -> Iterator[None]:
    """The registry as it was, afterwards."""
    before = base.all_methods()
    yield
    base._REGISTRY.methods.clear()
    base._REGISTRY.methods.update(before)


@pytest.fixture
def plugin(tmp_path: Path, registry: None) -> Path:
    """A file with the method 'old', not loaded yet."""
    path = tmp_path / "old.py"
    path.write_text(OLD)
    return path


def test_a_plugin_that_lists_its_networks_by_the_old_name_is_counted(plugin: Path) -> None:
    with pytest.warns(ConcordWarning, match=r"Old: method networks\(\) is now called denoisers\(\); rename it"):
        load_plugin(plugin)
    method = base.make_method("old", {"steps": 5}, Networks.of({}))
    assert set(method.denoisers()) == {"mixer"}
    assert method.params.model_dump() == {"preset": "paper", "steps": 5}


def test_parameters_are_typed_by_the_class_and_checked_by_it() -> None:
    """Every registered method is generic in the very class that checks its parameters."""
    for name, method in base.all_methods().items():
        assert issubclass(method.Params, base.Method.Params), name
        assert type(base.make_params(method)) is method.Params


def test_a_warning_is_one_line_and_said_once() -> None:
    twice = "from concord.data.errors import warn; [warn('the old word still works; write the new one') for _ in '12']"
    found = subprocess.run([sys.executable, "-c", twice], capture_output=True, text=True, check=True)
    assert found.stderr == "concord:1: ConcordWarning: the old word still works; write the new one\n"


ROLES: list[tuple[str, dict[str, Any], tuple[str, ...], set[str]]] = [
    ("text-only", {}, ("text",), {"schedule", "space", "expert/text"}),
    ("layout-style", {}, ("style",), {"schedule", "space", "expert/style"}),
    ("composable", {}, ("text", "mask"), {"schedule", "space", "expert/text", "expert/mask"}),
    (
        "composable",
        {"combine": "conjunction"},
        ("text", "mask"),
        {"schedule", "space", "expert/text", "expert/mask", "expert/unconditional"},
    ),
    (
        "collaborative",
        {},
        ("text", "mask"),
        {"schedule", "space", "expert/text", "expert/mask", "influence/text", "influence/mask"},
    ),
    ("amdm-layouts", {}, ("layout",), {"schedule", "space", "expert/interaction", "expert/attribute", "expert/style"}),
    ("style-aligned", {"text_scale": 1}, ("text", "style"), {"schedule", "space", "expert/text"}),
    (
        "freedom",
        {},
        ("mask", "style"),
        {"schedule", "space", "expert/unconditional", "guide/parser", "guide/text-image"},
    ),
    (
        "freedom",
        {"strengths": {"style": 0}},
        ("mask", "style"),
        {"schedule", "space", "expert/unconditional", "guide/parser"},
    ),
    (
        "freedom",
        {"style_residual": "relative", "guide": "judge"},
        ("style",),
        {"schedule", "space", "expert/unconditional", "judge/features"},
    ),
    (
        "z-magic",
        {"text_by": "model"},
        ("text", "identity"),
        {"schedule", "space", "expert/unconditional", "expert/text", "guide/identity"},
    ),
    ("sdedit", {}, ("masked_image",), {"schedule", "space", "expert/unconditional"}),
    ("clean-masked", {}, ("masked_image",), set()),
    ("tedigan", {}, ("mask",), {"stylegan", "stylegan/mask"}),
    ("tedigan", {"steps": 5}, ("text",), {"stylegan", "stylegan/text", "guide/text-image", "guide/features"}),
    (
        "mt-diffusion-x",
        {"weights": "paper"},
        ("masked_image",),
        {"schedule", "space", "multi-task/mt-faces-paper-weights"},
    ),
    ("adm", {}, (), {"schedule", "space", "multi-task/mt-unconditional"}),
]


@pytest.mark.parametrize(("method", "params", "conditions", "roles"), ROLES)
def test_the_roles_that_a_row_draws_on(
    method: str, params: dict[str, Any], conditions: tuple[str, ...], roles: set[str]
) -> None:
    kind = base.get_method(method)
    found = kind.roles(base.make_params(kind, params), conditions)
    assert found is not None
    assert set(found) == roles
    assert len(found) == len(roles)


def test_every_method_states_its_roles_and_a_plugin_need_not(plugin: Path) -> None:
    for name, kind in base.all_methods().items():
        assert kind.roles(base.make_params(kind), sorted(kind.conditions)) is not None, name
    with pytest.warns(ConcordWarning):
        load_plugin(plugin)
    old = base.get_method("old")
    assert old.roles(base.make_params(old), ("text",)) is None
    assert old.evaluations(base.make_params(old), ("text",)) is None

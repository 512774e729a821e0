"""What `concord check` says of a method that raises: file and line, and the same exception once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import toy_world

from concord.benchmarks.contract import Contract
from concord.benchmarks.run.foreign import foreign_facts
from concord.methods.base import get_method, make_params, registered
from concord.methods.plugins import load_plugin
from concord.reports.assemble import _told_title


@pytest.fixture
def raising(tmp_path: Path) -> Iterator[Path]:
    """The toy method as a file of its own, whose sampling fails in line `LINE`."""
    text = toy_world.TOY.read_text().replace('"toy"', '"raising"')
    head, sign, rest = text.partition("def sample(")
    first, body = rest.split("\n", 1)
    path = tmp_path / "raising.py"
    path.write_text(f"{head}{sign}{first}\n        raise ValueError('no such luck')\n{body}")
    yield path
    registered().pop("raising", None)


def test_reports_know_a_plugin_by_what_it_said_of_itself(raising: Path) -> None:
    load_plugin(raising)
    about = foreign_facts("raising")
    described = "Noise of the request's own generator over the mask's classes."
    assert about == {"title": "Toy", "paper": "none", "citation": "", "description": described}
    assert foreign_facts("composable") == foreign_facts(None) == {}
    assert _told_title("raising", "raising", about) == "Toy"
    assert _told_title("raising+eta=1+steps=20", "raising", about) == "Toy, eta=1, steps=20"
    assert _told_title("composable", "composable", {}) == ""


def test_what_a_method_raised_is_told_with_its_line_and_once(raising: Path) -> None:
    load_plugin(raising)
    line = next(i for i, text in enumerate(raising.read_text().splitlines(), 1) if "no such luck" in text)
    kind = get_method("raising")
    bank = SimpleNamespace(device=torch.device("cpu"))
    results = list(Contract(kind(make_params(kind), bank)).run())  # type: ignore[arg-type]
    said = [one.detail for one in results if "no such luck" in one.detail]
    assert said == [f"ValueError: no such luck (raising.py, line {line})"]
    again = [one.detail for one in results if one.detail.startswith("the same: see '")]
    assert len(again) >= 4
    assert all("float32" in one for one in again)  # the check that said it first

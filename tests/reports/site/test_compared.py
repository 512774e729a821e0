"""reports/compared.yaml and what a method's page shows of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from concord.data.errors import ConcordError
from concord.methods.base import all_methods
from concord.reports.site.cards import MethodCard
from concord.reports.site.compared import of_method, read_compared
from concord.reports.site.methods import MethodPage

ROOT = Path(__file__).resolve().parents[3]


def test_every_comparison_has_a_test_that_makes_it() -> None:
    entries = read_compared()
    assert len(entries) > 40
    assert len({(entry.method, entry.preset, entry.case) for entry in entries}) == len(entries)
    methods = all_methods()
    for entry in entries:
        assert entry.method in methods
        text = (ROOT / entry.test).read_text(encoding="utf-8")
        assert "from compared import compared" in text
        assert f'compared("{entry.method}", ' in text
        assert 0 <= entry.below <= 1e-9


def test_every_preset_official_is_compared() -> None:
    """Of the methods whose preset 'official' differs; ADM's family and plain samplers have none."""
    official = {name for name, method in all_methods().items() if method.Params.official()}
    assert {name for name in official if not of_method(name)["official"]} == set()


PAPERS = (
    "amdm", "collaborative", "composable", "freedom", "mt-diffusion-x", "sdedit", "style-aligned", "tedigan", "ugd",
    "z-magic",
)  # fmt: skip  # a table


@pytest.mark.parametrize("name", PAPERS)
def test_every_preset_paper_is_compared(name: str) -> None:
    """With the paper's equations, one method of each paper."""
    assert of_method(name)["paper"]


def test_a_page_shows_presets_that_nobody_compared(tmp_path: Path) -> None:
    page = MethodPage("freedom", "FreeDoM", MethodCard("freedom", has_official=True))
    assert page.compared["official"]
    assert {entry.method for entry in page.compared["official"]} == {"freedom"}
    nobody = MethodPage("mine", "Mine", MethodCard("mine"))
    assert nobody.compared == {"paper": []}
    bad = tmp_path / "compared.yaml"
    bad.write_text("comparisons:\n  - {method: a, preset: b, case: c, code: d, below: -1.0, test: e}\n")
    with pytest.raises(ConcordError, match=r"comparisons\.0\.below"):
        read_compared(bad)

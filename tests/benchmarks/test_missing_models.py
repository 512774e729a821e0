"""A row whose parameters need a model that its generator lacks is left out with the reason."""

from __future__ import annotations

import pytest

from concord.benchmarks.generators import generator_of, missing_roles, row_reason
from concord.benchmarks.suite import load_suite


def test_equation_11_is_not_run_where_there_is_no_unconditional_model() -> None:
    suite = load_suite("face-generation").in_profile("paper")
    row = suite.row("composable-conjunction")
    assert generator_of(suite, row, "paper") is None
    assert row_reason(suite, row, "paper") == (
        "not run: generator 'collaborative-256' has no model 'expert/unconditional', which these parameters need"
    )
    assert generator_of(suite, suite.row("composable"), "paper") == "collaborative-256"


def test_it_is_run_where_one_exists() -> None:
    suite = load_suite("face-generation")
    row = suite.row("composable-conjunction")
    assert generator_of(suite, row, "embedded") == "faces"
    assert row_reason(suite, row, "embedded") is None


@pytest.mark.parametrize(("roles", "missing"), [(("expert/text", "expert/none"), ["expert/none"]), (None, [])])
def test_missing_roles(roles: tuple[str, ...] | None, missing: list[str]) -> None:
    assert missing_roles("faces", roles, "embedded") == missing

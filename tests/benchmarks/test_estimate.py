"""The cost that a plan states: evaluations as the meter counts them, hours only where somebody measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from concord.benchmarks.contract import sample_conditions
from concord.benchmarks.cost import Cost, Rate, RowCost, evaluations, read_rates, seconds_per_image
from concord.benchmarks.generators import method_generator
from concord.benchmarks.run.meter import EvaluationCounter
from concord.benchmarks.suite import load_suite, suite_names
from concord.data.errors import ConcordError
from concord.data.networks import Networks, Pool
from concord.data.request import Request
from concord.methods.base import all_methods, get_method, make_method, make_params

CASES: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("text-only", {"steps": 3}, ("text",)),
    ("mask-only", {"steps": 3}, ("mask",)),
    ("unconditional", {"steps": 4}, ()),
    ("composable", {"steps": 3}, ("text", "mask")),
    ("composable", {"steps": 3, "preset": "official"}, ("text", "mask")),
    ("collaborative", {"steps": 3}, ("text", "mask")),
    ("collaborative", {"steps": 3, "vary_in_time": False}, ("text", "mask")),
    ("amdm", {"steps": 4, "aggregation_steps": 2}, ("text", "mask")),
    ("amdm", {"steps": 4, "aggregation_steps": 2, "order": ["mask", "text"]}, ("text", "mask")),
    ("superdiff", {"steps": 3}, ("text", "mask")),
    ("superdiff", {"steps": 3, "weight": 1}, ("text", "mask")),
    ("superdiff-layouts", {"steps": 2}, ("layout", "style")),
    ("fkc", {"steps": 3, "particles": 2}, ("text", "mask")),
    ("tfg", {"steps": 3}, ("text", "mask")),
    ("style-aligned", {"steps": 2}, ("text", "style")),
    ("style-aligned", {"steps": 2, "text_scale": 1}, ("text", "style")),
    ("freedom", {"steps": 8}, ("text", "mask")),
    ("freedom", {"steps": 8}, ("identity", "landmarks")),
    ("freedom", {"steps": 6, "text_by": "model", "repeat": 3, "repeat_window": [400, 700]}, ("text", "style")),
    ("ugd", {"steps": 3, "repeat": 2, "text_by": "model"}, ("text", "style")),
    ("ugd", {"steps": 3, "repeat": 2}, ("identity", "mask")),
    ("ugd", {"steps": 2, "repeat": 1, "preset": "official", "backward_steps": 1}, ("mask", "style")),
    ("style-aligned", {"steps": 2, "preset": "official"}, ("text", "style")),
    ("freedom", {"steps": 6, "text_by": "model", "preset": "official"}, ("text", "style")),
    ("z-magic", {"steps": 6}, ("text", "mask")),
    ("z-magic", {"steps": 6, "hvp": "exact"}, ("identity", "landmarks")),
    ("z-magic", {"steps": 6, "hvp": "none"}, ("identity", "landmarks")),
    ("z-magic", {"steps": 6}, ("text", "mask", "identity")),
    ("z-magic", {"steps": 6, "hvp": "exact"}, ("text", "mask", "identity")),
    ("z-magic", {"steps": 6, "preset": "official"}, ("text", "mask", "identity")),
    ("z-magic", {"steps": 6, "text_by": "model", "repeat": 2}, ("text", "style")),
    ("z-magic", {"steps": 6, "text_by": "model"}, ("text", "style", "identity")),
    ("z-magic", {"steps": 6, "strengths": {"identity": 0}}, ("identity", "landmarks")),
    ("freedom", {"steps": 8, "preset": "official"}, ("text", "mask")),
    ("freedom", {"steps": 8, "preset": "official"}, ("identity", "landmarks")),
    ("z-magic", {"steps": 6, "preset": "official"}, ("text", "mask")),
    ("z-magic", {"steps": 6, "preset": "official"}, ("identity", "landmarks")),
    ("z-magic", {"steps": 6, "text_by": "model", "preset": "official"}, ("text", "style")),  # three turns, the last too
    ("ugd", {"steps": 3, "repeat": 2, "text_by": "model", "preset": "official"}, ("text", "style")),
    ("collaborative", {"steps": 3, "preset": "official"}, ("text", "mask")),
    ("amdm", {"steps": 5, "aggregation_steps": 2, "preset": "official"}, ("text", "mask")),
    ("composable-layouts", {"steps": 2, "preset": "official"}, ("layout",)),
    ("tedigan", {"steps": 3, "preset": "official"}, ("text", "mask")),
    ("layout-interaction", {"steps": 3}, ("layout",)),
    ("layout-attribute", {"steps": 3, "guidance": 1}, ("layout",)),
    ("layout-style", {"steps": 2}, ("style",)),
    ("composable-layouts", {"steps": 3}, ("layout",)),
    ("composable-layouts", {"steps": 2, "weight": 0.5}, ("layout",)),
    ("composable-layouts", {"steps": 2}, ("layout", "style")),
    ("amdm-layouts", {"steps": 4, "aggregation_steps": 2}, ("layout",)),
    ("amdm-layouts", {"steps": 4, "aggregation_steps": 2, "order": ["attribute", "interaction"]}, ("layout",)),
    ("amdm-layouts", {"steps": 4, "preset": "official", "aggregation_steps": 2}, ("layout", "style")),
    ("sdedit", {"steps": 10}, ("masked_image",)),
    ("sdedit", {"steps": 2, "start": 0.001}, ("masked_image",)),
    ("clean-masked", {}, ("masked_image",)),
    ("tedigan", {}, ("text", "mask")),
    ("tedigan", {"steps": 2}, ("text", "mask")),
    ("tedigan", {"inversion_steps": 3}, ("mask", "source_image")),
    ("tedigan", {"steps": 2, "inversion_steps": 3}, ("text", "source_image")),
    ("mt-diffusion-x", {"steps": 2}, ("masked_image",)),
    ("mt-diffusion-u", {"steps": 2}, ()),
    ("mt-diffusion-seg", {"steps": 2}, ("mask",)),
    ("mt-diffusion-parse", {"steps": 2}, ("source_image",)),
    ("mt-diffusion-m", {"steps": 3}, ()),
    ("mt-diffusion-e", {"steps": 3, "label": 2}, ()),
    ("adm", {"steps": 2}, ()),
    ("adm-class-conditional", {"steps": 3}, ()),
    ("single-task-diffusion", {"steps": 2}, ("source_image",)),
    ("mt-diffusion-m-star", {"steps": 2}, ()),
    ("mt-diffusion-parse-star", {"steps": 2}, ("source_image",)),
]


@pytest.fixture(scope="module")
def pool() -> Pool:
    return Pool()


def marks(name: str, values: dict[str, Any], conditions: tuple[str, ...]) -> list[pytest.MarkDecorator]:
    """Guidance by three networks takes seconds a case; one of them stands for the others in `make test`."""
    if len(conditions) > 2 and values != {"steps": 6}:
        return [pytest.mark.long]
    return [pytest.mark.slow] if len(conditions) > 2 or name in ("style-aligned", "ugd") else []


@pytest.mark.parametrize(
    ("name", "values", "conditions"),
    [pytest.param(*case, marks=marks(*case)) for case in CASES],
)
def test_the_formula_is_what_the_meter_counts(
    pool: Pool, name: str, values: dict[str, Any], conditions: tuple[str, ...]
) -> None:
    networks = Networks("embedded", method_generator("embedded", name, values), pool=pool)
    method = make_method(name, values, networks, conditions)
    request = Request.make("estimate", "24500", 0, sample_conditions(conditions, 24_500))
    counter = EvaluationCounter(method.denoisers())
    method.generate([request])
    counter.close()
    assert evaluations(name, method.params.model_dump(mode="json"), conditions) == counter.rows


def test_every_registered_method_is_held_against_the_meter() -> None:
    ours = {name for name, method in all_methods().items() if method.__module__.startswith("concord.methods.")}
    assert ours == {name for name, _, _ in CASES}


def test_every_method_of_the_suites_is_known() -> None:
    """What a plan costs is told for all of them."""
    for suite in map(load_suite, suite_names()):
        for row in suite.rows:
            if row.method is not None:
                params = make_params(get_method(row.method), row.params).model_dump(mode="json")
                assert evaluations(row.method, params, suite.row_conditions(row)) is not None, row.method


def test_a_method_that_is_not_known_has_no_number() -> None:
    assert evaluations("somebody's", {"steps": 4}, ("text",)) is None
    row = RowCost("set", "row", 10, 64, None)
    assert row.total is None
    assert Cost([row]).without_rate == [row]
    assert Cost([row]).hours is None


class Planned:
    """What `seconds_per_image` asks of a run."""

    def __init__(self, path: Path, generator: str = "g", dtype: str = "fp32") -> None:
        self.path, self.generator, self.dtype = path, generator, dtype
        self.row = type("Row", (), {"method": "m"})()


RATE = Rate(generator="g", device="a GPU", dtype="fp32", batch=8, seconds={"eps": 0.5, "backward": 1.0}, source="a run")


def test_hours_come_from_a_stated_rate_or_from_a_finished_row(tmp_path: Path) -> None:
    counts = {"eps": 4.0, "backward": 2.0}
    run: Any = Planned(tmp_path)
    assert seconds_per_image(run, counts, []) is None
    assert seconds_per_image(run, counts, [replace_rate(dtype="bf16")]) is None
    assert seconds_per_image(run, counts, [replace_rate(seconds={"eps": 0.5})]) is None
    assert seconds_per_image(run, counts, [RATE]) == (4.0, "a GPU, fp32, batch 8: a run")
    (tmp_path / "run.json").write_text(
        '{"method": "m", "generator": "g", "n": 3, "device": "cpu", "seconds_per_image": 1.5, '
        '"evaluations_per_image": {"eps": 2, "backward": 1}}'
    )
    assert seconds_per_image(run, counts, [RATE]) == (3.0, "3 images made on cpu before")
    assert seconds_per_image(Planned(tmp_path, "other"), counts, [RATE]) is None  # type: ignore[arg-type]


def replace_rate(**changes: Any) -> Rate:
    return RATE.model_copy(update=changes)


def test_a_cost_adds_up() -> None:
    known = RowCost("set", "a", 10, 100, {"eps": 5.0}, (36.0, "a run"))
    unknown = replace(known, row="b", seconds=None)
    truth = RowCost("set", "ground-truth", 10, 100, {})
    cost = Cost([known, unknown, truth], {"weights": 1000, "of unknown size": None})
    assert (cost.images, cost.evaluations, cost.hours) == (30, 100.0, 0.1)
    assert cost.without_rate == [unknown]
    assert cost.bytes == 3 * 18_000 * 10 + 1000


def test_rates_are_read_by_their_schema(tmp_path: Path) -> None:
    assert read_rates(tmp_path / "none.yaml") == []
    path = tmp_path / "rates.yaml"
    path.write_text("rates: [{generator: g, devise: x}]\n")
    with pytest.raises(ConcordError, match=r"rates\.yaml: unknown key 'rates\.0\.devise'"):
        read_rates(path)

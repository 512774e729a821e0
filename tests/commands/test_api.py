"""Concord from Python: what runs, what is stored as frames, images and figures; nothing is imported too early."""

from __future__ import annotations

import doctest
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import toy_world

import concord
from concord.api import Results
from concord.data.errors import ConcordError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    """The toy suite, two seeds of six items, with three values of a parameter."""
    from given_networks import seen_by

    from concord.methods import base
    from concord.metrics.networks import judges

    folder = tmp_path_factory.mktemp("api")
    before, opened = base.all_methods(), judges.open_judges
    judges.open_judges = lambda *_: seen_by(toy_world.make_judges())  # type: ignore[assignment]
    try:
        said: list[str] = []
        yield concord.run(
            toy_world.write_suite(folder, grid="grid: 0"),
            data=toy_world.write_tree(folder / "tree", 12),
            plugins=[toy_world.TOY],
            methods=["toy"],
            changes={"steps": [1, 2, 3]},
            limit=6,
            seeds=2,
            results=folder / "results",
            say=said.append,
        )
        assert any("rows made" in line for line in said)
    finally:
        judges.open_judges = opened
        base._REGISTRY.methods.clear()
        base._REGISTRY.methods.update(before)


def test_importing_concord_imports_nothing_else() -> None:
    code = "import sys, concord; assert concord.run and concord.results; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert not {"torch", "pandas", "matplotlib", "diffusers", "typer"} & set(modules.split())


def test_public_names() -> None:
    assert set(concord.__all__) <= set(dir(concord))
    assert all(getattr(concord, name) is not None for name in concord.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        concord.nothing  # noqa: B018
    assert issubclass(concord.ConcordError, Exception)


def test_samples_are_tidy_and_pooled_by_item(found: Results) -> None:
    frame = found.samples
    assert list(frame.columns) == ["row", "item", "request", "metric", "value", "status"]
    toy = frame[(frame["row"] == "toy+steps=2") & (frame["metric"] == "mask-accuracy")]
    assert sorted(toy["request"]) == sorted(f"{item}-{seed}" for item in range(6) for seed in (0, 1))
    assert set(toy.groupby("item").size()) == {2}
    assert toy["value"].between(0, 100).all()


def test_the_pooled_table_takes_items_as_its_units(found: Results) -> None:
    from concord.reports import statistics as st

    line = found.summary.set_index(["row", "metric"]).loc[("toy+steps=2", "mask-accuracy")]
    toy = found.samples[(found.samples["row"] == "toy+steps=2") & (found.samples["metric"] == "mask-accuracy")]
    interval = st.mean_interval(toy["value"].to_numpy(), toy["item"].tolist(), (0, 100))
    assert (line["value"], line["low"], line["high"]) == pytest.approx(tuple(interval))
    assert line["n"] == 12
    by_image = st.mean_interval(toy["value"].to_numpy())
    assert interval.half_width != pytest.approx(by_image.half_width)


def test_sets_costs_and_comparisons(found: Results) -> None:
    assert {"row", "metric", "value", "replicates"} <= set(found.sets.columns)
    costs = found.costs.set_index("row")
    assert [costs.loc[f"toy+steps={n}", "passes"] for n in (1, 2, 3)] == [1, 2, 3]
    pairs = found.comparisons
    assert len(pairs[pairs["metric"] == "mask-accuracy"]) == 3  # pairs of three rows
    assert (pairs["p_holm"] >= pairs["p"]).all()


def test_images_by_row_and_request(found: Results) -> None:
    one = found.images("toy+steps=2", ["3-1"])
    assert list(one) == ["3-1"]
    assert one["3-1"].shape == (64, 64, 3)
    assert one["3-1"].dtype == np.uint8
    assert len(found.images("ground-truth")) == 12
    assert (found.images("shuffled", ["3-1"])["3-1"] != found.images("ground-truth", ["3-1"])["3-1"]).any()
    with pytest.raises(ConcordError, match="no request '99-0'; the first are 0-0, 1-0, 2-0"):
        found.images("toy+steps=2", ["99-0"])
    with pytest.raises(ConcordError, match="no results of row 'nothing'"):
        found.images("nothing")


def test_figures_are_axes_with_what_the_table_says(found: Results) -> None:
    axes = found.plot("mask-accuracy")
    assert len(axes.get_yticklabels()) == 5  # three rows, ceiling and floor
    assert "Mask" in axes.get_xlabel()
    curve = found.plot_parameter("mask-accuracy", "steps").lines[0]
    assert list(curve.get_xdata()) == [1, 2, 3]
    values = found.summary[found.summary["metric"] == "mask-accuracy"].set_index("row")["value"]
    assert list(curve.get_ydata()) == [values[f"toy+steps={n}"] for n in (1, 2, 3)]
    assert len(found.plot_cost("mask-accuracy").lines) == 3
    given = axes.figure.add_subplot()
    assert found.plot("mask-miou", given) is given
    with pytest.raises(ConcordError, match="differ in 'eta' alone"):
        found.plot_parameter("mask-accuracy", "eta")


def test_no_two_seeds_of_an_item_are_exchanged_for_each_other() -> None:
    from types import SimpleNamespace

    from concord.benchmarks.run.image_source import derangement

    asked = [SimpleNamespace(id=f"{item}-{seed}") for seed in range(3) for item in range(9)]
    partners = derangement(asked)  # type: ignore[arg-type]
    assert all(partners[one.id].id.split("-")[0] != one.id.split("-")[0] for one in asked)
    assert {partner.id for partner in partners.values()} == {one.id for one in asked}
    alone = derangement(asked[:9])  # type: ignore[arg-type]
    assert {key: one.id for key, one in alone.items()} == {key: partners[key].id for key in alone}


def test_docstrings_say_what_happens() -> None:
    import concord.api

    ran = doctest.testmod(concord.api, extraglobs={"concord": concord}, optionflags=doctest.ELLIPSIS)
    assert ran.attempted > 0
    assert ran.failed == 0


def test_errors_are_exceptions(tmp_path: Path) -> None:
    with pytest.raises(concord.ConcordError, match="no results of face-generation"):
        concord.results("face-generation", results=tmp_path)
    with pytest.raises(concord.ConcordError, match="unknown suite 'nosuch'"):
        concord.run("nosuch", results=tmp_path)

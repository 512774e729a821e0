"""A condition of one's own costs one file: it is run, exported, imported, scored, drawn and reported without an edit.

The file is tests/support/edge_condition.py, installed as a package is: by entry points.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import wilcoxon

from concord.benchmarks.external.exchange import read_requests
from concord.benchmarks.store.run import Run
from concord.data.conditions import base
from concord.data.conditions.base import all_conditions, get_condition, make_condition, register
from concord.data.errors import ConcordError
from concord.data.networks import Networks
from concord.data.request import Conditions, Request
from concord.methods import base as methods
from concord.metrics import base as metrics
from concord.metrics.base import Observation

N = 16
SUITE = """
name: edges
title: Edge maps
paper: collaborative-diffusion
table: table-1
dataset: faces
conditions: [edge_map]
options:
  edge_map: {gain: 2.0}
rows:
  - {name: edge-guided, method: edge-guided}
metrics: [edge-correlation]
reference: [ground-truth, shuffled]
grid: 4
"""


@pytest.fixture
def edge_map(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The file as an installed package; what it registers is forgotten afterwards."""
    info = tmp_path / "site-packages/edge_maps-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: edge-maps\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[concord.conditions]\nedge_map = edge_condition:EdgeMap\n"
        "[concord.metrics]\nedge-correlation = edge_condition:EdgeCorrelation\n"
        "[concord.methods]\nedge-guided = edge_condition:EdgeGuided\n"
    )
    monkeypatch.syspath_prepend(str(info.parent))
    monkeypatch.setattr(base, "_searched", False)
    metrics._load_all.cache_clear()
    yield
    metrics._load_all.cache_clear()
    sys.modules.pop("edge_condition", None)  # what is imported again registers again
    base._KINDS.pop("edge_map", None)
    metrics._METRICS.pop("edge-correlation", None)
    methods._REGISTRY.methods.pop("edge-guided", None)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    from concord.data.synthetic import face

    folder = tmp_path / "tree/CelebA-HQ-img"
    folder.mkdir(parents=True)
    for index in range(N):
        Image.fromarray(face(27_000 + index).image).save(folder / f"{index}.png")
    return folder.parent


def test_one_file_is_all_that_a_new_condition_costs(
    edge_map: None, concord: Callable[..., Any], tree: Path, tmp_path: Path
) -> None:
    import edge_condition

    def run(*arguments: object) -> str:
        done = concord(*arguments)
        assert done.exit_code == 0, done.output
        return str(done.output)

    suite, results, out = tmp_path / "edges.yaml", tmp_path / "results", tmp_path / "export"
    suite.write_text(SUITE)
    chosen = ("--data", tree, "--limit", N, "--results", results)
    assert "checks passed" in run("check", "edge-guided")

    # run, scored, drawn, reported
    printed = run("run", suite, *chosen)
    assert "Edge guided" in printed
    assert "Edges" in printed
    (row,) = results.rglob("edge-guided/run.json")
    report = row.parents[2] / "report"
    samples = json.loads((report / "figures.json").read_text())
    assert "edges/grid.png" in samples
    assert "Edge map" in (report / "edges.html").read_text()
    assert list((report / "edges/tiles").glob("given-edge_map-*"))
    scores = {name: _scores(row.parents[1] / name) for name in ("ground-truth", "edge-guided", "shuffled")}
    assert scores["ground-truth"].mean() > scores["edge-guided"].mean() > 0.5 > scores["shuffled"].mean()

    # exported and read again
    run("export", suite, out, *chosen[:4])
    readme = (out / "README.md").read_text()
    assert "`edge_map`: " + get_condition("edge_map").format in readme
    asked = list(read_requests(out))
    assert len(asked) == N
    for request in asked:
        item = request.id.rsplit("-", 1)[0]
        image = np.asarray(Image.open(tree / f"CelebA-HQ-img/{item}.png"))
        np.testing.assert_array_equal(request.conditions["edge_map"], edge_condition._edge_map(image, 2.0))
        Image.fromarray(image).save(out / f"{request.id}.png")  # an outside method that knows the answer

    # imported: a row of the table like any other
    printed = run("import", out, "--as", "theirs", "--title", "Their method", "--results", results)
    assert "Their method" in printed
    np.testing.assert_allclose(_scores(row.parents[1] / "theirs"), scores["ground-truth"])
    assert "Their method" in (report / "edges.html").read_text()
    assert "up to date" in run("run", suite, *chosen)


def _scores(row: Path) -> np.ndarray:
    frame = Run(row).scores()
    return np.asarray(frame[frame["metric"] == "edge-correlation"]["value"], np.float64)


def test_images_of_swapped_edge_maps_score_worse(edge_map: None) -> None:
    """The score tells whether an image follows its own condition, and the method does follow it."""
    method = methods.make_method("edge-guided", {}, Networks.of({}))
    maps = [get_condition("edge_map").example(27_000 + index) for index in range(N)]
    own = [Conditions(edge_map=value) for value in maps]
    swapped = [*own[1:], own[0]]
    metric = metrics.get_metric("edge-correlation")
    values = []
    for given in (own, swapped):
        images = method.generate([Request.make("edges", str(k), 0, one) for k, one in enumerate(given)])
        values.append([score.value for score in metric.score(Observation(images, own, Networks.of({})))])
    assert wilcoxon(*values, alternative="greater").pvalue < 0.01


def test_its_example_is_kept_and_hashed(edge_map: None, tmp_path: Path) -> None:
    kind = get_condition("edge_map")
    value = kind.example(27_000)
    np.testing.assert_array_equal(kind.unpack(kind.pack(value)), value)
    (tmp_path / "edge_map").mkdir()
    entry = kind.write(value, tmp_path, "edge_map/1")
    np.testing.assert_array_equal(kind.parse(entry, tmp_path), value)
    assert kind.digest(value) != kind.digest(255 - value)
    assert list(all_conditions())[-1] == "edge_map"  # ours keep their order, and with it seeds and keys


def test_options_are_checked(edge_map: None) -> None:
    with pytest.raises(ConcordError, match="condition 'edge_map': option 'gain': expected greater than 0; got -1"):
        make_condition("edge_map", {"gain": -1.0})
    with pytest.raises(ConcordError, match="condition 'edge_map': unknown option 'blur'; known options: gain"):
        make_condition("edge_map", {"blur": 1})


def test_two_conditions_of_one_name(edge_map: None, tmp_path: Path, concord: Callable[..., Any]) -> None:
    """One line that names both files, exit code 2."""
    import edge_condition

    copy = tmp_path / "other_edges.py"
    shutil.copy(edge_condition.__file__, copy)
    assert "edge_map" in all_conditions()
    done = concord("check", "--plugin", copy, "edge-guided")
    assert done.exit_code == 2
    (line,) = [line for line in done.output.splitlines() if line.startswith("error:")]
    assert "two conditions are named 'edge_map'" in line
    assert str(copy) in line
    assert "edge_condition.py" in line

    class Names(edge_condition.EdgeMap):
        name = "names"

    with pytest.raises(ConcordError, match="expected a name of lower-case letters"):
        register(Names)

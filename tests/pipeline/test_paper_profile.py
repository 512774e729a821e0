"""Profile 'paper' end to end at toy width: official files with random weights, the real toys, plan and runner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paper_world
import pytest
import torch

from concord.benchmarks.changes import Change
from concord.benchmarks.cost import evaluations
from concord.benchmarks.image_sources import open_method
from concord.benchmarks.plan.requests import Options
from concord.benchmarks.plan.runs import RunPlan
from concord.benchmarks.planner import make_plan
from concord.benchmarks.run.generate import generate_run
from concord.benchmarks.settings import load_settings
from concord.benchmarks.store.run import Run
from concord.benchmarks.suite import Suite, load_suite, suite_names
from concord.data.networks import Networks
from concord.data.request import Conditions, Request
from concord.data.synthetic import write_tree


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with paper_world.toy_networks():
        yield paper_world.write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two faces with landmarks and identity references."""
    root = tmp_path_factory.mktemp("faces") / "tree"
    write_tree(root, range(27_000, 27_002), progress=False, workers=1, references=True)
    return root


def small(suite: Suite) -> Suite:
    """The suite with its images at toy size."""
    part = suite.part("paper").model_copy(update={"image_size": paper_world.SIZE})
    return suite.model_copy(update={"profiles": {"paper": part}})


def planned(name: str, row: str, tree: Path, results: Path, **changes: Any) -> RunPlan:
    """The run of one row for one face, in two steps."""
    options = Options(profile="paper", data=tree, limit=1, results=results)
    suite = small(load_suite(name))
    given = [Change(name, (value,)) for name, value in {"steps": 2, **changes}.items()]
    suite = suite.model_copy(update={"rows": [suite.row(row)], "reference": []})
    (run,) = make_plan(suite, load_settings(), options, given).runs
    return run


ROWS = [
    ("face-generation", "text-only"), ("face-generation", "mask-only"), ("face-generation", "composable"),
    ("face-generation", "collaborative"), ("face-generation", "amdm"),
    ("influence-ablation", "collaborative-without-temporal"),
    ("identity-segmentation-text", "unconditional"), ("identity-segmentation-text", "freedom"),
    ("identity-landmarks", "freedom"), ("identity-landmarks", "z-magic"), ("three-conditions", "z-magic"),
    ("segmentation-text", "z-magic"), ("segmentation-text", "collaborative"),
    ("order-identity-landmarks", "z-magic-landmarks-first"),
    ("text-style", "text-only"), ("text-style", "style-aligned"), ("text-style", "ugd"), ("text-style", "freedom"),
    ("text-style", "z-magic"),
]  # fmt: skip  # a table


QUICK = ("collaborative", "z-magic-landmarks-first", "style-aligned")
"""Rows that stand for the three generators; the others are long together."""


@pytest.mark.parametrize(
    ("suite", "row"),
    [pytest.param(*pair, marks=[] if pair[1] in QUICK else pytest.mark.long, id="-".join(pair)) for pair in ROWS],
)
def test_every_row_runs_on_the_papers_networks(
    files: dict[str, Any], tree: Path, tmp_path: Path, suite: str, row: str
) -> None:
    run = planned(suite, row, tree, tmp_path, **({"aggregation_steps": 1} if row == "amdm" else {}))
    generate_run(run, partial(open_method, run, "cpu", files), 1)
    facts = Run(run.path).manifest
    ((_, image),) = Run(run.path).images()
    assert image.shape == (paper_world.SIZE, paper_world.SIZE, 3)
    assert image.std() > 1
    assert facts["generator"] == run.generator
    expected = evaluations(run.row.method or "", run.params, run.conditions)
    if expected is not None:  # what the dry run foretells is what was counted
        counted = {name: count for name, count in facts["evaluations_per_image"].items() if count}
        assert counted == {name: count for name, count in expected.items() if count}
    assert all(len(digest) == 64 for digest in facts["weights"].values())
    assert any(name.startswith(("collab", "celeba", "stable")) for name in facts["weights"])


def test_all_rows_of_all_suites_have_a_generator_and_run_above() -> None:
    """Rows of one method under one generator are one code path; each pair is in ROWS."""
    from concord.benchmarks.generators import generator_of, has_models

    def kinds(names: Any) -> set[tuple[str, str | None]]:
        return {(row.method, generator_of(suite, row, "paper")) for suite, row in names if row.method}

    suites = {name: load_suite(name) for name in suite_names() if has_models(load_suite(name), "paper")}
    run = kinds((suites[name], suites[name].row(row)) for name, row in ROWS)
    assert run >= {kind for kind in kinds((s, row) for s in suites.values() for row in s.rows) if kind[1]}


def test_guides_change_the_image_and_name_their_weights(files: dict[str, Any], tree: Path, tmp_path: Path) -> None:
    none = {"strengths.identity": 0, "strengths.landmarks": 0}
    free = planned("identity-landmarks", "freedom", tree, tmp_path / "a", **none)
    led = planned("identity-landmarks", "freedom", tree, tmp_path / "b")
    images = []
    for run in (free, led):
        generate_run(run, partial(open_method, run, "cpu", files), 1)
        images.append(next(Run(run.path).images())[1].astype(int))
        weights = set(Run(run.path).manifest["weights"])
    assert np.abs(images[0] - images[1]).max() > 0
    assert weights == {"celeba-hq-ddpm", "ir-se50", "mobilefacenet"}


def test_bf16_is_another_run_near_the_first(files: dict[str, Any], tree: Path, tmp_path: Path) -> None:
    exact = planned("face-generation", "composable", tree, tmp_path)
    half = replace(exact, dtype="bf16", path=tmp_path / "half")
    assert half.key != exact.key
    images = []
    for run in (exact, half):
        generate_run(run, partial(open_method, run, "cpu", files), 1)
        images.append(next(Run(run.path).images())[1].astype(int))
    assert Run(half.path).manifest["dtype"] == "bfloat16"
    assert 0 < np.abs(images[0] - images[1]).mean() < 16


@pytest.mark.parametrize(
    ("generator", "suite", "row"),
    [
        ("collaborative-256", "face-generation", "collaborative"),
        ("celeba-hq-ddpm", "identity-landmarks", "z-magic"),
        ("stable-diffusion-v1-4", "text-style", "freedom"),
    ],
)
def test_measured_rates_serve_the_estimate(
    files: dict[str, Any], tree: Path, tmp_path: Path, generator: str, suite: str, row: str
) -> None:
    """Every network that a row counts is timed, and the hours are evaluations times these seconds."""
    from concord.benchmarks.cost import evaluations, read_rates, row_cost, seconds_per_image
    from concord.benchmarks.profiling.rates import measure_rate, write_rates

    rate = measure_rate(generator, torch.device("cpu"), batch=2, paths=files)
    assert all(0 < seconds < 10 for name, seconds in rate.seconds.items() if name != "backward")
    assert rate.batch == 2
    path = tmp_path / "rates.yaml"
    write_rates([rate.model_copy(update={"device": "another"}), rate], path)
    assert write_rates([rate], path) == path
    assert read_rates(path)[0] == rate
    assert len(read_rates(path)) == 2
    run = planned(suite, row, tree, tmp_path)
    counts = evaluations(run.row.method or "", run.params, run.conditions) or {}
    cost = row_cost(run, read_rates(path))
    expected = sum(count * rate.seconds[name] for name, count in counts.items() if count)
    assert cost.seconds is not None
    assert cost.seconds[0] == pytest.approx(expected)
    assert cost.hours == pytest.approx(expected / 3600)
    assert "median of 5 passes of 2 images; guides and decoders are not in it" in cost.seconds[1]
    half = replace(run, dtype="bf16")
    assert seconds_per_image(half, counts, read_rates(path)) is None  # nobody measured that


# ------------------------------------------------------------------------------------------------------------ the toys


def test_the_pixels_schedule_counts_as_freedom_does() -> None:
    """range(0, 1000, 10) of DDPM's timesteps, ending at abar = 1."""
    from concord.methods.core.sampler import ddim_step
    from concord.methods.networks.checkpoints.celeba_ddpm import noise_schedule

    schedule = noise_schedule(1e-4, 0.02, 1000)
    betas = np.linspace(1e-4, 0.02, 1000)
    assert [t - 1 for t in schedule.ddim_timesteps(100)] == list(range(990, -1, -10))
    assert [t - 1 for t in schedule.ddim_timesteps(1000)] == list(range(999, -1, -1))
    for t in (0, 10, 990):
        np.testing.assert_allclose(float(schedule.alphas_cumprod[t + 1]), np.cumprod(1 - betas)[t], rtol=1e-12)
    x, eps = torch.randn(1, 3, 4, 4, dtype=torch.float64), torch.randn(1, 3, 4, 4, dtype=torch.float64)
    clean = (x - (1 - schedule.abar(1, x)).sqrt() * eps) / schedule.abar(1, x).sqrt()
    torch.testing.assert_close(ddim_step(schedule, eps, x, 1, -1), clean)


def test_a_generator_names_what_it_lacks(files: dict[str, Any]) -> None:
    from concord.data.errors import ConcordError
    from concord.methods.guidance.energies import EnergyParams, Guide, make_energies
    from concord.methods.networks.protocols import Influence, TrainedDenoiser

    with pytest.raises(ConcordError, match="generator 'nosuch': expected one of collaborative-256"):
        Networks("paper", "nosuch")
    networks = Networks("paper", "celeba-hq-ddpm", paths=files)
    with pytest.raises(ConcordError, match=r"has no role 'expert/text'; it has .*expert/unconditional"):
        networks.get("expert/text", TrainedDenoiser)
    with pytest.raises(ConcordError, match="'celeba-hq-ddpm': has no role 'influence/mask'"):
        networks.get("influence/mask", Influence)
    picture = np.zeros((8, 8, 3), np.uint8)
    asked = [Request("17-0", 1, Conditions(style=picture))]
    with pytest.raises(ConcordError, match="choose style_residual: gram or embedding"):
        make_energies(["style"], asked, Guide(networks), EnergyParams(style_residual="relative"), 8)

"""Profile 'paper' whole, at toy width: `concord run` over a cache of official files, to tables and their reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paper_judges
import pytest
import torch

from concord.benchmarks.generators import metric_needs
from concord.benchmarks.store.run import Run
from concord.benchmarks.suite import JOINT_SUCCESS, load_suite
from concord.data.files import sha256_file
from concord.data.profile import load_profile
from concord.data.weight_names import folder_sha256
from concord.metrics.base import SampleMetric, get_metric

pytestmark = pytest.mark.slow  # suites through the whole of Inception, VGG19 and S3FD

N = 4
PAPER = load_profile("paper")
Cli = Callable[..., Any]
SUITES = {
    "face-generation": "collaborative",
    "identity-segmentation-text": "freedom",
    "identity-landmarks": "z-magic",
    "text-style": "text-only,freedom",
}
"""Suite -> the rows that are made here besides the reference rows; among them every metric of the faces' suites."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache that holds all that is fetched and prepared."""
    root = tmp_path_factory.mktemp("paper")
    manifests = paper_judges.write_manifests(root / "manifests")
    with paper_judges.toy_world(manifests), pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONCORD_CACHE", str(root / "cache"))
        patch.setenv("CONCORD_OFFLINE", "1")
        for name in ("fid", "fid-legacy", "kid"):  # four images are too few for anything but seeing that it runs
            patch.setattr(type(get_metric(name)), "minimum_n", 2)
        paper_judges.write_cache(root / "cache")
        folder = root / "cache" / "data" / "celebamask-hq"
        folder.mkdir(parents=True)
        paper_judges.write_faces(folder)
        yield root


@pytest.fixture(scope="module")
def cli() -> Cli:
    from typer.testing import CliRunner

    from concord.cli import app

    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args])


def run(cli: Cli, world: Path, suite: str, results: Path, methods: str) -> tuple[Any, dict[str, Run]]:
    result = command(cli, paper_judges.write_suite(suite, world / "suites"), results, methods)
    assert result.exit_code == 0, result.output
    folder = results / "paper" / f"limit-{N}" / suite
    return result, {path.parent.name: Run(path.parent) for path in sorted(folder.glob("*/run.json"))}


def command(cli: Cli, suite: Path, results: Path, methods: str) -> Any:
    options = ["--profile", "paper", "--limit", N, "--device", "cpu", "--results", results, "--methods", methods]
    return cli("run", suite, *options)


@pytest.fixture(scope="module")
def made(world: Path, cli: Cli) -> dict[str, tuple[Any, dict[str, Run]]]:
    """Suite -> what its command printed, and its runs; made when a test first asks for it."""

    class Made(dict[str, tuple[Any, dict[str, Run]]]):
        def __missing__(self, suite: str) -> tuple[Any, dict[str, Run]]:
            self[suite] = run(cli, world, suite, world / "results", SUITES[suite])
            return self[suite]

    return Made()


def test_the_suites_here_ask_for_every_metric_of_the_faces() -> None:
    from concord.benchmarks.suite import suite_names

    suites = [load_suite(name) for name in suite_names()]
    asked = {name for suite in suites if suite.dataset == "faces" for name in suite.part("paper").metrics or []}
    here = {name for suite in SUITES for name in load_suite(suite).part("paper").metrics or []}
    assert asked - here == set()


@pytest.mark.parametrize(
    "suite", ["face-generation", *(pytest.param(name, marks=pytest.mark.long) for name in list(SUITES)[1:])]
)
def test_every_metric_is_scored_by_the_papers_judges(
    made: dict[str, tuple[Any, dict[str, Run]]], world: Path, suite: str
) -> None:
    result, runs = made[suite]
    metrics = [name for name in load_suite(suite).in_profile("paper").metrics if name != JOINT_SUCCESS]
    paper = load_suite(suite).in_profile("paper")
    rows = {row.name for row in paper.rows if row.method in SUITES[suite].split(",")}
    assert set(runs) == {*rows, *paper.reference}
    for row, scored in runs.items():
        assert scored.score_info["metrics"] == sorted(metrics), row
        scores, sets = scored.scores(), scored.sets().set_index("metric")
        for name in metrics:
            if isinstance(get_metric(name), SampleMetric):
                own = scores[scores["metric"] == name]
                assert len(own) == N
                if (row, name) == ("text-only", "content-loss"):
                    assert (own["status"] == "refused: the other rows are compared with this one").all()
                    continue
                assert np.isfinite(own["value"]).all(), (row, name)
                assert own["status"].isin(["ok", "no face found", "no face found in the condition"]).all()
                assert name == "identity-distance" or (own["status"] == "ok").all(), (row, name)
            else:
                assert sets.loc[name, "status"] == "ok"
                assert np.isfinite(sets["value"].astype(float)[name])
                assert sets.loc[name, "n_reference"] == 6
        assert_hashes(scored, metrics, world)
    assert "not scored" not in result.output
    assert result.output.count("refused: the other rows") == (suite == "text-style")


def assert_hashes(scored: Run, metrics: list[str], world: Path) -> None:
    """score.json names exactly the files that these metrics were said to need, by the hashes of those in the cache."""
    cards = scored.score_info["cards"]
    needed = set(metric_needs("paper", metrics))
    assert {card["name"] for card in cards.values()} == needed
    for kind, digest in scored.score_info["networks"].items():
        name = cards[kind]["name"]
        folder = world / "cache" / "weights" / name
        place = folder / "buffalo_l" if name == "buffalo-l" else folder / paper_judges.first_file(name)
        assert digest == (folder_sha256(place) if place.is_dir() else sha256_file(place)), kind
        assert (
            f"judge/{kind}" in PAPER.roles or kind.replace("-", "/", 1) in PAPER.roles or kind == "landmarks-detector"
        )


@pytest.mark.long
def test_originals_are_at_distance_nothing_from_themselves(made: dict[str, tuple[Any, dict[str, Run]]]) -> None:
    for suite, metric in (
        ("identity-segmentation-text", "segmentation-distance"),
        ("identity-segmentation-text", "identity-l2"),
        ("identity-landmarks", "landmark-l2"),
    ):
        values = {}
        for row, scored in made[suite][1].items():
            scores = scored.scores()
            values[row] = scores[scores["metric"] == metric]["value"].to_numpy()
        assert values.pop("ground-truth").max() < 1e-4, metric
        assert all(found.min() > 1e-3 for found in values.values()), metric


@pytest.mark.long
def test_content_is_compared_with_what_the_text_alone_makes(
    made: dict[str, tuple[Any, dict[str, Run]]], world: Path
) -> None:
    from concord.metrics.networks.pretrained.vgg19 import CONTENT, load_vgg19

    runs = made["text-style"][1]
    network = load_vgg19(world / "cache" / "weights" / "vgg19" / paper_judges.first_file("vgg19"))
    sides = [np.stack([image for _, image in runs[row].images()]) for row in ("freedom", "text-only")]
    with torch.inference_mode():
        ours, alone = (network(torch.from_numpy(side).permute(0, 3, 1, 2).float() / 255)[CONTENT] for side in sides)
    scores = runs["freedom"].scores()
    found = scores[scores["metric"] == "content-loss"]["value"].to_numpy()
    assert found == pytest.approx((ours - alone).square().mean((1, 2, 3)).numpy(), rel=1e-3)
    assert found.min() > 0
    line = next(line for line in made["text-style"][0].stdout.splitlines() if line.startswith("| FreeDoM "))
    assert "paper: 1.93" in line  # the column of Z-Magic's Table 2 is ours now
    assert "not measured" not in line


def test_fid_is_the_papers_protocol_on_the_stored_pictures(
    made: dict[str, tuple[Any, dict[str, Run]]], world: Path
) -> None:
    """Both protocols again, from the stored PNGs and the prepared faces.

    tr (S_1 S_2)^(1/2) is the nuclear norm of the product of the centred features, over the roots of n - 1.
    """
    from concord.data.datasets.faces.open import open_faces
    from concord.metrics.networks.pretrained.inception import load_inception

    scored = made["face-generation"][1]["collaborative"]
    folder = world / "cache" / "data" / "celebamask-hq" / "prepared"
    test = {item.id for item in open_faces(folder).items}
    train = [item for item in open_faces(folder, split="all").items if item.id not in test]
    assert (len(test), len(train)) == (4, 6)
    sides = [[image for _, image in scored.images()], [item.image(32) for item in train]]
    pictures = [torch.from_numpy(np.stack(side)).permute(0, 3, 1, 2).float() / 255 for side in sides]
    for metric, name, kind in (
        ("fid", "inception-fidelity", "pool"),
        ("fid-legacy", "inception-pytorch-fid", "pool-legacy"),
    ):
        network = load_inception(world / "cache" / "weights" / name / paper_judges.first_file(name))
        with torch.inference_mode():
            ours, real = (network(side, (kind,))[kind].double().numpy() for side in pictures)
        first, second = (side - side.mean(0) for side in (ours, real))
        spread = [np.square(side).sum() / (len(side) - 1) for side in (first, second)]
        root = np.linalg.svd(first @ second.T, compute_uv=False).sum() / np.sqrt((len(first) - 1) * (len(second) - 1))
        expected = np.square(ours.mean(0) - real.mean(0)).sum() + sum(spread) - 2 * root
        found = scored.sets().set_index("metric").loc[metric, "value"]
        assert found == pytest.approx(expected, rel=1e-3), metric


@pytest.mark.long
def test_tables_name_the_networks_and_mark_guides(made: dict[str, tuple[Any, dict[str, Run]]]) -> None:
    text = made["face-generation"][0].stdout
    measured = next(line for line in text.splitlines() if "*How measured*" in line)
    assert "50 images; here: inception-pytorch-fid, 32x32" in measured
    assert "here: clip-vit-l-14, 32x32" in measured
    assert "†" not in text
    text = made["identity-segmentation-text"][0].stdout
    measured = next(line for line in text.splitlines() if "*How measured*" in line)
    assert "here: bisenet" in measured
    assert "here: ir-se50" in measured
    row = next(line for line in text.splitlines() if line.startswith("| FreeDoM "))
    heads = next(line for line in text.splitlines() if line.startswith("| Method ")).split(" | ")
    marked = {head.partition(" (")[0] for head, cell in zip(heads, row.split(" | "), strict=True) if "†" in cell}
    assert marked == {"Seg. distance", "ID distance", "Text"}
    assert "Text distance" not in marked


# ------------------------------------------------------------------------------------------------- what is not there


def test_what_is_missing_is_told_in_its_column_below_it_and_at_the_end(
    made: Any, world: Path, cli: Cli, tmp_path: Path
) -> None:
    weights = world / "cache" / "weights"
    hidden = ("parsenet", "inception-pytorch-fid")
    for name in hidden:
        (weights / name).rename(tmp_path / name)
    try:
        result, runs = run(cli, world, "face-generation", tmp_path / "results", "collaborative")
        told = command(cli, world / "suites/face-generation.yaml", world / "results", "collaborative")
        options = ["--profile", "paper", "--limit", N, "--results", tmp_path / "results"]
        where = cli("report", "--where", "--suite", "face-generation", *options)  # what `make bench` ends with
    finally:
        for name in hidden:
            (tmp_path / name).rename(weights / name)
    assert runs["collaborative"].score_info["metrics"] == ["fid", "kid", "text-similarity"]
    lines = result.stdout.splitlines()
    heads = next(line for line in lines if line.startswith("| Method ")).split(" | ")
    cells = dict(
        zip(heads, next(line for line in lines if "Collaborative Diffusion |" in line).split(" | "), strict=True)
    )
    for label in ("FID (pytorch-fid) ↓", "Mask (%) ↑", "Mask mIoU (%) ↑"):
        assert cells[label].startswith("**not scored, see below**"), label
    assert "Mask (%) not scored" in cells["Joint success (%) ↑"]
    assert "0.0" in cells["FID ↓"]
    parser = (
        "parsenet (model.pth) is missing: `concord weights fetch parsenet`, or "
        "`concord weights fetch parsenet --from-file PATH` for a copy of your own"
    )
    assert f"- Mask (%) (mask-accuracy): {parser}" in lines
    assert f"not scored: Mask mIoU (%) (mask-miou): {parser}" in lines
    assert any(line.startswith("not scored: FID (pytorch-fid) (fid-legacy): inception-pytorch-fid") for line in lines)
    assert where.exit_code == 0, where.output
    assert where.stdout.splitlines().count(f"not scored: Mask mIoU (%) (mask-miou): {parser}") == 1
    page = (tmp_path / "results/paper/limit-4/report/face-generation.html").read_text()
    assert "concord weights fetch parsenet --from-file PATH" in page
    assert "not scored, see below" in page
    # What was scored while the files were there stays as it was, and is shown.
    assert told.exit_code == 0, told.output
    assert "not scored" not in told.stdout
    # And once the files are here, it is scored without a second word.
    again, runs = run(cli, world, "face-generation", tmp_path / "results", "collaborative")
    assert "mask-accuracy" in runs["collaborative"].score_info["metrics"]
    assert "not scored" not in again.output


def test_a_file_that_is_not_the_expected_one_is_the_reason(world: Path, tmp_path: Path) -> None:
    from concord.benchmarks.generators import metric_reason

    assert metric_reason("mask-accuracy", "paper") is None
    file = world / "cache" / "weights" / "parsenet" / "model.pth"
    kept = file.read_bytes()
    file.write_bytes(kept[:-1])
    try:
        reason = metric_reason("mask-accuracy", "paper") or ""
    finally:
        file.write_bytes(kept)
    assert "SHA-256 is" in reason
    assert "remove the file and run `concord weights fetch parsenet`" in reason

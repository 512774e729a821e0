"""Comparison with git revisions, and metrics over commits: in a repository, a shallow clone, outside of both."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from fake_store import LEVELS, write_run, write_store
from typer.testing import CliRunner

from concord.benchmarks.store.provenance import git_commit
from concord.benchmarks.store.run import Store
from concord.cli import app
from concord.data.errors import ConcordError
from concord.data.files import read_json, write_json
from concord.data.notes import Note
from concord.reports.compare import git as git
from concord.reports.compare.baseline import renew
from concord.reports.compare.history import UNCOMMITTED, draw, read_history, to_markdown
from concord.reports.compare.margins import same_for_all
from concord.reports.compare.sides import open_side, store_side

PLACE = "reports/baseline/embedded"
QUIET = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@b",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@b",
}


def call_git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, env={**os.environ, **QUIET}
    )
    return done.stdout.strip()


def commit(folder: Path, message: str) -> str:
    call_git(folder, "add", "-A", "--", PLACE, "file")
    call_git(folder, "commit", "-q", "-m", message)
    return call_git(folder, "rev-parse", "HEAD")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of four commits: no baseline, a first one, a loss of three points, the parser's weights renewed."""
    root = tmp_path_factory.mktemp("repository")
    store = write_store(root / "results/embedded", images=False)
    call_git(root, "init", "-q", "-b", "main")

    def accept() -> None:
        renew(store_side(store, "embedded"), root / PLACE, same_for_all(0.01))

    (root / "file").write_text("1")
    (root / PLACE).mkdir(parents=True)
    commit(root, "Nothing yet")
    accept()
    commit(root, "First baseline")
    call_git(root, "tag", "v1")
    write_run(store.root, "collaborative", levels=(27.0, 88.0, 5.0), seed=7, images=False)
    accept()
    commit(root, "A | loss <b>")
    judges = {"parser": "9" * 64, "text-image": "b" * 64, "features": "c" * 64}
    for row in LEVELS:
        write_run(store.root, row, judges=judges, images=False)
    accept()
    commit(root, "Another parser")
    (root / "file").write_text("2")
    commit(root, "Something else")
    return root


@pytest.fixture
def repository(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "copy")
    monkeypatch.setattr("concord.benchmarks.settings.ROOT", tmp_path / "copy")
    monkeypatch.setattr("concord.reports.compare.sides.BASELINE", tmp_path / "copy/reports/baseline")
    monkeypatch.chdir(tmp_path)
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "copy"


def call(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


# ----------------------------------------------------------------------------------------------------------- revisions


def test_two_revisions_are_compared(repository: Path) -> None:
    found = call("compare", "v1", "HEAD~2")
    assert found.exit_code == 1
    assert "| collaborative | Mask (%) | 64 |" in found.stdout
    assert "**worse**" in found.stdout
    assert call("compare", "HEAD~2", "v1").exit_code == 0
    assert call("compare", "HEAD", "baseline").exit_code == 0


def test_a_revision_with_other_weights_cannot_be_compared(repository: Path) -> None:
    found = call("compare", "v1", "HEAD")
    assert found.exit_code == 3
    assert "other weights of 'parser'" in found.stdout


def test_a_revision_against_the_stored_results(repository: Path) -> None:
    assert call("compare", "HEAD", "--results", str(repository / "results")).exit_code == 0
    assert call("compare", "HEAD", str(repository / "results/embedded")).exit_code == 0


@pytest.mark.parametrize("name", ["nosuch", "v1^{tree}", "--all", "-n1", "HEAD~99", ""])
def test_an_unknown_revision_is_one_line(repository: Path, name: str) -> None:
    with pytest.raises(ConcordError, match="no revision of the git repository; expected a revision"):
        git.resolve(repository, name)
    found = call("compare", "nosuch")
    assert found.exit_code == 2
    assert found.stderr.startswith("error: 'nosuch': no such folder, and no revision")


def test_a_revision_without_a_baseline_is_one_line(repository: Path) -> None:
    first = call_git(repository, "rev-list", "--max-parents=0", "HEAD")
    found = call("compare", first)
    assert found.exit_code == 2
    assert f"revision {first[:12]} has no {PLACE}" in found.stderr


def test_a_damaged_baseline_of_a_revision_is_named(repository: Path) -> None:
    (repository / PLACE / "scores.parquet").write_bytes(b"half")
    sha = commit(repository, "Damage")
    with pytest.raises(ConcordError, match=rf"{sha[:12]}:{PLACE}: damaged baseline"):
        open_side(sha, "embedded", repository, Path("results"))


def test_outside_a_repository_is_one_line(repository: Path) -> None:
    shutil.rmtree(repository / ".git")
    for verb in (["compare", "v1"], ["history", "collaborative"]):
        found = call(*verb)
        assert found.exit_code == 2
        assert "not a git repository" in found.stderr
        assert len(found.stderr.strip().splitlines()) == 1
    assert call("compare", "baseline", "--results", str(repository / "results")).exit_code == 0  # no git is needed


def test_what_git_says_is_passed_on(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout that belongs to another user, as in a container."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    for verb in (["compare", "v1"], ["history", "collaborative"]):
        found = call(*verb)
        assert found.exit_code == 2
        assert "detected dubious ownership" in found.stderr
        assert "safe.directory" in found.stderr
        assert len(found.stderr.strip().splitlines()) == 1
    with pytest.warns(Note, match=r"without their git commit, as git says: .*dubious ownership"):
        assert git_commit(repository.resolve()) is None


def test_without_git_is_one_line(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(repository / "empty"))
    found = call("compare", "v1")
    assert found.exit_code == 2
    assert "git is not installed" in found.stderr


# ------------------------------------------------------------------------------------------------------------- history


def test_history_has_a_verdict_for_each_step(repository: Path) -> None:
    found = read_history(repository, "embedded", "collaborative", ["mask-accuracy", "text-similarity"])
    lines = {line.fact.name: line.points for line in found.lines}
    assert [point.commit.subject for point in lines["mask-accuracy"]] == [
        "First baseline",
        "A | loss <b>",
        "Another parser",
    ]
    assert [point.step for point in lines["mask-accuracy"]] == [
        "first",
        "worse",
        "scored by other weights of 'parser' than the base",
    ]
    assert [point.joined for point in lines["mask-accuracy"]] == [False, True, False]
    assert [point.joined for point in lines["text-similarity"]] == [False, True, True]  # no parser looks at text
    first, second, _ = (point.interval.value for point in lines["mask-accuracy"])
    assert first - second == pytest.approx(3, abs=1)
    assert found.notes == []
    markdown = to_markdown(found)
    assert "A \\| loss &lt;b>" in markdown
    assert "face-generation/collaborative: Mask (%) (higher is better)" in markdown


def test_the_working_tree_joins_where_it_differs(repository: Path) -> None:
    root = repository / "results/embedded"
    write_run(root, "collaborative", levels=(27.0, 95.0, 5.0), seed=9, images=False)
    renew(store_side(Store(root), "embedded"), repository / PLACE, same_for_all(0.01))
    (line,) = read_history(repository, "embedded", "face-generation/collaborative", ["mask-accuracy"]).lines
    assert line.points[-1].commit.sha == UNCOMMITTED
    assert len(line.points) == 4


def test_history_of_the_command_and_its_drawings(repository: Path, tmp_path: Path) -> None:
    found = call("history", "collaborative")
    assert found.exit_code == 0, found.stderr
    assert found.stdout.count("## face-generation/collaborative") == 3
    assert (tmp_path / "history-collaborative.svg").read_text().count("<svg") == 1
    assert (
        call("history", "collaborative", "--metric", "fid", "--last", "1", "--out", str(tmp_path / "a.png")).exit_code
        == 0
    )
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    for arguments, message in (
        (["nosuch"], "no baseline has a row 'nosuch': expected one of collaborative"),
        (["collaborative", "--metric", "nosuch"], "no commit has metric 'nosuch'"),
        (["collaborative", "--out", "x.gif"], "expected a name that ends with .svg or .png"),
        (["collaborative", "--profile", "paper"], "no commit has a readable reports/baseline/paper yet"),
    ):
        failed = call("history", *arguments)
        assert failed.exit_code == 2
        assert message in failed.stderr


def test_a_broken_line_is_drawn_in_parts(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    drawn: list[list[float]] = []
    plot = Axes.plot

    def watched(self: Axes, x: list[float], *rest: object, **options: object) -> object:
        if options.get("lw") == 1.4:
            drawn.append(list(x))
        return plot(self, x, *rest, **options)

    monkeypatch.setattr(Axes, "plot", watched)
    draw(read_history(repository, "embedded", "collaborative", ["mask-accuracy"]), tmp_path / "h.svg")
    assert drawn == [[0, 1]]  # from the second to the third the parser was another


def test_a_damaged_commit_is_left_out_and_said(repository: Path) -> None:
    good = {path.name: path.read_bytes() for path in (repository / PLACE).iterdir()}
    content = read_json(repository / PLACE / "baseline.json")
    write_json(repository / PLACE / "baseline.json", {**content, "format": 99})
    commit(repository, "From the future")
    shutil.rmtree(repository / PLACE)
    commit(repository, "Removed")
    (repository / PLACE).mkdir()
    for name, data in good.items():
        (repository / PLACE / name).write_bytes(data)
    commit(repository, "Back")
    found = read_history(repository, "embedded", "composable", ["fid"])
    assert [note.split(":")[0] for note in found.notes] == [
        "left out",
        call_git(repository, "rev-parse", "HEAD~1")[:12],
    ]
    assert len(found.lines[0].points) == 4


def test_a_shallow_clone_says_so(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call_git(tmp_path, "clone", "-q", "--depth", "2", repository.resolve().as_uri(), "shallow")
    clone = tmp_path / "shallow"
    assert git.is_shallow(clone)
    found = read_history(clone, "embedded", "composable", ["fid"])
    assert any("shallow" in note for note in found.notes)
    with pytest.raises(ConcordError, match="this clone is shallow: `git fetch --unshallow`"):
        git.resolve(clone, "v1~5")


def test_a_repository_without_a_commit_has_no_history(tmp_path: Path) -> None:
    call_git(tmp_path, "init", "-q")
    assert git.commits_of(tmp_path, PLACE) == []
    with pytest.raises(ConcordError, match="no commit has a readable"):
        read_history(tmp_path, "embedded", "composable")


# ---------------------------------------------------------------------------------------------------------- experiment


def test_the_experiment_draws_what_it_says(tmp_path: Path) -> None:
    from concord.reports.validation import experiment as ex

    rng = np.random.default_rng(0)
    items, sets = 40, 4
    hard = rng.normal(70, 5, items)
    plain = {name: hard + rng.normal(size=(sets, items)) for name in ex.METRICS if name not in ("fid", "kid")}
    lost = {
        name: v - (3.0 if name == "mask-accuracy" else 0.0) - rng.normal(0, 0.5, v.shape) for name, v in plain.items()
    }
    features = rng.normal(size=(sets, items, 4)).astype(np.float32)
    bank = ex.Bank({ex.PLAIN: plain, "a": lost}, {ex.PLAIN: features, "a": features}, rng.normal(size=(60, 4)))
    margins = same_for_all(0.0)
    base, head = ex.null_trial(bank, np.random.default_rng(1), 64, 2)
    assert set(base.runs) == set(head.runs) == {f"{ex.SUITE}/row-0", f"{ex.SUITE}/row-1"}
    row = f"{ex.SUITE}/row-0"
    assert not (base.runs[row].values["mask-accuracy"] == head.runs[row].values["mask-accuracy"]).any()  # other seeds
    claimed, failed, single = ex.null_rates(bank, 20, 64, 1, margins)
    assert claimed.value <= 0.2  # 5 % of 20 is 1; more than 4 is 1 in 400
    assert failed.trials == 20
    assert set(single) == set(ex.METRICS)
    found, ended = ex.loss_rates(bank, "a", 5, 64, 1, margins)
    (mask,) = [one for one in found if one.metric == "mask-accuracy"]
    assert mask.true_loss == pytest.approx(3.0, abs=0.2)
    assert mask.found.value == 1.0
    assert mask.stated > 0.99
    assert ended.value == 1.0


def test_a_known_loss_is_found_at_the_stated_rate() -> None:
    """The loss is exactly the smallest that is said to be found four times in five."""
    from scipy.stats import binom

    from concord.reports.validation import experiment as ex

    found, alarms = ex.known_rates(100, 32, 4)
    low, high = binom.interval(0.999, 100, 0.8)
    assert low <= found.hits <= high + 5  # Holm is never less powerful than its first step
    assert alarms.hits <= binom.ppf(0.999, 100, 0.05)


def test_a_shifted_mask_moves_right(tmp_path: Path) -> None:
    from concord.data.request import Conditions, Request
    from concord.reports.validation.experiment import _shifted

    mask = np.arange(12).reshape(3, 4)
    request = Request("a-0", 1, Conditions(text="a face", mask=mask))
    moved = _shifted(request, 1).conditions.mask
    assert moved is not None
    np.testing.assert_array_equal(moved, [[0, 0, 1, 2], [4, 4, 5, 6], [8, 8, 9, 10]])
    assert _shifted(request, 0) is request
    assert _shifted(replace(request, conditions=Conditions(text="a face")), 1).conditions.mask is None

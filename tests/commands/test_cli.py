"""The command line: answers at once, and whatever is wrong is one line with exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_world
from PIL import Image

from concord.cli import VERBS, load_verb

ROOT = Path(__file__).resolve().parents[2]
Cli = Callable[..., Any]


def refused(result: Any, *words: str) -> None:
    """Exit code 2, and one line on stderr that starts with 'error:' and holds the words."""
    assert result.exit_code == 2, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    assert result.stderr.rstrip().endswith(lines[0])
    assert "Traceback" not in result.output
    for word in words:
        assert word in lines[0], lines[0]


@pytest.fixture
def run(concord: Cli, toy_suite: Path, toy_tree: Path, tmp_path: Path) -> Cli:
    """`concord run` of the toy suite on the toy tree; further arguments replace or follow."""

    def call(*args: object, suite: object = toy_suite, data: object = toy_tree, limit: int = 6) -> Any:
        return concord("run", suite, "--data", data, "--limit", limit, "--results", tmp_path / "results", *args)

    return call


# --------------------------------------------------------------------------------------------------------------- help


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = "import sys; from concord.cli import app; app(['--help'], standalone_mode=False); "
    code += "print(*sys.modules, file=sys.stderr)"
    start = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start
    assert all(verb in result.stdout for verb in VERBS)
    assert not {"torch", "pandas", "diffusers", "dvc", "matplotlib"} & set(result.stderr.split())
    assert seconds < 5, "about 0.3 s on an idle machine"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(concord: Cli, verb: str) -> None:
    result = concord(verb, "--help")
    assert result.exit_code == 0, result.output
    text = result.stdout
    if verb == "data":
        text = "".join(concord(verb, inner, "--help").stdout for inner in ("make", "verify", "preview"))
    assert f"concord {verb}" in text, text


def test_verbs_are_called_by_their_names() -> None:
    assert all(load_verb(verb).name == verb for verb in VERBS)


def test_unknown_verb_suggests_a_known_one(concord: Cli) -> None:
    result = concord("trian")
    assert result.exit_code == 2
    assert "train" in result.stderr


# ---------------------------------------------------------------------------------------------------------- what works


def test_run_makes_everything_and_the_second_time_nothing(run: Cli, tmp_path: Path) -> None:
    first = run()
    assert first.exit_code == 0, first.output
    assert "n = 6: far too few" in first.stderr
    assert "outside methods and networks" in first.stdout
    (folder,) = (tmp_path / "results/embedded").iterdir()
    assert folder.name.startswith("data-tree-")
    assert folder.name.endswith("+limit-6")
    for row in ("ground-truth", "shuffled", "toy"):
        assert (folder / "toys" / row / "score.json").is_file()
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("toys/**/*") if path.is_file()}
    second = run()
    assert second.exit_code == 0, second.output
    assert "everything is up to date" in second.stdout
    assert stamps == {path: path.stat().st_mtime_ns for path in folder.glob("toys/**/*") if path.is_file()}


def test_generate_and_score_row_by_row_give_what_run_gives(
    run: Cli, concord: Cli, toy_suite: Path, toy_tree: Path, tmp_path: Path
) -> None:
    assert run().exit_code == 0
    rest = ["--data", toy_tree, "--limit", 6, "--results", tmp_path / "by-hand"]
    for row in ("ground-truth", "shuffled", "toy"):
        assert concord("generate", toy_suite, row, *rest).exit_code == 0
    assert concord("score", toy_suite, "--reference", *rest).exit_code == 0
    for row in ("toy", "shuffled", "ground-truth"):
        assert concord("score", toy_suite, row, *rest).exit_code == 0
    for name in ("scores.parquet", "sets.parquet", "images/00000.tar"):
        files = [next((tmp_path / place).glob(f"embedded/*/toys/toy/{name}")) for place in ("results", "by-hand")]
        assert files[0].read_bytes() == files[1].read_bytes(), name


def test_methods_selects_rows_and_keeps_the_references(run: Cli, tmp_path: Path) -> None:
    result = run("--methods", "toy", "--set", "steps=3")
    assert result.exit_code == 0, result.output
    rows = {path.name for path in (tmp_path / "results/embedded").glob("*/toys/*/")}
    assert rows == {"ground-truth", "shuffled", "toy+steps=3"}


def test_seed_sets_are_kept_apart(run: Cli, tmp_path: Path) -> None:
    assert run().exit_code == run("--seed-set", 1).exit_code == 0
    tars = list((tmp_path / "results/embedded").glob("*/toys/toy/images/00000.tar"))
    assert len(tars) == 2
    assert tars[0].read_bytes() != tars[1].read_bytes()


def test_list_names_what_there_is(concord: Cli) -> None:
    result = concord("list")
    assert result.exit_code == 0, result.output
    for name in ("face-generation", "collaborative", "mask-miou", "toy"):
        assert name in result.stdout


def test_plan_writes_the_matrix_when_it_changed(concord: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from concord.benchmarks import dvc as matrix

    path, real = tmp_path / "matrix.yaml", matrix.write_matrix
    monkeypatch.setattr(matrix, "write_matrix", lambda content: real(content, path))
    some = ("plan", "--results", tmp_path / "results", "--suite", "influence-ablation")
    first = concord(*some)
    assert first.exit_code == 0, first.output
    assert "collaborative-without-temporal" in first.stdout
    assert first.stdout.rstrip().endswith("written")
    assert concord(*some).stdout.rstrip().endswith("unchanged")
    one = concord(*some, "--size", "full")
    assert one.stdout.rstrip().endswith("written")
    assert "text-only" not in path.read_text()
    assert "--n 3000" in path.read_text()
    refused(concord("plan", "--suite", "nosuch"), "unknown suite 'nosuch'", "face-generation")
    refused(concord("plan", "--profile", "nosuch"), "unknown profile 'nosuch'", "embedded, paper")


def test_check_passes_on_the_toy_and_fails_on_a_broken_method(concord: Cli, tmp_path: Path) -> None:
    passed = concord("check", "toy")
    assert passed.exit_code == 0, passed.output
    assert "10 of 10 checks passed" in passed.stdout
    broken = toy_world.TOY.read_text().replace("generator=g", "").replace('"toy"', '"broken"')
    (tmp_path / "broken.py").write_text(broken)
    failed = concord("check", "--plugin", tmp_path / "broken.py")
    assert failed.exit_code == 1, failed.output
    assert "FAILED" in failed.stdout


# ------------------------------------------------------------------------------------------------------- what is wrong


def test_unknown_names(run: Cli, concord: Cli, toy_suite: Path) -> None:
    refused(run(suite="nosuch"), "unknown suite 'nosuch'", "face-generation")
    refused(run("--methods", "nosuch"), "nosuch", "toy")
    refused(run("--set", "stepz=3"), "unknown parameter 'stepz'", "steps")
    refused(run("--set", "steps=many"), "'steps'", "'many'")
    refused(run("--set", "steps"), "--set steps", "key=value")
    refused(run("--profile", "huge"), "unknown profile 'huge'", "embedded")
    refused(concord("run", "face-generation", "--size", "big"), "unknown size 'big'", "default, full")
    refused(concord("generate", toy_suite, "nosuch", "--limit", 2), "nosuch", "toy")
    refused(concord("check", "nosuch"), "unknown method 'nosuch'", "collaborative")
    refused(concord("check"), "nothing to check")
    refused(concord("list", "--plugin", toy_suite), "toys.yaml", "Python file")
    toy_suite.write_text(toy_suite.read_text().replace("kid", "beauty"))
    refused(run(), str(toy_suite), "unknown metric 'beauty'", "kid")


def test_wrong_type_in_yaml(run: Cli, tmp_path: Path) -> None:
    refused(run(suite=toy_world.write_suite(tmp_path, grid="grid: eight")), "toys.yaml", "'grid'", "integer", "'eight'")


def test_device_that_is_not_there(run: Cli) -> None:
    import torch

    if torch.cuda.is_available():
        refused(run("--device", "cuda:99"), "--device cuda:99")
    else:
        refused(run("--device", "cuda"), "--device cuda", "no GPU", "--device cpu or auto")
    refused(run("--device", "toaster"), "--device toaster", "expected auto, cpu, cuda")


def test_bad_numbers(run: Cli) -> None:
    refused(run(limit=0), "--limit 0")
    refused(run("--batch-size", 0), "--batch-size 0", "1..64")
    refused(run("--seed-set", -1), "--seed-set -1")


def test_folders_that_hold_nothing(run: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(run(data=tmp_path / "empty"), "empty", "no faces")
    refused(run(data=tmp_path / "nowhere"), "nowhere", "no such folder")


def test_bad_files_of_a_dataset(run: Cli, tmp_path: Path) -> None:
    tree = toy_world.write_tree(tmp_path / "image", 6)
    picture = tree / "CelebA-HQ-img/4.jpg"
    picture.write_bytes(picture.read_bytes()[:300])
    refused(run(data=tree), "CelebA-HQ-img/4.jpg")

    masks = tmp_path / "masks"
    masks.mkdir()
    for index in range(3):
        Image.fromarray(np.full((64, 64), 17 + index, np.uint8)).save(masks / f"{index}.png")
    captions = {f"{index}.jpg": {"Beard_and_Age": "Somebody."} for index in range(3)}
    (masks / "captions_hq_beard_and_age_2022-08-19.json").write_text(json.dumps(captions))
    refused(run(data=masks), "2.png", "19", "0..18")

    tree = toy_world.write_tree(tmp_path / "caption", 6)
    file = tree / "captions_hq_beard_and_age_2022-08-19.json"
    content = json.loads(file.read_text())
    del content["2.jpg"]["Beard_and_Age"]
    file.write_text(json.dumps(content))
    refused(run(data=tree), file.name, "2.jpg", "Beard_and_Age")


def test_bad_input_leaves_finished_work_as_it_was(run: Cli, tmp_path: Path) -> None:
    tree = toy_world.write_tree(tmp_path / "own", 6)
    assert run(data=tree).exit_code == 0
    results = {path: path.read_bytes() for path in tmp_path.glob("results/embedded/*/toys/**/*") if path.is_file()}
    picture = tree / "CelebA-HQ-img/4.jpg"
    whole = picture.read_bytes()
    picture.write_bytes(whole[:300])
    refused(run(data=tree), "4.jpg")
    refused(run(data=tree, suite="nosuch"), "nosuch")
    assert all(path.read_bytes() == content for path, content in results.items())


def test_results_folder_that_cannot_be_written(concord: Cli, toy_suite: Path, toy_tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    rest = [toy_suite, "--data", toy_tree, "--limit", 4]
    refused(concord("run", *rest, "--results", tmp_path / "file"), "file", "cannot be written", "--results")


def test_read_only_results_folder(run: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    assert run().exit_code == 0
    real = os.open

    def read_only(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and "results" in str(path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", read_only)
    refused(run("--set", "steps=4"), "cannot be written", "Read-only file system")


def test_full_disk(run: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    refused(run(), "cannot be written", "No space left on device")
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.part"))

"""`concord import` and `concord check` look at the files that they are given before torch is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from concord.benchmarks.external.exchange import EXPORT, REQUESTS, check_answers, read_export
from concord.data.errors import ConcordError

ROOT = Path(__file__).resolve().parents[2]


def ended(*arguments: object) -> str:
    """The error line of a command, which must have ended with 2 and without torch."""
    code = (
        "import sys; sys.argv[0] = 'concord'\nfrom concord.cli import main\ntry:\n    main()\n"
        "finally:\n    print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stdout.strip() == "False", "torch was imported"
    return done.stderr.strip().splitlines()[-1]


def test_a_plugin_that_is_no_python(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def sample(:\n")
    assert "SyntaxError: invalid syntax (mine.py, line 1)" in ended("check", "--plugin", tmp_path / "mine.py")


def test_an_export_whose_images_are_missing(concord: object, toy_tree: Path, tmp_path: Path) -> None:
    result = concord("export", "face-generation", tmp_path / "asked", "--data", toy_tree, "--limit", 3)  # type: ignore[operator]
    assert result.exit_code == 0, result.output
    said = ended("import", tmp_path / "asked", "--as", "mine")
    assert "3 of 3 images are missing, the first is '0-0.png'" in said
    known = read_export(tmp_path / "asked")
    ids = [json.loads(line)["id"] for line in (tmp_path / "asked" / REQUESTS).read_text().splitlines()]
    assert (tmp_path / "asked" / EXPORT).is_file()
    assert len(ids) == 3
    with pytest.raises(ConcordError, match="no such folder"):
        check_answers(known, tmp_path / "asked", tmp_path / "nothing")

"""Every command that README, CONTRIBUTING and the help texts show: parsed always, and executed where a test can.

Executed means: in this process, on a toy tree, with `--limit 2`, `--offline` or as a dry run. What is only parsed
stands in `PARSED` with its reason.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from documented import ROOT, block, documented, words_of, write_world

from concord.cli import VERBS, load_verb

COMMANDS = documented()
CONCORD = [command for command in COMMANDS if command.startswith("concord ")]

PARSED = {
    r"--device cuda|--devices cuda|--measure": "needs a GPU",
    r"^concord bench": "is the whole benchmark: tests/pipeline/test_dvc.py runs it on toys",
    r"^concord run --all-stale": "is the whole benchmark",
    r"^concord (train (?!--list)|tune )": "takes hours, or minutes of every core",
    r"--data datasets/": "reads faces that are drawn into the checkout",
    r"^concord calibrate": "needs the papers' weights",
    r"^concord data (fetch|landmarks)": "needs the network, or the papers' data",
    r"^concord data make$|^concord data scenes$": "writes into the checkout's own data",
    r"^concord compare( main| HEAD|$| results| --accept)": "compares the checkout's own results: tests/reports/compare",
    r"^concord history": "reads the checkout's own history: tests/reports/compare",
    r"^concord open( quick)?$|^concord open --no-browser": "serves until it is ended: tests/commands/test_open.py",
    r"^concord (plan|keys)": "writes into the checkout's own folders: tests/pipeline/test_dvc.py",
    r"--size full": "asks for thousands of requests",
    r"^concord evaluate --results": "scores a row of the checkout's own results",
}
"""pattern -> why the commands that it finds are only parsed."""

REFUSED = {
    r"^concord fetch|^concord weights fetch": "offline",
    r"^concord evaluate": "concord weights fetch",
}
"""pattern -> what the one line says with which a command ends here, as it must without the papers' files."""

SAMPLE = (
    "concord list",
    "concord weights list",
    "concord fetch --for paper",
    "concord table collaborative-diffusion-table-a4 --format csv",
)
"""What `make test` executes; `make test-long` executes all."""


def reason(command: str) -> str:
    return next((why for pattern, why in PARSED.items() if re.search(pattern, command)), "")


def test_there_are_commands_in_every_place() -> None:
    assert len(COMMANDS) > 100
    assert {"README.md", "CONTRIBUTING.md", "run.py", "evaluate.py", "cli.py"} <= set(COMMANDS.values())
    used = [pattern for pattern in PARSED if any(re.search(pattern, command) for command in CONCORD)]
    assert used == list(PARSED), "a reason that is no command's"
    executed = [command for command in CONCORD if not reason(command)]
    assert len(executed) > 35, executed


@pytest.mark.parametrize("command", CONCORD)
def test_a_documented_command_parses(command: str) -> None:
    """Verb, arguments and options are there as they are written."""
    verb, *rest = words_of(command)
    if verb == "--help":
        return
    assert verb in VERBS, COMMANDS[command]
    if verb == "score" and {"--images", "--metrics"} & set(rest):
        verb = "evaluate"
    parsed = load_verb(verb).make_context(verb, [word for word in rest if word != "--debug"])
    if not hasattr(parsed.command, "commands"):
        return
    inner, *rest = rest  # of `data` and `weights`
    found = parsed.command.get_command(parsed, inner)
    assert found is not None, command
    found.make_context(inner, rest, parent=parsed)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_a_documented_target_exists(command: str) -> None:
    """As a dry run: make reads its Makefile and says what it would do."""
    done = subprocess.run(["make", "-n", *words_of(command)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("python -m")])
def test_a_documented_module_exists(command: str) -> None:
    """Parsed alone: they train, or measure for an hour."""
    module = words_of(command)[1]
    assert (ROOT / Path(*module.removeprefix("concord.").split("."))).with_suffix(".py").is_file()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("documented"))


@pytest.fixture
def call(concord: Callable[..., Any], world: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Call it with a documented command: it runs small, and ends as it has to."""
    monkeypatch.chdir(world)
    monkeypatch.setenv("CONCORD_CACHE", str(world / "cache"))
    monkeypatch.setenv("CONCORD_OFFLINE", "1")

    def go(command: str) -> Any:
        if command == "concord report":  # of everything: there has to be something
            return concord("report", "--data", "path/to/CelebAMask-HQ", "--limit", 2, "--quiet")
        result = concord(*small(command))
        words = next((words for pattern, words in REFUSED.items() if re.search(pattern, command)), "")
        if words:
            assert result.exit_code == 2, result.output
            assert words in result.stderr.lower()
            assert "Traceback" not in result.output
        else:
            assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
        return result

    return go


def small(command: str) -> list[str]:
    """The command's words, with two requests of the toy tree where it takes any."""
    words = words_of(command)
    if (
        words[0] in ("run", "generate", "score", "export", "report", "table")
        and "collaborative-diffusion-table-a4" not in words
    ):
        if "--limit" in words:
            words[words.index("--limit") + 1] = "2"
        else:
            words += ["--limit", "2"]
        if "--data" not in words:
            words += ["--data", "path/to/CelebAMask-HQ"]
    if words[:2] == ["data", "preview"]:
        words[words.index("--n") + 1] = "4"
    if words[:2] in (["data", "make"], ["data", "scenes"]):
        words[words.index("--n") + 1] = "2"
        words += ["--out", words.pop() if "--out" in words[:-1] else "drawn"] if "--out" not in words else []
    return [word for word in words if not word.startswith(">") and word != "defects.json"]


@pytest.mark.parametrize("command", SAMPLE)
def test_a_sample_is_executed(call: Callable[[str], Any], command: str) -> None:
    assert command in COMMANDS
    assert not reason(command)
    call(command)


def test_a_method_that_lives_elsewhere_by_hand(call: Callable[[str], Any], world: Path) -> None:
    """CONTRIBUTING's three commands, one after the other, with the program that it prints."""
    shutil.rmtree(world / "exchange", ignore_errors=True)
    call("concord export face-generation exchange --limit 32")
    assert "python theirs.py exchange/requests.jsonl exchange" in COMMANDS
    done = subprocess.run([sys.executable, "theirs.py", "exchange/requests.jsonl", "exchange"], cwd=world, check=False)
    assert done.returncode == 0
    result = call("concord import exchange --as theirs")
    assert "2 images of 'theirs' taken in" in result.stdout


@pytest.mark.long
def test_every_other_command_is_executed(call: Callable[[str], Any], world: Path) -> None:
    """In the order of a newcomer: method of one's own, a method that lives elsewhere, tables, scores."""
    assert "class Mine" in block("python", "mine")
    done = [command for command in CONCORD if not reason(command) and command != "concord --help"]
    first = ("check", "run", "generate", "export", "import", "score", "report")
    order = sorted(done, key=lambda command: (*first, words_of(command)[0]).index(words_of(command)[0]))
    for command in order:
        if words_of(command)[0] == "export":
            shutil.rmtree(world / "exchange", ignore_errors=True)
        if words_of(command)[0] == "import":
            subprocess.run([sys.executable, "theirs.py", "exchange/requests.jsonl", "exchange"], cwd=world, check=True)
        call(command)

"""The commands that README, CONTRIBUTING and the help texts show, and the files that they speak of."""

from __future__ import annotations

import json
import re
import shlex
import sys
import tarfile
from pathlib import Path

import numpy as np
import toy_world
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md")
PROGRAMS = ("concord", "make", "python")
PLACES = {"NAME": "faces-mask", "METHOD": "z-magic", "SUITE": "identity-landmarks"}
"""Words that stand for a name, and the one that is tried."""


def documented() -> dict[str, str]:
    """command -> the first place that shows it."""
    found: dict[str, str] = {}
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        shown = re.findall(rf"^    ((?:{'|'.join(PROGRAMS)}) .*)$", text, re.MULTILINE)
        inline = re.findall(rf"`((?:{'|'.join(PROGRAMS)}) [^`]*)`", text)
        for command in [*shown, *inline]:
            _add(found, command, page)
    for path in [*sorted((ROOT / "concord/commands").glob("*.py")), ROOT / "concord/cli.py"]:
        text = path.read_text(encoding="utf-8")
        for command in re.findall(r"^ {6}(concord .*)$", text, re.MULTILINE):
            _add(found, command, path.name)
        for line in re.findall(r"Examples?: (concord [^\"]*)", text):
            for command in line.split(" | "):
                _add(found, command, path.name)
    return found


def _add(found: dict[str, str], command: str, place: str) -> None:
    command = re.split(r"\s{3,}", re.sub(r"\s+#.*$", "", " ".join(command.splitlines())))[0]
    parts = re.split(r" > |, ", command)
    command = (parts[0] if parts[0].count('"') % 2 == 0 else command).strip()  # '>' within quotes is a claim's
    if " ..." not in command and command.rstrip("`") != "concord":
        found.setdefault(command, place)


def words_of(command: str) -> list[str]:
    """The command's words without the program's, names in capitals replaced by real ones."""
    return [PLACES.get(word, word) for word in shlex.split(command)[1:]]


# ----------------------------------------------------------------------------------------------------------- the files


def block(language: str, word: str) -> str:
    """The first block of that language in CONTRIBUTING.md that holds a word."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return str(next(found for found in blocks if word in found))


def write_world(folder: Path) -> Path:
    """Everything that the commands name, in a folder to run them in; returns it."""
    tree = toy_world.write_tree(folder / "path/to/CelebAMask-HQ", 12)
    (folder / "CelebAMask-HQ").symlink_to(tree)
    (folder / "mine.py").write_text(block("python", 'name, title, paper = "mine"'))
    (folder / "theirs.py").write_text(block("python", "json.loads(line)"))
    # `python` is whichever the user has, with Pillow: here this one
    command = block("yaml", "name: theirs-by-command").replace("command: python ", f"command: {sys.executable} ")
    (folder / "theirs.yaml").write_text(command)
    (folder / "my_method.yaml").write_text(command.replace("theirs-by", "mine-by"))
    template = (ROOT / "methods/template.py").read_text(encoding="utf-8")
    (folder / "my_method.py").write_text(template.replace('"template"', '"my-method"'))
    lines = toy_world.SUITE.strip().replace("name: toys", "name: my-suite").splitlines()
    own = [line for line in lines if not line.startswith(("paper:", "table:"))]
    (folder / "my-suite.yaml").write_text("\n".join(own) + "\n")
    for name in ("samples", "originals", "real", "celeba"):
        _pictures(folder / name, 4)
    with tarfile.open(folder / "restored.tar", "w") as tar:
        for path in sorted((folder / "samples").iterdir()):
            tar.add(path, path.name)
    captions = {path.name: "A young person." for path in (folder / "samples").iterdir()}
    (folder / "captions.json").write_text(json.dumps(captions))
    return folder


def _pictures(folder: Path, n: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(len(folder.name))
    for index in range(n):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{index}.png")

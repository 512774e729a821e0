"""An edit of code that makes images: which rows are made again, and what is said of it. On a copy of the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import toy_world

ROOT = Path(__file__).resolve().parents[2]
SUITE = """
name: edited
title: Edited code
paper: collaborative-diffusion
table: table-1
dataset: faces
conditions: [text, mask]
rows:
  - {name: text-only, method: text-only, conditions: [text], params: {steps: 2}}
  - {name: mask-only, method: mask-only, conditions: [mask], params: {steps: 2}}
metrics: [fid]
reference: [ground-truth]
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what Concord runs from, its weights linked."""
    root = tmp_path_factory.mktemp("checkout")
    shutil.copy(ROOT / "params.yaml", root)
    skipped = shutil.ignore_patterns("__pycache__", "baseline", "gallery")
    for name in ("data", "metrics", "methods", "benchmarks", "reports", "concord"):
        shutil.copytree(ROOT / name, root / name, symlinks=True, ignore=skipped, copy_function=_link_or_copy)
    return root


def _link_or_copy(source: str, target: str) -> str:
    if source.endswith(".safetensors"):
        os.symlink(source, target)
        return target
    return str(shutil.copy2(source, target))


class World:
    """Runs `concord generate` of the copy, and edits its files."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        self.checkout, self.folder = checkout, folder
        self.tree = toy_world.write_tree(folder / "tree", 3)
        (folder / "edited.yaml").write_text(SUITE)

    def generate(self, *options: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "concord",
            "generate",
            "edited.yaml",
            "--data",
            str(self.tree),
            "--device",
            "cpu",
        ]
        environment = {**os.environ, "PYTHONPATH": str(self.checkout), "CONCORD_HASHES": str(self.folder / "hashes")}
        done = subprocess.run(
            [*command, "--limit", "3", *options],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.checkout / file
        text = path.read_text()
        assert text.count(old) == 1, f"{file}: {old}"
        path.write_text(text.replace(old, new))

    def images(self) -> dict[str, bytes]:
        return {path.parents[1].name: path.read_bytes() for path in self.folder.rglob("00000.tar")}


def reasons(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stdout.splitlines() if line.startswith("generate ")]


@pytest.mark.slow
def test_halving_what_the_text_encoder_returns_makes_text_only_again(checkout: Path, tmp_path: Path) -> None:
    world = World(checkout, tmp_path)
    assert reasons(world.generate()) == []
    first = world.images()

    file = "metrics/networks/embedded/text.py"
    text = (checkout / file).read_text()
    world.edit(file, "class TextTransformer", "# a comment\n\n\nclass TextTransformer")
    assert "everything is up to date" in world.generate().stdout  # words change nothing

    world.edit(file, "return self.norm(self.layers(", "return 0.5 * self.norm(self.layers(")
    done = world.generate()
    said = reasons(done)
    assert "generate edited/text-only again: code of metrics/networks/embedded/text.py changed" in said
    assert not any("ground-truth" in line for line in said)
    second = world.images()
    assert second["text-only"] != first["text-only"]
    assert second["mask-only"] == first["mask-only"]
    assert second["ground-truth"] == first["ground-truth"]
    (checkout / file).write_text(text)
    world.generate()
    assert world.images() == first  # bit for bit

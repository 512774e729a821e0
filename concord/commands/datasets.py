"""The embedded datasets, drawn when they are first needed: a fresh clone has no data and downloads none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from concord.data.errors import ConcordError
from concord.data.files import read_json

if TYPE_CHECKING:
    from concord.benchmarks.plan.requests import Options
    from concord.benchmarks.settings import Settings
    from concord.benchmarks.suite import Suite

TUNING = range(26_000, 26_064)
WORLD = "world.json"
"""What a drawn tree says about itself (data/synthetic/faces/tree.py)."""


def ensure_dataset(suite: Suite, settings: Settings, options: Options) -> None:
    """Draw the test and reference faces, or the test scenes, of profile 'embedded' where they are missing or too few.

    A folder that Concord did not draw is left as it is.
    """
    if options.data is not None or options.profile != "embedded":
        return
    from concord.benchmarks.settings import ROOT

    dataset = settings.profile(options.profile).datasets[suite.dataset]
    if suite.dataset == "layouts":
        ensure_scenes(ROOT / dataset.items, items_needed(suite, settings, options))
        return
    people = "identity" in suite.conditions
    ensure_faces(ROOT / dataset.items, "test", items_needed(suite, settings, options), people)
    if dataset.reference is not None:
        ensure_faces(ROOT / dataset.reference, "validation", dataset.reference_n)


def ensure_tuning_faces(folder: Path) -> None:
    """Draw the faces that parameters are tuned on: validation faces, none of them among the reference faces."""
    from concord.commands.data import make

    make(split=f"{TUNING.start}..{TUNING.stop}", out=folder, force=True)


def items_needed(suite: Suite, settings: Settings, options: Options) -> int:
    """Faces that the folder must hold; never fewer than the default size, so that a trial draws no small tree."""
    wanted = options.limit or settings.size(suite.request_set, options.size)
    usual = settings.sizes.get(suite.request_set)
    return max(wanted, usual.default if usual else 0)


def ensure_faces(folder: Path, split: str, n: int, references: bool = False) -> None:
    """Make sure that `folder` holds at least the first `n` faces of a split, with identity references where asked.

    Faces that are drawn again are the same to the byte.
    """
    from concord.data.synthetic import SPLITS

    n = min(n, len(SPLITS[split]))
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / WORLD).is_file():
            return
        faces, whole = _drawn(folder, references)
        if whole and faces >= n:
            return
        n = max(n, faces)  # whoever drew more has a use for them
    from concord.commands.data import make

    make(split=split, out=folder, n=n, force=True)


def ensure_scenes(folder: Path, n: int) -> None:
    """Make sure that `folder` holds at least the first `n` scenes of the test split, drawn by today's renderer."""
    from concord.data.synthetic.scenes.scene import RENDERER_VERSION, SPLITS

    n = min(n, len(SPLITS["test"]))
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / WORLD).is_file():
            return
        try:
            world = read_json(folder / WORLD)
            drawn, today = int(world["scenes"]), world["renderer_version"] == RENDERER_VERSION
        except (KeyError, TypeError, ValueError):
            raise ConcordError(f"{folder / WORLD}: expected 'scenes' and 'renderer_version'; remove {folder}") from None
        if today and drawn >= n:
            return
        n = max(n, drawn)
    from concord.commands.data import scenes

    scenes(split="test", out=folder, n=n, workers=None, force=True)


def _drawn(folder: Path, references: bool) -> tuple[int, bool]:
    """How many faces the folder says that it holds, and whether by today's renderer, with the references asked for."""
    from concord.data.synthetic.faces.world import RENDERER_VERSION

    try:
        world = read_json(folder / WORLD)
        lacking = references and not world.get("identity_references")
        return int(world["faces"]), world["renderer_version"] == RENDERER_VERSION and not lacking
    except (KeyError, TypeError, ValueError):
        raise ConcordError(f"{folder / WORLD}: expected 'faces' and 'renderer_version'; remove {folder}") from None

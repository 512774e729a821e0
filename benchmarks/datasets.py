"""The embedded datasets of a suite, drawn when they are first needed: a fresh clone has none and downloads none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from concord.benchmarks.plan.requests import Options
from concord.benchmarks.settings import Settings, place
from concord.benchmarks.suite import Suite
from concord.data.profile import QUICK
from concord.data.synthetic.make import ensure_faces, ensure_scenes, make_faces, make_scenes

TUNING = range(26_000, 26_064)
"""Validation faces; the reference faces are the first 1,000 of that split, 24,000 and on."""
TUNING_SCENES = 50  # of the split that is called so


def ensure_dataset(suite: Suite, settings: Settings, options: Options, say: Callable[[str], None] = print) -> None:
    """Draw the test and reference faces, or the test scenes, of profile 'embedded' where they are missing or too few.

    A folder that Concord did not draw is left as it is.
    """
    if options.data is not None or options.profile != "embedded":
        return
    dataset = settings.profile(options.profile).datasets[suite.dataset]
    if suite.dataset == "layouts":
        ensure_scenes(place(dataset.items), items_needed(suite, options), say)
        return
    references = "identity" in suite.conditions
    ensure_faces(place(dataset.items), "test", items_needed(suite, options), references, say)
    if dataset.reference is not None and options.size != QUICK:  # no metric of it compares with them
        ensure_faces(place(dataset.reference), "validation", dataset.reference_n, say=say)


def ensure_tuning_items(kind: str, folder: Path, say: Callable[[str], None] = print) -> None:
    """Draw the items that parameters are tuned on: none of them among those that tables show or metrics compare with.

    kind: of dataset, 'faces' or 'layouts'.
    """
    if kind == "layouts":
        say(make_scenes(folder, "tuning", TUNING_SCENES, force=True))
    else:
        say(make_faces(folder, TUNING, force=True, references=True))


def items_needed(suite: Suite, options: Options) -> int:
    """Faces that the folder must hold; never fewer than the default size, so that a trial draws no small tree.

    Of size 'quick' those that it needs and no more: what is drawn later for a larger one is the same to the byte.
    """
    if options.size == QUICK:
        return options.limit or suite.size(options.size, options.profile)
    wanted = options.limit or suite.size(options.size, options.profile)
    return max(wanted, suite.n.default if suite.n else 0)

"""Which steps guide, by method, preset, profile and condition, against a table worked out from the papers and the code.

A row of the table: the timesteps t at which a condition guides, as (first, last) of the descending grid; None for no
step. In profile 'paper' t is i + 1 of the authors' count for faces, and 10 index + 1 for Stable Diffusion. The authors'
code guides faces where i > 200 (i > 100 for an identity alone), and texts to the end.
"""

from __future__ import annotations

from typing import Any

import pytest

from concord.benchmarks.suite import read_suite, suite_names
from concord.benchmarks.tuned import tuned_row
from concord.methods.base import get_method, make_params
from concord.methods.core.schedule import Schedule
from concord.methods.guidance.parameters import GuidedParams

GRID = {steps: Schedule.scaled_linear().ddim_timesteps(steps) for steps in (20, 30, 100, 500)}
EVERYWHERE = {20: (951, 1), 30: (958, 1), 100: (991, 1), 500: (999, 1)}


def guided(p: GuidedParams, name: str) -> tuple[int, int] | None:
    """First and last timestep at which a condition guides; every step between them has to."""
    steps = [t for t in GRID[p.steps] if p.guides(name, t)]
    if steps:
        assert steps == [t for t in GRID[p.steps] if steps[-1] <= t <= steps[0]]
    return (steps[0], steps[-1]) if steps else None


def params(method: str, **given: Any) -> GuidedParams:
    found = make_params(get_method(method), given)
    assert isinstance(found, GuidedParams)
    return found


# method, preset, steps: text, identity, mask, landmarks, style
DEFAULTS: dict[tuple[str, str, int], tuple[Any, ...]] = {
    ("freedom", "paper", 100): ((991, 1), (991, 101), (991, 201), (991, 201), (691, 301)),
    ("freedom", "official", 100): ((991, 1), (991, 111), (991, 211), (991, 211), (691, 301)),
    ("freedom", "paper", 20): ((951, 1), (951, 101), (951, 201), (951, 201), (651, 301)),
    ("freedom", "official", 20): ((951, 1), (951, 151), (951, 251), (951, 251), (651, 301)),
    ("z-magic", "paper", 100): ((991, 201), (991, 201), (991, 201), (991, 201), (691, 301)),
    ("z-magic", "official", 100): ((991, 1), (991, 211), (991, 211), (991, 211), (991, 301)),
    ("ugd", "paper", 500): ((999, 1), (999, 1), (999, 1), (999, 1), (999, 1)),
    ("ugd", "official", 500): ((999, 1), (999, 1), (999, 1), (999, 1), (999, 1)),
}
NAMES = ("text", "identity", "mask", "landmarks", "style")


@pytest.mark.parametrize(("method", "preset", "steps"), DEFAULTS)
def test_a_preset_guides_at_the_steps_of_the_table(method: str, preset: str, steps: int) -> None:
    strengths = dict.fromkeys(NAMES, 1.0)  # a condition of strength 0 would guide nowhere
    p = params(method, preset=preset, steps=steps, strengths=strengths)
    assert tuple(guided(p, name) for name in NAMES) == DEFAULTS[method, preset, steps]


# suite, row, profile -> condition: (first, last)
ROWS: dict[tuple[str, str, str], dict[str, tuple[int, int] | None]] = {
    ("segmentation-text", "freedom", "embedded"): {"text": (958, 1), "mask": (958, 232)},
    ("segmentation-text", "z-magic", "embedded"): {"text": (958, 232), "mask": (958, 232)},
    ("segmentation-text", "z-magic-official", "embedded"): {"text": (958, 1), "mask": (958, 232)},
    ("segmentation-text", "freedom", "paper"): {"text": (991, 1), "mask": (991, 211)},
    ("segmentation-text", "freedom-official", "paper"): {"text": (991, 1), "mask": (991, 211)},
    ("segmentation-text", "z-magic", "paper"): {"text": (991, 211), "mask": (991, 211)},
    ("segmentation-text", "z-magic-official", "paper"): {"text": (991, 1), "mask": (991, 211)},
    ("identity-landmarks", "freedom", "embedded"): {"identity": (958, 133), "landmarks": (958, 232)},
    ("identity-landmarks", "z-magic", "embedded"): {"identity": (958, 232), "landmarks": (958, 232)},
    ("identity-landmarks", "z-magic-official", "embedded"): {"identity": (958, 232), "landmarks": (958, 232)},
    ("identity-landmarks", "freedom", "paper"): {"identity": (991, 211), "landmarks": (991, 211)},
    ("identity-landmarks", "freedom-official", "paper"): {"identity": (991, 211), "landmarks": (991, 211)},
    ("identity-landmarks", "z-magic", "paper"): {"identity": (991, 211), "landmarks": (991, 211)},
    ("identity-landmarks", "z-magic-official", "paper"): {"identity": (991, 211), "landmarks": (991, 211)},
    ("identity-segmentation-text", "freedom", "paper"): {"text": (991, 1), "mask": (991, 211), "identity": (991, 211)},
    ("identity-segmentation-text", "z-magic", "paper"): {
        "text": (991, 211),
        "mask": (991, 211),
        "identity": (991, 211),
    },
    ("identity-segmentation-text", "z-magic-official", "paper"): {
        "text": (991, 1),
        "mask": (991, 211),
        "identity": (991, 211),
    },
    ("three-conditions", "freedom", "embedded"): {"text": (951, 1), "identity": (951, 101), "landmarks": (951, 201)},
    ("three-conditions", "z-magic", "embedded"): {"text": (951, 201), "identity": (951, 201), "landmarks": (951, 201)},
    ("text-style", "freedom", "embedded"): {"style": (694, 331)},
    ("text-style", "z-magic", "embedded"): {"style": (694, 331)},
    ("text-style", "z-magic-official", "embedded"): {"style": (958, 331)},
    ("text-style", "ugd", "embedded"): {"style": (958, 1)},
    ("text-style", "ugd-official", "embedded"): {"style": (958, 1)},
    ("text-style", "freedom", "paper"): {"style": (691, 301)},
    ("text-style", "freedom-official", "paper"): {"style": (691, 301)},
    ("text-style", "z-magic", "paper"): {"style": (691, 301)},
    ("text-style", "z-magic-official", "paper"): {"style": (991, 301)},
    ("text-style", "ugd", "paper"): {"style": (999, 1)},
    ("text-style", "ugd-official", "paper"): {"style": (999, 1)},
    ("identity-landmarks", "freedom-official", "embedded"): {"identity": (958, 133), "landmarks": (958, 232)},
    ("identity-segmentation-text", "freedom", "embedded"): {
        "text": (951, 1),
        "mask": (951, 201),
        "identity": (951, 101),
    },
    ("identity-segmentation-text", "z-magic", "embedded"): {
        "text": (951, 201),
        "mask": (951, 201),
        "identity": (951, 201),
    },
    ("identity-segmentation-text", "freedom-official", "embedded"): {
        "text": (951, 1),
        "mask": (951, 251),
        "identity": (951, 151),
    },
    ("identity-segmentation-text", "z-magic-official", "embedded"): {
        "text": (951, 1),
        "mask": (951, 251),
        "identity": (951, 251),
    },
    ("identity-segmentation-text", "freedom-official", "paper"): {
        "text": (991, 1),
        "mask": (991, 211),
        "identity": (991, 211),
    },
    ("order-identity-landmarks", "z-magic", "embedded"): {"identity": (958, 232), "landmarks": (958, 232)},
    ("order-identity-landmarks", "z-magic-landmarks-first", "embedded"): {
        "identity": (958, 232),
        "landmarks": (958, 232),
    },
    ("order-identity-landmarks", "z-magic", "paper"): {"identity": (991, 211), "landmarks": (991, 211)},
    ("order-identity-landmarks", "z-magic-landmarks-first", "paper"): {"identity": (991, 211), "landmarks": (991, 211)},
    ("order-segmentation-text", "z-magic", "embedded"): {"text": (958, 232), "mask": (958, 232)},
    ("order-segmentation-text", "z-magic-segmentation-first", "embedded"): {"text": (958, 232), "mask": (958, 232)},
    ("order-segmentation-text", "z-magic", "paper"): {"text": (991, 211), "mask": (991, 211)},
    ("order-segmentation-text", "z-magic-segmentation-first", "paper"): {"text": (991, 211), "mask": (991, 211)},
    ("segmentation-text", "freedom-official", "embedded"): {"text": (958, 1), "mask": (958, 232)},
    ("text-style", "freedom-official", "embedded"): {"style": (694, 331)},
    ("three-conditions", "freedom-official", "embedded"): {
        "text": (951, 1),
        "identity": (951, 151),
        "landmarks": (951, 251),
    },
    ("three-conditions", "z-magic-official", "embedded"): {
        "text": (951, 1),
        "identity": (951, 251),
        "landmarks": (951, 251),
    },
    ("three-conditions", "freedom", "paper"): {"text": (991, 1), "identity": (991, 211), "landmarks": (991, 211)},
    ("three-conditions", "z-magic", "paper"): {"text": (991, 211), "identity": (991, 211), "landmarks": (991, 211)},
    ("three-conditions", "freedom-official", "paper"): {
        "text": (991, 1),
        "identity": (991, 211),
        "landmarks": (991, 211),
    },
    ("three-conditions", "z-magic-official", "paper"): {
        "text": (991, 1),
        "identity": (991, 211),
        "landmarks": (991, 211),
    },
}


@pytest.mark.parametrize(("suite", "row", "profile"), ROWS)
def test_a_row_guides_at_the_steps_of_the_table(suite: str, row: str, profile: str) -> None:
    whole = read_suite(suite)
    settled = tuned_row(whole.in_profile(profile).row(row), whole.request_set, profile)
    p = params(str(settled.method), **settled.params)
    pulling = [n for n in whole.row_conditions(settled) if not (n == "text" and p.text_by == "model")]
    assert {name: guided(p, name) for name in pulling} == ROWS[suite, row, profile]


def test_every_guided_row_stands_in_the_table() -> None:
    rows = {
        (name, row.name, profile)
        for name in suite_names()
        for profile in ("embedded", "paper")
        for row in read_suite(name).in_profile(profile).rows
        if row.method is not None and issubclass(get_method(row.method).Params, GuidedParams)
    }
    assert rows == set(ROWS)


def test_the_mask_pulls_as_the_scripts_say_in_the_rows_of_profile_paper() -> None:
    """run.sh: 0.1 beside a text; main.py: 0.2 of three, and FreeDoM's 0.2 throughout."""
    for suite, row, strength in (
        ("segmentation-text", "z-magic-official", 0.1),
        ("identity-segmentation-text", "z-magic-official", 0.2),
        ("segmentation-text", "freedom-official", 0.2),
        ("identity-segmentation-text", "freedom-official", 0.2),
    ):
        whole = read_suite(suite)
        spec = whole.in_profile("paper").row(row)
        p = params(str(spec.method), **spec.params).for_conditions(whole.row_conditions(spec))
        assert (p.strengths.mask, p.strengths.identity, p.strengths.landmarks) == (strength, 100, 500), (suite, row)


# suite, row: turns at t = 991, 691, 401, 391 and 1 in profile 'paper'
TURNS = {
    ("text-style", "freedom"): (1, 3, 3, 1, 1),
    ("text-style", "freedom-official"): (1, 3, 3, 1, 1),
    ("text-style", "z-magic"): (1, 3, 3, 1, 1),
    ("text-style", "z-magic-official"): (3, 3, 3, 3, 3),
    ("text-style", "ugd"): (6, 6, 6, 6, 6),
    ("text-style", "ugd-official"): (6, 6, 6, 6, 6),
}


@pytest.mark.parametrize(("suite", "row"), TURNS)
def test_a_row_takes_the_turns_of_the_table(suite: str, row: str) -> None:
    spec = read_suite(suite).in_profile("paper").row(row)
    p = params(str(spec.method), **spec.params).for_conditions(("text", "style"))
    turns = [p.repeats(t) for t in (991, 691, 401, 391)] + [p.repeats(1) if p.repeat_last_step else 1]
    assert tuple(turns) == TURNS[suite, row]

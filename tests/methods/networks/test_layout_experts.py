"""The layout models on small random networks: what they are told, what they must not hear, limits, guidance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from layout_models import BOXES, LABELS, expert, generator, layout
from torch import Tensor

from concord.data.datasets.layouts.layout import COLOURS, Layout
from concord.data.errors import ConcordError
from concord.data.request import Conditions
from concord.data.synthetic.scenes.scene import CATEGORIES, INTERACTIONS
from concord.methods.core.schedule import Schedule
from concord.methods.networks.experts import LATENT
from concord.methods.networks.layout_experts import (
    GRID,
    Guided,
    LayoutExpert,
    fourier,
    layout_batch,
    placed_between,
    placed_in_boxes,
)

SCHEDULE = Schedule.scaled_linear()


def given(*layouts: Layout) -> list[Conditions]:
    return [Conditions(layout=one) for one in layouts]


def noise(rows: int, seed: int = 0) -> Tensor:
    return torch.randn((rows, *LATENT), generator=generator(seed))


def predicted(model: LayoutExpert, conditions: list[Conditions], guidance: float = 1.0) -> Tensor:
    return model.bind(conditions, SCHEDULE, guidance)(noise(len(conditions)), 500)


@pytest.mark.parametrize("kind", ["interaction", "attribute"])
def test_shapes_of_what_a_layout_becomes(kind: str) -> None:
    model = expert(kind)
    encoded = model.encode(given(layout(), layout(LABELS[:2], BOXES[:2], ())))
    assert encoded.keep is not None
    assert encoded.planes is not None
    tokens = 6 + 2 * (kind == "interaction")
    assert encoded.tokens.shape == (2, tokens, 16)
    assert encoded.keep.sum(1).tolist() == ([4, 2] if kind == "interaction" else [3, 2])
    assert encoded.planes.shape == (2, model.encoder.planes, GRID, GRID)
    assert predicted(model, given(layout())).shape == (1, *LATENT)


def test_planes_lie_in_the_boxes_alone() -> None:
    """A cell that no box covers holds zeros, one that a box covers does not; a mark's planes lie around its pair."""
    model = expert("interaction")
    planes = model.encode(given(layout())).planes
    assert planes is not None
    shade, marks = planes[0, :24], planes[0, 24:]
    edges = np.arange(GRID + 1) / GRID
    covered = np.zeros((GRID, GRID), bool)
    for x1, y1, x2, y2 in BOXES:
        columns, rows = ((edges[1:] > low) & (edges[:-1] < high) for low, high in ((x1, x2), (y1, y2)))
        covered |= rows[:, None] & columns[None]
    assert np.array_equal((shade != 0).any(0).numpy(), covered)
    assert bool((marks[:, :9] != 0).any(0).any())
    assert not bool(marks[:, 13:].any())  # below both boxes of the pair


def test_a_cell_knows_its_place_in_the_box() -> None:
    boxes, there = torch.tensor([[[0.0, 0.25, 0.5, 0.75]]]), torch.ones(1, 1, dtype=torch.bool)
    placed, covers = placed_in_boxes(boxes, there)
    assert covers[0, 0].nonzero().amin(0).tolist() == [4, 0]
    assert covers[0, 0].nonzero().amax(0).tolist() == [11, 7]
    torch.testing.assert_close(placed[0, 0, 6, 2, :2], torch.tensor([2.5 / 8, 2.5 / 8]))
    torch.testing.assert_close(placed[0, 0, 6, 2, -3:], torch.tensor([1.0, np.log(0.5), np.log(0.5)]).float())
    assert not bool(placed_in_boxes(boxes, ~there)[1].any())


def test_a_cell_knows_its_place_between_two_boxes() -> None:
    """0 at the middle of the subject, 1 at that of the object, and on neither side of the line between them."""
    cell = 1 / GRID
    subject = torch.tensor([[[0.0, 8 * cell, 3 * cell, 11 * cell]]])
    other = torch.tensor([[[9 * cell, 8 * cell, 12 * cell, 11 * cell]]])
    placed, around = placed_between(subject, other, torch.ones(1, 1, dtype=torch.bool))
    along, near = fourier(torch.tensor([[0.0], [1.0]]), 3), placed[0, 0, ..., 13:18] * 4  # in cells
    torch.testing.assert_close(placed[0, 0, 9, 1, :6], along[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(placed[0, 0, 9, 10, :6], along[1], atol=1e-5, rtol=0)
    assert float(near[9, :, 0].abs().max()) < 1e-5
    assert float(near[7, 6, 0]) == pytest.approx(-float(near[11, 6, 0])) == pytest.approx(-2)
    assert near[9, 6, 1:].tolist() == pytest.approx([3.5, 2.5, (8 / 3 - 1) * 1.5, 1.5])
    assert around[0, 0].nonzero().amin(0).tolist() == [7, 0]
    assert around[0, 0].nonzero().amax(0).tolist() == [11, 12]


# --------------------------------------------------------------------------------------- what it must and must not hear


@pytest.mark.parametrize(
    ("kind", "changed", "heard"),
    [
        ("interaction", {"labels": ["a black star", "a blue car", "a green fish"]}, False),
        ("attribute", {"labels": ["a black star", "a blue car", "a green fish"]}, True),
        ("interaction", {"triples": ((0, "arrow", 1),)}, True),
        ("interaction", {"triples": ((1, "link", 0),)}, True),
        ("attribute", {"triples": ((0, "arrow", 1),)}, False),
        ("attribute", {"triples": ()}, False),
        ("interaction", {"labels": ["a red ball", "a blue car", "a green fish"]}, True),
        ("attribute", {"labels": ["a red ball", "a blue car", "a green fish"]}, True),
        ("attribute", {"labels": ["a star", "a blue car", "a green fish"]}, True),
        ("interaction", {"boxes": [(0.1, 0.2, 0.5, 0.75), *BOXES[1:]]}, True),
        ("attribute", {"boxes": [(0.1, 0.2, 0.5, 0.75), *BOXES[1:]]}, True),
    ],
)
def test_a_model_hears_of_its_part_alone(kind: str, changed: dict[str, Any], heard: bool) -> None:
    model = expert(kind)
    base, other = (predicted(model, given(one)) for one in (layout(), layout(**changed)))
    assert torch.equal(base, other) != heard


@pytest.mark.parametrize("kind", ["interaction", "attribute"])
def test_the_order_of_the_instances_does_not_matter(kind: str) -> None:
    turned = layout([LABELS[k] for k in (2, 0, 1)], [BOXES[k] for k in (2, 0, 1)], ((1, "link", 2),))
    base, other = (predicted(expert(kind), given(one)) for one in (layout(), turned))
    torch.testing.assert_close(base, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("kind", ["interaction", "attribute"])
def test_a_prediction_does_not_depend_on_its_batch(kind: str, guidance: float) -> None:
    model = expert(kind)
    several = given(layout(), layout(LABELS[:2], BOXES[:2], ()), layout(LABELS[1:], BOXES[1:], ((1, "on", 0),)))
    x_t = noise(3)
    together = model.bind(several, SCHEDULE, guidance)(x_t, 300)
    for k in range(3):
        alone = model.bind(several[k : k + 1], SCHEDULE, guidance)(x_t[k : k + 1], 300)
        torch.testing.assert_close(together[k : k + 1], alone, atol=1e-4, rtol=1e-4)


# -------------------------------------------------------------------------------------------------- guidance and null


@pytest.mark.parametrize("kind", ["interaction", "attribute"])
def test_the_null_condition_knows_no_layout(kind: str) -> None:
    model = expert(kind)
    nulls = []
    for one in (layout(), layout(LABELS[:2], BOXES[:2], ())):
        encoded = model.encoder(model.encoder.prepare(given(one)), torch.tensor([True]))  # type: ignore[operator]
        assert encoded.keep.sum() == 1
        assert not bool(encoded.planes.any())
        nulls.append(model(noise(1), 500, encoded))
    assert torch.equal(*nulls)
    assert not torch.allclose(nulls[0], model(noise(1), 500, model.encode(given(layout()))), atol=1e-4)


def test_only_the_rows_that_are_dropped_get_it() -> None:
    model = expert("attribute")
    prepared = model.encoder.prepare(given(layout(), layout()))  # type: ignore[operator]
    mixed, own = model.encoder(prepared, torch.tensor([True, False])), model.encoder(prepared)
    assert torch.equal(mixed.tokens[1], own.tokens[1])
    assert torch.equal(mixed.planes[1], own.planes[1])
    assert not bool(mixed.planes[0].any())


@pytest.mark.parametrize("kind", ["interaction", "attribute"])
def test_guidance_is_its_equation_in_one_evaluation(kind: str) -> None:
    from concord.benchmarks.run.meter import EvaluationCounter

    model, conditions = expert(kind), given(layout(), layout(LABELS[:2], BOXES[:2], ()))
    x_t, t = noise(2), 500
    own = predicted(model, conditions)
    prepared = model.encoder.prepare(conditions)  # type: ignore[operator]
    null = SCHEDULE.eps_from_velocity(model(x_t, t, model.encoder(prepared, torch.ones(2, dtype=torch.bool))), x_t, t)
    calls: list[int] = []
    handle = model.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    counter = EvaluationCounter({"eps": model})
    guided = predicted(model, conditions, 2.5)
    handle.remove()
    counter.close()
    torch.testing.assert_close(guided, null + 2.5 * (own - null), atol=1e-4, rtol=1e-4)
    assert calls == [4]
    assert counter.rows == {"eps": 4}
    torch.testing.assert_close(predicted(model, conditions, 0.0), null, atol=1e-4, rtol=1e-4)


def test_without_guidance_there_is_one_row_for_each() -> None:
    model = expert("attribute")
    assert not isinstance(model.bind(given(layout()), SCHEDULE), Guided)
    assert isinstance(model.bind(given(layout()), SCHEDULE, 2.0), Guided)


# ---------------------------------------------------------------------------------------------------------- bad input


def many(n: int, triples: Any = ()) -> Layout:
    boxes = [(0.02 + 0.12 * k, 0.1, 0.12 + 0.12 * k, 0.5) for k in range(n)]
    return Layout.of("a photo", boxes, [f"a red {CATEGORIES[k]}" for k in range(n)], "1", triples)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: many(7), r"7 instances; the embedded layout models take at most 6"),
        (
            lambda: many(6, ((0, "link", 1), (2, "on", 3), (4, "arrow", 5))),
            r"3 interactions; the embedded layout models take at most 2",
        ),
        (lambda: layout(["a red giraffe", *LABELS[1:]]), r"category 'giraffe' is unknown .* one of ball, car"),
        (
            lambda: Layout("a photo", BOXES[:1], ("a pink car",), ("pink",), ("car",)),  # type: ignore[arg-type]
            r"colour 'pink' is unknown .* one of black, blue",
        ),
        (lambda: layout(triples=((0, "eating", 1),)), r"interaction 'eating' is unknown .* one of link, arrow"),
    ],
)
def test_what_a_model_does_not_take_is_named(wrong: Any, message: str) -> None:
    with pytest.raises(ConcordError, match=message) as caught:
        layout_batch(given(wrong()))
    assert "\n" not in str(caught.value)


def test_a_layout_without_boxes_is_refused() -> None:
    with pytest.raises(ConcordError, match="boxes of shape"):
        Layout.of("a photo", [], [])


def test_a_condition_that_is_no_layout_is_refused() -> None:
    with pytest.raises(ConcordError, match="condition 'layout' is dict"):
        layout_batch([Conditions(layout={"0": []})])


def test_numbers_are_those_of_the_world() -> None:
    batch = layout_batch(given(layout(), many(6)))
    assert len(batch) == 2
    assert batch.categories[0].tolist() == [CATEGORIES.index(n) for n in ("star", "car", "fish")] + [-1, -1, -1]
    assert batch.colours[0, :3].tolist() == [COLOURS.index(n) for n in ("red", "blue", "green")]
    assert batch.interactions[0].tolist() == [[0, INTERACTIONS.index("link"), 1], [-1, -1, -1]]
    np.testing.assert_allclose(batch.boxes[0, :3].numpy(), BOXES, rtol=1e-6)


# -------------------------------------------------------------------------------------------------------------- style


def test_a_style_is_a_picture() -> None:
    model = expert("style")
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (64, 64, 3)).astype(np.uint8) for _ in range(2)]
    conditions = [Conditions(style=picture) for picture in pictures]
    encoded = model.encode(conditions)
    assert encoded.tokens.shape == (2, 4, 16)
    assert encoded.planes is None
    assert predicted(model, conditions, 2.0).shape == (2, *LATENT)
    same = noise(1).expand(2, -1, -1, -1)
    first, second = model.bind(conditions, SCHEDULE)(same, 500)
    assert not torch.allclose(first, second, atol=1e-4)
    with pytest.raises(ConcordError, match="condition 'style' has shape"):
        model.encode([Conditions(style=np.zeros((32, 32, 3), np.uint8))])

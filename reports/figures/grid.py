"""Figures made from the store: the same conditions across methods, and the influence maps over time.

Drawn with matplotlib's object interface (no global state, no display). Images are enlarged by a whole factor before
they are placed: photographs with Lanczos, masks with NEAREST, so that a 64-pixel face looks as it is.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from concord.data.conditions.base import Condition, all_conditions, get_condition
from concord.data.conditions.drawing import LINES, enlarge
from concord.data.files import atomic_path
from concord.data.request import Conditions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 160  # figures are laid out in units of 1/100 inch and saved with 1.6 pixels a unit
TILE = 160  # side of one image in units: 256 pixels, four times a 64-pixel face
GAP = 8
INK, FAINT, PAPER = "#1c2128", "#59616b", "#ffffff"
GRID, EDGE = "#e4e7eb", "#c4c9d0"
MAPS = "magma"  # perceptually even, dark to light, readable without colour
STYLES = ("-", "--", "-.", ":")
FONT = ["DejaVu Sans"]


@dataclass
class GridRow:
    """One request as figures show it. images: row name -> uint8 (H, W, 3); `truth` the item's own image."""

    id: str
    conditions: Conditions = field(default_factory=Conditions)
    truth: np.ndarray | None = None
    images: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def caption(self) -> str | None:
        text: str | None = self.conditions.get("text")
        return text


def drawn_conditions() -> dict[str, type[Condition[object]]]:
    """Conditions that are drawn as images, in their order."""
    return {name: kind for name, kind in all_conditions().items() if kind.drawing != "none"}


def condition_columns(shown: Sequence[GridRow]) -> list[tuple[str, str]]:
    """(name, heading) of the drawn conditions that any of the requests has."""
    return [
        (name, kind.title)
        for name, kind in drawn_conditions().items()
        if any(name in request.conditions for request in shown)
    ]


def legend(shown: Sequence[GridRow]) -> list[tuple[str, str]]:
    """(name, '#rrggbb') of the colours that the conditions of these requests are drawn in."""
    found: list[tuple[str, str]] = []
    for name, kind in drawn_conditions().items():
        found += kind.legend([request.conditions[name] for request in shown if name in request.conditions])
    return found


# ---------------------------------------------------------------------------------------------------------- images


def pixels(units: float = TILE) -> int:
    """The pixels that `units` take in the saved figure."""
    return round(units * DPI / 100)


def condition_image(name: str, conditions: Conditions, truth: np.ndarray | None, side: int) -> np.ndarray | None:
    """One condition as people read it, uint8 RGB; None where it is absent or is no image.

    side: pixels of what is drawn with lines; other conditions keep their own size.
    """
    value = conditions.get(name)
    return None if value is None else get_condition(name).draw(value, truth, side)


def with_overlays(image: np.ndarray, conditions: Conditions, side: int) -> np.ndarray | None:
    """An image of a row, side x side, with what conditions draw over it; None where none of them draws anything."""
    drawn: np.ndarray | None = None
    for name, value in conditions.items():
        over = get_condition(name).overlay(value, image if drawn is None else drawn, side)
        drawn = drawn if over is None else over
    return drawn


def new_figure(width_px: float, height_px: float) -> Figure:
    """An empty figure of this many units, 100 to the inch, without a global state."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams["font.family"] = FONT
    return Figure(figsize=(width_px / 100, height_px / 100), dpi=100, facecolor=PAPER)


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a caption's letter becomes a box, no more
        figure.savefig(
            temporary,
            format="png",
            dpi=DPI,
            facecolor=PAPER,
            metadata={"Software": "Concord"},
            pil_kwargs={"compress_level": 4},
        )


# A vector figure takes its colours from variables that follow the reader's scheme, as the pages do.
SCHEME = {
    INK: ("ink", "#e6e9ee"), FAINT: ("faint", "#a0a8b3"), PAPER: ("paper", "#14181d"),
    GRID: ("grid", "#333a43"), EDGE: ("edge", "#565e69"),
    LINES[0]: ("line0", "#7ea6ff"), LINES[1]: ("line1", "#ff9a66"), LINES[2]: ("line2", "#5fd3a0"),
    LINES[3]: ("line3", "#c79bf0"), LINES[4]: ("line4", "#e0bb45"), LINES[5]: ("line5", "#ff8fb8"),
}  # fmt: skip  # a table


def save_plot(figure: Figure, path: Path) -> None:
    """The figure as PNG (Markdown, print) and, beside it, as SVG for the pages: sharp everywhere, also in the dark."""
    import io

    from matplotlib import rc_context

    _save(figure, path)
    content = io.StringIO()
    with rc_context({"svg.hashsalt": path.name}):  # equal figures give equal files
        figure.savefig(content, format="svg", facecolor=PAPER, metadata={"Date": None, "Creator": "Concord"})
    text = content.getvalue()
    for colour, (name, _) in SCHEME.items():
        text = text.replace(colour, f"var(--{name})")
    light = ";".join(f"--{name}:{colour}" for colour, (name, _) in SCHEME.items())
    dark = ";".join(f"--{name}:{colour}" for name, colour in SCHEME.values())
    style = f"<style>:root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
    start = text.index(">", text.index("<svg")) + 1
    with atomic_path(path.with_suffix(".svg")) as temporary:
        temporary.write_text(text[:start] + style + text[start:], encoding="utf-8")


def _place(figure: Figure, image: np.ndarray, left: float, top: float, size: float, **style: Any) -> None:
    """An image with its upper left corner at (left, top); `style` goes to imshow (colour map and range of a map)."""
    width, height = figure.get_size_inches() * 100
    axes = figure.add_axes((left / width, 1 - (top + size) / height, size / width, size / height))
    axes.imshow(image, aspect="auto", interpolation="nearest", **style)
    axes.set_axis_off()


def _write(figure: Figure, x: float, y: float, text: str, size: float = 9, **style: Any) -> None:
    """Text whose position is in units from the upper left corner."""
    width, height = figure.get_size_inches() * 100
    style = {"color": INK, "va": "top", "ha": "left", **style}
    # a caption is data: a '$' in it must not start mathematics
    figure.text(x / width, 1 - y / height, text.replace("$", r"\$"), fontsize=size, **style)


# -------------------------------------------------------------------------------------------------------- sample grid


def sample_grid(shown: Sequence[GridRow], columns: Sequence[tuple[str, str]], title: str, path: Path) -> None:
    """Rows = requests (caption, other conditions, ground truth), then one column a method: (row name, heading)."""
    with_text = any(s.caption for s in shown)
    with_truth = any(s.truth is not None for s in shown)
    text_width = 190 if with_text else 0
    given = [*condition_columns(shown), *[("truth", "Ground truth")] * with_truth]
    images = [*given, *columns]
    break_at = len(given) * (TILE + GAP)  # conditions left of it, methods right
    margin, head, foot, aside = 18, 74, 44, 14
    width = 2 * margin + text_width + len(images) * (TILE + GAP) + aside
    height = head + len(shown) * (TILE + GAP) + foot
    figure = new_figure(width, height)
    _write(figure, margin, 14, title, 13, weight="bold")
    for index, (name, heading) in enumerate(images):
        left = margin + text_width + index * (TILE + GAP) + (aside if index * (TILE + GAP) >= break_at else 0)
        lines = textwrap.wrap(heading, 21)[:2]
        _write(
            figure,
            left + TILE / 2,
            head - 8,
            "\n".join(lines),
            9,
            ha="center",
            va="bottom",
            color=FAINT if (name, heading) in given else INK,
            linespacing=1.15,
        )
        for position, request in enumerate(shown):
            top = head + position * (TILE + GAP)
            image = _image_of(request, name)
            if image is not None:
                _place(figure, image, left, top, TILE)
            else:
                _write(figure, left + TILE / 2, top + TILE / 2, "none", 9, ha="center", va="center", color=FAINT)
    for position, request in enumerate(shown):
        top = head + position * (TILE + GAP)
        if with_text:
            lines = textwrap.wrap(request.caption or "(no caption)", 25)
            lines = [*lines[:7], "…"] if len(lines) > 8 else lines
            _write(figure, margin, top + TILE / 2, "\n".join(lines), 8.5, va="center", linespacing=1.35)
    _write_legend(figure, legend(shown), margin, height - foot + 12, width - 2 * margin)
    _save(figure, path)


def _image_of(request: GridRow, name: str, units: float = TILE) -> np.ndarray | None:
    """A condition's or a row's image at the size of a tile."""
    side = pixels(units)
    kind = drawn_conditions().get(name)
    if kind is not None:
        drawn = condition_image(name, request.conditions, request.truth, side)
        return None if drawn is None else enlarge(drawn, side, smooth=kind.drawing == "image")
    image = request.truth if name == "truth" else request.images.get(name)
    if image is None:
        return None
    over = with_overlays(image, request.conditions, side)
    return enlarge(image, side) if over is None else over


def _write_legend(figure: Figure, colours: Sequence[tuple[str, str]], left: float, top: float, room: float) -> None:
    """Coloured squares with what they stand for; in two lines at most."""
    from matplotlib.patches import Rectangle

    width, height = figure.get_size_inches() * 100
    x, y = left, top
    for name, colour in colours:
        advance = 17 + 5.6 * len(name) + 8
        if x + advance > left + room:
            x, y = left, y + 15
        square = Rectangle(
            (x / width, 1 - (y + 10) / height),
            10 / width,
            10 / height,
            transform=figure.transFigure,
            facecolor=colour,
            edgecolor=FAINT,
            linewidth=0.4,
        )
        figure.add_artist(square)
        _write(figure, x + 14, y - 1, name, 7, color=FAINT)
        x += advance


# -------------------------------------------------------------------------------------------------- influence over time


def pick_steps(steps: np.ndarray, count: int) -> np.ndarray:
    """Indices of `count` steps, evenly spread from the first to the last."""
    return np.unique(np.linspace(0, len(steps) - 1, min(count, len(steps))).round().astype(int))


def influence_figure(
    trace: dict[str, Any], shown: Sequence[GridRow], row: str, title: str, path: Path, requests: int = 2, times: int = 9
) -> None:
    """Where and when each branch leads: caption, mask and image left, its influence maps from noise to image right.

    trace: as benchmarks/store/run.py gives it; influence (R, S, M, h, w) in [0, 1], summing to 1 over the M branches.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    influence, steps = np.asarray(trace["influence"], np.float32), np.asarray(trace["influence_steps"])
    names = [str(name) for name in trace["influence_names"]]
    traced = [str(name) for name in trace["requests"]]
    chosen = [s for s in shown if s.id in traced][:requests]
    picked = pick_steps(steps, times)
    size, gap, margin, head = 120, 5, 18, 76  # 192 pixels a map: twelve times a 16x16 latent
    block = max(2, len(names)) * (size + gap) + 18
    left_width = 2 * (size + gap) + 62
    width = 2 * margin + left_width + len(picked) * (size + gap) + 66
    height = head + len(chosen) * block + 4
    figure = new_figure(width, height)
    _write(figure, margin, 14, title, 13, weight="bold")
    first = margin + left_width
    _write(figure, first - 12, head - 8, "t =", 10.5, color=FAINT, ha="right", va="bottom")
    for column, index in enumerate(picked):
        x = first + column * (size + gap) + size / 2
        _write(figure, x, head - 8, f"{int(steps[index])}", 10.5, ha="center", va="bottom", color=FAINT)
    for position, request in enumerate(chosen):
        top = head + position * block
        maps = influence[traced.index(request.id)]
        images = {"mask": _image_of(request, "mask", size), "image": _image_of(request, row, size)}
        for column, (label, image) in enumerate(images.items()):
            if image is not None:
                x = margin + column * (size + gap)
                _place(figure, image, x, top, size)
                _write(figure, x + size / 2, top + size + 4, label, 9.5, ha="center", color=FAINT)
        _write(
            figure,
            margin,
            top + size + 26,
            "\n".join(textwrap.wrap(request.caption or "", 29)[:6]),
            9.5,
            linespacing=1.35,
        )
        for branch, name in enumerate(names):
            y = top + branch * (size + gap)
            _write(figure, first - 12, y + size / 2, f"{name}\nbranch", 10.5, ha="right", va="center", linespacing=1.3)
            for column, index in enumerate(picked):
                left = first + column * (size + gap)
                _place(figure, maps[index, branch], left, y, size, vmin=0, vmax=1, cmap=MAPS)
    bar_height = max(2, len(names)) * (size + gap) - gap
    right = first + len(picked) * (size + gap) + 10
    bar = figure.add_axes((right / width, 1 - (head + bar_height) / height, 12 / width, bar_height / height))
    colours = figure.colorbar(ScalarMappable(Normalize(0, 1), MAPS), cax=bar, ticks=[0, 0.5, 1])
    colours.ax.tick_params(labelsize=9.5, colors=FAINT, length=2)
    colours.outline.set_visible(False)
    colours.set_label("influence", fontsize=9.5, color=FAINT)
    _save(figure, path)


def influence_curve(traces: dict[str, dict[str, Any]], title: str, path: Path) -> None:
    """Mean influence of each branch over t, for one or more rows; bands show the spread between requests (10-90 %)."""
    figure = new_figure(330 * len(traces) + 90, 320)
    axes = np.atleast_1d(figure.subplots(1, len(traces), sharey=True, squeeze=True))
    for number, (name, trace) in enumerate(traces.items()):
        influence = np.asarray(trace["influence"], np.float32).mean(axis=(-2, -1))  # (R, S, M)
        steps = np.asarray(trace["influence_steps"])
        for branch, branch_name in enumerate(trace["influence_names"]):
            low, high = np.quantile(influence[:, :, branch], [0.1, 0.9], axis=0)
            colour = LINES[branch % len(LINES)]
            axes[number].fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
            axes[number].plot(
                steps,
                influence[:, :, branch].mean(axis=0),
                color=colour,
                linewidth=1.8,
                label=f"{branch_name} branch",
                linestyle=STYLES[branch % 4],
            )
        axes[number].set_title(name.replace("$", r"\$"), fontsize=9, color=INK)
        axes[number].set_xlim(float(steps.max()), float(steps.min()))  # time runs from noise (left) to image (right)
        axes[number].set_ylim(0, 1)
        axes[number].set_xlabel("t (noise to image)", fontsize=8.5, color=FAINT)
        axes[number].grid(color=GRID, linewidth=0.6)
        axes[number].tick_params(labelsize=8, colors=FAINT, length=2)
        for spine in axes[number].spines.values():
            spine.set_edgecolor(EDGE)
    axes[0].set_ylabel("mean influence", fontsize=8.5, color=FAINT)
    axes[0].legend(fontsize=8, frameon=False, loc="best", labelcolor=INK)
    figure.suptitle(title.replace("$", r"\$"), x=0.02, ha="left", fontsize=11, weight="bold", color=INK)
    figure.tight_layout(rect=(0, 0, 1, 1.02))
    save_plot(figure, path)

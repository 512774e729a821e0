"""Figures made from the store: the same conditions across methods, and the influence maps over time.

Drawn with matplotlib's object interface (no global state, no display). Pictures are enlarged by a whole factor before
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

from concord.data.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 160  # figures are laid out in units of 1/100 inch and saved with 1.6 pixels a unit
TILE = 160  # side of one picture in units: 256 pixels, four times a 64-pixel face
GAP = 8
INK, FAINT, PAPER = "#1c2128", "#59616b", "#ffffff"
GRID, EDGE = "#e4e7eb", "#c4c9d0"
MAPS = "magma"  # perceptually even, dark to light, readable without colour
LINES = ("#3b6fd4", "#d9622b", "#2f9e6e", "#9456c9", "#b58a00", "#c2387a")
STYLES = ("-", "--", "-.", ":")
LANDMARK = (200, 30, 60)
INTERACTION = "#7a2fb5"
# The 68 points of the iBUG order as people see them: (first, last, closed) of each line.
FACE_LINES = (
    (0, 16, False), (17, 21, False), (22, 26, False), (27, 30, False), (31, 35, False),
    (36, 41, True), (42, 47, True), (48, 59, True), (60, 67, True),
)  # fmt: skip  # a table
FONT = ["DejaVu Sans"]


@dataclass
class Shown:
    """One request as figures show it. images: row name -> uint8 (H, W, 3); `truth` the item's own picture.

    mask (H, W) classes; identity, style: uint8 (H, W, 3) reference pictures; landmarks (68, 2) in pixels of the images;
    the other conditions as data/request.py describes them.
    """

    id: str
    text: str | None = None
    mask: np.ndarray | None = None
    truth: np.ndarray | None = None
    images: dict[str, np.ndarray] = field(default_factory=dict)
    identity: np.ndarray | None = None
    landmarks: np.ndarray | None = None
    style: np.ndarray | None = None
    layout: Any | None = None
    masked_image: tuple[np.ndarray, np.ndarray] | None = None
    source_image: np.ndarray | None = None


CONDITIONS = {
    "mask": "Mask", "identity": "Identity", "landmarks": "Landmarks", "style": "Style", "layout": "Layout",
    "masked_image": "Masked image", "source_image": "Source image",
}  # fmt: skip  # a table
"""Conditions that are drawn as pictures, in this order, with their headings."""


def condition_columns(shown: Sequence[Shown]) -> list[tuple[str, str]]:
    """(name, heading) of the pictured conditions that any of the requests has."""
    return [
        (name, head)
        for name, head in CONDITIONS.items()
        if any(getattr(request, name) is not None for request in shown)
    ]


# ---------------------------------------------------------------------------------------------------------- pictures


def enlarge(image: np.ndarray, units: float = TILE, smooth: bool = True) -> np.ndarray:
    """uint8 (H, W, 3) at the pixels that `units` take in the saved figure: Lanczos for pictures, NEAREST for labels."""
    from PIL import Image

    size = round(units * DPI / 100)
    kind = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((size, size), kind))


def mask_picture(mask: np.ndarray, units: float = TILE) -> np.ndarray:
    """A class mask (H, W), coloured and enlarged without new colours; uint8 RGB."""
    from concord.data.labels import colourise

    return enlarge(colourise(mask), units, smooth=False)


def landmark_picture(points: np.ndarray, face: np.ndarray | None, units: float = TILE) -> np.ndarray:
    """Landmarks as dots over the pale face that they were taken from, or over nothing; uint8 RGB.

    Lines join the 68 points of the iBUG order into jaw, brows, nose, eyes and mouth.
    """
    from PIL import Image, ImageDraw

    side = round(units * DPI / 100)
    fine = side * 3  # drawn large and made smaller: smooth lines at any size
    size = 64 if face is None else len(face)
    ground = np.full((side, side, 3), 240, np.uint8) if face is None else _pale(enlarge(face, units))
    picture = Image.fromarray(ground).resize((fine, fine), Image.Resampling.BICUBIC)
    draw, radius = ImageDraw.Draw(picture), max(3.0, fine / 105)
    dots = [(float(x), float(y)) for x, y in np.asarray(points, np.float64) * (fine / size)]
    for first, last, closed in FACE_LINES if len(dots) == 68 else ():
        line = dots[first : last + 1]
        draw.line([*line, line[0]] if closed else line, fill=LANDMARK, width=max(1, round(radius / 2)))
    for x, y in dots:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=LANDMARK)
    return np.asarray(picture.resize((side, side), Image.Resampling.BOX))


def _pale(picture: np.ndarray) -> np.ndarray:
    return np.asarray(picture * 0.45 + 255 * 0.55).astype(np.uint8)


def layout_picture(layout: Any, ground: np.ndarray | None = None, units: float = TILE) -> np.ndarray:
    """Boxes with their labels (data/datasets/layouts/layout.py), over the pale picture that they were taken from or
    over nothing."""
    from PIL import Image, ImageDraw, ImageFont

    side = round(units * DPI / 100)
    picture = Image.fromarray(
        np.full((side, side, 3), 244, np.uint8) if ground is None else _pale(enlarge(ground, units))
    )
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(9, side // 15))
    labels = []
    for number, (box, label) in enumerate(zip(layout.boxes, layout.labels, strict=True)):
        x1, y1, x2, y2 = (float(end) * (side - 1) for end in box)
        colour = LINES[number % len(LINES)]
        draw.rectangle((x1, y1, x2, y2), outline=colour, width=max(2, side // 96))
        labels.append((x1, y1, label, colour))
    for subject, kind, other in layout.interactions:
        start, end = ((layout.boxes[n][:2] + layout.boxes[n][2:]) / 2 * (side - 1) for n in (subject, other))
        _interaction(draw, start, end, max(2, side // 96))
        x, y = (start + end) / 2
        labels.append((float(x), float(y), kind, INTERACTION))
    for x, y, label, colour in labels:  # above every box: a later box must not cross an earlier label
        left, top, right, bottom = draw.textbbox((0, 0), label, font=font)
        x, y = min(x, max(0, side - (right - left) - 6)), min(max(y, 0), side - (bottom - top) - 6)
        draw.rectangle((x, y, x + right - left + 5, y + bottom - top + 5), fill=colour)
        draw.text((x + 3 - left, y + 2 - top), label, fill="white", font=font)
    return np.asarray(picture)


def _interaction(draw: Any, start: np.ndarray, end: np.ndarray, width: int) -> None:
    """An arrow from the subject's middle to the object's, whatever the kind: its name stands beside it."""
    way = (end - start) / max(float(np.hypot(*(end - start))), 1e-6)
    across, tip = np.array([-way[1], way[0]]), 5.0 * width
    draw.line([*start, *(end - way * tip)], fill=INTERACTION, width=width)
    points = [end, end - way * tip + across * tip / 2, end - way * tip - across * tip / 2]
    draw.polygon([tuple(map(float, point)) for point in points], fill=INTERACTION)


def boxes_over(picture: np.ndarray, layout: Any, units: float = TILE) -> np.ndarray:
    """A picture, enlarged, with the boxes that were asked for: thin, white within their colour, so that both show."""
    from PIL import ImageDraw
    from PIL.Image import fromarray

    image = fromarray(enlarge(picture, units))
    draw, side = ImageDraw.Draw(image), image.width
    for number, box in enumerate(layout.boxes):
        x1, y1, x2, y2 = (float(end) * (side - 1) for end in box)
        draw.rectangle((x1, y1, x2, y2), outline=LINES[number % len(LINES)], width=2)
        if min(x2 - x1, y2 - y1) > 8:
            draw.rectangle((x1 + 2, y1 + 2, x2 - 2, y2 - 2), outline="white", width=1)
    return np.asarray(image)


def unknown_picture(masked: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """A masked image: what is unknown in a checked grey, which no photograph has."""
    picture, known = masked
    y, x = np.indices(known.shape)
    checks = np.where((x // 4 + y // 4) % 2 == 0, 205, 235).astype(np.uint8)[..., None]
    return np.where(known[..., None], picture, checks)


def condition_picture(name: str, given: Any, truth: np.ndarray | None, side: int) -> np.ndarray | None:
    """One condition as people read it, uint8 RGB; None where it is absent or is no picture.

    given: anything with the conditions as attributes. side: pixels of what is drawn with lines; pictures keep theirs.
    """
    from concord.data.labels import colourise

    value = getattr(given, name)
    if value is None:
        return None
    if name == "mask":
        return colourise(value)
    if name == "landmarks":
        return landmark_picture(value, truth, side * 100 / DPI)
    if name == "layout":
        return layout_picture(value, None, side * 100 / DPI)
    if name == "masked_image":
        return unknown_picture(value)
    return np.asarray(value) if np.ndim(value) == 3 else None  # an identity may be a vector


def mask_classes(masks: Sequence[np.ndarray]) -> list[tuple[str, str]]:
    """(name, '#rrggbb') of the classes that occur in these masks: their legend."""
    from concord.data.labels import CELEBAMASK_HQ, HUMAN_NAMES, PALETTE

    numbers: list[int] = np.unique(np.concatenate([np.unique(mask) for mask in masks])).tolist() if masks else []
    return [(HUMAN_NAMES[CELEBAMASK_HQ[k]], "#" + "".join(f"{int(part):02x}" for part in PALETTE[k])) for k in numbers]


def new_figure(width_px: float, height_px: float) -> Figure:
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


def _place(figure: Figure, picture: np.ndarray, left: float, top: float, size: float, **style: Any) -> None:
    """A picture with its upper left corner at (left, top); `style` goes to imshow (colour map and range of a map)."""
    width, height = figure.get_size_inches() * 100
    axes = figure.add_axes((left / width, 1 - (top + size) / height, size / width, size / height))
    axes.imshow(picture, aspect="auto", interpolation="nearest", **style)
    axes.set_axis_off()


def _write(figure: Figure, x: float, y: float, text: str, size: float = 9, **style: Any) -> None:
    """Text whose position is in units from the upper left corner."""
    width, height = figure.get_size_inches() * 100
    style = {"color": INK, "va": "top", "ha": "left", **style}
    # a caption is data: a '$' in it must not start mathematics
    figure.text(x / width, 1 - y / height, text.replace("$", r"\$"), fontsize=size, **style)


# -------------------------------------------------------------------------------------------------------- sample grid


def sample_grid(shown: Sequence[Shown], columns: Sequence[tuple[str, str]], title: str, path: Path) -> None:
    """Rows = requests (caption, other conditions, ground truth), then one column a method: (row name, heading)."""
    with_text = any(s.text for s in shown)
    with_truth = any(s.truth is not None for s in shown)
    text_width = 190 if with_text else 0
    given = [*condition_columns(shown), *[("truth", "Ground truth")] * with_truth]
    pictures = [*given, *columns]
    break_at = len(given) * (TILE + GAP)  # conditions left of it, methods right
    margin, head, foot, aside = 18, 74, 44, 14
    width = 2 * margin + text_width + len(pictures) * (TILE + GAP) + aside
    height = head + len(shown) * (TILE + GAP) + foot
    figure = new_figure(width, height)
    _write(figure, margin, 14, title, 13, weight="bold")
    for index, (name, heading) in enumerate(pictures):
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
            picture = _picture_of(request, name)
            if picture is not None:
                _place(figure, picture, left, top, TILE)
            else:
                _write(figure, left + TILE / 2, top + TILE / 2, "none", 9, ha="center", va="center", color=FAINT)
    for position, request in enumerate(shown):
        top = head + position * (TILE + GAP)
        if with_text:
            lines = textwrap.wrap(request.text or "(no caption)", 25)
            lines = [*lines[:7], "…"] if len(lines) > 8 else lines
            _write(figure, margin, top + TILE / 2, "\n".join(lines), 8.5, va="center", linespacing=1.35)
    _mask_legend(figure, [s.mask for s in shown if s.mask is not None], margin, height - foot + 12, width - 2 * margin)
    _save(figure, path)


def _picture_of(request: Shown, name: str, units: float = TILE) -> np.ndarray | None:
    if name in CONDITIONS:
        drawn = condition_picture(name, request, request.truth, round(units * DPI / 100))
        return None if drawn is None else enlarge(drawn, units, smooth=name not in ("mask", "landmarks", "layout"))
    picture = request.truth if name == "truth" else request.images.get(name)
    if picture is not None and request.layout is not None:
        return boxes_over(picture, request.layout, units)
    return None if picture is None else enlarge(picture, units)


def _mask_legend(figure: Figure, masks: Sequence[np.ndarray], left: float, top: float, room: float) -> None:
    """Coloured squares with names of the classes that occur; in two lines at most."""
    from matplotlib.patches import Rectangle

    width, height = figure.get_size_inches() * 100
    x, y = left, top
    for name, colour in mask_classes(masks):
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
    trace: dict[str, Any], shown: Sequence[Shown], row: str, title: str, path: Path, requests: int = 2, times: int = 9
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
        pictures = {"mask": _picture_of(request, "mask", size), "image": _picture_of(request, row, size)}
        for column, (label, picture) in enumerate(pictures.items()):
            if picture is not None:
                x = margin + column * (size + gap)
                _place(figure, picture, x, top, size)
                _write(figure, x + size / 2, top + size + 4, label, 9.5, ha="center", color=FAINT)
        _write(
            figure, margin, top + size + 26, "\n".join(textwrap.wrap(request.text or "", 29)[:6]), 9.5, linespacing=1.35
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

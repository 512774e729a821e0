"""How many images meet all of their conditions, to what degree: one curve a method.

Bands are paired: the differences between requests are taken out before the standard error is (Cousineau 2005, with
Morey's factor J / (J - 1) for J rows, 2008), so that what overlaps or does not is the difference between methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from concord.data.conditions.drawing import LINES
from concord.metrics.joint import area
from concord.reports import statistics as st
from concord.reports.figures.grid import EDGE, FAINT, GRID, INK, STYLES, new_figure, save_plot
from concord.reports.figures.guidance import Drawing

LEVELS = np.linspace(0, 1, 41)


def drawings(suite: str, worst: Mapping[str, np.ndarray]) -> list[Drawing]:
    """The figure, where two rows or more have values. worst: title -> per image (n,), in one order of requests."""
    sizes = {len(values) for values in worst.values()}
    if len(worst) < 2 or len(sizes) > 1 or sizes == {1}:
        return []
    title = "Images that meet all conditions, by degree"
    return [
        Drawing(
            f"{suite}/satisfaction.png",
            title,
            "Share of images whose worst condition reaches L, on a scale from the shuffled row (0) to the ground truth "
            "(1); in the legend the area under the curve. Bands: 95 %, paired over the requests, so that they show the "
            "differences between methods and not those between requests.",
            f"Curves of {len(worst)} rows: the share of images that meet all conditions to the degree L",
            (title, [(name, values) for name, values in worst.items()]),
            partial(satisfaction_figure, dict(worst), title),
        )
    ]


def bands(worst: Mapping[str, np.ndarray], levels: np.ndarray = LEVELS) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """row -> (share at each level, half width of its paired 95 % band)."""
    met = np.stack([values[:, None] >= levels for values in worst.values()]).astype(np.float64)  # (J, n, levels)
    rows, n, _ = met.shape
    paired = met - met.mean(axis=0, keepdims=True)
    error = paired.std(axis=1, ddof=1) * np.sqrt(rows / max(1, rows - 1)) / np.sqrt(n)
    reach = st.t_quantile(max(1, n - 1)) * error
    return {name: (met[k].mean(axis=0), reach[k]) for k, name in enumerate(worst)}


def satisfaction_figure(worst: Mapping[str, np.ndarray], title: str, path: Path) -> None:
    """One panel, the legend beside it."""
    figure = new_figure(860, 430)
    axes = figure.add_axes((0.07, 0.13, 0.55, 0.74))
    found = bands(worst)
    for number, (name, (share, reach)) in enumerate(sorted(found.items(), key=lambda item: -area(worst[item[0]]))):
        colour, style = LINES[number % len(LINES)], STYLES[number // len(LINES) % len(STYLES)]
        label = f"{name}  {area(worst[name]):.3f}".replace("$", r"\$")
        axes.fill_between(
            LEVELS,
            100 * np.clip(share - reach, 0, 1),
            100 * np.clip(share + reach, 0, 1),
            color=colour,
            alpha=0.12,
            linewidth=0,
        )
        axes.plot(LEVELS, 100 * share, color=colour, linestyle=style, linewidth=1.8, label=label)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 100)
    axes.set_xlabel("degree L: 0 shuffled conditions, 1 ground truth", fontsize=9, color=FAINT)
    axes.set_ylabel("images that meet all conditions (%)", fontsize=9, color=FAINT)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_facecolor("none")
    axes.tick_params(labelsize=8, colors=FAINT, length=2)
    for spine in axes.spines.values():
        spine.set_edgecolor(EDGE)
    figure.suptitle(title, x=0.02, ha="left", fontsize=11, weight="bold", color=INK)
    figure.legend(loc="upper left", bbox_to_anchor=(0.64, 0.89), fontsize=8.5, frameon=False, labelcolor=INK)
    save_plot(figure, path)

"""Figures of guided sampling, from the traces of the first requests: how the conditions' gradients stand to each other,
and what is left of each condition's energy, from noise to image (Figures 1 and 3 of Z-Magic).

Traces, as benchmarks/store/run.py gives them: 'gradient-cosine' (R, S, pairs) with names 'identity|landmarks', where
all
conditions pull; 'condition-loss' (R, S, conditions). A step that is gone through again (time travel) counts again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from concord.data.conditions.drawing import LINES
from concord.reports.figures.grid import EDGE, FAINT, GRID, INK, STYLES, new_figure, save_plot

COSINE, LOSS = "gradient-cosine", "condition-loss"
SPOKEN = {"mask": "segmentation", "identity": "identity", "landmarks": "landmarks", "text": "text", "style": "style"}

Traces = Mapping[str, Mapping[str, Any]]
"""Title of a row -> its trace."""


class Drawing(NamedTuple):
    """One figure of a page: where it goes, what is said with it, what it is drawn from, and how."""

    file: str
    title: str
    text: str
    alt: str
    content: object
    draw: Callable[[Path], None]


def drawings(suite: str, traces: Traces) -> list[Drawing]:
    """The figures that these rows' traces allow; files lie below the suite's folder."""
    found = []
    cosines = {title: trace for title, trace in traces.items() if COSINE in trace and np.asarray(trace[COSINE]).size}
    if cosines:
        title = "Cosine of the conditions' gradients along the sampling"
        n = len(next(iter(cosines.values()))["requests"])
        found.append(
            Drawing(
                f"{suite}/gradient-cosine.png",
                title,
                "Between the gradients of two conditions with respect to x_t, at every step at which all conditions "
                f"pull; line: mean, band: 10th to 90th percentile of the {n} traced requests. Above 0 the two "
                "conditions pull the same way, below 0 against each other, at 0 they do not know of each other. For "
                "Z-Magic the second gradient is the one that its first condition has changed. Compare Figure 1 of "
                "the paper.",
                "Curves of the cosine between two conditions' gradients over the steps: a panel for each pair of "
                "conditions, a line for each method",
                (title, _facts(cosines, COSINE)),
                partial(cosine_figure, cosines, title),
            )
        )
    losses = {title: trace for title, trace in traces.items() if LOSS in trace and np.asarray(trace[LOSS]).size}
    if losses:
        title = "Energy of each condition along the sampling"
        n = len(next(iter(losses.values()))["requests"])
        found.append(
            Drawing(
                f"{suite}/condition-loss.png",
                title,
                "Through the guide networks, at the clean image predicted at each step; line: mean, band: 10th to 90th "
                f"percentile of the {n} traced requests. Lower is nearer to the condition; energies of different "
                "conditions have different units. Compare Figure 3 of the paper.",
                "Curves of each condition's energy over the steps: a panel for each condition, a line for each method",
                (title, _facts(losses, LOSS)),
                partial(loss_figure, losses, title),
            )
        )
    return found


def _facts(traces: Traces, name: str) -> list[object]:
    return [
        (title, *(np.asarray(trace[key]) for key in (name, f"{name}_steps", f"{name}_names")))
        for title, trace in traces.items()
    ]


def cosine_figure(traces: Traces, title: str, path: Path) -> None:
    """A panel for each pair of conditions, a line for each row; y is even about 0 and never beyond -1 to 1."""
    pairs = _all_names(traces, COSINE)
    figure, panels = _panels(len(pairs), sharey=True)
    reach = 0.0
    for axes, pair in zip(panels, pairs, strict=True):
        title_of_pair = " and ".join(SPOKEN.get(name, name) for name in pair.split("|")).capitalize()
        reach = max(reach, *_lines(axes, traces, COSINE, pair, title_of_pair))
        axes.axhline(0, color=FAINT, linewidth=0.9)
    limit = min(1.0, max(0.25, np.ceil(reach * 4.2) / 4))  # the next quarter with a little room
    panels[0].set_ylim(-limit, limit)
    panels[0].set_ylabel("cosine  (below 0: against each other)", fontsize=8.5, color=FAINT)
    _finish(figure, traces, title, path)


def loss_figure(traces: Traces, title: str, path: Path) -> None:
    """A panel for each condition, a line for each row; y from 0."""
    names = _all_names(traces, LOSS)
    figure, panels = _panels(len(names))
    for axes, name in zip(panels, names, strict=True):
        _lines(axes, traces, LOSS, name, SPOKEN.get(name, name).capitalize())
        axes.set_ylim(bottom=0)
    panels[0].set_ylabel("energy  (lower: nearer to the condition)", fontsize=8.5, color=FAINT)
    _finish(figure, traces, title, path)


def _all_names(traces: Traces, kind: str) -> list[str]:
    return list(dict.fromkeys(str(name) for trace in traces.values() for name in trace[f"{kind}_names"]))


def _panels(count: int, sharey: bool = False) -> tuple[Any, Any]:
    """At most three panels a line, and room for the legend below them."""
    across = min(3, count)
    down = -(-count // across)
    figure = new_figure(max(330 * across + 90, 560), 290 * down + 80)
    panels = np.atleast_1d(figure.subplots(down, across, sharey=sharey, squeeze=True)).reshape(-1)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def _lines(axes: object, traces: Traces, kind: str, name: str, title: str) -> list[float]:
    """The line of every row that has this name; returns how far the bands reach from 0."""
    reach = [0.0]
    for index, (row, trace) in enumerate(traces.items()):
        known = [str(other) for other in trace[f"{kind}_names"]]
        if name not in known:
            continue
        values, steps = np.asarray(trace[kind], np.float32), np.asarray(trace[f"{kind}_steps"])
        chosen = values[:, :, known.index(name)]
        _band(axes, steps, chosen, LINES[index % len(LINES)], STYLES[index % 4], row)
        _dress(axes, steps, title)
        reach.append(float(np.abs(np.quantile(chosen, [0.1, 0.9], axis=0)).max()))
    return reach


def _band(axes: Any, steps: np.ndarray, values: np.ndarray, colour: str, style: str, label: str) -> None:
    """Mean (line) and 10th to 90th percentile (band) over the requests of values (R, S)."""
    low, high = np.quantile(values, [0.1, 0.9], axis=0)
    axes.fill_between(steps, low, high, color=colour, alpha=0.13, linewidth=0)
    axes.plot(steps, values.mean(axis=0), color=colour, linewidth=1.9, linestyle=style, label=_plain(label))


def _dress(axes: Any, steps: np.ndarray, title: str) -> None:
    axes.set_title(_plain(title), fontsize=9, color=INK)
    left, right = float(steps.max()), float(steps.min())  # time runs from noise (left) to image (right)
    axes.set_xlim(left, right if right < left else left - 1)
    axes.set_xlabel("t (noise to image)", fontsize=8.5, color=FAINT)
    axes.grid(color=GRID, linewidth=0.6)
    axes.tick_params(labelsize=8, colors=FAINT, length=2)
    for spine in axes.spines.values():
        spine.set_edgecolor(EDGE)


def _finish(figure: Any, traces: Traces, title: str, path: Path) -> None:
    """One legend for all panels, below them: a row has the same line everywhere, and no curve is covered."""
    lines = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    labels = [_plain(row) for row in traces if _plain(row) in lines]
    figure.suptitle(_plain(title), x=0.02, ha="left", fontsize=11, weight="bold", color=INK)
    width, height = figure.get_size_inches() * 100
    rows = -(-len(labels) // 4)
    figure.tight_layout(rect=(0, (14 + 17 * rows) / height, 1, 1 - 8 / height))
    figure.legend(
        [lines[label] for label in labels],
        labels,
        loc="lower left",
        ncols=4,
        fontsize=8,
        frameon=False,
        labelcolor=INK,
        bbox_to_anchor=(10 / width, 2 / height),
        handlelength=3,
    )
    save_plot(figure, path)


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # a name is data: a '$' in it must not start mathematics

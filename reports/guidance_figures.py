"""Figures of guided sampling, from the traces of the first requests: how the conditions' gradients stand to each other,
and what is left of each condition's energy, from noise to image (Figures 1 and 3 of Z-Magic).

Traces, as benchmarks/store.py gives them: 'gradient-cosine' (R, S, pairs) with names 'identity|landmarks', where all
conditions pull; 'condition-loss' (R, S, conditions). A step that is gone through again (time travel) counts again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reports.figures import FAINT, INK, LINES, _new_figure, _save

COSINE, LOSS = "gradient-cosine", "condition-loss"
STYLES = ("-", "--", "-.", ":")
SPOKEN = {"mask": "segmentation", "identity": "identity", "landmarks": "landmarks", "text": "text", "style": "style"}

Traces = Mapping[str, Mapping[str, Any]]
"""Title of a row -> its trace."""


class Drawing(NamedTuple):
    """One figure of a page: where it goes, what is said with it, what it is drawn from, and how."""

    file: str
    title: str
    text: str
    alt: str
    content: Any
    draw: Callable[[Path], None]


def drawings(suite: str, traces: Traces) -> list[Drawing]:
    """The figures that these rows' traces allow; files lie below the suite's folder."""
    source = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    found = []
    cosines = {title: trace for title, trace in traces.items() if COSINE in trace and np.asarray(trace[COSINE]).size}
    if cosines:
        title = "Cosine of the conditions' gradients along the sampling"
        n = len(next(iter(cosines.values()))["requests"])
        found.append(Drawing(
            f"{suite}/gradient-cosine.png", title,
            f"Between the gradients of two conditions with respect to x_t, at every step at which all conditions pull; "
            f"mean and 10th to 90th percentile of the {n} traced requests. For Z-Magic the second gradient is the one "
            "that its first condition has changed. 0: they do not know of each other. Compare Figure 1 of the paper.",
            "Curves of the cosine between two conditions' gradients over the steps, a panel for each method",
            (source, title, _facts(cosines, COSINE)), partial(cosine_figure, cosines, title),
        ))  # fmt: skip
    losses = {title: trace for title, trace in traces.items() if LOSS in trace and np.asarray(trace[LOSS]).size}
    if losses:
        title = "Energy of each condition along the sampling"
        n = len(next(iter(losses.values()))["requests"])
        found.append(Drawing(
            f"{suite}/condition-loss.png", title,
            f"Through the guide networks, at the clean image predicted at each step; mean and 10th to 90th percentile "
            f"of the {n} traced requests. Lower is nearer to the condition. Compare Figure 3 of the paper.",
            "Curves of each condition's energy over the steps, one line for each method",
            (source, title, _facts(losses, LOSS)), partial(loss_figure, losses, title),
        ))  # fmt: skip
    return found


def _facts(traces: Traces, name: str) -> list[Any]:
    return [
        (title, *(np.asarray(trace[key]) for key in (name, f"{name}_steps", f"{name}_names")))
        for title, trace in traces.items()
    ]


def cosine_figure(traces: Traces, title: str, path: Path) -> None:
    """A panel for each row, a line for each pair of conditions; y from -1 to 1."""
    figure = _new_figure(330 * len(traces) + 90, 330)
    panels = np.atleast_1d(figure.subplots(1, len(traces), sharey=True, squeeze=True))
    for axes, (row, trace) in zip(panels, traces.items(), strict=True):
        values, steps = np.asarray(trace[COSINE], np.float32), np.asarray(trace[f"{COSINE}_steps"])
        for index, pair in enumerate(trace[f"{COSINE}_names"]):
            _band(axes, steps, values[:, :, index], LINES[index % len(LINES)], STYLES[index // len(LINES) % 4],
                  " and ".join(SPOKEN.get(name, name) for name in str(pair).split("|")))  # fmt: skip
        axes.axhline(0, color=FAINT, linewidth=0.8)
        axes.set_ylim(-1, 1)
        _dress(axes, steps, row)
        axes.legend(fontsize=7.5, frameon=False, loc="best")
    panels[0].set_ylabel("cosine", fontsize=8.5, color=FAINT)
    _finish(figure, title, path)


def loss_figure(traces: Traces, title: str, path: Path) -> None:
    """A panel for each condition, a line for each row; y from 0."""
    names = list(dict.fromkeys(str(name) for trace in traces.values() for name in trace[f"{LOSS}_names"]))
    figure = _new_figure(300 * len(names) + 90, 330)
    panels = np.atleast_1d(figure.subplots(1, len(names), squeeze=True))
    for axes, name in zip(panels, names, strict=True):
        for index, (row, trace) in enumerate(traces.items()):
            known = [str(other) for other in trace[f"{LOSS}_names"]]
            if name not in known:
                continue
            values, steps = np.asarray(trace[LOSS], np.float32), np.asarray(trace[f"{LOSS}_steps"])
            _band(axes, steps, values[:, :, known.index(name)], LINES[index % len(LINES)], STYLES[index % 4], row)
            _dress(axes, steps, SPOKEN.get(name, name).capitalize())
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=7.5, frameon=False, loc="best")
    panels[0].set_ylabel("energy", fontsize=8.5, color=FAINT)
    _finish(figure, title, path)


def _band(axes: Any, steps: np.ndarray, values: np.ndarray, colour: str, style: str, label: str) -> None:
    """Mean (line) and 10th to 90th percentile (band) over the requests of values (R, S)."""
    low, high = np.quantile(values, [0.1, 0.9], axis=0)
    axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(steps, values.mean(axis=0), color=colour, linewidth=1.6, linestyle=style, label=_plain(label))


def _dress(axes: Any, steps: np.ndarray, title: str) -> None:
    axes.set_title(_plain(title), fontsize=9, color=INK)
    left, right = float(steps.max()), float(steps.min())  # time runs from noise (left) to image (right)
    axes.set_xlim(left, right if right < left else left - 1)
    axes.set_xlabel("t (noise to image)", fontsize=8.5, color=FAINT)
    axes.grid(color="#e4e7eb", linewidth=0.6)
    axes.tick_params(labelsize=8, colors=FAINT, length=2)
    for spine in axes.spines.values():
        spine.set_edgecolor("#c4c9d0")


def _finish(figure: Any, title: str, path: Path) -> None:
    figure.suptitle(_plain(title), x=0.02, ha="left", fontsize=11, weight="bold", color=INK)
    figure.tight_layout(rect=(0, 0, 1, 1.02))
    _save(figure, path)


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # a name is data: a '$' in it must not start mathematics

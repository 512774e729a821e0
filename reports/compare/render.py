"""A comparison as Markdown (terminal, file, a pull request's summary), as JSON, and as one HTML page."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Sequence
from itertools import groupby

from concord.data.printable import no_link, printable
from concord.reports.compare.comparison import Change, Incomparable, Moved, Result
from concord.reports.tables.pairs import ALPHA
from concord.reports.tables.words import decimals_for, format_p

COST_HEADS = ("Row", "What", "Base", "Head", "Change", "Verdict")
HEADS = ("Row", "Metric", "n", "Base", "Head", "Difference [95 %]", "Margin", "Corrected p", "Verdict")
SAMPLE_HEADS = ("Row", "Metric", "Samples that changed most (base → head)")


def headline(result: Result) -> str:
    """The outcome in a few words."""
    if result.worse:
        return "worse beyond the margin"
    if result.costlier:
        return "costlier: more passes than the base"
    if not result.changes:
        return "nothing could be compared"
    return "some of it cannot be compared" if result.incomparable else "no loss found"


def summary(result: Result) -> str:
    """What was compared, and how often each verdict was given."""
    counted = ", ".join(f"{count} {verdict}" for verdict, count in result.counts().items()) or "no comparison"
    sides = (
        f"Base: {_side(result.base.label, result.base.commit)}. Head: {_side(result.head.label, result.head.commit)}."
    )
    return f"{sides} Profile {result.base.profile}. {len(result.changes)} comparisons: {counted}."


def _side(label: str, commit: str) -> str:
    """The side with the commits that its images were made at, shortened."""
    commits = [one.strip() for one in commit.split(",")]
    short = [one[:12] + ("+dirty" if one.endswith("+dirty") else "") for one in commits]
    return f"{label}, made at {', '.join(short[:3])}" + (f" and {len(short) - 3} more" if len(short) > 3 else "")


def method_note(result: Result) -> str:
    """How the verdicts came about."""
    return (
        f"Paired by request (sign flips; for FID and KID the paired jackknife), Holm-corrected over the {result.tests} "
        f"comparisons in which anything moved. Worse and better: corrected p < {ALPHA}, beyond the margin. Same: the "
        "95 % interval lies inside the margin. Cannot tell: neither; the loss named is the smallest that this n calls "
        "worse four times in five."
    )


# ------------------------------------------------------------------------------------------------------------- cells


def cells(change: Change) -> tuple[str, ...]:
    """The texts of one line of the table, in the order of `HEADS`."""
    decimals = decimals_for([(change.high - change.low) / 2], [change.before])
    interval = "–"
    if math.isfinite(change.low):
        interval = f"[{change.low:+.{decimals}f}, {change.high:+.{decimals}f}]"
    return (
        change.run.partition("/")[2],
        change.label,
        str(change.n),
        _value(change, 0, decimals),
        _value(change, 1, decimals),
        f"{change.difference:+.{decimals}f} {interval}",
        f"{change.margin:.3g}",
        format_p(change.p_holm).removeprefix("p = ").removeprefix("p "),
        verdict_text(change, decimals),
    )


def _value(change: Change, side: int, decimals: int) -> str:
    value = f"{(change.before, change.now)[side]:.{decimals}f}"
    return f"{value} ({change.failed[side]} failed)" if change.failed[side] else value


def verdict_text(change: Change, decimals: int) -> str:
    """The verdict with what belongs to it."""
    if change.verdict == "same":
        return f"same (within ±{change.margin:.3g})"
    if change.verdict != "cannot tell":
        return change.verdict
    if change.n < 2 or not math.isfinite(change.visible):
        return f"cannot tell with n = {change.n}"
    leaning = " (a small difference is there; it may or may not pass the margin)" if change.p_holm < ALPHA else ""
    return f"cannot tell with n = {change.n}: finds losses from {change.visible:.{decimals}f}{leaning}"


def moved_text(moved: Sequence[Moved]) -> str:
    """Samples with their values before and after, or with how far their features moved."""
    said = []
    for one in moved:
        if one.base is None or one.head is None:
            said.append(f"{one.request} (features moved {one.amount:.3g})")
        else:
            said.append(f"{one.request} ({one.base:.4g} → {one.head:.4g}{', lost' if one.amount > 0 else ''})")
    return "; ".join(said)


def ordered(changes: Iterable[Change]) -> list[Change]:
    """By request set; within it what matters most first."""
    rank = {"worse": 0, "better": 1, "cannot tell": 2, "same": 3, "identical": 4}
    return sorted(
        changes, key=lambda c: (c.run.partition("/")[0], rank[c.verdict], -c.loss / (c.margin or 1), c.run, c.metric)
    )


def by_suite(changes: Iterable[Change]) -> list[tuple[str, list[Change]]]:
    """(suite, its changes), in the order in which they are printed."""
    return [(name, list(part)) for name, part in groupby(ordered(changes), key=lambda c: c.run.partition("/")[0])]


def reasons(incomparable: Sequence[Incomparable]) -> list[tuple[str, str]]:
    """(reason, what it is about), rows and metrics with one reason together."""
    found: dict[str, dict[str, list[str]]] = {}
    for one in incomparable:
        found.setdefault(one.reason, {}).setdefault(one.run, []).extend([one.metric] if one.metric else [])
    said = []
    for reason, runs in found.items():
        parts = [f"{run} ({', '.join(metrics)})" if metrics else run for run, metrics in runs.items()]
        said.append((reason, ", ".join(parts)))
    return said


def moved_lines(changes: Sequence[Change]) -> list[Change]:
    """Those whose samples are worth a line: found worse or better, or not told."""
    return [change for change in changes if change.moved and change.verdict in ("worse", "better", "cannot tell")]


def new_rows(result: Result) -> list[str]:
    """The line that names rows which the base lacks; none where there are none."""
    return [f"New, not in the base: {', '.join(result.new)}"] if result.new else []


def cost_lines(result: Result) -> list[tuple[str, ...]]:
    """The texts of the costs that differ, in the order of `COST_HEADS`."""
    return [(c.run, c.what, f"{c.before:.4g}", f"{c.now:.4g}", c.change, c.verdict) for c in result.costs]


def anew_lines(result: Result) -> list[str]:
    """Why rows were made anew, those with one reason together: 'face-generation/amdm: parameter steps 50 -> 12'."""
    found: dict[str, list[str]] = {}
    for run, reasons_ in result.anew.items():
        found.setdefault("; ".join(reasons_), []).append(run)
    return [f"{', '.join(runs)}: {why}" for why, runs in found.items()]


def remedies(result: Result) -> list[str]:
    """What to do about each kind of trouble."""
    said = []
    if result.incomparable or not result.changes:
        said.append(
            "Where the change was meant (other weights, another metric, another size), renew the baseline with "
            "`make baseline` and commit it with the change; where it was not, run the same profile, size and device as "
            "the base."
        )
    if result.worse or result.costlier:
        said.append("Where a loss is the price of something else and accepted, renew the baseline and say so there.")
    return said


# ---------------------------------------------------------------------------------------------------------- Markdown


def to_markdown(result: Result) -> str:
    """The comparison as Markdown: the outcome first, then every number that moved."""
    lines = [f"# Comparison: {headline(result)}", "", escape(summary(result)), ""]
    for suite, changes in by_suite(result.changes):
        shown = [change for change in changes if not change.identical]
        still = sorted({change.run.partition("/")[2] for change in changes} - {c.run.partition("/")[2] for c in shown})
        lines += [f"## {escape(suite)}", ""]
        if shown:
            lines += _table(HEADS, [_marked(change) for change in shown], right=range(2, 8))
        if moved := moved_lines(shown):
            rows = [(c.run.partition("/")[2], c.label, moved_text(c.moved)) for c in moved]
            lines += _table(SAMPLE_HEADS, rows)
        if still:
            lines += [f"Bit for bit the same: {escape(', '.join(still))}.", ""]
    if result.costs:
        lines += ["## Costs", "", *_table(COST_HEADS, cost_lines(result), right=range(2, 5))]
    if result.anew:
        lines += ["## Made anew", "", *(f"- {escape(line)}" for line in anew_lines(result)), ""]
    lines += [
        f"- Cannot be compared: {escape(reason)}: {escape(what)}" for reason, what in reasons(result.incomparable)
    ]
    lines += [f"- {escape(text)}" for text in new_rows(result)]
    lines += [f"- {escape(note)}" for note in result.notes]
    lines += [f"- {text}" for text in remedies(result)]
    if result.tests:
        lines += ["", method_note(result)]
    return "\n".join(lines).rstrip() + "\n"


def _marked(change: Change) -> tuple[str, ...]:
    row = cells(change)
    return (*row[:-1], f"**{row[-1]}**") if change.verdict in ("worse", "better") else row


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    at_right = set(right)
    rule = "|".join("---:" if position in at_right else ":---" for position in range(len(heads)))
    body = ["| " + " | ".join(escape(cell) for cell in row) + " |" for row in rows]
    return ["| " + " | ".join(heads) + " |", f"|{rule}|", *body, ""]


def escape(text: str) -> str:
    """Names are data: nothing in them may become Markdown's table, HTML or a link."""
    flat = " ".join(printable(str(text)).split())
    return no_link(flat.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|"))


# -------------------------------------------------------------------------------------------------------------- JSON


def to_json(result: Result) -> str:
    """The comparison for programs; what is no number (an interval at n = 1) is null."""
    content: dict[str, object] = {
        "exit_code": result.exit_code,
        "outcome": headline(result),
        "base": {"label": result.base.label, "commit": result.base.commit, "profile": result.base.profile},
        "head": {"label": result.head.label, "commit": result.head.commit, "profile": result.head.profile},
        "alpha": ALPHA,
        "tests": result.tests,
        "counts": result.counts(),
        "changes": [
            {
                "run": c.run,
                "suite": c.run.partition("/")[0],
                "row": c.run.partition("/")[2],
                "metric": c.metric,
                "n": c.n,
                "base": c.before,
                "head": c.now,
                "difference": c.difference,
                "low": c.low,
                "high": c.high,
                "margin": c.margin,
                "p": c.p,
                "p_holm": c.p_holm,
                "verdict": c.verdict,
                "smallest_loss": c.visible,
                "failed": list(c.failed),
                "most_changed": [
                    {"request": m.request, "base": m.base, "head": m.head, "amount": m.amount} for m in c.moved
                ],
            }
            for c in ordered(result.changes)
        ],
        "incomparable": [{"run": i.run, "metric": i.metric or None, "reason": i.reason} for i in result.incomparable],
        "new": result.new,
        "costs": [
            {"run": c.run, "what": c.what, "base": c.before, "head": c.now, "verdict": c.verdict} for c in result.costs
        ],
        "made_anew": {run: list(why) for run, why in result.anew.items()},
        "notes": result.notes,
    }
    return json.dumps(_finite(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# -------------------------------------------------------------------------------------------------------------- HTML

STYLE = """
:root { color-scheme: light dark; --line: #d9dde2; --faint: #59616b; --raised: #f6f7f9;
  --worse: #8a1c1c; --better: #11663c }
@media (prefers-color-scheme: dark) {
  :root { --line: #3a414b; --faint: #a0a8b3; --worse: #ffb3ae; --better: #86dfae; --raised: #1d232a } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1300px; margin: 0 auto; padding: 0 16px 40px }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 8px 0 20px }
caption { text-align: left; font-weight: 600; padding: 4px 0 }
th, td { border-bottom: 1px solid var(--line); padding: 5px 10px; text-align: right; vertical-align: top }
th { background: var(--raised) }
th:nth-child(-n+2), td:nth-child(-n+2), th:last-child, td:last-child { text-align: left }
.worse td:last-child { color: var(--worse); font-weight: 700 }
.better td:last-child { color: var(--better); font-weight: 700 }
.lead, .identical td { color: var(--faint) }
"""


def to_html(result: Result) -> str:
    """The comparison as one page that needs nothing from outside it; every text is escaped."""
    parts = [f"<h1>Comparison: {_h(headline(result))}</h1>", f'<p class="lead">{_h(summary(result))}</p>']
    for suite, changes in by_suite(result.changes):
        parts.append(f"<h2>{_h(suite)}</h2>")
        rows = [(change.verdict.replace(" ", "-"), cells(change)) for change in changes]
        parts.append(_html_table("Every row and metric", HEADS, rows))
        if moved := moved_lines(changes):
            named = [("", (c.run.partition("/")[2], c.label, moved_text(c.moved))) for c in moved]
            parts.append(_html_table("Samples that changed most", SAMPLE_HEADS, named))
    if result.costs:
        parts.append(_html_table("Costs", COST_HEADS, [(_cost_class(line), line) for line in cost_lines(result)]))
    if result.anew:
        parts.append(
            "<h2>Made anew</h2><ul>" + "".join(f"<li>{_h(line)}</li>" for line in anew_lines(result)) + "</ul>"
        )
    said = [f"Cannot be compared: {reason}: {what}" for reason, what in reasons(result.incomparable)]
    said += new_rows(result) + result.notes + remedies(result)
    if said:
        parts.append("<ul>" + "".join(f"<li>{_h(text)}</li>" for text in said) + "</ul>")
    parts.append(f'<p class="lead">{_h(method_note(result))}</p>')
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>Comparison: {_h(headline(result))}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


def _cost_class(line: Sequence[str]) -> str:
    return "worse" if line[-1] == "costlier" else "better"


def _html_table(caption: str, heads: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    head = "".join(f'<th scope="col">{_h(text)}</th>' for text in heads)
    body = "\n".join(
        f'<tr class="{_h(kind)}">' + "".join(f"<td>{_h(text)}</td>" for text in row) + "</tr>" for kind, row in rows
    )
    table = f"<table><caption>{_h(caption)}</caption><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{_h(caption)}">{table}</div>'


def _h(text: str) -> str:
    return html.escape(str(text))

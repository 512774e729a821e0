"""What rows cost on both sides, and why a row was made anew.

Passes of the networks are counted, so that they compare exactly. Seconds and memory are measured: they compare on the
same machine alone, and only beyond a tolerance that covers what else ran there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from concord.reports.compare.sides import Side

TOLERANCE = {"seconds": 0.5, "memory": 0.25}  # shares of the base's value
UNITS = {"seconds": "s / image", "memory": "peak MiB"}
MACHINE = ("cpu", "cores", "threads", "device", "gpu", "platform")
DIGEST = 12  # hex digits of a file's digest that a baseline keeps


@dataclass(frozen=True)
class CostChange:
    """One cost of one row that differs between the sides."""

    run: str
    what: str  # 'passes of eps-text', 's / image', 'peak MiB'
    before: float
    now: float

    @property
    def verdict(self) -> Literal["costlier", "cheaper"]:
        return "costlier" if self.now > self.before else "cheaper"

    @property
    def is_exact(self) -> bool:
        """Whether it was counted, and so is a fact of the method on every machine."""
        return self.what.startswith("passes")

    @property
    def change(self) -> str:
        return f"{self.now - self.before:+g}" if not self.before else f"{self.now / self.before - 1:+.0%}"


# ------------------------------------------------------------------------------------------------- what a side keeps


def cost_facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """passes by network, seconds an image, peak bytes, and the machine that they were measured on."""
    told = manifest.get("provenance") or {}
    machine = ", ".join(f"{key} {told[key]}" for key in MACHINE if told.get(key) is not None)
    return {
        "passes": {str(name): float(count) for name, count in (manifest.get("evaluations_per_image") or {}).items()},
        "seconds": manifest.get("seconds_per_image"),
        "memory": manifest.get("peak_memory_bytes"),
        "machine": machine,
    }


def made_from(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a row's images follow from, as its key has it, with the files' digests shortened."""
    parts = manifest.get("key_parts")
    if not isinstance(parts, Mapping):
        return {}
    kept = {name: parts[name] for name in ("params", "conditions", "versions", "networks") if parts.get(name)}
    digests = {name: parts.get(name) for name in ("code", "files")}
    short = {name: {str(k): str(v)[:DIGEST] for k, v in d.items()} for name, d in digests.items() if d}
    return {**kept, **short}


def packed(runs: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The runs' facts for a file: the code, which most rows share, stands once in a table of its own.

    Returns facts whose `made.code` is a list of places in that table, with a row's own digests where they differ.
    """
    seen: dict[str, Counter[str]] = {}
    for facts in runs.values():
        for name, digest in (facts.get("made") or {}).get("code", {}).items():
            seen.setdefault(name, Counter())[digest] += 1
    table = {name: seen[name].most_common(1)[0][0] for name in sorted(seen)}
    places = {name: place for place, name in enumerate(table)}
    found = {}
    for run, facts in runs.items():
        made = facts.get("made") or {}
        code = made.get("code", {})
        if code:
            own = {name: digest for name, digest in code.items() if table[name] != digest}
            facts = {**facts, "made": {**made, "code": [places[name] for name in code], "own": own}}
        found[run] = dict(facts)
    return found, table


def unpacked(facts: Mapping[str, Any], table: Mapping[str, str]) -> dict[str, Any]:
    """The facts of a run as they were before `packed`."""
    made = dict(facts.get("made") or {})
    if isinstance(made.get("code"), list):
        names = list(table)
        made["code"] = {names[place]: table[names[place]] for place in made["code"]} | made.pop("own", {})
    return {**facts, "made": made} if made else dict(facts)


# --------------------------------------------------------------------------------------------------------- comparing


def cost_changes(base: Side, head: Side, runs: list[str]) -> tuple[list[CostChange], list[str]]:
    """The costs that differ, and what had to be left out, in words."""
    found: list[CostChange] = []
    elsewhere, unknown = [], []
    for run in runs:
        before, now = base.runs[run].facts.get("cost"), head.runs[run].facts.get("cost")
        if not before or not now:
            unknown.append(run)
            continue
        for name in sorted({*before["passes"], *now["passes"]}):
            pair = float(before["passes"].get(name, 0)), float(now["passes"].get(name, 0))
            if pair[0] != pair[1]:
                found.append(CostChange(run, f"passes of {name}", *pair))
        if before["machine"] != now["machine"]:
            elsewhere.append(run)
            continue
        for key, scale in (("seconds", 1.0), ("memory", 2.0**-20)):
            values = before.get(key), now.get(key)
            limit = 1 + TOLERANCE[key]
            if all(values) and not 1 / limit <= values[1] / values[0] <= limit:
                found.append(CostChange(run, UNITS[key], values[0] * scale, values[1] * scale))
    notes = []
    if elsewhere:
        notes.append(f"seconds and memory of {_rows(elsewhere)} were measured on another machine: not compared")
    if unknown:
        notes.append(f"the costs of {_rows(unknown)} are not in both sides: renew the baseline to compare them")
    return found, notes


def _rows(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} rows"


def why_anew(base: Side, head: Side, runs: list[str]) -> dict[str, list[str]]:
    """row -> what its images follow from that differs: parameters, files of code, versions; rows alike are left out."""
    from concord.benchmarks.plan.keys import differences

    found = {}
    for run in runs:
        before, now = base.runs[run].facts.get("made"), head.runs[run].facts.get("made")
        if before and now and (reasons := differences(before, now)):
            found[run] = reasons
    return found

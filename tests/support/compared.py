"""What was compared with what, and to which difference: tests say it, reports/compared.yaml keeps it for the report.

    compared("freedom", "official", "text, 100 steps", "vvictoryuki/FreeDoM 1394b1d: ...", difference)

The file holds the next power of ten above the difference. A test fails where the file lacks its entry, says another
code, or states less than what is found now; `make compared` writes what the tests find. `entries_of` is for the test
that no entry has lost its test.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

import yaml

from concord.reports.site.compared import FILE, read_compared

WRITE = "CONCORD_WRITE_COMPARED"
HEAD = "# Written by the tests (`make compared`): what was compared with what, and to which relative difference.\n"


def compared(method: str, preset: str, case: str, code: str, difference: float, limit: float = 1e-9) -> None:
    """State a comparison; difference: largest absolute difference over largest absolute value of the reference."""
    assert difference < limit, f"{method}, preset {preset}, {case}: {difference:.1e} away from {code}"
    test = f"tests/{Path(sys._getframe(1).f_code.co_filename).relative_to(Path(__file__).parents[1]).as_posix()}"
    below = 10.0 ** max(-16, math.ceil(math.log10(difference))) if difference > 0 else 0.0
    entries = [entry.model_dump() for entry in read_compared()]
    entry = {"method": method, "preset": preset, "case": case, "code": code, "below": below, "test": test}
    if os.environ.get(WRITE):
        kept = [other for other in entries if _key(other) != _key(entry)]
        FILE.write_text(HEAD + _dumped(sorted([*kept, entry], key=_key)), encoding="utf-8")
        return
    known = next((other for other in entries if _key(other) == _key(entry)), None)
    assert known is not None, f"{FILE.name} does not know {_key(entry)}; run `make compared`"
    assert (known["code"], known["test"]) == (code, test), f"{FILE.name}: {_key(entry)} is another; run `make compared`"
    # Other processors round otherwise: ten times what the file says is still what it says.
    assert difference <= 10 * max(known["below"], 1e-15), f"{_key(entry)}: {difference:.1e}, {FILE.name} says less"


def _key(entry: dict[str, Any]) -> tuple[str, str, str]:
    return entry["method"], entry["preset"], entry["case"]


def _dumped(entries: list[dict[str, Any]]) -> str:
    lines = (yaml.safe_dump(entry, sort_keys=False, width=1000, default_flow_style=True).strip() for entry in entries)
    return "comparisons:\n" + "".join(f"  - {line}\n" for line in lines)

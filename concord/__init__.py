"""The command line, and the five packages as concord.data, .metrics, .methods, .benchmarks and .reports.

`cli` names the verbs, `commands/` has them, `arguments` what they share; `console` prints, `fork_server`
keeps imports warm while DVC calls verb after verb. Nothing imports from here but the verbs themselves.

In Python: `concord.run`, `concord.results`, `concord.evaluate` (see `api`), each imported when it is first asked for.
"""

from __future__ import annotations

import importlib
import os

__all__ = ["ConcordError", "Results", "evaluate", "results", "run"]

# By name, not by an import: what a row's images follow from is computed from the imports of its modules, with the
# packages that hold them, and this package holds them all. Their types stand in __init__.pyi.
PUBLIC = {
    "ConcordError": "concord.data.errors",
    "Results": "concord.api",
    "evaluate": "concord.metrics.api",
    "results": "concord.api",
    "run": "concord.api",
}

# libgomp's threads spin while they wait, by default. Where anything else wants a core, the spinning starves the thread
# that works: measured on 2 busy cores, sampling took 1.9 s an image instead of 0.27 s. Set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def __getattr__(name: str) -> object:
    if name not in PUBLIC:
        raise AttributeError(f"module 'concord' has no attribute '{name}'")
    return getattr(importlib.import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""The command line, and the five packages as concord.data, .metrics, .methods, .benchmarks and .reports.

`cli` names the verbs, `commands/` has them, `arguments` what they share; `console` prints, `fork_server`
keeps imports warm while DVC calls verb after verb. Nothing imports from here but the verbs themselves.
"""

import os

# libgomp's threads spin while they wait, by default. Where anything else wants a core, the spinning starves the thread
# that works: measured on 2 busy cores, sampling took 1.9 s an image instead of 0.27 s. Set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

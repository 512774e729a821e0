"""One metric against one parameter: a row for each value, and the curve.

python examples/sweep_a_parameter.py [folder]
"""

import sys
from pathlib import Path

import concord

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "results")
found = concord.run(
    "face-generation", methods=["composable"], changes={"steps": [5, 10, 20]}, limit=4, results=folder, say=print
)
axes = found.plot_parameter("mask-accuracy", "steps")
axes.figure.savefig(folder / "steps.png")
table = found.summary[found.summary["metric"] == "mask-accuracy"]
print(table[["row", "value", "low", "high", "seconds_per_image"]].to_string(index=False))

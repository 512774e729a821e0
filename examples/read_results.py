"""Make a small table, read it as pandas frames, and draw one figure.

python examples/read_results.py [folder]
"""

import sys
from pathlib import Path

import concord

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "results")
found = concord.run(
    "face-generation",
    methods=["text-only", "mask-only", "amdm"],
    limit=4,
    results=folder,
    say=print,
)

# One line a row, request and metric: group, pivot and plot it as any other frame.
means = found.samples.groupby(["row", "metric"])["value"].mean().unstack()
print(means.round(1))

# What each row cost, and what the paired tests say of every two rows.
print(found.costs)
print(found.comparisons[["first", "second", "metric", "difference", "p_holm"]])

axes = found.plot("mask-accuracy")
axes.set_title("Agreement with the mask, n = 4")
axes.figure.savefig(folder / "mask-accuracy.png")
print(folder / "mask-accuracy.png")

"""The statistics checked: false alarms and power of the tests and the coverage of the intervals, by simulation.

`simulate` draws scores with a known truth, `experiment` runs the comparison on them. Run by hand; tests take a part.
"""

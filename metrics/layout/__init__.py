"""Metrics of layouts: whether each thing stands in its box, with its word, and does what it should.

Each is a `SampleMetric` under its name in the registry; values by level go into columns of their own. `instances`
finds the things in an image once for all of them.
"""

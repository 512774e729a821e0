"""Tables, figures and comparisons, made from stored results alone: nothing here generates or scores.

`report` makes all of it from a folder of results; `published` has the papers' own numbers
(`papers/*.yaml`), `statistics` the intervals and tests. `tables/` prints, `figures/` draws, `compare/` holds one
state of the results against another, `validation/` checks the statistics themselves.
"""

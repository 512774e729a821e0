"""Tables: the values of a suite's rows, their intervals and tests, and how they are printed.

`table` makes one from stored results, `measured` and `pairs` fill it, `notes` and `protocol` say what it can be
compared with; `export` and `latex` print it as Markdown, CSV, parquet and LaTeX.
"""

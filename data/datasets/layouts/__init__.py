"""Layouts: boxes in an image, each with its words, a level and an interaction where there is one.

`layout.Layout` is the value and its file form; `dataset` holds the sets of them that suites take their items from.
"""

"""Metrics of label maps: accuracy, IoU and distance between the mask that was asked for and the one that a parser
sees.

Each is a `SampleMetric` under its name in the registry; `masks` parses the images once for all of them.
"""

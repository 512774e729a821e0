"""Metrics: one file each, and the networks that they measure with."""

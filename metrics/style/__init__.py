"""Metrics of style: Gram matrices against the style image, distance of tokens, and the colours of a ground.

Each is a `SampleMetric` under its name in the registry.
"""

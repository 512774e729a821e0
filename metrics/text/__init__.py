"""Metrics of a caption: similarity and distance of text and image embeddings.

Each is a `SampleMetric` under its name in the registry; `embeddings` embeds captions and images once for all of them.
"""

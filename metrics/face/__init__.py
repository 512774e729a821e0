"""Metrics of one face: the person (identity embeddings) and the place of its landmarks.

Each is a `SampleMetric` under its name in the registry. `identities` and `landmarks` hold the step that two metrics
share, so that a network sees each image once; `square` crops a face to what those networks take.
"""

"""Networks that judge images. `protocols` says what a metric may ask of them, and nothing of which network answers.

`embedded/` are the small ones whose weights are in the repository, `pretrained/` the published ones. A metric gets
them by their role from its observation and imports neither.
"""

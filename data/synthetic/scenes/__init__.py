"""Drawn scenes of things on a ground, with their layouts: the embedded world of the layout suites.

`scene.scene` gives image, layout and captions of one; `tree` writes them as a dataset, `sheet` draws an overview.
"""

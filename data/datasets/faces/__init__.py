"""Faces with masks, captions and attributes: the trees of CelebAMask-HQ and CelebA-Dialog, and what is prepared of
them.

`dataset.open_faces` finds out which form a folder has. `prepare` writes shards that open at once, `verify` counts
what is lacking or broken, `preview` draws a sheet, `captions` reads the four forms of caption files.
"""

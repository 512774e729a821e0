"""Faces with masks, captions and attributes: the trees of CelebAMask-HQ and CelebA-Dialog, and what is prepared of
them.

`open.open_faces` finds out which form a folder has: a tree (`tree`), or the shards that `prepare` writes (`prepared`).
`verify` counts what is lacking or broken, `preview` draws a sheet, `captions` reads the four forms of caption files.
"""

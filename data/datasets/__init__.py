"""Readers of datasets, a folder for each kind: `faces` (CelebAMask-HQ), `layouts` (boxes with words), `images` (a
user's own folders).

Import the reader that is meant: `faces.dataset.open_faces`, `layouts.dataset`, `images.image_sets.open_images`. Every
reader names the file and the row that it cannot read, and what was expected there.
"""

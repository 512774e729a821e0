"""A user's own images and conditions: folders, archives, arrays and stored runs, paired by name.

`image_sets.open_images` opens any of them as a sequence of (name, image); `condition_files` reads the captions, masks
and other conditions that belong to them; `array_files` reads NumPy files of several forms.
"""

"""SynthFaces: portraits of 64 x 64 pixels, drawn from numbers, with masks, captions, identities and landmarks.

`world.face` draws face i of its identity and pose, `tree.write_tree` writes them as a dataset, `captions` has the
words. The modules below (`geometry`, `paint`, `hair`, `beard`, `accessories`, `person`) are its parts. The names that
others need are in `concord.data.synthetic`.
"""

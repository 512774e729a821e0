"""Generative networks: denoisers, autoencoders, generators, and how a method gets at them by role.

Methods take them from the profile and never load a file. `checkpoints/` reads what others published.
"""

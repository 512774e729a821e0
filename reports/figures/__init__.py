"""Figures: grids of samples, curves and scatter plots, and what guided methods did along the sampling.

Each module gives drawings with title, caption and text for those who cannot see them; the pages of the report show
them.
"""

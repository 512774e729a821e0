"""Generative networks."""

"""Perception networks: what scores and guides look through."""

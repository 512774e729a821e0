"""Datasets: readers, the embedded worlds, and how files get here."""

"""Suites, and the machinery that plans, runs and stores them."""

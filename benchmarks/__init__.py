"""Suites, and the machinery that plans, runs, scores and stores them.

`suite` reads a suite, `planner.make_plan` makes the plan of its requests and runs, `session.Session` runs and scores
it, `store/` keeps it. `external/` takes in what other programs make, `profiling/` measures speed. May import
everything but `concord.reports` and the command line.
"""

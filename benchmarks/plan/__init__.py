"""What is to be done, as values: which requests (`requests`), which runs of which rows (`runs`), by which code
(`sources`).

Nothing here generates or scores; the factory that opens suites is `concord.benchmarks.planner`.
"""

"""Scripts that measure speed and memory, run by hand as modules: `python -m concord.benchmarks.profiling.NAME`.

Nothing imports them but `rates`, which keeps how fast the machine was for estimates.
"""

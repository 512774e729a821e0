from concord.api import Results as Results
from concord.api import results as results
from concord.api import run as run
from concord.data.errors import ConcordError as ConcordError
from concord.metrics.api import evaluate as evaluate

__all__ = ["ConcordError", "Results", "evaluate", "results", "run"]

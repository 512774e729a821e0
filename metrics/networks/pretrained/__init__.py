"""Networks at the papers' scale, one family a file, loaded from local files in the form their authors publish.

Nothing is unpickled and nothing is fetched here: `weights.py` reads what `concord weights fetch` brought, verified,
and every key of a file is used or named. Only profiles load them.
"""

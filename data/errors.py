"""The one exception that a user is meant to see: one line, exit code 2."""


class ConcordError(Exception):
    """Bad input or a request that cannot be met.

    The message is one line that names the file or field, says what was expected, and what to do.
    The command line prints it without a traceback and exits with code 2; finished work stays as it was.
    """

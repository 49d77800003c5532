"""The command line: `python -m trainer RECIPE`, and a file for each verb, each one call of the public API.

In: arguments. Out: progress and notes on standard error, results or --json on standard output, exit codes 0, 1, 2.
Called by `trainer.__main__` alone.
"""

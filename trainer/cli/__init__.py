"""The command line: `python -m trainer RECIPE`, and verbs for what was trained.

In: arguments. Out: progress and tables for people, --json for machines, exit codes 0, 1, 2. Called by `trainer.__main__`.
"""

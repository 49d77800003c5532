"""The command line: every verb one call of the public API, and what it shows.

In: arguments. Out: progress and tables for people, --json for machines, exit codes 0, 1, 2.
Called by the commands `condprep` and `python -m condprep`; the trainer's command line shares options and console.
"""

"""What a process needs, whatever it works on.

In: paths, generators, settings. Out: files that are complete or not there, threads in a fixed order, a process that is
quiet, and how far a long call is. Called by every other room; knows none of them.
"""

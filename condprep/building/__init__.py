"""From a source to a dataset: begin (options, annotators, the plan), shards (a picture's way), finish.

In: a source, names of annotators, options. Out: a dataset on disk, and the counts: inputs = rows + rejects.
Called by the command line and as `condprep.build`, `condprep.add_columns`.
"""

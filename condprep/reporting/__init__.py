"""One page to look at: pairs, findings, distributions, rejects, provenance.

In: a dataset and what `verify` found in it. Out: a self-contained HTML file. Called by the command line and as
`condprep.report`; the trainer renders its own page with `html` and `thumbnails`.
"""

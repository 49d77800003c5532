"""What makes a pair wrong: every pair is opened once, measured, and judged by rules.

In: pairs (`dataset.pairs`). Out: findings, and a table of scores. Called as `condprep.verify`, by curation and
reporting; building judges imported maps by its rules, the trainer uses its measures.
"""

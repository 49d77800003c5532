"""What a run can be told: every key, its range and its default.

In: a TOML file and --set. Out: a validated, frozen Recipe, or an error in the user's words. Called by every room.
"""

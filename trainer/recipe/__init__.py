"""What a run can be told, and the names in its folder.

In: a TOML file and --set. Out: a validated, frozen Recipe, or an error in the user's words. It knows types and errors alone.
Called by every room, and as `trainer.load_recipe`.
"""

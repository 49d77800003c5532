"""Does a trained ControlNet follow its condition? Pictures are generated, annotated again, and compared map with map."""

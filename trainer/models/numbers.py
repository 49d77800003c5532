"""By which numbers a ControlNet of several kinds of conditions knows them: those of the first one of SDXL.

Programs that load such a ControlNet show them by these names; its own are "hed/pidi/scribble/ted" for 2 and
"canny/lineart/anime_lineart/mlsd" for 3. 7 is that of a picture of which parts are to be painted again.
"""

from __future__ import annotations

NUMBERS = {
    "pose": 0,
    "depth": 1,
    **{"softedge": 2, "scribble": 2},
    **{"canny": 3, "lineart": 3},
    "normal": 4,
    "segmentation": 5,
    "tile": 6,
}
FEWEST, MOST = 6, 8  # numbers that a ControlNet knows: without and with the picture's own kinds

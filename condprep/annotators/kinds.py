"""Which kind of condition an annotator makes."""

from __future__ import annotations

from condprep.types import PICTURED

_ANNOTATORS: dict[str, str] = {  # annotator, or annotator:variant, of this package
    **{
        "canny": "canny",
        "hed": "softedge",
        "depth": "depth",
        "normal": "normal",
        "openpose": "pose",
        "scribble": "scribble",
    },
    **{"hed:scribble": "scribble", "hed:tensor-scribble": "scribble", "aux:pidinet_scribble": "scribble"},
    **{"aux:pidinet": "softedge", "aux:pidinet_safe": "softedge", "aux:normalbae": "normal"},
    **dict.fromkeys(("aux:lineart", "aux:lineart_coarse", "aux:lineart_anime", "aux:lineart_standard"), "lineart"),
    **dict.fromkeys(("aux:anyline", "aux:mlsd"), "lineart"),
    **dict.fromkeys(("lineart", "lineart_anime", "mlsd"), "lineart"),
    **{"pidinet": "softedge", "pidinet:scribble": "scribble", "teed": "softedge", "aux:teed": "softedge"},
    "normalbae": "normal",
    **dict(zip(PICTURED, PICTURED)),
    **dict.fromkeys(("segmentation", "mask"), "segmentation"),
}


def kind_of_annotator(name: str, variant: str) -> str | None:
    """The kind of an annotator's maps; None for one that is not known here."""
    return _ANNOTATORS.get(f"{name}:{variant}", _ANNOTATORS.get(name))

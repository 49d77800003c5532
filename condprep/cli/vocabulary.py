"""What verbs can be asked for by name, for the end of their --help: written out, since looking it up would load numpy.

tests/cli/test_start.py compares these with the checks and the names of `--drop` themselves.
"""

from __future__ import annotations

_THRESHOLDS = {
    "structure": "max_aspect_error, multiple, max_tokens",
    "condition": "max_constant_range, min_high, min_depth_range, max_grey, max_line_core, max_mixed",
    "alignment": "min_shift, min_known_shift, min_scaling, min_fit, min_likeness, min_explained",
    "curation": "min_sharpness, min_held, min_light, max_dark, min_range, max_aspect, max_blocks, max_bars",
}
_NAMES = (
    "unreadable, mismatched, captionless, wrong-maps, misaligned, duplicates, near-duplicates, leaks, blurry, upscaled, dark, "
    "light, flat, extreme-aspect, jpeg-damage, bars, nobody, edge-density, markup, language"
)

CHECKS = "\n\n".join(
    ["Checks, and the thresholds of each (--set CHECK.THRESHOLD=VALUE):"]
    + [f"{check}: {names}" for check, names in _THRESHOLDS.items()]
)
DROPS = f"Names of --drop: {_NAMES}\n\n{CHECKS}"

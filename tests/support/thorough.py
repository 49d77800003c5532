"""How often slow random tests are tried: as often as CI has time for, and more where somebody has."""

from __future__ import annotations

import os


def examples(usual: int, thorough: int) -> int:
    """`thorough` where CONDPREP_THOROUGH is set. The examples are others in every run, so that runs add up."""
    return thorough if os.environ.get("CONDPREP_THOROUGH") else usual

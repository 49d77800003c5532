"""What becomes of freed memory."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

LOOP = """
import resource
import numpy as np
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def pictures(count):
    for _ in range(count):
        np.ones(6_000_000, np.uint8)
pictures(3)
before = faults()
pictures(50)
print(faults() - before)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc"
)
def test_freed_memory_serves_the_next_picture() -> None:
    """Fifty pictures of 6 MB one after the other take no fresh pages from the kernel: 73,000 would be needed."""
    code = f"from condprep.runtime.malloc import keep_freed_memory\nkeep_freed_memory()\n{LOOP}"
    unsaid = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    ended = subprocess.run([sys.executable, "-c", code], env=unsaid, capture_output=True, text=True, check=True)
    assert int(ended.stdout) < 100

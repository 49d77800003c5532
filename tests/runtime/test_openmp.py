"""How the threads that compute wait: said by the commands before torch is loaded, unless the user has said it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COMMAND = """
import os, sys
from {package}.cli.main import main
sys.argv = ["command", "--help"]
try:
    main()
finally:
    print(os.environ["OMP_WAIT_POLICY"], "torch" in sys.modules)
"""


@pytest.mark.parametrize("package", ["condprep", "trainer"])
@pytest.mark.parametrize("said", [None, "ACTIVE"])
def test_commands_wait_passively(package: str, said: str | None) -> None:
    """Before torch is loaded, since it looks only then; what the user has said stays."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": said} if said else {}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND.format(package=package)],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == f"{said or 'PASSIVE'} False"

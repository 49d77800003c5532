"""A build as a SLURM array: a script for `sbatch` that runs the parts, and afterwards what makes the dataset of them.

Nothing of SLURM is asked but `sbatch` itself: the parts meet in the output folder, as those of any other scheduler do.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from condprep.errors import BuildFailed, UsageError

NO_SBATCH = "there is no sbatch on this machine"


def array_script(
    build: Sequence[str], finish: Sequence[str], parts: int, options: Sequence[str] = (), folder: Path | None = None
) -> str:
    """A script for bash that submits `build` once for each part, and `finish` for when all of them have ended.

    build, finish: commands as lists of words, to which `--part` is added. options: of sbatch, for all jobs; an `--array` of
    theirs, as 0-63%8, is that of the parts. folder: where the commands run. Raises UsageError for what is no option.
    """
    if odd := next((one for one in options if not one.startswith("-")), None):
        raise UsageError(f"--slurm-option {odd!r} is no option of sbatch; write it as --slurm-option=--partition=gpu")
    anywhere = [f"--chdir={folder}"] if folder else []
    array = [one for one in options if one.startswith("--array=")] or [f"--array=0-{parts - 1}"]
    of_all = [*anywhere, *(one for one in options if one not in array)]
    return f"""#!/bin/bash
# A build in {parts} parts, and what makes the dataset of them once all have ended, or says which are missing.
# Run it on a machine that has sbatch; run again, the parts go on where they stopped.
set -euo pipefail
command -v sbatch > /dev/null || {{ echo "{NO_SBATCH}" >&2; exit 1; }}

part() {{
cat <<{_job([*build, "--part"], f'"$SLURM_ARRAY_TASK_ID/{parts}"')}
}}
finish() {{
cat <<{_job(finish)}
}}

parts=$(part | sbatch --parsable --job-name=condprep {shlex.join([*array, *of_all])})
echo "parts: job ${{parts%%;*}}"
finish=$(finish | sbatch --parsable --job-name=condprep-finish "--dependency=afterany:${{parts%%;*}}" {shlex.join(of_all)})
echo "finish: job ${{finish%%;*}}"
"""


def submit(script: str) -> str:
    """Run such a script; what it says, the numbers of the jobs. Raises UsageError without sbatch, BuildFailed where it fails."""
    if not shutil.which("sbatch"):
        raise UsageError(f"{NO_SBATCH}: submit from one that has it, or leave out --submit to have the script printed")
    done = subprocess.run(["bash", "-s"], input=script, capture_output=True, text=True)
    if done.returncode:
        raise BuildFailed(f"sbatch refused: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def _job(command: Sequence[str], last: str = "") -> str:
    """The script of a job as a here-document, which no word of the command can end. last: a word for bash."""
    words, end = " ".join(filter(None, (shlex.join(command), last))), "END"
    while end in words:
        end += "_"
    return f"'{end}'\n#!/bin/bash\nexec {words}\n{end}"

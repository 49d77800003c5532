"""Everything that a GPU can show, in order of worth and within a budget of seconds.

    python -m bench gpu [--budget 480] [--out DIR] [--parts device tests ...] [--peer PATH/train_controlnet.py]
    python -m bench gpu --list       the parts, and the seconds that each may take
    python -m bench gpu --tiny       every part, small, on a CPU too
    python -m bench gpu --rehearse   the same in an environment of its own: another Python, other versions, no registry

Each part is a process of its own with a time limit of its own; its figures are in DIR/gpu.json as soon as they are known,
so that a cut loses only the rest. It ends with one table, DIR/gpu.txt. docs/benchmarks/gpu.md says what each part shows.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

TINY_BUDGET = 3600  # seconds: small, but perhaps on a machine that does other things


def main() -> None:
    options = parsed(sys.argv[1:])
    if options.list:
        print(listed())
        return
    if options.rehearse:
        from bench.gpu.rehearse import rehearse

        sys.exit(rehearse(options))
    if options.part:
        from bench.gpu.parts import measure

        measure(options)
        return
    from bench.gpu.budget import run_all

    sys.exit(run_all(options))


def listed() -> str:
    """The parts in their order, with the least and the most seconds of each."""
    from bench.gpu.parts import PARTS

    lines = [f"{name:12}{part.least:4.0f} to {part.limit:3.0f} s  {part.about}" for name, part in PARTS.items()]
    least, most = (sum(seconds) for seconds in zip(*((part.least, part.limit) for part in PARTS.values())))
    return "\n".join(
        [*lines, f"{'all of them':12}{least:4.0f} to {most:3.0f} s  of a budget that is 480 s, or --budget"]
    )


def parsed(arguments: list[str]) -> argparse.Namespace:
    from bench.gpu.parts import PARTS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, help=f"seconds for all of it; default: 480, with --tiny {TINY_BUDGET}")
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="folder of gpu.json, gpu.txt and log.txt")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS], help="some of them; in this order")
    parser.add_argument("--list", action="store_true", help="what the parts are and how long they may take")
    parser.add_argument("--tiny", action="store_true", help="small, and on a CPU where there is no GPU")
    peer = os.environ.get("BENCH_PEER")
    parser.add_argument(
        "--peer",
        type=Path,
        default=Path(peer) if peer else None,
        help="diffusers' train_controlnet.py, train_controlnet_sdxl.py beside it; default: BENCH_PEER",
    )
    rehearsal = parser.add_argument_group("--rehearse")
    rehearsal.add_argument("--rehearse", action="store_true", help="run --tiny in an environment of its own")
    rehearsal.add_argument("--python", default="python3.12", help="the interpreter of that environment")
    rehearsal.add_argument("--venv", type=Path, default=Path(".rehearsal"), help="where it is made, once")
    rehearsal.add_argument(
        "--pack", type=Path, help="a folder with wheels/ and shared/, as they are carried to the GPU"
    )
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=600, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.peer and not options.peer.is_file():
        parser.error(f"--peer {options.peer}: there is no such file")
    options.budget = options.budget or (TINY_BUDGET if options.tiny or options.rehearse else 480)
    return options

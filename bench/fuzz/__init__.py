"""Damaged and hostile bytes for every reader: what ends otherwise than as the reader promises is a finding.

    python -m bench fuzz [--minutes 1] [--seed 0] [--only decode] [--keep findings/]

Sound files are made here and changed at random: bits, cuts, repeats and numbers of bytes; keys, types and depths of JSON. A
reader may refuse what it gets with an error of condprep's own, and nothing else. With --keep, inputs of findings stay.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from bench.fuzz.changes import changed
from bench.fuzz.readers import TARGETS
from condprep.errors import CondprepError


@dataclass(frozen=True)
class Found:
    """An input that ended otherwise than it may."""

    target: str
    data: bytes
    error: str


def tried(name: str, rng: random.Random, times: int) -> Iterator[Found | None]:
    """A changed input at a time; None where it ended as it may."""
    target = TARGETS[name]
    seeds = target.seeds()
    for _ in range(times):
        data = changed(rng.choice(seeds), target.suffix, rng)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"input{target.suffix}"
            path.write_bytes(data)
            try:
                target.read(path)
            except CondprepError:
                pass
            except Exception:
                yield Found(name, data, traceback.format_exc())
                continue
        yield None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=sorted(TARGETS))
    parser.add_argument("--keep", type=Path, help="folder for the inputs of findings")
    arguments = parser.parse_args()
    ends, rng, kinds, inputs = time.monotonic() + 60 * arguments.minutes, random.Random(arguments.seed), set(), 0
    while time.monotonic() < ends:
        for name in [arguments.only] if arguments.only else TARGETS:
            for found in tried(name, rng, 20):
                inputs += 1
                last = found and found.error.strip().splitlines()[-3:]
                if found and (kind := str(last)) not in kinds:
                    kinds.add(kind)
                    print(f"{name}: {found.error}")
                    if arguments.keep:
                        arguments.keep.mkdir(parents=True, exist_ok=True)
                        place = arguments.keep / f"{name}-{sha256(found.data).hexdigest()[:12]}"
                        place.with_suffix(TARGETS[name].suffix).write_bytes(found.data)
    print(f"{inputs:,} inputs, {len(kinds)} kinds of findings")
    if kinds:
        raise SystemExit(1)

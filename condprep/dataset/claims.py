"""Who builds a dataset at a URL: objects that are created only where there are none.

    URL/.condprep/lock.json              a build, or who makes the dataset of parts
    URL/.condprep/parts/0-of-3.json      who builds a part; empty, it stays until the dataset is finished
    URL/.condprep/planning.json          the part that writes the plan, and how far it is

Nobody looks at times, since clocks differ. Whoever claims creates its object first and then looks for others', so of two at once
one is refused at least.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any

from condprep.errors import DatasetError
from condprep.runtime.locks import Held
from condprep.runtime.storage import Remote
from condprep.runtime.upload import create, put, remove

LOCK, PARTS, PLANNING = ".condprep/lock.json", ".condprep/parts", ".condprep/planning.json"
SAYS = 10.0  # seconds between two requests that say how far a plan is
_PART = re.compile(rf"{re.escape(PARTS)}/(\d+)-of-(\d+)\.json")


def part_name(number: int, of: int) -> str:
    return f"{PARTS}/{number}-of-{of}.json"


def parse_part_name(name: str) -> tuple[int, int] | None:
    found = _PART.fullmatch(name)
    return (int(found[1]), int(found[2])) if found else None


def is_claim(name: str) -> bool:
    """Whether it is no part of what is built."""
    return name in (LOCK, PLANNING) or name.startswith(f"{PARTS}/")


@dataclass(frozen=True)
class Claims:
    """Of one dataset. `break_lock` of a claim takes over what others hold that is in its way."""

    remote: Remote

    @contextmanager
    def whole(self, break_lock: bool) -> Iterator[None]:
        """Nobody else builds it meanwhile. Raises DatasetError that names who does."""
        with self._held(LOCK, break_lock):
            self._refuse(self._parts(), break_lock)
            yield

    @contextmanager
    def part(self, number: int, of: int, break_lock: bool, is_begun: Callable[[], bool]) -> Iterator[None]:
        """Nobody builds that part, another division, or all of it. is_begun: whether the object stays at the end."""
        with self._held(part_name(number, of), break_lock, is_begun):
            others = [name for name in self._parts() if not name.endswith(f"-of-{of}.json")]
            self._refuse([LOCK, *others], break_lock)
            yield

    @contextmanager
    def planning(self) -> Iterator[Callable[[str], None]]:
        """This process alone writes the plan; gives whom to tell how far it is. Raises Held while another one does."""
        me, said = _me(), time.monotonic()
        if not create(self.remote / PLANNING, _bytes(me)):
            owner = self._owner(PLANNING)
            if owner.get("token") != me["token"] and not _is_gone(owner):
                raise Held(PLANNING)
            put(self.remote / PLANNING, _bytes(me))

        def say(text: str) -> None:
            nonlocal said
            if time.monotonic() - said > SAYS:
                said = time.monotonic()
                put(self.remote / PLANNING, _bytes(me | {"said": text}))

        try:
            yield say
        finally:
            remove(self.remote / PLANNING)

    def said(self) -> str:
        """What the one that writes the plan has said."""
        owner = self._owner(PLANNING)
        return str(owner.get("said") or f"process {owner['pid']} on {owner['host']}: 0") if "pid" in owner else ""

    def token(self) -> str:
        """Of who builds all of it, and nobody else has it."""
        return str(self._owner(LOCK).get("token", ""))

    @contextmanager
    def _held(self, name: str, break_lock: bool, stays: Callable[[], bool] = lambda: False) -> Iterator[None]:
        me = _me()
        if not create(self.remote / name, _bytes(me)):
            owner = self._owner(name)
            if owner.get("token") != me["token"] and not (break_lock or _is_gone(owner)):
                raise self._taken(name, owner)
            put(self.remote / name, _bytes(me))
        try:
            yield
        finally:
            if self._owner(name).get("token") == me["token"]:
                if stays():
                    put(self.remote / name, b"{}")
                else:
                    remove(self.remote / name)

    def _refuse(self, names: Collection[str], break_lock: bool) -> None:
        """Raises DatasetError where somebody living holds one of these."""
        for name in names:
            owner = self._owner(name)
            if not owner:
                continue
            if not (break_lock or _is_gone(owner)):
                raise self._taken(name, owner)
            remove(self.remote / name)

    def _taken(self, name: str, owner: dict[str, Any]) -> DatasetError:
        part = parse_part_name(name)
        which = f" (part {part[0]}/{part[1]})" if part else ""
        return DatasetError(
            f"{self.remote}{which} is being built by process {owner.get('pid')} on {owner.get('host')} since "
            f"{owner.get('since')}; wait for it, or if that is gone, take over with --break-lock"
        )

    def _parts(self) -> list[str]:
        self.remote.forget()
        return [f"{PARTS}/{name}" for name in (self.remote / PARTS).listing().get("", ())]

    def _owner(self, name: str) -> dict[str, Any]:
        """Who has it; nothing where nobody has."""
        self.remote.forget()
        try:
            found = json.loads((self.remote / name).read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def _me() -> dict[str, Any]:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return {"host": socket.gethostname(), "pid": os.getpid(), "token": token_hex(8), "since": now}


def _bytes(owner: dict[str, Any]) -> bytes:
    return json.dumps(owner).encode()


def _is_gone(owner: dict[str, Any]) -> bool:
    """Whether it was a process of this machine that has ended."""
    if not owner:
        return True
    if owner.get("host") != socket.gethostname() or not isinstance(owner.get("pid"), int):
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False

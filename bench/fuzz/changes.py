"""Changes at random: of bytes, and of the values in JSON."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Sequence
from typing import Any

ODD: Sequence[Any] = [
    *(
        None,
        True,
        0,
        -1,
        1,
        2**31,
        2**63,
        -(2**63),
        10**30,
        0.5,
        float("nan"),
        float("inf"),
        "",
        "\0",
        "\x1b[2J",
        "../../x",
    ),
    *(
        "a" * 5000,
        "\ud800",
        [],
        {},
        [[]],
        [None],
        {"": None},
        "²",
        "/etc/passwd",
        "[red]x[/red]",
        [1, 2, 3],
        {"bytes": 10**12},
    ),
]


def changed(data: bytes, suffix: str, rng: random.Random) -> bytes:
    """The input, changed in one to four places."""
    if suffix in (".json", ".jsonl") and rng.random() < 0.7:
        with contextlib.suppress(ValueError):
            return b"\n".join(_json(_changed_value(json.loads(line), rng)) for line in data.splitlines())
    for _ in range(rng.randint(1, 4)):
        data = _changed_bytes(bytearray(data), rng)
    return data


def _changed_bytes(data: bytearray, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    match rng.randrange(6):
        case 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        case 1:
            del data[at : at + rng.choice((1, 2, 8, 64, 10**6))]
        case 2:
            data[at:at] = data[at : at + rng.choice((1, 16, 256))] * rng.choice((1, 2, 40))
        case 3:
            data[at : at + 4] = rng.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"))
        case 4:
            data[at:at] = rng.choice((b"\0", b"\xff\xd8\xff", b"\xed\xa0\x80", b"9" * 30, b"[" * 3000, b"\r\n", b'"'))
        case 5 if data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
    return bytes(data)


def _changed_value(value: Any, rng: random.Random) -> Any:
    """Another value in the place of one of those inside, or of all."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        if rng.random() < 0.2:
            return {name: one for name, one in value.items() if name != key}
        return {name: _changed_value(one, rng) if name == key else one for name, one in value.items()}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [_changed_value(one, rng) if n == at else one for n, one in enumerate(value)]
    return rng.choice(ODD)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()

"""How many tokens CLIP's text encoder makes of a caption: its byte-pair encoding, counted.

The merges are those of CLIP's vocabulary (`bpe_simple_vocab_16e6.txt.gz` of https://github.com/openai/CLIP, MIT); the
rules are those of transformers' CLIPTokenizer, and the counts are equal to its.
"""

from __future__ import annotations

import gzip
import re
import sys
import unicodedata
from collections.abc import Mapping
from functools import cache, cached_property, lru_cache
from itertools import pairwise
from pathlib import Path

VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
MERGES = 49152 - 256 - 2  # CLIP's 49,408 tokens are 512 for single bytes, these merges, and two markers
MARKERS = 2  # start and end of the text are tokens, too
LONGEST = 1 << 13  # letters that are looked at: far more than 77 tokens, whatever they are
SPARE = 1 << 16  # words whose count is remembered
SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # Unicode's; `\s` of Python takes more
END = b"\xff"  # stands for the end of a word; in UTF-8 no byte is that

MergeRanks = Mapping[tuple[bytes, bytes], int]


class TokenCounter:
    """Counts tokens, start and end included. With no vocabulary, only what is certain without: the fewest there can be."""

    def __init__(self, vocabulary: Path | None) -> None:
        """vocabulary: CLIP's file of merges, checked before; None where it could not be had."""
        self.exact = vocabulary is not None
        self._vocabulary = vocabulary
        self._of_word = lru_cache(SPARE)(self._count)

    @cached_property
    def _ranks(self) -> MergeRanks:
        """Read at the first word: a dataset without captions does not wait for it."""
        return _read(self._vocabulary, self._vocabulary.stat().st_mtime_ns) if self._vocabulary else {}

    def __call__(self, caption: str) -> int:
        """The tokens of a caption as CLIP makes them: lower case, white space counts for nothing. At most LONGEST letters."""
        text = unicodedata.normalize("NFC", caption[:LONGEST]).lower()
        words = _pattern().findall(text)
        return MARKERS + (sum(map(self._of_word, words)) if self.exact else len(words))

    def _count(self, word: str) -> int:
        """Merge the pair of neighbours that was learned first, again and again, until no pair is known."""
        parts = [bytes([byte]) for byte in word.encode("utf-8", "replace")]
        parts[-1] += END  # the end of a word is part of its last token
        while len(parts) > 1:
            ranked = [(self._ranks.get(pair, MERGES), at) for at, pair in enumerate(pairwise(parts))]
            rank, at = min(ranked)
            if rank == MERGES:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return len(parts)


@cache
def _pattern() -> re.Pattern[str]:
    """CLIP's words: English endings, runs of letters, single digits, runs of anything else but white space."""
    numbers = "".join(c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c)[0] == "N")
    letters = rf"[^\W_{numbers}]"
    return re.compile(
        rf"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|{letters}+|[{numbers}]|(?:[^\w{SPACE}]|_)+"
    )


@lru_cache(1)
def _read(path: Path, changed: int) -> MergeRanks:
    """The rank of each pair of parts; the end of a word is written `</w>` there. changed: the file's time, ns.

    Read once in a process that verifies many datasets: it takes a quarter of a second.
    """
    spelled = str.maketrans({letter: chr(byte) for letter, byte in _spelling().items()})

    def part(text: str) -> bytes:
        word, end = text.removesuffix("</w>"), text.endswith("</w>")
        return word.translate(spelled).encode("latin-1") + END * end

    with gzip.open(path, "rt", encoding="utf-8") as lines:
        next(lines)  # a version
        pairs = (line.split() for line, _ in zip(lines, range(MERGES)))
        return {(part(first), part(second)): rank for rank, (first, second) in enumerate(pairs)}


def _spelling() -> dict[str, int]:
    """How byte-level BPE files write each byte: printable Latin-1 as itself, the others from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}

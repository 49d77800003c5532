"""The tokenizer of the tiny base: CLIP's, for the words of `draw.py`."""

from __future__ import annotations

from draw import COLOURS, SHAPES
from transformers import CLIPTokenizer

TOKENS = 24  # of a prompt
WORDS = ("a", "an", "and", "on", "background")


def make_tokenizer() -> CLIPTokenizer:
    """CLIP's, with a token for each word that `draw.py` uses; other words fall into their letters."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    vocabulary, merges = [*letters, *(letter + "</w>" for letter in letters)], []
    words = [[*word[:-1], word[-1] + "</w>"] for word in sorted({*WORDS, *SHAPES, *COLOURS})]
    while unfinished := [word for word in words if len(word) > 1]:
        first, second = unfinished[0][:2]
        merges.append((first, second))
        vocabulary.append(first + second)
        words = [merged(word, first, second) for word in words]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    numbers = {token: number for number, token in enumerate(dict.fromkeys(vocabulary))}
    return CLIPTokenizer(vocab=numbers, merges=merges, model_max_length=TOKENS)


def merged(word: list[str], first: str, second: str) -> list[str]:
    """The word with each `first` before a `second` made one with it."""
    parts: list[str] = []
    for part in word:
        if parts and (parts[-1], part) == (first, second):
            parts[-1] += part
        else:
            parts.append(part)
    return parts

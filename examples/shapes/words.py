"""The tokenizers of the tiny bases, for the words of `draw.py`: CLIP's, and Qwen's."""

from __future__ import annotations

from draw import COLOURS, SHAPES
from transformers import CLIPTokenizer, Qwen2Tokenizer

TOKENS = 24  # of a prompt
CHAT = (
    "{% for message in messages %}{{ message.content }}{% endfor %}<|im_end|>"  # nothing but what is said, and an end
)
WORDS = ("a", "an", "and", "on", "background")


def make_tokenizer() -> CLIPTokenizer:
    """CLIP's, with a token for each word that `draw.py` uses; other words fall into their letters."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    words = [[*word[:-1], word[-1] + "</w>"] for word in sorted({*WORDS, *SHAPES, *COLOURS})]
    made, merges = parts_of(words)
    vocabulary = [*letters, *(letter + "</w>" for letter in letters), *made, "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab=numbered(vocabulary), merges=merges, model_max_length=TOKENS)


def make_chat_tokenizer() -> Qwen2Tokenizer:
    """Qwen's, with a token for each word that `draw.py` uses, its space included; what a user says is all of a chat."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    words = [["a"], ["a", "n"], *(["Ġ", *word] for word in sorted({*WORDS, *SHAPES, *COLOURS}))]
    made, merges = parts_of(words)
    vocabulary = [*bytes_to_unicode().values(), *made, "<|endoftext|>"]
    tokenizer = Qwen2Tokenizer(vocab=numbered(vocabulary), merges=merges, model_max_length=512)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    tokenizer.chat_template = CHAT
    return tokenizer


def parts_of(words: list[list[str]]) -> tuple[list[str], list[tuple[str, str]]]:
    """Tokens and merges that make one token of each word, which is given by its letters."""
    vocabulary, merges = [], []
    while unfinished := [word for word in words if len(word) > 1]:
        first, second = unfinished[0][:2]
        merges.append((first, second))
        vocabulary.append(first + second)
        words = [merged(word, first, second) for word in words]
    return vocabulary, merges


def numbered(vocabulary: list[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(dict.fromkeys(vocabulary))}


def merged(word: list[str], first: str, second: str) -> list[str]:
    """The word with each `first` before a `second` made one with it."""
    parts: list[str] = []
    for part in word:
        if parts and (parts[-1], part) == (first, second):
            parts[-1] += part
        else:
            parts.append(part)
    return parts

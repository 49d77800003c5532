"""The two streams through rich: colours, markup, tables. Imported where something is shown, as `--help` needs none of it."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from condprep.runtime.text import plain

__all__ = ["err", "escape", "out"]


class _Terminal(Console):
    """Shows text of others, as file names, and does not let it move the cursor or name the window."""

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(plain(text), **how)


out, err = _Terminal(soft_wrap=True), _Terminal(stderr=True, soft_wrap=True)  # no line is broken where it is piped

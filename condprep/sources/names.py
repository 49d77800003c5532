"""Names in place of files, for functions that want a file system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fsspec.spec import AbstractFileSystem


class Names(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A file system that is a listing of names."""

    protocol = "listed"
    cachable = False

    def __init__(self, names: Sequence[str] = (), **options: Any) -> None:
        super().__init__(**options)
        self.files = {f"root/{name}": {"name": f"root/{name}", "size": 0, "type": "file"} for name in names}

    def find(self, path: str, **_: Any) -> Mapping[str, Any]:
        """Every file below `path`, as `glob` asks for them."""
        return {name: info for name, info in self.files.items() if name.startswith(path)}

    def info(self, path: str, **_: Any) -> Mapping[str, Any]:
        """Of one file. Raises FileNotFoundError."""
        found = self.files.get(self._strip_protocol(path))
        if found is None:
            raise FileNotFoundError(path)
        return found

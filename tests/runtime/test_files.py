"""Files that are either complete or not there, whoever writes beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from condprep.runtime import files


def test_a_partial_file_that_is_taken_for_an_abandoned_one_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may remove it between its making and its lock: then there is a new one, and the content is whole."""
    lock, removed = files.try_lock, []

    def other_is_first(descriptor: int, **how: Any) -> bool:
        if not removed:
            removed.append(tmp_path / "a.json.partial")
            removed[0].unlink()
        return lock(descriptor, **how)

    monkeypatch.setattr(files, "try_lock", other_is_first)
    files.commit_json(tmp_path / "a.json", [1])
    assert removed
    assert files.read_json(tmp_path / "a.json") == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]

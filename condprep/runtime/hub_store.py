"""Files of a dataset on the Hugging Face Hub: `hf://datasets/OWNER/NAME[@REVISION]/FOLDER`.

A revision is looked up once, and from then on it is read as it was: what is pushed meanwhile is seen by the next command.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from condprep.errors import UsageError
from condprep.runtime.retry import retried
from condprep.runtime.storage_faults import as_storage_error
from condprep.runtime.stores import Status

TIMEOUT = 30  # seconds without an answer
_PATH = re.compile(r"datasets/([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/(.*))?")


class Where(NamedTuple):
    """What a path names."""

    repo: str
    revision: str | None
    inside: str  # "" for the repository itself


@dataclass(frozen=True)
class HubStore:
    """Read through huggingface_hub, with its token and HF_ENDPOINT; each range is one request."""

    def find(self, folder: str) -> Iterator[tuple[str, Status]]:
        repo, revision, inside = where(folder)
        prefix = f"{inside}/" if inside else ""

        def ask() -> list[Any]:
            from huggingface_hub import HfApi
            from huggingface_hub.errors import EntryNotFoundError

            try:
                return list(
                    HfApi().list_repo_tree(repo, inside or None, recursive=True, revision=revision, repo_type="dataset")
                )
            except EntryNotFoundError:
                return []
            except Exception as error:
                raise as_storage_error(error, f"hf://{folder}") from error

        for found in retried(ask, f"hf://{folder}"):
            if hasattr(found, "size"):  # else it is a folder
                yield found.path.removeprefix(prefix), _status(found)

    def status(self, path: str) -> Status:
        from huggingface_hub import HfApi

        repo, revision, inside = where(path)
        try:
            found = HfApi().get_paths_info(repo, [inside], revision=revision, repo_type="dataset") if inside else []
        except Exception as error:
            raise as_storage_error(error, f"hf://{path}") from error
        if not found or not hasattr(found[0], "size"):
            raise as_storage_error(FileNotFoundError(path), f"hf://{path}")
        return _status(found[0])

    def read(self, path: str, start: int, end: int, mark: str | None) -> bytes:
        """mark: what a revision holds does not change."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        repo, revision, inside = where(path)
        try:
            url = hf_hub_url(repo, inside, repo_type="dataset", revision=revision)
            headers = build_hf_headers() | {"Range": f"bytes={start}-{end - 1}"}
            answer = get_session().get(url, headers=headers, timeout=TIMEOUT)
            hf_raise_for_status(answer)
        except Exception as error:
            raise as_storage_error(error, f"hf://{path}") from error
        data: bytes = answer.content
        return data if answer.status_code == 206 else data[start:end]

    def has_bucket(self, path: str) -> bool:
        try:
            self.resolved(path)
        except FileNotFoundError:
            return False
        return True

    def resolved(self, path: str) -> str:
        from huggingface_hub import HfApi

        repo, revision, inside = where(path)
        try:
            found = HfApi().repo_info(repo, revision=revision, repo_type="dataset", timeout=TIMEOUT)
        except Exception as error:
            raise as_storage_error(error, f"hf://{path}") from error
        return f"datasets/{repo}@{found.sha}/{inside}".rstrip("/")


def where(path: str) -> Where:
    """Raises UsageError for what is no path in a dataset's repository."""
    if not (found := _PATH.fullmatch(path)):
        raise UsageError(f"'hf://{path}' is no dataset on the Hub; give hf://datasets/OWNER/NAME")
    return Where(found[1], found[2].replace("%2F", "/") if found[2] else None, (found[3] or "").strip("/"))


def _status(found: Any) -> Status:
    return Status(found.size, found.lfs.sha256 if found.lfs else found.blob_id)

"""What an object store says, told apart as what the operating system says of files is (docs/faults.md).

Libraries say it in a hundred ways: as an OSError with a number or without, with an HTTP status in a response, or by the name
of a class. What comes out is one of four: FileNotFoundError, a SourceError for an object that was replaced, a StorageFault
for what is refused, and a ConnectionError, which is passing, for all the rest.
"""

from __future__ import annotations

import errno
import os
import re
from typing import Any

from condprep.errors import CondprepError, SourceError, StorageFault
from condprep.runtime.retry import OWN

LIBRARIES = frozenset(  # without the number at the end: httpx2 is httpx, as urllib3 is urllib
    {
        *("botocore", "aiobotocore", "aiohttp", "fsspec", "gcsfs", "google", "httpx", "httpcore", "requests"),
        *("urllib", "huggingface_hub", "s3fs", "hf_xet"),
    }
)
# Errors of libraries by their names: each would else be imported to be recognised.
_NO_CREDENTIALS = re.compile(
    r"NoCredentials|PartialCredentials|CredentialRetrieval|TokenRetrieval|SSOToken|DefaultCredentials|RefreshError"
    r"|LocalTokenNotFound|GatedRepo"
)
_CREDENTIALS = re.compile(
    r"ExpiredToken|InvalidToken|TokenRefreshRequired|InvalidAccessKeyId|SignatureDoesNotMatch|token has expired", re.I
)
_MISSING = re.compile(r"RepositoryNotFound|EntryNotFound|RevisionNotFound|NoSuchBucket|NoSuchKey")
_CLOCK = re.compile(r"TimeTooSkewed", re.I)
_REMEDIES = {
    "s3": "give AWS credentials that may read it, by `aws configure`, `aws sso login` or AWS_ACCESS_KEY_ID, or for a "
    "public bucket FSSPEC_S3_ANON=true",
    "gs": "give Google credentials that may read it, by `gcloud auth application-default login`",
    "hf": "give a token that may read it, by `hf auth login` or HF_TOKEN",
}


def as_storage_error(error: BaseException, url: str) -> BaseException:
    """The same error in our words; what is neither of storage nor of a library for it, as it is."""
    if isinstance(error, CondprepError) or not _of_storage(error):
        return error
    said, (status, code), number = _said(error), _answer(error), getattr(error, "errno", None)
    names = " ".join([*(kind.__name__ for kind in type(error).__mro__), code, said])
    if isinstance(error, FileNotFoundError) or status == 404 or _MISSING.search(names):
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url)
    if status in (412, 416):  # of another mark, or shorter than it was
        return replaced(url)
    if _CLOCK.search(names):
        return StorageFault(f"{url} is refused, since this machine's clock is wrong; set it right. {said}")
    if isinstance(error, PermissionError) or status in (401, 403) or _access(names):
        return StorageFault(f"{url} may not be read ({said}); {_remedy(url)}, and run the same command again")
    if (status and 400 <= status < 500 and status not in (408, 429)) or (not status and number in OWN):
        return StorageFault(f"{url} cannot be read: {said}; mend that, and run the same command again")
    return ConnectionError(f"{url}: {said}")


def replaced(url: str) -> SourceError:
    """What is raised for an object that is not the one that was listed."""
    return SourceError(
        f"{url} is another object than the one that was listed; put it back as it was to go on, "
        "or start afresh with --overwrite"
    )


def _of_storage(error: BaseException) -> bool:
    return isinstance(error, OSError) or any(
        kind.__module__.partition(".")[0].rstrip("0123456789") in LIBRARIES for kind in type(error).__mro__
    )


def _access(names: str) -> bool:
    return bool(_NO_CREDENTIALS.search(names) or _CREDENTIALS.search(names))


def _answer(error: BaseException | None) -> tuple[int | None, str]:
    """HTTP status and code of the answer that an error, or the one that it was raised for, is about."""
    for _ in range(5):
        response: Any = getattr(error, "response", None)
        if isinstance(response, dict):  # botocore's
            said = response.get("Error", {}).get("Code", "")
            return response.get("ResponseMetadata", {}).get("HTTPStatusCode"), str(said)
        found = getattr(response, "status_code", None) or getattr(error, "status", None)
        if isinstance(found, int):
            return found, ""
        error = error.__cause__ if error else None
    return None, ""


def _said(error: BaseException) -> str:
    words = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return words.strip().splitlines()[0][:300]


def _remedy(url: str) -> str:
    protocol = url.partition("://")[0]
    return _REMEDIES.get({"s3a": "s3", "gcs": "gs"}.get(protocol, protocol), "give credentials that may read it")

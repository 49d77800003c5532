"""Where objects lie that are no files of this machine: what an object store is asked, and how each kind is asked it.

Four questions suffice: what lies below a path, how large an object is and which one, some of its bytes, and whether there is
such a bucket at all. Each is one request; nothing is tried twice here, since `retry` does that, and errors are told
apart by `storage_faults`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from condprep.runtime.retry import retried
from condprep.runtime.storage_faults import as_storage_error, replaced

_MARKS = ("generation", "ETag", "etag", "md5Hash", "checksum", "created", "mtime", "LastModified")


@dataclass(frozen=True, slots=True)
class Status:
    """Of an object."""

    size: int  # bytes
    mark: str  # changes when the content changed: an ETag, a hash, or a time

    def __str__(self) -> str:
        return f"{self.size}:{self.mark}"

    @classmethod
    def of(cls, stamp: str) -> Status:
        """What a plan has of it."""
        size, _, mark = stamp.partition(":")
        return cls(int(size), mark)


class Store(Protocol):
    """Objects by path: "bucket/folder/name". Picklable; raises what `as_storage_error` makes of its errors."""

    def find(self, folder: str) -> Iterator[tuple[str, Status]]:
        """Every object below a folder by its path relative to it, in no order. Tries again what may pass."""
        ...

    def status(self, path: str) -> Status:
        """Raises FileNotFoundError where there is no such object."""
        ...

    def read(self, path: str, start: int, end: int, mark: str | None) -> bytes:
        """The bytes from `start` up to `end`. mark: of the object that is meant; raises SourceError for another one."""
        ...

    def has_bucket(self, path: str) -> bool:
        """Whether there is what holds the object, which then is gone by itself."""
        ...

    def resolved(self, path: str) -> str:
        """The path by which the object is found for good, where it has a name that moves from version to version."""
        ...


@dataclass(frozen=True)
class FsspecStore:
    """Whatever fsspec has a file system for."""

    protocol: str

    @property
    def files(self) -> Any:
        """Of this process: fsspec keeps one, and makes a new one after a fork."""
        import fsspec

        return fsspec.filesystem(self.protocol)

    def find(self, folder: str) -> Iterator[tuple[str, Status]]:
        prefix = f"{folder.rstrip('/')}/"

        def ask() -> Any:
            try:
                self.files.invalidate_cache()
                return self.files.find(prefix, detail=True)
            except FileNotFoundError:
                return {}
            except Exception as error:
                raise as_storage_error(error, f"{self.protocol}://{prefix}") from error

        for path, found in retried(ask, f"{self.protocol}://{prefix}").items():
            relative = path.lstrip("/").removeprefix(prefix.lstrip("/"))
            if found.get("type") == "file" and relative:
                yield relative, _status(found)

    def status(self, path: str) -> Status:
        try:
            found = self.files.info(path)
        except Exception as error:
            raise as_storage_error(error, f"{self.protocol}://{path}") from error
        if found.get("type") != "file":
            raise as_storage_error(FileNotFoundError(path), f"{self.protocol}://{path}")
        return _status(found)

    def read(self, path: str, start: int, end: int, mark: str | None) -> bytes:
        if mark is not None and self.protocol == "memory" and self.status(path).mark != mark:
            raise replaced(f"{self.protocol}://{path}")
        of = {"generation": mark} if mark and mark.isdigit() and self.protocol in ("gs", "gcs") else {}
        try:
            data: bytes = self.files.cat_file(path, start=start, end=end, **of)
        except Exception as error:
            found = as_storage_error(error, f"{self.protocol}://{path}")
            if of and isinstance(found, FileNotFoundError) and self.status(path).mark != mark:
                raise replaced(
                    f"{self.protocol}://{path}"
                ) from None  # that generation is gone, and another one is there
            raise found from error
        return data

    def has_bucket(self, path: str) -> bool:
        bucket = path.lstrip("/").partition("/")[0]
        try:
            return bool(self.files.exists(bucket))
        except Exception as error:
            raise as_storage_error(error, f"{self.protocol}://{bucket}") from error

    def resolved(self, path: str) -> str:
        return path


@dataclass(frozen=True)
class S3Store:
    """S3 and what speaks its protocol. An object that is replaced while it is read is noticed by each request."""

    @property
    def files(self) -> Any:
        import fsspec

        # what fails is tried again by `retry`, and by nobody else: else one fault is up to 25 requests
        files = fsspec.filesystem("s3", config_kwargs={"retries": {"total_max_attempts": 1}})
        files.retries = 1
        return files

    def find(self, folder: str) -> Iterator[tuple[str, Status]]:
        bucket, _, key = folder.partition("/")
        prefix = f"{key.rstrip('/')}/" if key.strip("/") else ""
        more: dict[str, str] = {}
        while True:

            def ask(more: dict[str, str] = more) -> Any:
                return self._call("list_objects_v2", folder, Bucket=bucket, Prefix=prefix, **more)

            page = retried(ask, f"s3://{folder}")
            for found in page.get("Contents", ()):
                if not found["Key"].endswith("/"):
                    yield found["Key"].removeprefix(prefix), _status(found | {"size": found["Size"]})
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def status(self, path: str) -> Status:
        bucket, _, key = path.partition("/")
        if not key:
            raise as_storage_error(FileNotFoundError(path), f"s3://{path}")
        found = self._call("head_object", path, Bucket=bucket, Key=key)
        return _status(found | {"size": found["ContentLength"]})

    def read(self, path: str, start: int, end: int, mark: str | None) -> bytes:
        from fsspec.asyn import sync

        bucket, _, key = path.partition("/")
        asked = {"Bucket": bucket, "Key": key, "Range": f"bytes={start}-{end - 1}"}
        asked |= {"IfMatch": f'"{mark}"'} if mark is not None else {}

        async def get(files: Any) -> Any:
            answer = await files._call_s3("get_object", **asked)
            async with answer["Body"] as body:
                return await body.read()

        try:
            data: bytes = sync((files := self.files).loop, get, files)
        except Exception as error:
            raise as_storage_error(error, f"s3://{path}") from error
        return data

    def has_bucket(self, path: str) -> bool:
        bucket = path.partition("/")[0]
        try:
            self._call("list_objects_v2", bucket, Bucket=bucket, MaxKeys=1)
        except FileNotFoundError:
            return False
        return True

    def resolved(self, path: str) -> str:
        return path

    def _call(self, method: str, path: str, **asked: Any) -> Any:
        try:
            return self.files.call_s3(method, **asked)
        except Exception as error:
            raise as_storage_error(error, f"s3://{path}") from error


def _status(found: Any) -> Status:
    mark = next((found[name] for name in _MARKS if found.get(name) is not None), "")
    mark = mark.timestamp() if isinstance(mark, datetime) else mark
    return Status(int(found["size"]), str(mark).strip('"').replace(" ", "_"))

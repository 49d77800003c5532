"""A small Hugging Face Hub on this machine: datasets that are created, pushed, listed and read, and the faults of one.

It answers what huggingface_hub and `datasets` ask over HTTP (git and LFS; no xet), keeps everything in memory, and counts what it
was sent. What a test needs of the Hub that is not here is answered with 404.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

RESET = -1  # a fault: the connection ends without an answer
LARGE = (".arrow", ".parquet", ".jpg")  # go to LFS
API = r"/api/datasets/(?P<name>[^/]+/[^/]+)"
TIME = "2026-01-01T00:00:00.000Z"


def git_sha(data: bytes) -> str:
    return sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repo:
    """A dataset: its files as they are now. The commit's name follows from them."""

    private: bool = False
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b"*.arrow lfs\n"})

    @property
    def head(self) -> str:
        return sha1(repr(sorted((path, git_sha(data)) for path, data in self.files.items())).encode()).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        data = self.files[path]
        large = {"lfs": {"oid": sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}}
        commit = {"lastCommit": {"id": self.head, "title": "", "date": TIME}}
        return (
            {"type": "file", "path": path, "size": len(data), "oid": git_sha(data)}
            | commit
            | (large if path.endswith(LARGE) else {})
        )


class Hub:
    """What the server holds. token: the login that may write for `owner`; others may read what is public."""

    def __init__(self, token: str = "hf_test", owner: str = "user") -> None:
        self.token, self.owner = token, owner
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}  # sha256 -> content, committed or not
        self.puts: list[str] = []  # sha256 of what was sent whole
        self.commits = 0
        self.fault: Callable[[str, str], int | None] = lambda method, path: None
        self.lock = threading.Lock()
        self.url = ""

    # routes: method, pattern -> what answers (status, JSON or bytes, headers)

    def create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        name = f"{asked.get('organization') or self.owner}/{asked['name']}"
        if name.split("/")[0] != self.owner:
            return 403, {"error": f"You don't have the rights to create a dataset under {name.split('/')[0]!r}"}
        if name in self.repos:
            return 409, {"error": "You already created this dataset repo", "url": f"{self.url}/datasets/{name}"}
        self.repos[name] = Repo(bool(asked.get("private") or asked.get("visibility") == "private"))
        return 200, {"url": f"{self.url}/datasets/{name}", "name": name, "id": name}

    def info(self, name: str) -> tuple[int, Any]:
        repo = self.repos[name]
        siblings = [{"rfilename": path} for path in repo.files]
        shown = {
            "id": name,
            "sha": repo.head,
            "private": repo.private,
            "siblings": siblings,
            "tags": [],
            "downloads": 0,
        }
        return 200, shown | {"lastModified": TIME, "createdAt": TIME, "likes": 0, "disabled": False, "gated": False}

    def tree(self, name: str, folder: str, recursive: bool) -> tuple[int, Any]:
        repo, prefix = self.repos[name], f"{folder}/" if folder else ""
        inside = [path for path in sorted(repo.files) if path.startswith(prefix)]
        if folder and not inside:
            return 404, {"error": "no such folder"}
        folders = {prefix + path[len(prefix) :].split("/")[0] for path in inside if "/" in path[len(prefix) :]}
        if recursive:
            folders = {path.rsplit("/", n)[0] for path in inside for n in range(1, path.count("/") + 1)}
        files = [path for path in inside if recursive or "/" not in path[len(prefix) :]]
        entries = [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in sorted(folders)]
        return 200, entries + [repo.entry(path) for path in files]

    def paths(self, name: str, asked: list[str]) -> tuple[int, Any]:
        repo = self.repos[name]
        found = [repo.entry(path) for path in asked if path in repo.files]
        folders = [path for path in asked if any(file.startswith(f"{path}/") for file in repo.files)]
        return 200, found + [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in folders]

    def preupload(self, name: str, asked: dict[str, Any]) -> tuple[int, Any]:
        files = self.repos[name].files
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
                "oid": git_sha(files[file["path"]]) if file["path"] in files else None,
            }
            for file in asked["files"]
        ]
        return 200, {"files": modes}

    def batch(self, asked: dict[str, Any]) -> tuple[int, Any]:
        objects = []
        for one in asked["objects"]:
            upload = {"upload": {"href": f"{self.url}/lfs/{one['oid']}", "header": {}}}
            objects.append(one | ({} if one["oid"] in self.large else {"actions": upload}))
        return 200, {"transfer": "basic", "objects": objects}

    def put(self, oid: str, data: bytes) -> tuple[int, Any]:
        if sha256(data).hexdigest() != oid:
            return 400, {"error": "the content is not what was announced"}
        self.puts.append(oid)
        self.large[oid] = data
        return 200, {}

    def commit(self, name: str, lines: list[dict[str, Any]]) -> tuple[int, Any]:
        repo, files = self.repos[name], dict(self.repos[name].files)
        for line in lines:
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit") not in (None, repo.head):
                return 412, {"error": "A commit has happened since. Please refresh and try again."}
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                if value["oid"] not in self.large:
                    return 422, {"error": f"{value['path']} was never sent"}
                files[value["path"]] = self.large[value["oid"]]
            if line["key"] == "deletedFile":
                del files[value["path"]]
        repo.files = files
        self.commits += 1
        return 200, {"commitOid": repo.head, "commitUrl": f"{self.url}/datasets/{name}/commit/{repo.head}"}


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each body waits for the client to acknowledge its headers: 40 ms
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(iter(self._chunk, b""))
        url = urlsplit(self.path)
        path = unquote(url.path)
        with self.hub.lock:
            fault = self.hub.fault(self.command, path)
        if fault == RESET:
            self.close_connection = True
            self.connection.close()
            return
        if fault:
            self.reply(fault, {"error": f"fault {fault}"})
            return
        with self.hub.lock:
            found = self.route(self.command, path, parse_qs(url.query), body)
        if found is not None:
            self.reply(*found)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def _chunk(self) -> bytes:
        data = self.rfile.read(int(self.rfile.readline(), 16))
        self.rfile.readline()
        return data

    def route(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Any] | None:
        hub, writes = self.hub, self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if put := re.fullmatch(r"/lfs/(\w+)", path):
            return hub.put(put[1], body)
        if method == "POST" and "/paths-info/" not in path and not writes:
            return 401, {"error": "Invalid username or password."}
        if path == "/api/repos/create":
            return hub.create(json.loads(body))
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if batch := re.fullmatch(r"/datasets/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return hub.batch(json.loads(body)) if batch[1] in hub.repos else (404, {"error": "Repository not found"})
        named = re.match(f"{API}|/datasets/(?P<other>[^/]+/[^/]+)/resolve/", path)
        name = named and (named["name"] or named["other"])
        if name not in hub.repos or (hub.repos[name].private and not writes):
            return 401 if not writes else 404, {"error": "Repository not found"}
        if method == "POST" and name.split("/")[0] != hub.owner and "/paths-info/" not in path:
            return 403, {"error": f"You don't have write access to {name}"}
        return self.of_repo(name, path, query, body)

    def of_repo(self, name: str, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Any] | None:
        hub = self.hub
        if re.fullmatch(rf"{API}(/revision/[^/]+)?", path):
            return hub.info(name)
        if tree := re.fullmatch(rf"{API}/tree/[^/]+/?(?P<folder>.*)", path):
            return hub.tree(name, tree["folder"], query.get("recursive", ["false"])[0].lower() in ("true", "1"))
        if re.fullmatch(rf"{API}/paths-info/[^/]+", path):
            asked = parse_qs(body.decode()).get("paths") if body[:1] != b"{" else json.loads(body)["paths"]
            return hub.paths(name, [asked] if isinstance(asked, str) else asked or [])
        if re.fullmatch(rf"{API}/preupload/[^/]+", path):
            return hub.preupload(name, json.loads(body))
        if re.fullmatch(rf"{API}/commit/[^/]+", path):
            return hub.commit(name, [json.loads(line) for line in body.splitlines()])
        if file := re.fullmatch(r"/datasets/[^/]+/[^/]+/resolve/[^/]+/(.+)", path):
            return self.resolve(hub.repos[name], file[1])
        return 404, {"error": f"nothing answers {path}"}

    def resolve(self, repo: Repo, path: str) -> tuple[int, Any] | None:
        if path not in repo.files:
            self.reply(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repo.head})
            return None
        data = repo.files[path]
        etag = sha256(data).hexdigest() if path.endswith(LARGE) else git_sha(data)
        headers = {"X-Repo-Commit": repo.head, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        status, part = 200, data
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
            status, part = 206, data[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self.reply(status, part, headers)
        return None

    def reply(self, status: int, answer: Any, headers: dict[str, str] | None = None) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        if isinstance(answer, dict) and answer.get("error") == "Repository not found":
            self.send_header("X-Error-Code", "RepoNotFound")
        if isinstance(answer, dict) and "error" in answer:
            self.send_header("X-Error-Message", answer["error"])
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/octet-stream" if data is answer else "application/json")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """The Hub at `hub.url`, in threads of this process."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Request", (_Request,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def in_use(cache: Path, token: str = "hf_test") -> Iterator[Hub]:
    """An empty Hub that this process asks, logged in, and caches what it gets in `cache`."""
    import datasets
    import huggingface_hub
    from huggingface_hub import constants

    with serve(Hub()) as hub, pytest.MonkeyPatch.context() as patched:
        patched.setenv("HF_TOKEN", token)
        patched.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        patched.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patched.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patched.setattr(constants, "HF_HUB_CACHE", str(cache))
        patched.setattr(constants, "HF_HUB_OFFLINE", False)
        patched.setattr(datasets.config, "HF_ENDPOINT", hub.url)
        patched.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        huggingface_hub.HfFileSystem.clear_instance_cache()
        yield hub

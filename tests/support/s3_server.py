"""An S3 that can fail: moto's server in another process, and in front of it a layer that counts, refuses and breaks off.

Which request fails follows from the seed, from what is asked and from how often it was asked before; not from the order in
which threads ask. Run as a script, it prints its port and serves until its standard input is closed.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

BUCKET = "bucket"
KINDS = ("500", "503", "reset", "short", "wait")
CONTROL = "/-/"
_ERROR = "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{}</Code><Message>on purpose</Message></Error>"
_SIGNED = "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
_CODES = {"500": "InternalError", "503": "SlowDown"}


class Failing:
    """A WSGI application that hands on what it is asked, notes it, and fails where it was told to."""

    def __init__(self, application: Any) -> None:
        self.application, self.log, self.asked = application, list[dict[str, Any]](), Counter[str]()
        self.told: dict[str, Any] = {}
        self.lock = threading.Lock()

    def __call__(self, environ: Mapping[str, Any], start: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith(CONTROL):
            return [self._control(environ, start)]
        what = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ['QUERY_STRING']}"
        byte_range = environ.get("HTTP_RANGE", "")
        one = {"what": what, "range": byte_range, "sent": 0, "fault": ""}
        with self.lock:
            times = self.asked[what + byte_range]
            self.asked[what + byte_range] += 1
            one["fault"] = self._fault(what, byte_range, times)
            self.log.append(one)
        if code := one["fault"] if one["fault"] not in KINDS[2:] else "":
            name, status = (_CODES[code], code) if code in _CODES else (code, "403")
            start(f"{status} no", [("Content-Type", "application/xml")])
            return [_ERROR.format(name).encode()]
        if one["fault"] == "wait":
            threading.Event().wait(3)  # longer than its clients do
        if one["fault"] in ("reset", "wait"):
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)  # the answer is no answer at all
            raise ConnectionError("on purpose")
        body = b"".join(self.application(environ, start))
        one["sent"] = len(body)
        return [body[: len(body) // 2]] if one["fault"] == "short" else [body]

    def _fault(self, what: str, byte_range: str, times: int) -> str:
        told = self.told
        if told.get("refuse") and len(self.log) >= told.get("after", 0) and told.get("only", "") in what:
            return str(told["refuse"])
        chance = random.Random(f"{told.get('seed')} {what} {byte_range} {times}")
        return chance.choice(told["kinds"]) if chance.random() < told.get("rate", 0) else ""

    def _control(self, environ: Mapping[str, Any], start: Any) -> bytes:
        start("200 OK", [("Content-Type", "application/json")])
        with self.lock:
            if environ["REQUEST_METHOD"] == "POST":
                self.told = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
                self.log.clear()
                self.asked.clear()
            return json.dumps(self.log).encode()


class S3Server:
    """The server from the outside, with one bucket in it."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.ask("PUT", f"/{BUCKET}")

    def environment(self) -> dict[str, str]:
        """What leads every S3 client to it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def put(self, key: str, data: bytes) -> None:
        self.ask("PUT", f"/{BUCKET}/{key}", data)

    def upload(self, folder: Path, prefix: str) -> str:
        """The files below a folder, as objects; returns their URL."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return f"s3://{BUCKET}/{prefix}"

    def get(self, key: str) -> bytes:
        return self.ask("GET", f"/{BUCKET}/{key}")

    def keys(self, prefix: str) -> set[str]:
        """Of all objects that begin so."""
        listed = self.ask("GET", f"/{BUCKET}", query=f"?list-type=2&prefix={prefix}").decode()
        return set(re.findall(r"<Key>([^<]*)</Key>", listed))

    def delete(self, key: str) -> None:
        self.ask("DELETE", f"/{BUCKET}/{key}")

    def fail(self, **told: Any) -> None:
        """rate, seed, kinds: how often what happens. refuse, after, only: an error code for what contains `only`.
        Without any, nothing fails any more. The log begins anew."""
        self.ask("POST", f"{CONTROL}told", json.dumps({"kinds": KINDS} | told).encode())

    def log(self) -> list[dict[str, Any]]:
        """Requests since `fail` was called: what, range, bytes sent, and the fault that was injected."""
        return list(json.loads(self.ask("GET", f"{CONTROL}log")))

    def ask(self, method: str, path: str, data: bytes | None = None, query: str = "") -> bytes:
        headers = {"Authorization": _SIGNED, "Content-Type": "application/octet-stream"}
        request = Request(self.endpoint + quote(path) + query, data, headers, method=method)
        with urlopen(request) as answer:
            found: bytes = answer.read()
        return found


@contextmanager
def running() -> Iterator[S3Server]:
    """A server of its own process, gone at the end."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdin
    assert process.stdout
    with process:
        try:
            yield S3Server(f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.stdin.close()
            process.send_signal(signal.SIGTERM)


def main() -> None:
    import logging

    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    application = Failing(DomainDispatcherApplication(create_backend_app))
    at_once = {"disable_nagle_algorithm": True}  # else each body waits for the client to acknowledge its headers: 40 ms
    handler = type("AtOnce", (WSGIRequestHandler,), at_once)
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=handler)
    print(server.port, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()

"""A headless Chromium, driven through its DevTools protocol over a pipe: no driver, no port, no package.

https://chromedevtools.github.io/devtools-protocol/ lists the methods and events.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions", "--mute-audio"),
)
CODES = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39}


def find() -> str | None:
    """The browser on PATH."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One tab. `events` are all that the browser reported: requests, console messages, exceptions."""

    def __init__(self, browser: str, profile: Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        command = [browser, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            command,
            preexec_fn=lambda: _as_3_and_4(theirs_in, theirs_out),
            close_fds=False,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out = os.fdopen(ours_in, "rb"), os.fdopen(ours_out, "wb")
        self._number, self._session, self._rest = 0, "", b""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self._session = ""
        self.call("Browser.close")
        self._in.close()
        self._out.close()
        self._process.wait()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A method of the protocol; its result. Raises RuntimeError for an error."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        self._out.write(json.dumps(message).encode() + b"\0")
        self._out.flush()
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = os.read(self._in.fileno(), 1 << 20)
            if not data:
                raise RuntimeError("Chromium has ended")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        return found

    def open(self, path: Path) -> None:
        """Load a page from a file and wait until it is there: nothing is left of what was open, nor of what was reported."""
        for url in ("about:blank", path.absolute().as_uri()):
            self.visit(url)

    def visit(self, url: str) -> None:
        """Load what is at an address and wait until it is there; what was reported before is forgotten."""
        self.events.clear()
        self.call("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, *names: str) -> None:
        """Keys as a person presses them: "j", "Enter", "ArrowRight"; returns when the page has answered."""
        for name in names:
            text = {"text": name} if len(name) == 1 else {"windowsVirtualKeyCode": CODES[name]}
            self.call("Input.dispatchKeyEvent", type="keyDown", key=name, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=name)
            self.run(
                "new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"
            )  # what follows has happened

    def drop(self, file: Path, selector: str) -> None:
        """A file, let go over the middle of an element, as a person drags it there."""
        middle = "(() => {{ const at = document.querySelector('{0}').getBoundingClientRect(); return [at.x + at.width / 2, at.y + at.height / 2]; }})()"
        x, y = self.run(middle.format(selector))
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def choose(self, file: Path, selector: str) -> None:
        """A file, taken by an input as a person chooses it."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def wait(self, condition: str) -> None:
        """Until a JavaScript expression is true, looked at whenever the page has drawn itself."""
        self.run(
            f"new Promise((done) => {{ const look = () => ({condition}) ? done() : setTimeout(look, 20); look(); }})"
        )

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """What is seen, or the whole page, as PNG."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    @property
    def requests(self) -> list[str]:
        """The addresses that were asked for, but for those in the page itself."""
        sent = (event["params"]["request"]["url"] for event in self._of("Network.requestWillBeSent"))
        return [url for url in sent if not url.startswith("data:")]

    @property
    def complaints(self) -> list[Any]:
        """Exceptions, errors on the console, and what the Content-Security-Policy stopped."""
        logged = [event["params"]["entry"] for event in self._of("Log.entryAdded")]
        return [event["params"] for event in self._of("Runtime.exceptionThrown")] + logged

    def _of(self, method: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event.get("method") == method]


def _as_3_and_4(reads: int, writes: int) -> None:
    """In the browser's process: the pipe's ends where it looks for them."""
    reads, writes = os.dup(reads), os.dup(writes)
    os.dup2(reads, 3)
    os.dup2(writes, 4)

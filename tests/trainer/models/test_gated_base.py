"""A base whose licence must be accepted on the Hub first, asked for by somebody who has not."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from trainer.errors import ModelError
from trainer.models.families import load_base
from trainer.recipe.recipe import Model


class _Gated(BaseHTTPRequestHandler):
    """As the Hub answers without a login: everybody may know what files there are, none may have one."""

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self) -> None:
        listed = self.path.startswith("/api/models/owner/gated")
        known = {"id": "owner/gated", "sha": "0" * 40, "siblings": [{"rfilename": "model_index.json"}], "gated": "auto"}
        data = json.dumps(known if listed else {"error": "Access to model owner/gated is restricted."}).encode()
        self.send_response(200 if listed else 401)
        if not listed:
            self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = answer


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Asked by this process instead of the real one."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Gated) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield
        server.shutdown()


@pytest.mark.usefixtures("hub")
def test_a_gated_base_says_what_to_do(tmp_path: Path) -> None:
    """The error is one line, names the base, says where its licence is accepted, and the login."""
    with pytest.raises(
        ModelError, match=r"'owner/gated'.*licence must be accepted on its page on the Hub, and `hf auth login`"
    ) as told:
        load_base(Model(base="owner/gated"))
    assert "\n" not in str(told.value)

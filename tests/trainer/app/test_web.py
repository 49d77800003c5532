"""What the page asks for: photographs become their conditions, settings two pictures, and everything else a sentence."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import sleep
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from starlette.testclient import TestClient
from support.pictures import encoded
from support.trainer_results import CANNY, make_result

import condprep
from condprep.annotation.pictures import Annotated
from condprep.errors import AnnotatorError
from trainer.app import generations, kept, web
from trainer.app.drawing import Drawing
from trainer.app.serve import open_page
from trainer.inference.pipeline import sample

COFFEE = encoded(data.coffee(), "PNG")  # 600 x 400
ASKED: dict[str, Any] = {"prompt": "a cup", "strength": 1.0, "seed": 3, "steps": 2, "cfg": 3.0}


@pytest.fixture
def client(page: web.Page) -> Iterator[TestClient]:
    """The page, begun anew with the networks that are loaded."""
    begun = web.Page(
        page._html, page._conditions, generations.Generations(Drawing(page._drawn._drawing._pipe), said.append)
    )
    said.clear()
    with TestClient(begun.application("127.0.0.1"), base_url="http://127.0.0.1:7860") as opened:
        yield opened


said: list[str] = []


def picture(client: TestClient, address: str) -> np.ndarray:
    answer = client.get(address)
    assert answer.headers["content-type"] == "image/png"
    return np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"))


def drop(client: TestClient, sent: bytes = COFFEE) -> dict[str, Any]:
    answer = client.post("/photographs", content=sent)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ask(client: TestClient, **changed: Any) -> dict[str, Any]:
    answer = client.post("/generations", json={"photograph": drop(client)["name"], **ASKED, **changed})
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ended(client: TestClient, name: str) -> dict[str, Any]:
    while (found := client.get(f"/generations/{name}").json())["state"] in ("waiting", "running"):
        sleep(0.01)
    return dict(found)


def test_the_condition_is_that_of_the_training(client: TestClient, output: Path) -> None:
    """Photograph and map are those of `condprep.annotate(like=OUTPUT)`, crop and parameters included."""
    (expected,) = condprep.annotate([COFFEE], like=output)
    assert isinstance(expected, Annotated)
    found = drop(client)
    assert (found["width"], found["height"]) == (64, 64)
    np.testing.assert_array_equal(picture(client, found["pictures"]["photograph"]), np.asarray(expected.image))
    wanted = np.asarray(expected.maps["canny"].convert("RGB"))
    np.testing.assert_array_equal(picture(client, found["pictures"]["condition"]), wanted)


def test_the_pictures_are_those_of_sample(client: TestClient, output: Path) -> None:
    """With the ControlNet the very picture of `trainer.sample`; that of the base is another one, and does not know the strength."""
    first = ended(client, ask(client)["name"])
    assert (first["state"], first["step"], first["steps"]) == ("done", 4, 4)
    condition = Image.fromarray(picture(client, first["photograph"]["pictures"]["condition"]))
    how = {"seed": 3, "steps": 2, "cfg": 3.0, "device": "cpu"}
    drawn = {arm: picture(client, address) for arm, address in first["pictures"].items()}
    np.testing.assert_array_equal(drawn["controlnet"], np.asarray(sample(output, condition, "a cup", **how)))
    assert (drawn["controlnet"] != drawn["base"]).any()
    weak = ended(client, ask(client, strength=0.0)["name"])
    assert weak["steps"] == 2, "the base's picture is there already"
    for arm in ("controlnet", "base"):
        np.testing.assert_array_equal(picture(client, weak["pictures"][arm]), drawn["base"])


def test_a_result_stays_for_a_reload(client: TestClient) -> None:
    """By its name there are the settings, the photograph and the pictures; the newest stay, the oldest goes."""
    found = ended(client, ask(client, seed=4, negative_prompt="a saucer")["name"])
    assert found["asked"] == {**ASKED, "seed": 4, "negative_prompt": "a saucer"}
    assert client.get(f"/photographs/{found['photograph']['name']}").json() == found["photograph"]
    others = [drop(client, encoded(data.coffee()[:64, :64], "PNG")) for _ in range(kept.KEPT + 1)]
    gone = client.get(f"/photographs/{others[0]['name']}")
    assert (gone.status_code, "keeps the newest" in gone.json()["error"]) == (404, True)
    assert picture(client, found["photograph"]["pictures"]["condition"]).shape == (64, 64, 3), "of a result that stays"


@pytest.mark.parametrize(
    ("sent", "status", "sentence"),
    [
        (b"", 400, "empty file"),
        (b"no picture at all", 400, "not a picture of a known format: starts with b'no picture a'"),
        (COFFEE[:-9000], 400, "truncated PNG"),
        (encoded(np.zeros((4, 4, 3), np.uint8), "PNG"), 400, "too small: 4 x 4 px would be enlarged 16.00 x (limit 2)"),
    ],
    ids=["empty", "text", "cut", "small"],
)
def test_what_cannot_be_used_is_a_sentence(client: TestClient, sent: bytes, status: int, sentence: str) -> None:
    """That of the reject that a build would have made of it."""
    answer = client.post("/photographs", content=sent)
    assert (answer.status_code, answer.json()["error"]) == (status, sentence)


def test_what_is_too_large_is_refused_unread(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its pixels, which its header says, and by its bytes, of which no more than the limit is taken in."""
    header = b"IHDR" + (20_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    chunk = b"\0\0\0\r" + header + crc32(header).to_bytes(4, "big")
    hollow = client.post("/photographs", content=b"\x89PNG\r\n\x1a\n" + chunk + COFFEE[33:])
    monkeypatch.setattr(web, "MOST_BYTES", 1000)
    heavy = client.post("/photographs", content=COFFEE)
    assert (heavy.status_code, heavy.json()["error"]) == (413, "more than 0.001 MB")
    assert (hollow.status_code, hollow.json()["error"]) == (413, "20000 x 20000 px = 400 Mpx > limit 200 Mpx")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"steps": 0}, "steps: Input should be greater than or equal to 1"),
        ({"strength": 3}, "strength: Input should be less than or equal to 2"),
        ({"seed": "x"}, "seed: Input should be a valid integer"),
        ({"prompt": "a" * 2001}, "prompt: String should have at most 2000 characters"),
        ({"path": "/etc"}, "path: Extra inputs are not permitted"),
    ],
)
def test_settings_have_limits(client: TestClient, changed: dict[str, Any], sentence: str) -> None:
    """Whatever the form lets through; the sentence names the setting."""
    answer = client.post("/generations", json={"photograph": "a", **ASKED, **changed})
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]
    assert client.post("/generations", json={"photograph": "a", **ASKED}).status_code == 404
    assert client.post("/generations", content=b"{").status_code == 400


@pytest.fixture
def held(page: web.Page, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """The first step of each generation waits until this is called."""
    gate = threading.Event()
    drawing = type(page._drawn._drawing)
    call = drawing.__call__

    def slow(self: Any, condition: Any, asked: Any, stepped: Callable[[], None], drawn: Any) -> None:
        def wait() -> None:
            assert gate.wait(60)
            stepped()

        call(self, condition, asked, wait, drawn)

    monkeypatch.setattr(drawing, "__call__", slow)
    yield gate.set
    gate.set()


def test_one_at_a_time_and_a_queue_with_an_end(client: TestClient, held: Callable[[], None]) -> None:
    """Others wait in their order and know how many are ahead; one too many is refused; what is cancelled is not drawn."""
    names = [ask(client, seed=100)["name"]]
    while client.get(f"/generations/{names[0]}").json()["state"] == "waiting":
        sleep(0.01)
    names += [ask(client, seed=101 + n)["name"] for n in range(generations.WAITING)]
    assert [client.get(f"/generations/{name}").json()["ahead"] for name in names] == list(range(len(names)))
    photograph = drop(client)["name"]
    refused = client.post("/generations", json={"photograph": photograph, **ASKED})
    assert (refused.status_code, "8 generations are waiting" in refused.json()["error"]) == (503, True)
    cancelled = [client.delete(f"/generations/{name}").json()["state"] for name in names[1:]]
    assert set(cancelled) == {"cancelled"}
    assert client.delete(f"/generations/{names[0]}").json()["state"] == "running"
    held()
    assert ended(client, names[0]) | {"photograph": 0, "asked": 0} == {
        "name": names[0], "photograph": 0, "asked": 0, "state": "cancelled", "ahead": 0, "step": 1, "steps": 4,
        "problem": "", "pictures": {},
    }  # fmt: skip
    assert ended(client, ask(client, seed=200)["name"])["state"] == "done"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (torch.OutOfMemoryError("2 GB at /root/x"), "there is too little memory for pictures of 64 x 64 px"),
        (ValueError("broken /root/x"), "the pictures could not be drawn (ValueError)"),
    ],
)
def test_a_failure_is_told_without_paths(
    client: TestClient, page: web.Page, monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str
) -> None:
    """The page says what it means, the terminal what was raised; the next generation is drawn."""

    def fails(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(type(page._drawn._drawing), "__call__", fails)
        found = ended(client, ask(client)["name"])
    assert found["state"] == "failed"
    assert found["problem"].startswith(sentence)
    assert "/root" not in found["problem"]
    assert said == [f"a generation failed: {type(error).__name__}: {error}"]
    assert ended(client, ask(client)["name"])["state"] == "done"


def test_only_the_page_itself_may_ask(client: TestClient) -> None:
    """Not one of another origin, not under a name that DNS rebinding gave this machine; no site may frame it."""
    other = {"origin": "http://evil.example"}
    for answer in (
        client.post("/photographs", content=COFFEE, headers=other),
        client.post("/generations", json=ASKED, headers={"origin": "http://127.0.0.1:9999"}),
        client.delete("/generations/x", headers={"origin": "null"}),
    ):
        assert answer.status_code == 403
    assert client.get("/", headers={"host": "evil.example:7860"}).status_code == 400
    own = client.post("/photographs", content=COFFEE, headers={"origin": "http://127.0.0.1:7860"})
    assert own.status_code == 201
    assert own.headers["content-security-policy"] == "frame-ancestors 'none'"
    assert own.headers["cache-control"] == "no-store"


def test_the_page_asks_nobody_else_and_names_no_path(client: TestClient, output: Path) -> None:
    """Style and script are in it, its policy allows its own address alone, and of folders it says their names."""
    shown = client.get("/").text
    assert "connect-src 'self'; style-src 'sha256-" in shown
    assert "default-src 'none'" in shown
    assert "//" not in shown.replace("// ", "").replace("data:,", "")
    assert str(output.parent) not in shown
    assert all(word in shown for word in ("Canny ControlNet", "canny, high 200, low 50", "20 updates", 'value="2"'))


def test_maps_of_others_are_dropped_themselves(tmp_path_factory: pytest.TempPathFactory, output: Path) -> None:
    """Where condprep did not make the maps of the training there is nothing to annotate with: a map is taken, and one of
    another kind has a note."""
    bare = make_result(output.parent / "imported", annotators=[])
    page = open_page(bare, device="cpu")
    with TestClient(page.application("127.0.0.1"), base_url="http://127.0.0.1") as client:
        assert "Drop a canny map" in client.get("/").text
        found = drop(client)
        assert [*found["pictures"]] == ["condition"]
        assert found["note"] == "the condition looks like picture, but this ControlNet was trained on canny"


def test_an_annotator_that_cannot_be_had_is_said_with_this_commands_options(output: Path) -> None:
    """Other weights than those on record, or a name that nobody vouches for: each with the option that mends it."""
    for changed, option in (
        ({"weights": {"a.pth": "0" * 64}}, "--annotator-weights at the same files"),
        ({"annotator": "depth", "variant": "somebody/model"}, "--trust-annotator depth:somebody/model"),
    ):
        other = make_result(output.parent / option[:9], annotators=[CANNY | changed])
        with pytest.raises(AnnotatorError, match=option):
            open_page(other, device="cpu")


def test_the_size_is_that_of_the_training(output: Path) -> None:
    """A dataset of another size was scaled when it was trained on, and so is what is dropped."""
    larger = make_result(output.parent / "larger", resolution=128)
    pair = open_page(larger, device="cpu")._conditions(COFFEE)
    assert pair.condition.size == (128, 128)
    assert set(np.unique(np.asarray(pair.condition))) == {0, 255}, "edges stay edges"

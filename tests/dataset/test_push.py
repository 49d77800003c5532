"""A dataset on the Hub: pushed, stopped and pushed on, refused, and loaded again. The Hub is a server of this process."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from datasets import Image, load_dataset, load_from_disk
from support import hub as hubs
from support.command import Command
from support.hub import Hub

import condprep
from condprep.dataset.layout import Layout
from condprep.dataset.push import dataset_files
from condprep.errors import DatasetError, PassingFault, TargetFault, UsageError
from condprep.runtime import retry

NAME = "user/pairs"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A Hub with nothing on it, to which this process is logged in; nobody waits between two attempts."""
    with hubs.in_use(tmp_path / "cache") as hub:
        monkeypatch.setattr(retry, "pause", lambda seconds: None)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        yield hub


@pytest.fixture(scope="module")
def built(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A small dataset of several files in each split, as Arrow or Parquet."""
    made: dict[str, Path] = {}

    def make(form: str) -> Path:
        if form not in made:
            out = tmp_path_factory.mktemp("push") / form
            condprep.build(photographs, out, "canny", resolution=64, validation=0.3, shard_rows=4, format=form)
            made[form] = out
        return made[form]

    return make


def brought(dataset: Path) -> dict[str, bytes]:
    """What lies on the Hub afterwards, but for the card."""
    return {name: (dataset / name).read_bytes() for name in dataset_files(Layout(dataset)) if name != "README.md"}


def there(hub: Hub, name: str = NAME) -> dict[str, bytes]:
    return {path: data for path, data in hub.repos[name].files.items() if path not in (".gitattributes", "README.md")}


def plain_rows(rows: object) -> list[dict[str, object]]:
    """Rows whose pictures are their bytes."""
    for column in ("image", "conditioning_image"):
        rows = rows.cast_column(column, Image(decode=False))  # type: ignore[attr-defined]
    return list(rows)  # type: ignore[call-overload]


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_a_pushed_dataset_is_loaded_by_its_name(
    hub: Hub, built: Callable[[str], Path], form: str, tmp_path: Path
) -> None:
    """`load_dataset(OWNER/NAME)` gives the rows of the dataset on the disk, split by split, in order, and the card says how."""
    dataset = built(form)
    result = condprep.push(dataset, NAME)
    assert (result.url, result.sent) == (f"{hub.url}/datasets/{NAME}", result.files)
    assert there(hub) == brought(dataset)
    loaded = load_dataset(NAME, cache_dir=str(tmp_path / "loaded"))
    local = (
        load_dataset(str(dataset), cache_dir=str(tmp_path / "local")) if form == "parquet" else load_from_disk(dataset)
    )
    assert {split: plain_rows(rows) for split, rows in loaded.items()} == {
        split: plain_rows(rows) for split, rows in local.items()
    }
    assert f'load_dataset("{NAME}")' in hub.repos[NAME].files["README.md"].decode()


def test_a_second_push_sends_nothing(hub: Hub, built: Callable[[str], Path]) -> None:
    """What is there is not sent again, and makes no commit."""
    first = condprep.push(built("arrow"), NAME)
    sent = list(hub.puts)
    second = condprep.push(built("arrow"), NAME)
    assert (second.sent, second.commit, hub.puts, hub.commits) == (0, first.commit, sent, 1)


@pytest.mark.parametrize("stopped_at", [1, 2, 4])
def test_a_stopped_push_goes_on(hub: Hub, built: Callable[[str], Path], stopped_at: int) -> None:
    """Wherever it stops nothing is seen on the Hub, and the next push sends each file that had arrived no second time."""
    dataset, puts = built("arrow"), 0

    def refuse(method: str, path: str) -> int | None:
        nonlocal puts
        puts += method == "PUT"
        return 507 if method == "PUT" and puts > stopped_at else None

    hub.fault = refuse
    with pytest.raises(TargetFault, match="the same command goes on"):
        condprep.push(dataset, NAME)
    assert there(hub) == {}
    assert len(hub.puts) >= stopped_at
    hub.fault = lambda method, path: None
    condprep.push(dataset, NAME)
    assert there(hub) == brought(dataset)
    assert len(hub.puts) == len(set(hub.puts))
    large = {sha256(data).hexdigest() for path, data in brought(dataset).items() if path.endswith(hubs.LARGE)}
    assert set(hub.puts) == large


@pytest.mark.parametrize("what", ["README.md", "train/state.json"])
def test_a_dataset_that_changes_meanwhile_is_not_pushed(
    hub: Hub, built: Callable[[str], Path], tmp_path: Path, what: str
) -> None:
    """Rows of one state and records of another make no dataset: nothing is seen on the Hub, and the next push brings what is there."""
    dataset = shutil.copytree(built("arrow"), tmp_path / "ds")

    def change(method: str, path: str) -> None:
        if method == "PUT":
            os.utime(dataset / what, ns=(0, 0))

    hub.fault = change
    with pytest.raises(DatasetError, match="was changed while it was sent"):
        condprep.push(dataset, NAME)
    assert there(hub) == {}
    assert condprep.push(dataset, NAME).sent == len(brought(dataset)) + 1


@pytest.mark.parametrize("fault", [500, 503, 429, hubs.RESET])
def test_what_passes_is_tried_again(hub: Hub, built: Callable[[str], Path], fault: int) -> None:
    """Each request fails once: the dataset arrives whole, and by one commit."""
    failed: set[str] = set()

    def fail_once(method: str, path: str) -> int | None:
        request = f"{method} {path}"
        return None if request in failed else failed.add(request) or fault

    hub.fault = fail_once
    condprep.push(built("arrow"), NAME)
    assert there(hub) == brought(built("arrow"))
    assert hub.commits == 1


def test_an_answer_that_is_lost_after_the_commit_makes_no_second_one(hub: Hub, built: Callable[[str], Path]) -> None:
    """The dataset was committed and the connection broke: the push finds it there."""
    commit, lost = hub.commit, []

    def commit_and_break(name: str, lines: list[dict[str, object]]) -> tuple[int, object]:
        answer = commit(name, lines)
        return answer if lost else (lost.append(name) or 504, {"error": "gateway timeout"})

    hub.commit = commit_and_break  # type: ignore[method-assign]
    condprep.push(built("arrow"), NAME)
    assert (hub.commits, there(hub)) == (1, brought(built("arrow")))


def test_a_hub_that_never_answers_is_a_fault_that_passes(hub: Hub, built: Callable[[str], Path]) -> None:
    """503 for ever ends with what was asked, how often, and that the same command goes on."""
    hub.fault = lambda method, path: 503
    with pytest.raises(PassingFault, match=r"answers 503 for user/pairs.*the same command goes on"):
        condprep.push(built("arrow"), NAME)


def test_a_login_that_expires_in_the_middle_stops_at_once(hub: Hub, built: Callable[[str], Path]) -> None:
    """401 from the first upload on: one line with the remedy, nothing is seen, and a new login goes on."""
    hub.fault = lambda method, path: 401 if "/commit/" in path else None
    with pytest.raises(UsageError, match="hf auth login"):
        condprep.push(built("arrow"), NAME)
    sent, hub.fault = list(hub.puts), lambda method, path: None
    condprep.push(built("arrow"), NAME)
    assert (hub.puts, there(hub)) == (sent, brought(built("arrow")))


@pytest.mark.parametrize(
    ("name", "token", "said"),
    [
        ("pairs", None, "OWNER/NAME"),
        ("user/a b", None, "no name on the Hub"),
        ("user/pairs", "", "hf auth login"),
        ("user/pairs", "hf_wrong", "hf auth login"),
        ("others/pairs", None, "others"),
    ],
)
def test_refusals_are_one_line(
    hub: Hub, built: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, name: str, token: str | None, said: str
) -> None:
    """A name that is none, no login, a wrong one, no permission: one line that says what would be right, nothing sent."""
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", os.devnull)
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UsageError) as refused:
        condprep.push(built("arrow"), name)
    assert re.search(said, str(refused.value))
    assert "\n" not in str(refused.value)
    assert hub.puts == []


def test_a_name_that_is_taken_is_refused(hub: Hub, built: Callable[[str], Path]) -> None:
    """Files of others are named and stay, with and without --overwrite; rows of others are never mixed with ours."""
    hub.repos[NAME] = hubs.Repo(files={"README.md": b"mine", "notes.txt": b"mine"})
    with pytest.raises(UsageError, match=r"taken by something else.*README\.md, notes.txt"):
        condprep.push(built("arrow"), NAME)
    condprep.push(built("arrow"), NAME, overwrite=True)
    assert there(hub) == brought(built("arrow")) | {"notes.txt": b"mine"}
    hub.repos[NAME].files["train/data-of-others.arrow"] = b"rows"
    with pytest.raises(UsageError, match=r"rows of others.*data-of-others"):
        condprep.push(built("arrow"), NAME, overwrite=True)


def test_another_dataset_takes_the_place_of_the_first(
    hub: Hub, built: Callable[[str], Path], photographs: Path, tmp_path: Path
) -> None:
    """Of the dataset that was there nothing is left, be it of other files or of another format."""
    condprep.push(built("arrow"), NAME)
    with pytest.raises(UsageError, match="taken"):
        condprep.push(built("parquet"), NAME)
    condprep.push(built("parquet"), NAME, overwrite=True)
    assert there(hub) == brought(built("parquet"))
    assert load_dataset(NAME, cache_dir=str(tmp_path / "loaded"))["train"].num_rows == sum(
        file["rows"]
        for file in json.loads((built("parquet") / ".condprep/done.json").read_text())["files"]
        if file["split"] == "train"
    )


def test_private_is_private(hub: Hub, built: Callable[[str], Path]) -> None:
    """It is created private; one that is there for all to see is not pushed to with --private."""
    condprep.push(built("arrow"), NAME, private=True)
    assert hub.repos[NAME].private
    hub.repos["user/public"] = hubs.Repo()
    with pytest.raises(UsageError, match="for all to see"):
        condprep.push(built("arrow"), "user/public", private=True)
    assert there(hub, "user/public") == {}


def test_only_a_finished_dataset_goes(hub: Hub, built: Callable[[str], Path], raw: Path, tmp_path: Path) -> None:
    """Pictures, a build that has not finished, and a link that would publish what it leads to are refused."""
    with pytest.raises(UsageError, match="no finished dataset of condprep"):
        condprep.push(raw, NAME)
    half = tmp_path / "half"
    shutil.copytree(built("arrow"), half)
    secret = half / "train" / "dataset_info.json"
    secret.unlink()
    secret.symlink_to(tmp_path / "secret")
    with pytest.raises(UsageError, match="is a link"):
        condprep.push(half, NAME)
    (half / ".condprep" / "done.json").unlink()
    with pytest.raises(UsageError, match="not finished"):
        condprep.push(half, NAME)
    assert hub.repos == {}


def test_the_command_builds_and_pushes(hub: Hub, raw: Path, tmp_path: Path, command: Command) -> None:
    """`build --push-to-hub` uploads what it built; the same command again sends nothing; `push` says the same in JSON."""
    build = ["build", str(raw), "-a", "canny", "-o", str(tmp_path / "ds"), "--resolution", "64"]
    first = command(*build, "--push-to-hub", NAME, "--private")
    assert first.code == 0
    assert f"{hub.url}/datasets/{NAME}" in first.err
    assert there(hub) == brought(tmp_path / "ds")
    assert hub.repos[NAME].private
    again = command("push", str(tmp_path / "ds"), NAME, "--json")
    assert json.loads(again.out)["sent"] == 0
    assert command(*build, "--private").code == 2

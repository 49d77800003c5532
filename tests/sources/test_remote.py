"""Sources at URLs: the same dataset as from a disk, each byte about once, and no fault of storage costs a picture."""

from __future__ import annotations

import hashlib
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.command import Command
from support.s3_server import BUCKET, S3Server
from support.thorough import slow_ones

import condprep
from condprep.errors import BuildFailed, DatasetError, PassingFault, SourceError, StorageFault
from condprep.sources.open import open_source

PICTURES = 9


def draw(folder: Path) -> None:
    """A few small pictures in two folders, some captioned, and what is no picture."""
    random = np.random.default_rng(3)
    for number in range(PICTURES):
        path = folder / ("a", "b.c", "")[number % 3] / f"{number} ä.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (80, 72, 3), np.uint8)).save(path)
        if number % 2:
            path.with_suffix(".txt").write_text(f"picture {number}")
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "notes.md").write_text("notes")
    (folder / ".hidden.png").write_bytes(b"hidden")


def imagefolder(folder: Path) -> None:
    draw(folder)
    rows = [
        {"file_name": path.relative_to(folder).as_posix(), "text": [path.stem, "again"]}
        for path in sorted(folder.rglob("*.png"))
    ]
    rows += [
        {"file_name": name} for name in ("none.png", "../outside.png", "s3://bucket/other.png", "file:///etc/passwd")
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def tars(folder: Path) -> None:
    draw(folder.parent / "drawn")
    files = sorted((folder.parent / "drawn").rglob("*.*"))
    folder.mkdir()
    for number in range(2):
        with tarfile.open(folder / f"{number:02d}.tar", "w") as tar:
            for path in (path for path in files if path.is_file() and path.stem[:1].isdigit()):
                if int(path.stem[0]) % 2 == number:
                    tar.add(path, path.name)


def zips(folder: Path) -> None:
    draw(folder.parent / "drawn")
    folder.mkdir()
    with zipfile.ZipFile(folder / "all.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted((folder.parent / "drawn").rglob("*.*")):
            if path.is_file():
                packed.write(path, path.name)


def parquet(folder: Path) -> None:
    from datasets import Dataset

    draw(folder.parent / "drawn")
    files = [path for path in sorted((folder.parent / "drawn").rglob("*.png")) if path.stem[:1].isdigit()]
    rows = [
        {"image": {"bytes": path.read_bytes(), "path": None}, "text": path.stem, "other": "x" * 50} for path in files
    ]
    for split, own in (("train", rows[:-2]), ("test", rows[-2:])):
        (folder / "data").mkdir(parents=True, exist_ok=True)
        Dataset.from_list(own).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet", batch_size=3)


def saved(folder: Path) -> None:
    parquet(folder.parent / "parquet")
    from datasets import load_dataset

    load_dataset("parquet", data_files=str(folder.parent / "parquet/data/train*"))["train"].save_to_disk(folder)


KINDS: dict[str, tuple[Callable[[Path], None], dict[str, str]]] = {
    "folder": (draw, {}),
    "imagefolder": (imagefolder, {}),
    "webdataset": (tars, {}),
    "zip": (zips, {}),
    "parquet": (parquet, {"split": "train"}),
    "saved": (saved, {}),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The source of a kind on this disk; made once, and not to be changed."""
    made: dict[str, Path] = {}

    def source(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind) / "source"
            KINDS[kind][0](made[kind])
        return made[kind]

    return source


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, which nothing is left of."""
    monkeypatch.setenv("CONDPREP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def in_memory() -> Iterator[Callable[[Path, str], str]]:
    """Puts a folder into memory://, which is empty before and after."""
    files = fsspec.filesystem("memory")

    def upload(folder: Path, prefix: str) -> str:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                files.pipe_file(f"/{BUCKET}/{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return f"memory://{BUCKET}/{prefix}"

    files.store.clear()
    yield upload
    files.store.clear()


def built(source: object, out: Path, **options: object) -> dict[str, str]:
    """Builds with Canny at 64 px, and what came of it: a digest of each file of rows, and of the rejects."""
    result = condprep.build(str(source), out, "canny", resolution=64, shard_rows=4, workers=4, **options)
    assert result.inputs == sum(result.rows.values()) + sum(result.rejects.values())
    files = [*out.rglob("*.arrow"), *out.rglob("rejects.jsonl")]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("store", ["s3", "memory"])
def test_a_url_gives_the_dataset_that_a_disk_gives(
    kind: str, store: str, sources: Callable[[str], Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Kind by kind: the same rows, names, captions and rejects, to the byte."""
    options = KINDS[kind][1]
    source = sources(kind)
    if store == "s3":
        url = request.getfixturevalue("s3").upload(source, f"same/{kind}")
    else:
        url = request.getfixturevalue("in_memory")(source, f"same/{kind}")
    assert open_source(url, **options).kind == open_source(source, **options).kind
    assert built(url, tmp_path / "remote", **options) == built(source, tmp_path / "local", **options)


@pytest.mark.parametrize("kind", ["parquet", *slow_ones(["folder", "webdataset"])])
def test_faults_that_pass_cost_nothing(kind: str, s3: S3Server, sources: Callable[[str], Path], tmp_path: Path) -> None:
    """500, 503, resets and short answers, in a fifth of the requests: nothing is lost, nothing doubled, the same bytes."""
    options = KINDS[kind][1]
    url = s3.upload(sources(kind), f"faults/{kind}")
    s3.fail(rate=0.2, seed=1, kinds=["500", "503", "reset", "short"])
    found = built(url, tmp_path / "remote", **options)
    assert any(one["fault"] for one in s3.log())
    s3.fail()
    assert found == built(sources(kind), tmp_path / "local", **options)


def test_each_byte_of_a_tar_is_read_about_once(s3: S3Server, sources: Callable[[str], Path], tmp_path: Path) -> None:
    """A tar is listed by its headers and read member by member: a request for each, none for a whole, no byte twice."""
    tar = tmp_path / "big.tar"
    noise = np.random.default_rng(0).integers(0, 255, (150, 256, 256, 3), np.uint8)[:12]
    with tarfile.open(tar, "w") as packed:
        for number, picture in enumerate(noise):
            Image.fromarray(picture).save(tmp_path / f"{number}.png")
            packed.add(tmp_path / f"{number}.png", f"{number}.png")
    size = tar.stat().st_size
    s3.put("once/big.tar", tar.read_bytes())
    s3.fail()
    built(f"s3://{BUCKET}/once/big.tar", tmp_path / "ds")
    asked = [one for one in s3.log() if one["what"].startswith("GET /bucket/once/big.tar")]
    assert all(one["range"] for one in asked)
    assert size <= sum(one["sent"] for one in asked) <= 1.15 * size
    assert len(asked) <= 2 * len(noise) + 2
    assert max(one["sent"] for one in asked) < size / 4
    assert len(s3.log()) - len(asked) <= 2  # and what else was asked is not its content


@pytest.mark.parametrize("kind", ["folder", "webdataset"])
def test_a_resumed_build_lists_again_and_reads_only_what_is_missing(
    kind: str, s3: S3Server, sources: Callable[[str], Path], tmp_path: Path
) -> None:
    """A finished build asks what lies there, to know that nothing changed; for no picture, and no tar's headers."""
    url = s3.upload(sources(kind), f"again/{kind}")
    before = built(url, tmp_path / "ds")
    s3.fail()
    assert built(url, tmp_path / "ds") == before
    assert [one["what"].partition("?")[0] for one in s3.log()] == [f"GET /{BUCKET}"]


def test_a_tar_that_was_replaced_between_two_runs_is_noticed(
    s3: S3Server, sources: Callable[[str], Path], tmp_path: Path
) -> None:
    """Its listing is not made again to see that: another ETag is enough, be it as long as before."""
    url = s3.upload(sources("webdataset"), "between")
    built(url, tmp_path / "ds")
    data = s3.get("between/00.tar")
    s3.put("between/00.tar", data[:-1] + b"x")
    with pytest.raises(DatasetError, match="the inputs changed since this build began"):
        built(url, tmp_path / "ds")


def test_columns_that_are_not_asked_for_are_not_fetched(s3: S3Server, tmp_path: Path) -> None:
    """Of Parquet, the footer and the pictures' column come, each row group once, and the rest of the file does not."""
    from datasets import Dataset

    random = np.random.default_rng(1)
    pictures = [random.integers(0, 255, (64, 64, 3), np.uint8) for _ in range(12)]
    rows = []
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
        data = (tmp_path / f"{number}.png").read_bytes()
        rows.append({"other": random.bytes(200_000), "image": {"bytes": data, "path": None}})
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet", batch_size=4)
    s3.put("columns/rows.parquet", (tmp_path / "rows.parquet").read_bytes())
    s3.fail()
    built(f"s3://{BUCKET}/columns/rows.parquet", tmp_path / "ds", image_column="image")
    sent = [one["sent"] for one in s3.log() if one["range"]]
    assert pq.read_metadata(tmp_path / "rows.parquet").num_row_groups == 3
    assert len(sent) == 1 + 3  # the footer, and each row group
    assert sum(sent) < (tmp_path / "rows.parquet").stat().st_size / 4


@pytest.mark.parametrize("kind", ["webdataset", *slow_ones(["folder", "zip", "parquet"])])
def test_credentials_that_expire_in_the_middle_stop_the_build(
    kind: str, s3: S3Server, sources: Callable[[str], Path], tmp_path: Path
) -> None:
    """It says what to do and writes no reject for it; once they are renewed, the same command goes on."""
    options = KINDS[kind][1]
    url = s3.upload(sources(kind), f"expired/{kind}")
    s3.fail(refuse="ExpiredToken", after=3, only="/bucket/expired/")
    with pytest.raises(StorageFault, match="aws sso login"):
        built(url, tmp_path / "ds", **options)
    s3.fail()
    found = built(url, tmp_path / "ds", **options)
    assert found == built(sources(kind), tmp_path / "local", **options)


def test_storage_that_stays_away_gives_up_shards_and_no_pictures(
    s3: S3Server, sources: Callable[[str], Path], tmp_path: Path
) -> None:
    """What fails six times gives up its shard; nothing of it is a reject, and the same command goes on."""
    url = s3.upload(sources("folder"), "away")
    s3.fail(refuse="500", only="/bucket/away/")
    with pytest.raises(PassingFault, match="the same command goes on"):
        built(url, tmp_path / "ds")
    s3.fail()
    assert built(url, tmp_path / "ds") == built(sources("folder"), tmp_path / "local")


def test_an_object_that_is_gone_is_a_missing_file(s3: S3Server, sources: Callable[[str], Path], tmp_path: Path) -> None:
    """What was listed and is not there any more costs that picture alone, as on a disk."""
    url = s3.upload(sources("folder"), "gone")
    source = open_source(url)
    entries = list(source.entries())
    s3.delete("gone/2 ä.png")
    codes = {}
    for entry in entries:
        try:
            source.read(entry)
        except condprep.errors.Rejected as rejected:
            codes[entry.name] = rejected.code
    assert codes == {"2 ä.png": "missing-file"}


@pytest.mark.parametrize("kind", ["folder", "webdataset", "zip", "parquet"])
def test_an_object_that_is_replaced_while_it_is_read_stops_the_build(
    kind: str, s3: S3Server, sources: Callable[[str], Path]
) -> None:
    """Rows of two versions are not mixed: the build stops, as a resumed one does when its inputs changed."""
    options = KINDS[kind][1]
    url = s3.upload(sources(kind), f"replaced/{kind}")
    source = open_source(url, **options)
    first = next(entry for entry in source.entries() if not entry.problem)
    for path in sources(kind).rglob("*.*"):
        if path.is_file():
            name = path.relative_to(sources(kind)).as_posix()
            s3.put(f"replaced/{kind}/{name}", path.read_bytes() + b"more")
    with pytest.raises(SourceError, match="another object than the one that was listed"):
        source.read(first)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://nowhere/raw", "there is no bucket of 's3://nowhere/raw'"),
        ("s3://nowhere/{0..3}.tar", "there is no bucket"),
        ("s3://bucket/nothing/here", "there is no file or folder"),
        ("s3://bucket/nothing.tar", "the tar 's3://bucket/nothing.tar' is missing"),
        ("s3://", "names no bucket"),
        ("ftp://host/raw", "no kind of storage"),
        ("hf://owner/name", "give hf://datasets/OWNER/NAME"),
    ],
)
def test_a_url_that_leads_nowhere_is_one_line(
    s3: S3Server, command: Command, url: str, said: str, tmp_path: Path
) -> None:
    """Exit code 2, one sentence, no trace."""
    ended = command("build", url, "-a", "canny", "--out", tmp_path / "ds")
    assert ended.code == 2
    assert said in " ".join(ended.err.split())


def test_a_passing_fault_is_told_from_a_picture_s_own(s3: S3Server, tmp_path: Path) -> None:
    """A build that cannot even list its source says so, and leaves nothing."""
    s3.put("unlisted/1.png", b"x")
    s3.fail(refuse="503", only="list-type")
    with pytest.raises(BuildFailed, match="the same command goes on"):
        built(f"s3://{BUCKET}/unlisted", tmp_path / "ds")

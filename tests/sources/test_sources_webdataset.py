"""The WebDataset source: tars are read in place, and a hostile or damaged one costs only what is damaged."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.pictures import encoded, smooth
from support.tars import tar
from support.thorough import share

from condprep.errors import PassingFault, Rejected, SourceError
from condprep.sources.base import Source
from condprep.sources.open import open_source
from condprep.sources.text import MAX_CAPTION
from condprep.types import Entry

PICTURES = [encoded(smooth(8, 8, seed)) for seed in range(4)]


def picture_member(name: str = "a.jpg") -> bytes:
    """One member as it stands inside of a tar: header, picture, padding."""
    return tar((name, PICTURES[0]))[: 512 + len(PICTURES[0]) + -len(PICTURES[0]) % 512]


def shard(first: int = 0) -> bytes:
    """Three samples as img2dataset writes them."""
    members = []
    for number in range(first, first + 3):
        members += [
            (f"{number:09}.jpg", PICTURES[number % 4]),
            (f"{number:09}.txt", f"caption {number}".encode()),
            (f"{number:09}.json", json.dumps({"caption": f"caption {number}", "status": "success"}).encode()),
        ]
    return tar(*members)


def opened(folder: Path, data: bytes, **options: str) -> Source:
    (folder / "00000.tar").write_bytes(data)
    return open_source(folder / "00000.tar", **options)


def listed(source: Source) -> list[tuple[str, str | None]]:
    return [(entry.name, entry.problem) for entry in source.entries()]


def texts(source: Source) -> list[tuple[str, ...] | None]:
    return [entry.text for entry in source.entries()]


# samples


@pytest.mark.parametrize("pattern", ["", "*.tar", "{00000..00001}.tar", "{00000,00001}.tar", "0000[01].tar"])
def test_shards_of_img2dataset_are_read_in_place(tmp_path: Path, pattern: str) -> None:
    """Folder, wildcard or braces: tar by tar, member by member, the very bytes and captions that went in."""
    for number in range(2):
        (tmp_path / f"{number:05}.tar").write_bytes(shard(3 * number))
        (tmp_path / f"{number:05}_stats.json").write_text("{}")
    source = open_source(tmp_path / pattern if pattern else tmp_path)
    samples = [source.read(entry) for entry in source.entries()]
    assert [sample.name for sample in samples] == [f"{n // 3:05}.tar#{n:09}.jpg" for n in range(6)]
    assert [sample.data for sample in samples] == [PICTURES[n % 4] for n in range(6)]
    assert [sample.text for sample in samples] == [(f"caption {n}",) for n in range(6)]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.suffix == ".jpg") == []


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_work_in_every_dialect(tmp_path: Path, format: int) -> None:
    """Names beyond 100 bytes, unicode and newlines come back with their bytes, in ustar, GNU and pax."""
    names = ["d" * 60 + "/" + "n" * 60 + ".jpg", "день.jpg", "a\nb.jpg", "x#y.tar#z.jpg"]
    source = opened(tmp_path, tar(*((name, PICTURES[0]) for name in names), format=format))
    assert [name for name, _ in listed(source)] == [f"00000.tar#{name}" for name in names]
    assert all(source.read(entry).data == PICTURES[0] for entry in source.entries())


def test_captions_come_from_txt_then_json(tmp_path: Path) -> None:
    """.txt wins, "text" or "caption" in .json stands in, a field may be named; none and nonsense are ()."""
    data = tar(
        ("a.jpg", PICTURES[0]), ("a.json", b'{"caption": "json", "alt": ["x", "y"]}'), ("a.txt", b"txt"),
        ("b.json", b'{"caption": "first"}'), ("b.jpg", PICTURES[0]),
        ("c.jpg", PICTURES[0]),
        ("d.jpg", PICTURES[0]), ("d.json", b"{nonsense"),
        ("e.jpg", PICTURES[0]), ("e.json", b"[1]"),
        ("f.jpg", PICTURES[0]), ("f.txt", b"x" * (2 * MAX_CAPTION)),
    )  # fmt: skip
    assert texts(opened(tmp_path, data)) == [("txt",), ("first",), (), (), (), ("x" * MAX_CAPTION,)]
    assert texts(opened(tmp_path, data, caption_column="alt")) == [("x", "y"), (), (), (), (), ()]


def test_a_sample_is_what_agrees_up_to_the_first_dot(tmp_path: Path) -> None:
    """a.jpg with a.seg.png is one input with its caption; folders, dots in folders and hidden files do not confuse."""
    data = tar(
        ("x.y/a.seg.png", PICTURES[1]), ("x.y/a.jpg", PICTURES[0]), ("x.y/a.txt", b"one"),
        ("x.y/._a.jpg", b"junk"), ("x.y/b.v2.jpg", PICTURES[2]), ("a.jpg", PICTURES[3]),
    )  # fmt: skip
    assert [name for name, _ in listed(opened(tmp_path, data))] == [
        "00000.tar#x.y/a.jpg", "00000.tar#x.y/b.v2.jpg", "00000.tar#a.jpg",
    ]  # fmt: skip
    chosen = opened(tmp_path, data, image_column="seg.png")
    assert [(entry.name, entry.text) for entry in chosen.entries()] == [("00000.tar#x.y/a.seg.png", ("one",))]
    assert chosen.read(next(chosen.entries())).data == PICTURES[1]


# hostile and damaged tars


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_unsafe_members_are_problems_and_touch_nothing(tmp_path: Path) -> None:
    """Absolute and `..` names, links, devices: problem entries if they look like pictures, and no file appears."""
    data = tar(
        ("../out.jpg", PICTURES[0]), ("/etc/abs.jpg", PICTURES[0]), ("d/../../up.jpg", PICTURES[0]),
        (special("soft.jpg", tarfile.SYMTYPE, "/etc/passwd"), b""),
        (special("hard.jpg", tarfile.LNKTYPE, "good.jpg"), b""),
        (special("fifo.jpg", tarfile.FIFOTYPE), b""), (special("dev.jpg", tarfile.CHRTYPE), b""),
        (special("folder.jpg", tarfile.DIRTYPE), b""), (special("evil.txt", tarfile.SYMTYPE, "/etc/passwd"), b""),
        ("good.jpg", PICTURES[0]),
        (special("good.txt", tarfile.SYMTYPE, "/etc/passwd"), b""),
    )  # fmt: skip
    (tmp_path / "in").mkdir()
    source = opened(tmp_path / "in", data)
    found = listed(source)
    leaves, link = "its name leaves the tar", "a link, device or sparse file"
    assert [problem for _, problem in found] == [leaves] * 3 + [link] * 4 + [None]
    assert found[-1][0] == "00000.tar#good.jpg"
    assert texts(source)[-1] == ()
    assert sorted(os.listdir(tmp_path)) == ["in"]
    assert os.listdir(tmp_path / "in") == ["00000.tar"]


def test_two_members_of_one_name_are_one_input_and_one_problem(tmp_path: Path) -> None:
    """Names stay unique: the second is listed under its offset."""
    source = opened(tmp_path, tar(("a.jpg", PICTURES[0]), ("b.jpg", PICTURES[1]), ("a.jpg", PICTURES[2])))
    first, _, second = source.entries()
    assert (first.problem, second.problem) == (None, "the tar holds two members of this name")
    assert first.name != second.name


@pytest.mark.parametrize("claimed", [10 << 30, 2 << 30])
def test_a_member_that_claims_gigabytes_is_a_problem(tmp_path: Path, claimed: int) -> None:
    """Behind a small tar it is damage; really there (as a hole in the file) it is over the limit. Neither is read."""
    info = tarfile.TarInfo("big.jpg")
    info.size = claimed
    header = info.tobuf(tarfile.GNU_FORMAT)
    source = opened(tmp_path, picture_member() + header + bytes(2048))
    found = listed(source)
    assert found[0] == ("00000.tar#a.jpg", None)
    assert "it ends inside of 'big.jpg'" in found[1][1]
    path = tmp_path / "00000.tar"
    path.write_bytes(header)
    os.truncate(path, 512 + claimed + 1024)
    (entry,) = open_source(path).entries()
    assert entry.problem == f"{claimed} bytes > limit {1 << 30} bytes"


def test_a_header_that_claims_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    """A pax header of 4 GiB, really there as a hole, is damage and not an allocation."""
    info = special("pax", tarfile.XHDTYPE)
    info.size = 4 << 30
    path = tmp_path / "00000.tar"
    path.write_bytes(picture_member() + info.tobuf(tarfile.GNU_FORMAT))
    os.truncate(path, 5 << 30)
    found = listed(open_source(path))
    assert found[0][1] is None
    assert "a header of 4294967296 bytes" in found[1][1]


def test_a_header_that_points_back_does_not_loop(tmp_path: Path) -> None:
    """A negative size, which the format can spell, ends the listing."""
    info = tarfile.TarInfo("a.jpg")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xf0\x00"  # base 256, two's complement: -4096
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    found = listed(opened(tmp_path, picture_member("b.jpg") + bytes(header) + bytes(8192)))
    assert len(found) <= 3
    assert found[-1][1].startswith("damaged")


@pytest.mark.parametrize("cut", [1, 700, 1024, 1536, 2048, 2600, 3000])
def test_a_truncated_tar_gives_what_is_whole_and_one_problem(tmp_path: Path, cut: int) -> None:
    """Cut anywhere: samples before are entries that read, and exactly one entry says that there was more."""
    whole = tar(("a.jpg", PICTURES[0]), ("a.txt", b"cat"), ("b.jpg", PICTURES[1]))
    source = opened(tmp_path, whole[:cut])
    entries = list(source.entries())
    good = [entry for entry in entries if not entry.problem]
    assert len(entries) == len(good) + 1
    assert entries[-1].problem.startswith("damaged after byte")
    assert [source.read(entry).data for entry in good] == PICTURES[: len(good)]
    picture = len(picture_member())
    assert len(good) == (cut >= picture) + (cut >= 2 * picture + 1024)


def test_a_tar_corrupt_in_the_middle_is_said_to_be(tmp_path: Path) -> None:
    """Junk where a header should be is not taken for the end."""
    data = bytearray(shard())
    second = len(picture_member())
    data[second : second + 512] = bytes(range(256)) * 2
    found = listed(opened(tmp_path, bytes(data)))
    assert found[0] == ("00000.tar#000000000.jpg", None)
    assert found[-1] == ("00000.tar#", found[-1][1])
    assert found[-1][1].startswith("damaged")


def test_what_is_no_tar_is_one_problem(tmp_path: Path) -> None:
    """An empty file and a text called .tar do not stop the tars beside them."""
    (tmp_path / "a.tar").write_bytes(b"")
    (tmp_path / "b.tar").write_bytes(b"hello" * 1000)
    (tmp_path / "c.tar").write_bytes(shard())
    problems = [problem for _, problem in listed(open_source(tmp_path))]
    assert [bool(problem) for problem in problems] == [True, True, False, False, False]


@settings(
    max_examples=share(200),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_fuzzed_tars_end_and_read_only_themselves(tmp_path: Path, capfd, data: st.DataObject) -> None:
    """With bytes changed anywhere: the listing ends, names are unique text, and reading is bytes or Rejected."""
    damaged = bytearray(shard())
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(damaged) - 1), st.integers(0, 255)), max_size=9)):
        damaged[at] = value
    source = opened(tmp_path, bytes(damaged[: data.draw(st.integers(3, len(damaged)))]))
    entries = list(source.entries())
    assert len({entry.name for entry in entries}) == len(entries)
    for entry in entries:
        entry.name.encode("utf-8")
        if not entry.problem:
            assert len(source.read(entry).data) == entry.size
    assert capfd.readouterr() == ("", "")


def test_a_tar_cut_after_its_listing_is_a_reject(tmp_path: Path) -> None:
    """Fewer bytes than were promised are not passed on as a picture; a tar that is gone says so, and is nothing that its pictures did wrong."""
    source = opened(tmp_path, shard())
    entry = list(source.entries())[-1]
    os.truncate(tmp_path / "00000.tar", 600)
    with pytest.raises(Rejected, match="was cut off after it was listed"):
        source.read(entry)
    (tmp_path / "00000.tar").unlink()
    with pytest.raises(PassingFault, match=r"00000.tar is not there any more; put it back"):
        source.read(entry)


# the user's mistakes, and workers


def test_compressed_tars_are_refused_with_a_remedy(tmp_path: Path) -> None:
    """By name or, if it lies about itself, by content."""
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(shard()))
    (tmp_path / "b.tar").write_bytes(gzip.compress(shard()))
    for path in (tmp_path / "a.tar.gz", tmp_path / "b.tar", tmp_path):
        with pytest.raises(SourceError, match=r"is compressed.*unpack it"):
            open_source(path)


def test_tars_that_are_not_there_are_named(tmp_path: Path) -> None:
    """A gap in {0..2}, a wildcard without a match, an endless range."""
    for number in (0, 2):
        (tmp_path / f"{number}.tar").write_bytes(shard())
    with pytest.raises(SourceError, match=r"1\.tar' is missing"):
        open_source(tmp_path / "{0..2}.tar")
    with pytest.raises(SourceError, match="there are no tars at"):
        open_source(tmp_path / "x*.tar")
    with pytest.raises(SourceError, match="more than 100000 tars"):
        open_source(tmp_path / "{0..9}{000000000..999999999}.tar")


def test_workers_and_threads_read_the_same(tmp_path: Path) -> None:
    """A pickled source in eight threads gives what one thread gives; its identity holds no path but follows the tars."""
    source = opened(tmp_path, shard())
    copy = pickle.loads(pickle.dumps(source))
    entries: list[Entry] = list(source.entries()) * 20
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(copy.read, entries)) == [source.read(entry) for entry in entries]
    assert str(tmp_path) not in json.dumps(source.identity)
    before = source.identity
    assert opened(tmp_path, tar(("a.jpg", PICTURES[0]))).identity != before


@pytest.mark.slow
def test_a_listing_takes_no_memory_per_member(tmp_path: Path) -> None:
    """5,000 members of one sample, the worst there is, are listed within 2 MB."""
    import tracemalloc

    block = tar(*((f"a.{number}.jpg", b"") for number in range(5_000)))
    peaks = []
    for _ in range(3):  # what other threads take meanwhile is not taken every time
        source = opened(tmp_path, block)
        tracemalloc.start()
        count = sum(1 for _ in source.entries())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count == 5_000
    assert min(peaks) < 2_000_000

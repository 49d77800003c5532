"""What tests of several rooms need: real photographs, datasets, the command, and an environment that is the same everywhere.

What holds for subprocesses too is said by the environment, and before torch is loaded: a core for each process of the
tests, whose threads wait without computing. Threads that spin make training many times slower where a core is busy.
Memory that is freed is kept, as commands keep it: to have the kernel clear it anew for each array took a fifth of all time.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(32 << 20))  # of processes that tests start, by glibc; see below
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(1 << 30))

import functools
import gc
import io
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import psutil
import pytest
import typer.main
from PIL import Image
from skimage import data
from support import thorough
from support.command import Command, Run
from support.datasets import rows_of, written
from support.dealing import dealt
from support.loaded import read_once
from support.pictures import encoded
from support.s3_server import S3Server, running
from support.warm import Warm

import condprep
from condprep.cli import main as cli
from condprep.dataset import contact_sheet
from condprep.runtime import local_copies
from condprep.runtime.concurrency import usable_cores
from condprep.runtime.malloc import keep_freed_memory

WARM = pytest.StashKey[Warm]()
MEMORY = Path("/dev/shm")  # a file system that is no disk: files there cost half of the time, and nobody waits for them
ROOM = 8 << 30  # bytes: all tests together leave about two GB lying about

keep_freed_memory()


def pytest_configure(config: pytest.Config) -> None:
    """Folders of tests lie in memory; where slow tests are left out (`make test`), random laws are tried with a fifth of
    their examples."""
    if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ROOM:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))  # for this process: where pytest makes them
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell has started this in its background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    thorough.quick = config.option.markexpr == "not slow"
    hypothesis.settings.register_profile(
        "condprep",
        deadline=None,  # what takes how long says nothing
        max_examples=thorough.share(100),
        print_blob=True,  # a failure says how to repeat it
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("condprep")


def _read_once(name: str) -> None:
    """A photograph of scikit-image is decoded once in a process; each test gets a copy."""
    read = functools.cache(getattr(data, name))
    setattr(data, name, lambda: read().copy())


for name in ("astronaut", "camera", "chelsea", "coffee", "rocket"):
    _read_once(name)

# What a verb can be asked for is read from its signature once in a process: it takes longer than most mistakes.
typer.main.get_params_from_function = functools.cache(typer.main.get_params_from_function)


def _small_once() -> None:
    """The previews of many datasets show the same pictures: each is decoded, and made small, once in a process."""
    made = contact_sheet._open
    kept = functools.lru_cache(200)(lambda stored, cell: made({"bytes": stored}, cell))

    def small(value: dict[str, Any] | None, cell: int) -> contact_sheet.SheetPicture:
        stored = (value or {}).get("bytes") or b""
        return kept(stored, cell) if len(stored) < 1 << 20 else made(value, cell)

    contact_sheet._open = small


_small_once()
read_once()


def _without_waiting(descriptor: Any) -> None:
    """fsync of this process: whether what counts is on the disk when the power fails, tests/support/crash.py looks at."""
    os.fstat(descriptor if isinstance(descriptor, int) else descriptor.fileno())


os.fsync = _without_waiting  # a build waits thirty times for the disk: longer than it computes


def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: one more than the cores that we may use, as a fifth of its time a worker waits for what it has started. Up
    to eight, each of which loads torch and has up to five GB."""
    return max(1, min(usable_cores() + 1, 8, psutil.virtual_memory().total // (5 << 30)))


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """What five thousand modules are made of is never garbage: to look for some took a quarter of the collection's time."""
    gc.disable()
    yield
    gc.freeze()
    gc.set_threshold(2000, 20, 100)  # what is not frozen is little, and was gone through every second
    gc.enable()
    if any("warm" in getattr(item, "fixturenames", ()) for item in getattr(session, "items", ())):
        session.config.stash[WARM] = Warm()


def pytest_unconfigure(config: pytest.Config) -> None:
    if warm := config.stash.get(WARM, None):
        warm.close()


@pytest.fixture(scope="session")
def warm(request: pytest.FixtureRequest) -> Warm:
    """Commands in processes of their own, without the seconds that their imports take."""
    return request.config.stash[WARM]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Each process begins with modules that hold the slowest tests: what is left for the end is small, and keeps all busy."""
    processes = int(getattr(config, "workerinput", {}).get("workercount", 1))
    modules: dict[str, list[pytest.Item]] = {}
    for item in items:
        modules.setdefault(item.location[0], []).append(item)
    ordered = sorted(modules.values(), key=lambda some: max(map(_slowness, some)), reverse=True)
    items[:] = dealt(ordered, processes)


def _slowness(item: pytest.Item) -> int:
    marks = [*item.iter_markers("slow")]
    return bool(marks) + any(mark.kwargs.get("first") for mark in marks)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Tests run in random order (pytest-randomly); where some failed, how to have the same order again."""
    seed = getattr(config.option, "randomly_seed", None)
    if seed is not None and {"failed", "error"} & terminalreporter.stats.keys():
        terminalreporter.write_line(f"the same order and random numbers again: pytest --randomly-seed={seed}")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real pictures and weights with ground truth; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("CONDPREP_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the shared test data: no folder {folder}; set CONDPREP_SHARED")
    return folder


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 12 real photographs in several formats and sub-folders, half of them captioned; to be copied."""
    folder = tmp_path_factory.mktemp("photographs")
    pictures = [
        Image.fromarray(getattr(data, name)()).reduce(2) for name in ("astronaut", "chelsea", "coffee", "rocket")
    ]
    for number in range(12):
        picture = pictures[number % 4].rotate(7 * number, expand=False).convert("RGB")
        path = folder / f"group{number % 3}" / f"{number:02d}{('.jpg', '.png', '.webp')[number % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        if number % 2:
            path.with_suffix(".txt").write_text(f"photograph {number}")
    return folder


@pytest.fixture
def raw(photographs: Path, tmp_path: Path) -> Path:
    """Those photographs, for a test to do with as it likes."""
    return Path(shutil.copytree(photographs, tmp_path / "raw"))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The `condprep` command in this process: what it does not catch itself, stack traces that is, fails the test."""
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.delenv("CONDPREP_WEIGHTS", raising=False)

    def run(*arguments: object) -> Run:
        monkeypatch.setattr(sys, "argv", ["condprep", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Run(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean dataset of condprep: 8 captioned photographs with Canny edges, 128 x 128."""
    folder = tmp_path_factory.mktemp("verify")
    (folder / "raw").mkdir()
    for n in range(8):
        picture = Image.fromarray((data.astronaut, data.coffee)[n % 2]()).reduce(2).rotate(5 * n)
        picture.save(folder / "raw" / f"{n}.png")
        (folder / "raw" / f"{n}.txt").write_text(f"photograph {n}")
    condprep.build(folder / "raw", folder / "ds", "canny", resolution=128)
    return folder / "ds"


@pytest.fixture
def defects(built: Path, tmp_path: Path) -> Path:
    """Rows 1 to 6 have a defect each; 0 and 7 are clean."""
    rows = rows_of(built)
    edges = [np.array(Image.open(io.BytesIO(row["conditioning_image"]["bytes"])).convert("L")) for row in rows]
    rows[1]["conditioning_image"]["bytes"] = encoded(255 - edges[1], "PNG")
    rows[2]["conditioning_image"]["bytes"] = encoded(edges[2], "JPEG")
    rows[3]["image"]["bytes"] = rows[3]["image"]["bytes"][:-400]
    rows[4]["text"] = None
    rows[5]["conditioning_image"]["bytes"] = encoded(edges[5][:64], "PNG")
    rows[6]["key"] = rows[0]["key"]
    return written(rows, tmp_path / "rows.parquet")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again is tried at once: how long somebody waits is nothing that a test waits for."""
    monkeypatch.setattr("condprep.runtime.retry.PAUSE", 0.0)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """A command that a test runs in this process takes the signals over, for as long as the test goes on."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def copies() -> Iterator[None]:
    """Copies of objects that a test reads are files that stay open in this process: for no longer than the test goes on."""
    yield
    for path in [*local_copies._held]:
        local_copies.let_go(path)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A local S3, for the whole run; see `s3` for a test's own."""
    pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    with running() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """A local S3 to which this process and those that it starts are led, and in which nothing fails yet."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    s3_server.fail()
    return s3_server


@pytest.fixture
def small_trunks() -> Iterator[None]:
    """Of the large networks of controlnet_aux small ones."""
    from support import aux_models

    with aux_models.small_trunks():
        yield


@pytest.fixture
def stand_ins(small_trunks: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small networks wherever the real ones are large, and weights that are drawn within seconds."""
    from support import doors, draws

    doors.stand_ins(monkeypatch)
    with draws.recurring():
        yield

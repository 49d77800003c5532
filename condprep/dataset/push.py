"""`condprep.push`: a finished dataset goes to the Hugging Face Hub, with its card.

Files are sent first and seen by nobody; one commit makes the dataset. What the Hub has already is not sent again, so a push
that was stopped at any moment goes on when the same call is made again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha1
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condprep.dataset.card import PREVIEW, on_hub
from condprep.dataset.hub_errors import hub_errors
from condprep.dataset.layout import DATA_FOLDERS, FILES, SPLIT_FILES, Layout
from condprep.dataset.reader import check_whole
from condprep.dataset.remote import ROWS
from condprep.dataset.shards import Counts
from condprep.errors import DatasetError, UsageError
from condprep.runtime.concurrency import lots
from condprep.runtime.folder import check_own
from condprep.runtime.progress import Progress
from condprep.runtime.retry import retried
from condprep.runtime.storage import is_url
from condprep.sources.base import stamp

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi, RepoFile

# of `.condprep/`, what says how the dataset was made; the listing of its inputs, the lock and findings stay at home
RECORDS = ("plan.json", "provenance.json", "rejects.jsonl", "done.json", PREVIEW)
AT_ONCE = 4  # files that are sent side by side
NOBODYS = (".gitattributes",)  # of the Hub itself
SHOWN = 3  # names in a message


@dataclass(frozen=True)
class PushResult:
    """What `push` did."""

    url: str
    files: int  # of the dataset
    sent: int  # of them now; the others were there
    commit: str  # of the Hub, that holds the dataset
    seconds: float


def check_name(name: str) -> None:
    """Raises UsageError for what is no name of a dataset on the Hub, and where there is no login."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UsageError(f"{name!r} is no name on the Hub: {error}") from None
    if "/" not in name:
        raise UsageError(f"{name!r} does not say whose it is; give OWNER/NAME, the owner a user or an organization")
    if constants.HF_HUB_OFFLINE:
        raise UsageError("HF_HUB_OFFLINE is set, and a push needs the Hub; unset it")
    if not get_token():
        raise UsageError("there is no login to the Hub; run `hf auth login`, or set HF_TOKEN")


def push(
    dataset: str | Path,
    name: str,
    *,
    private: bool = False,
    overwrite: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> PushResult:
    """Upload a finished dataset of condprep as OWNER/NAME, so that `load_dataset("OWNER/NAME")` gives its rows.

    private: create it so that only its owner sees it. overwrite: replace another dataset of condprep of that name; files of
    others stay. Raises UsageError where there is no login, no permission, or the name is taken by something else, and PassingFault
    where the Hub does not answer: the same call goes on.
    """
    began = time.monotonic()
    check_name(name)
    if is_url(str(dataset)):
        raise UsageError(f"{dataset} is a URL, and a push reads a folder of this machine; copy the dataset here")
    layout = Layout(Path(dataset))
    files = list(dataset_files(layout))
    unchanged = partial(_check_unchanged, layout, files, _stamps(layout, files))
    from huggingface_hub import CommitOperationAdd, HfApi

    card = on_hub((layout.root / "README.md").read_text(encoding="utf-8"), name).encode()
    brought: dict[str, CommitOperationAdd] = {
        file: CommitOperationAdd(file, card if file == "README.md" else layout.root / file) for file in files
    }
    api = HfApi(library_name="condprep")
    with _no_bars():
        _ask(partial(_create, api, name, private), name)
        upload = _Push(api, name, brought, overwrite, progress, unchanged)
        commit = _ask(upload.attempt, name)
    url = f"{api.endpoint}/datasets/{name}"
    return PushResult(url, len(brought), upload.sent, commit, time.monotonic() - began)


def dataset_files(layout: Layout) -> Iterator[str]:
    """The files that make the dataset elsewhere, relative to it. Raises DatasetError or UsageError where it is none that can go."""
    check_whole(layout.root)
    check_own(layout.root, [layout.private.name, *FILES, *DATA_FOLDERS])  # else a link would publish what it leads to
    if not layout.done.exists() or not (layout.root / "README.md").exists():
        raise UsageError(
            f"{layout.root} is no finished dataset of condprep; make one of it with `condprep build` first"
        )
    rows = [file["name"] for file in Counts.load(layout.done).files]
    beside = [f"{folder}/{name}" for folder in DATA_FOLDERS for name in SPLIT_FILES]
    records = [f"{layout.private.name}/{name}" for name in RECORDS]
    yield from rows
    yield from (name for name in (*beside, *records, *FILES) if (layout.root / name).exists())


def _stamps(layout: Layout, files: Sequence[str]) -> list[str]:
    return [stamp(layout.root / file) for file in files]


def _check_unchanged(layout: Layout, files: Sequence[str], stamps: Sequence[str]) -> None:
    """Raises DatasetError where records of one state would go with rows of another. stamps: of the files as they were."""
    if _stamps(layout, files) != stamps:
        raise DatasetError(
            f"{layout.root} was changed while it was sent, and nothing of it is seen on the Hub; push it again"
        )


def _create(api: HfApi, name: str, private: bool) -> None:
    """Raises UsageError where it is there for all to see and must not be."""
    api.create_repo(name, repo_type="dataset", private=private or None, exist_ok=True)
    if private and not api.dataset_info(name).private:
        raise UsageError(
            f"{name} is there already, and for all to see; make it private in its settings on the Hub, choose another name, "
            "or leave out --private"
        )


class _Push:
    """One call of `push`: what is brought, and an attempt that may be repeated."""

    def __init__(
        self,
        api: HfApi,
        name: str,
        brought: Mapping[str, CommitOperationAdd],
        overwrite: bool,
        progress: Callable[[Progress], None],
        unchanged: Callable[[], None],
    ) -> None:
        """unchanged: raises where files are others than those that are brought."""
        self.api, self.name, self.brought, self.overwrite, self.progress = api, name, brought, overwrite, progress
        self.unchanged, self.sent = unchanged, 0

    def attempt(self) -> str:
        """Bring the Hub from what it has now to the dataset. Returns the commit that holds it."""
        from huggingface_hub import CommitOperationDelete, RepoFile

        head = str(self.api.dataset_info(self.name).sha)
        found = self.api.list_repo_tree(self.name, repo_type="dataset", revision=head, recursive=True)
        there = {file.path: file for file in found if isinstance(file, RepoFile) and file.path not in NOBODYS}
        missing = [file for path, file in self.brought.items() if not _is_same(file, there.get(path))]
        leftover = self._leftover(there)
        if not missing and not leftover:
            return head
        self._send(missing)
        self.unchanged()
        made = self.api.create_commit(
            self.name,
            [*missing, *map(CommitOperationDelete, leftover)],
            commit_message="A dataset of condprep",
            repo_type="dataset",
            parent_commit=head,
        )
        self.sent = len(missing)
        return str(made.oid)

    def _leftover(self, there: Mapping[str, RepoFile]) -> list[str]:
        """Files of the dataset that is replaced, which the new one has not. Raises UsageError where the name is taken."""
        if there and all(path in self.brought and _is_same(self.brought[path], file) for path, file in there.items()):
            return []
        if there and not self.overwrite:
            raise UsageError(
                f"{self.name} is taken by something else on the Hub ({_named(there)}); choose another name; "
                "`condprep push --overwrite` replaces a dataset of condprep, and files of others stay"
            )
        before = self._pushed_before() if ".condprep/done.json" in there else set()
        others = [path for path in there if path not in self.brought and path not in before]
        if mixed := [path for path in others if _is_data(path)]:
            raise UsageError(
                f"{self.name} holds rows of others ({_named(mixed)}), which `load_dataset` would mix with these; choose another name"
            )
        return sorted(path for path in before if path in there and path not in self.brought)

    def _pushed_before(self) -> set[str]:
        """The files that the dataset says are its own, which is on the Hub now."""
        done = self.api.hf_hub_download(self.name, ".condprep/done.json", repo_type="dataset")
        own = {file["name"] for file in Counts.load(Path(done)).files}
        folders = {name.split("/")[0] for name in own}
        beside = {f"{folder}/{name}" for folder in folders for name in SPLIT_FILES}
        return own | beside | {"dataset_dict.json", *(f".condprep/{name}" for name in RECORDS)}

    def _send(self, files: list[CommitOperationAdd]) -> None:
        """What goes before the commit: the large files."""
        done = len(self.brought) - len(files)
        for lot in lots(files, AT_ONCE):
            self.progress(Progress("push", done, len(self.brought)))
            self.api.preupload_lfs_files(self.name, lot, repo_type="dataset", num_threads=AT_ONCE, free_memory=False)
            done += len(lot)
        self.progress(Progress("push", done, len(self.brought)))


def _ask(question: Callable[[], Any], name: str) -> Any:
    """Again where what the Hub answers may pass."""

    def told() -> Any:
        with hub_errors(name):
            return question()

    return retried(told, name)


def _is_same(file: CommitOperationAdd, there: RepoFile | None) -> bool:
    """Whether the Hub has that content under that name."""
    if there is None or there.size != file.upload_info.size:
        return False
    if there.lfs:
        return bool(there.lfs.sha256 == file.upload_info.sha256.hex())
    with file.as_file() as content:
        data = content.read()
    return bool(there.blob_id == sha1(b"blob %d\0" % len(data) + data).hexdigest())


def _is_data(path: str) -> bool:
    """Whether `load_dataset` would take it for rows, by the patterns of the card."""
    folder, _, file = path.partition("/")
    return folder in DATA_FOLDERS and file.endswith(ROWS)


def _named(paths: Iterable[str]) -> str:
    names = sorted(paths)
    return ", ".join(names[:SHOWN]) + " ..." * (len(names) > SHOWN)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without the library's own progress bars, beside ours."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()

"""A Hugging Face dataset: a save_to_disk folder, Parquet files, or a repository on the Hub. Pictures stay encoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from condprep.errors import CondprepError, PassingFault, Rejected, SourceError
from condprep.runtime.folder import check_utf8
from condprep.runtime.parquet_pages import check_whole
from condprep.runtime.parquet_ranges import TAIL, stored, with_footer
from condprep.runtime.retry import is_passing
from condprep.runtime.storage import Place, Remote, is_url, place
from condprep.sources.base import CAPTION_COLUMNS, Where, portable, source_place, unsaid
from condprep.sources.beside import parquet_paths, stamps_of
from condprep.sources.folder import walk
from condprep.sources.kinds import is_metadata, is_parquet, is_picture, is_tar, is_zip
from condprep.sources.offered import offer
from condprep.sources.parquet_rows import open_rows
from condprep.sources.reach import Reach, stored_picture
from condprep.sources.saved import saved_splits
from condprep.sources.splits import choose_split, find_splits, read_config
from condprep.sources.text import Captions, read_values
from condprep.types import Entry, Note, Sample

UNUSED = "not used: a Parquet file of no split"
MEND = "where a file is damaged `condprep inspect` names it; else open it with the version of datasets that saved it"


@dataclass(frozen=True)
class HuggingFaceSource:
    """The rows of one split, by number. A picture is stored in its row, or as a path inside the dataset's folder."""

    rows: Rows  # the image column holds {"bytes", "path"} or bytes
    image_column: str
    caption_column: str | None
    split: str | None
    fingerprint: str
    reach: Reach  # where paths in rows may lead
    unused: tuple[str, ...] = ()  # Parquet files that lie there and are of no split
    config: str | None = None  # as the user named it
    offered: str | None = None  # what is said where no column of captions was found
    kind: str = "huggingface"

    @property
    def identity(self) -> dict[str, Any]:
        columns = {"image_column": self.image_column, "caption_column": self.caption_column}
        columns |= {"config": self.config} if self.config else {}
        return {"kind": self.kind, "fingerprint": self.fingerprint, "split": self.split} | columns

    def seal(self) -> str:
        return f"{self.fingerprint} {len(self.rows)}"

    def entries(self, note: Note = unsaid) -> Iterator[Entry]:
        for name in self.unused:
            note(UNUSED, portable(name))
        if self.offered:
            note(self.offered, self.split or "its rows")
        for row in range(len(self.rows)):
            yield Entry(f"{self.split}:{row}" if self.split else str(row), self.fingerprint, offset=row)

    def read(self, entry: Entry) -> Sample:
        try:
            row = self.rows.row(entry.offset)
        except CondprepError:
            raise
        except Exception as error:  # a damaged file shows in Arrow, in datasets or in Python
            if is_passing(error):
                raise
            raise Rejected("read", f"the row cannot be read: {error}", code="damaged-source") from None
        text = read_values(row[self.caption_column]) if self.caption_column else Captions(())
        picture = stored_picture(row[self.image_column], self.reach, self.image_column)
        return Sample(entry.name, picture, text.texts, note=text.note)


class Rows(Protocol):
    """Rows by number."""

    def __len__(self) -> int: ...
    def row(self, number: int) -> dict[str, Any]:
        """Thread-safe."""
        ...


@dataclass(frozen=True)
class DatasetRows:
    """Those of a datasets.Dataset that gives Arrow, whose files are mapped into memory."""

    dataset: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def row(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = self.dataset[number].to_pylist()[0]
        return found


def open_huggingface(
    where: Where,
    *,
    image_column: str | None,
    caption_column: str | None,
    split: str | None,
    config: str | None = None,
    also: tuple[Path, ...] = (),
) -> HuggingFaceSource:
    """Open a dataset; columns, split and config need naming only where there is a choice. Raises SourceError.

    also: where pictures that are stored as paths may lie beside the dataset's own folder or cache.
    """
    found, path = source_place(where), str(where)
    here = isinstance(found, Remote) or found.exists()
    if streamed := (found if here else _on_hub(path)):
        names = [streamed.name] if streamed.is_file() else find_parquet(streamed)
        root = streamed.parent if streamed.is_file() else streamed
        if names and not (root / "dataset_dict.json").exists():
            return _open_parquet(streamed, names, path, image_column, caption_column, split, config, also)
    loaded = _saved(found, path, config) if here else from_hub(path, config)
    return _open_dataset(loaded, path, image_column, caption_column, split, config, also)


def _open_parquet(
    found: Place,
    names: Sequence[str],
    path: str,
    image_column: str | None,
    caption_column: str | None,
    split: str | None,
    config: str | None,
    also: tuple[Path, ...],
) -> HuggingFaceSource:
    """Parquet files, streamed: nothing of them is copied into a cache of `datasets`."""
    alone = found.is_file()
    root = found.parent if alone else found
    splits = find_splits(root, names, {}) if alone else parquet_splits(root, names, config)
    chosen = choose_split(splits, split, repr(path))
    files = [root / name for name in splits[chosen]]
    for file in files:
        if isinstance(file, Path):
            check_utf8(file)
            _tried(path, partial(check_whole, file))
    rows = _tried(path, partial(open_rows, files))
    features = _tried(path, partial(_features, rows.schema))
    image = _image_column(features, image_column, path)
    caption = _caption_column(features, caption_column, path)
    unused = tuple(name for name in names if not any(name in of for of in splits.values()))
    reach = Reach(None if alone else root, also)
    rows = rows.select([*dict.fromkeys(filter(None, [image, caption]))])
    offered = _offer(features, caption)
    fingerprint = _tried(path, partial(_fingerprint, files, image, reach))
    return HuggingFaceSource(rows, image, caption, chosen, fingerprint, reach, unused, config, offered)


def _features(schema: Any) -> Any:
    import datasets

    return datasets.Features.from_arrow_schema(schema)


def _open_dataset(
    found: Loaded,
    path: str,
    image_column: str | None,
    caption_column: str | None,
    split: str | None,
    config: str | None,
    also: tuple[Path, ...],
) -> HuggingFaceSource:
    import datasets

    loaded = found.dataset
    if isinstance(loaded, datasets.DatasetDict):
        split = choose_split(loaded, split, repr(path))
        loaded = loaded[split]
    elif split is not None:
        raise SourceError(f"{path!r} has no splits; leave out --split {split}")
    image_column = _image_column(loaded.features, image_column, path)
    caption_column = _caption_column(loaded.features, caption_column, path)
    offered = _offer(loaded.features, caption_column)
    if isinstance(loaded.features[image_column], datasets.Image):
        loaded = loaded.cast_column(image_column, datasets.Image(decode=False))
    # "arrow": a row is what is stored; as Python values, every feature that can would decode itself or open its path
    loaded = loaded.with_format("arrow").select_columns([image_column, *filter(None, [caption_column])])
    reach = replace(found.reach, also=found.reach.also + also)
    rows = DatasetRows(loaded)
    return HuggingFaceSource(
        rows, image_column, caption_column, split, loaded._fingerprint, reach, config=config, offered=offered
    )


class Loaded(NamedTuple):
    """A dataset as `datasets` gives it, and what it does not say of it."""

    dataset: Any  # a Dataset or DatasetDict
    reach: Reach


def _saved(found: Place, path: str, config: str | None) -> Loaded:
    """A `save_to_disk` folder. Its Arrow files are mapped, so of one at a URL they are copied into the cache."""
    if config is not None:
        raise SourceError(f"{path!r} has no configs, as a saved dataset; leave out --config {config}")
    reach = Reach(found if isinstance(found, Remote) or found.is_dir() else None)
    loaded = _tried(path, partial(saved_splits, found))
    if not loaded:
        raise SourceError(f"{path!r} is a dataset without rows; give one that has some")
    return Loaded(loaded, reach)


def _on_hub(name: str) -> Remote | None:
    """A repository on the Hub all of whose rows are in Parquet files; None where `datasets` has to say what it is.

    Nothing is tried twice: without a network there is still what was downloaded before.
    """
    from huggingface_hub.constants import HF_HUB_OFFLINE

    found = place(f"hf://datasets/{name}")
    if HF_HUB_OFFLINE or not isinstance(found, Remote):
        return None
    try:
        repository = found.at(found.store.resolved(found.path))
        names = [name for _, names in walk(repository) for name in names]
    except (OSError, PassingFault, SourceError):
        return None
    rows = any(map(is_parquet, names))
    return (
        repository
        if rows and not any(is_picture(n) or is_tar(n) or is_zip(n) or is_metadata(n) for n in names)
        else None
    )


def from_hub(name: str, config: str | None) -> Loaded:
    """A dataset on the Hub, and the caches that its pictures may lie in as files. Raises SourceError."""
    import datasets
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    cached = Path(HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="dataset"))
    reach = Reach(None, (cached, Path(datasets.config.DOWNLOADED_DATASETS_PATH)))
    return Loaded(_tried(name, lambda: datasets.load_dataset(name, config)), reach)


def _tried(path: str, load: Callable[[], Any]) -> Any:
    """Raises SourceError where a dataset cannot be loaded."""
    try:
        return load()
    except CondprepError:
        raise
    except Exception as error:  # datasets, pyarrow, fsspec and the network each have their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if is_url(path) or Path(path).exists():
            raise SourceError(f"{path!r} is no dataset that can be read: {reason}; {MEND}") from None
        hint = "; choose one with --config" if "onfig name is missing" in reason else ""
        raise SourceError(
            f"there is no file or folder {path!r}, and as a dataset on the Hub it cannot be loaded: {reason}{hint}"
        ) from None


def parquet_splits(root: Place, names: Sequence[str], config: str | None) -> dict[str, list[str]]:
    """Split -> its Parquet files among those `names`. Raises SourceError, also where a config is to be chosen."""
    return find_splits(root, names, read_config(root, config))


def find_parquet(root: Place) -> list[str]:
    """The Parquet files of rows below a folder, relative to it, sorted. Raises SourceError where it cannot be listed."""
    found = sorted(folder + name for folder, names in walk(root) for name in names if is_parquet(name))
    if odd := [name for name in found if (root / name).exists() and not (root / name).is_file()]:
        raise SourceError(f"{root / odd[0]} is no file, but a pipe or a device; take it away")
    return found


def _fingerprint(files: Sequence[Place], image: str, reach: Reach) -> str:
    """Of the files, and of the pictures beside them that their rows name."""
    digest = sha256()
    for path in files:
        with with_footer(stored(path)).open("rb") as file:  # in whose copy of an object these bytes are
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL))
            digest.update(f"{path.name} {size} ".encode() + file.read())
        if isinstance(path, Path):
            digest.update(" ".join(stamps_of(parquet_paths(path, image), reach)).encode())
    return digest.hexdigest()[:16]


def _image_column(features: Any, wanted: str | None, path: str) -> str:
    import datasets

    encoded = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    raw = [name for name, feature in features.items() if _holds_bytes(feature)]
    if wanted is not None and wanted in raw:
        return wanted
    return _only(wanted, encoded or raw, f"image columns in {path!r}", "--image-column")


def _holds_bytes(feature: Any) -> bool:
    if isinstance(feature, dict):
        return set(feature) == {"bytes", "path"}
    return getattr(feature, "dtype", None) in ("binary", "large_binary")


def _caption_column(features: Any, wanted: str | None, path: str) -> str | None:
    if wanted is not None:
        return _only(wanted, list(features), f"columns in {path!r}", "--caption-column")
    return next((name for name in CAPTION_COLUMNS if name in features), None)


def _offer(features: Any, caption: str | None) -> str | None:
    texts = [name for name, feature in features.items() if "string" in getattr(_item(feature), "dtype", "")]
    return None if caption else offer(texts)


def _item(feature: Any) -> Any:
    """Of a list what it is of."""
    return feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)


def _only(wanted: str | None, found: list[str], what: str, option: str) -> str:
    """The one asked for, or the only one there is. Raises SourceError that lists the candidates."""
    if wanted is not None and wanted in found:
        return wanted
    if wanted is None and len(found) == 1:
        return found[0]
    missing = f"{wanted!r} is not among the {what}" if wanted is not None else f"{len(found)} {what}"
    raise SourceError(f"{missing}: {', '.join(found) or 'none'}" + (f"; choose one with {option}" if found else ""))

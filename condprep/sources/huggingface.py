"""A Hugging Face dataset: a save_to_disk folder, Parquet files, or a repository on the Hub. Pictures stay encoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from glob import escape
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from condprep.errors import Rejected, SourceError
from condprep.runtime.parquet_pages import check_whole
from condprep.runtime.retry import is_passing
from condprep.sources.base import CAPTION_COLUMNS, portable, unsaid
from condprep.sources.folder import walk
from condprep.sources.kinds import is_parquet
from condprep.sources.reach import Reach, stored_picture
from condprep.sources.splits import choose_split, find_splits, read_config
from condprep.sources.text import Captions, read_values
from condprep.types import Entry, Note, Sample

UNUSED = "not used: a Parquet file of no split"
_FOOTER = 1 << 16  # bytes at the end of a Parquet file that tell it from another one of the same size


@dataclass(frozen=True)
class HuggingFaceSource:
    """The rows of one split, by number. A picture is stored in its row, or as a path inside the dataset's folder."""

    dataset: Any  # datasets.Dataset, its rows as Arrow; the image column holds {"bytes", "path"} or bytes
    image_column: str
    caption_column: str | None
    split: str | None
    fingerprint: str
    reach: Reach  # where paths in rows may lead
    unused: tuple[str, ...] = ()  # Parquet files that lie there and are of no split
    config: str | None = None  # as the user named it
    kind: str = "huggingface"

    @property
    def identity(self) -> dict[str, Any]:
        columns = {"image_column": self.image_column, "caption_column": self.caption_column}
        columns |= {"config": self.config} if self.config else {}
        return {"kind": self.kind, "fingerprint": self.fingerprint, "split": self.split} | columns

    def entries(self, note: Note = unsaid) -> Iterator[Entry]:
        for name in self.unused:
            note(UNUSED, portable(name))
        for row in range(len(self.dataset)):
            yield Entry(f"{self.split}:{row}" if self.split else str(row), self.fingerprint, offset=row)

    def read(self, entry: Entry) -> Sample:
        try:
            row = self.dataset[entry.offset].to_pylist()[0]
        except Exception as error:  # a damaged file shows in Arrow, in datasets or in Python
            if is_passing(error):
                raise
            raise Rejected("read", f"the row cannot be read: {error}", code="damaged-source") from None
        text = read_values(row[self.caption_column]) if self.caption_column else Captions(())
        picture = stored_picture(row[self.image_column], self.reach, self.image_column)
        return Sample(entry.name, picture, text.texts, note=text.note)


def open_huggingface(
    path: str,
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
    import datasets

    found = _local(path, split, config) if Path(path).exists() else from_hub(path, config)
    loaded = found.dataset
    if isinstance(loaded, datasets.DatasetDict):
        split = choose_split(loaded, split, repr(path))
        loaded = loaded[split]
    elif split is not None:
        raise SourceError(f"{path!r} has no splits; leave out --split {split}")
    image_column = _image_column(loaded.features, image_column, path)
    caption_column = _caption_column(loaded.features, caption_column, path)
    if isinstance(loaded.features[image_column], datasets.Image):
        loaded = loaded.cast_column(image_column, datasets.Image(decode=False))
    # "arrow": a row is what is stored; as Python values, every feature that can would decode itself or open its path
    loaded = loaded.with_format("arrow").select_columns([image_column, *filter(None, [caption_column])])
    reach = replace(found.reach, also=found.reach.also + also)
    fingerprint = found.fingerprint or loaded._fingerprint
    return HuggingFaceSource(loaded, image_column, caption_column, split, fingerprint, reach, found.unused, config)


class Loaded(NamedTuple):
    """A dataset as `datasets` gives it, and what it does not say of it."""

    dataset: Any  # a Dataset or DatasetDict
    fingerprint: str | None  # of Parquet: that of `datasets` would change with the place of the files
    reach: Reach
    unused: tuple[str, ...] = ()


def _local(path: str, split: str | None, config: str | None) -> Loaded:
    import datasets

    place = Path(path)
    root = place.parent if place.is_file() else place
    names = [place.name] if place.is_file() else find_parquet(root)
    reach = Reach(root if place.is_dir() else None)
    if not names or (root / "dataset_dict.json").exists():
        _refuse_config(path, config)
        return Loaded(_tried(path, lambda: datasets.load_from_disk(path)), None, reach)
    splits = find_splits(root, names, {}) if place.is_file() else parquet_splits(root, names, config)
    chosen = choose_split(splits, split, repr(path))
    files = [root / name for name in splits[chosen]]
    for file in files:
        _tried(path, partial(check_whole, file))
    patterns = {chosen: [escape(str(file)) for file in files]}
    loaded = _tried(path, lambda: datasets.load_dataset("parquet", data_files=patterns))
    unused = tuple(name for name in names if not any(name in of for of in splits.values()))
    return Loaded(loaded, _fingerprint(files), reach, unused)


def from_hub(name: str, config: str | None) -> Loaded:
    """A dataset on the Hub, and the caches that its pictures may lie in as files. Raises SourceError."""
    import datasets
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    cached = Path(HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="dataset"))
    reach = Reach(None, (cached, Path(datasets.config.DOWNLOADED_DATASETS_PATH)))
    return Loaded(_tried(name, lambda: datasets.load_dataset(name, config)), None, reach)


def _tried(path: str, load: Callable[[], Any]) -> Any:
    """Raises SourceError where a dataset cannot be loaded."""
    try:
        return load()
    except Exception as error:  # datasets, pyarrow, fsspec and the network each have their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if Path(path).exists():
            raise SourceError(f"{path!r} is no dataset that can be read: {reason}") from None
        hint = "; choose one with --config" if "onfig name is missing" in reason else ""
        raise SourceError(
            f"there is no file or folder {path!r}, and as a dataset on the Hub it cannot be loaded: {reason}{hint}"
        ) from None


def _refuse_config(path: str, config: str | None) -> None:
    if config is not None:
        raise SourceError(f"{path!r} is a saved dataset and has no configs; leave out --config {config}")


def parquet_splits(root: Path, names: Sequence[str], config: str | None) -> dict[str, list[str]]:
    """Split -> its Parquet files among those `names`. Raises SourceError, also where a config is to be chosen."""
    return find_splits(root, names, read_config(root, config))


def find_parquet(root: Path) -> list[str]:
    """The Parquet files of rows below a folder, relative to it, sorted. Raises SourceError where it cannot be listed."""
    return sorted(folder + name for folder, names in walk(root) for name in names if is_parquet(name))


def _fingerprint(files: list[Path]) -> str:
    digest = sha256()
    for path in files:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _FOOTER))
            digest.update(f"{path.name} {size} ".encode() + file.read())
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


def _only(wanted: str | None, found: list[str], what: str, option: str) -> str:
    """The one asked for, or the only one there is. Raises SourceError that lists the candidates."""
    if wanted is not None and wanted in found:
        return wanted
    if wanted is None and len(found) == 1:
        return found[0]
    missing = f"{wanted!r} is not among the {what}" if wanted is not None else f"{len(found)} {what}"
    raise SourceError(f"{missing}: {', '.join(found) or 'none'}" + (f"; choose one with {option}" if found else ""))

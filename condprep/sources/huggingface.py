"""A Hugging Face dataset: a save_to_disk folder, Parquet files, or a repository on the Hub. Pictures stay encoded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from glob import escape
from hashlib import sha256
from pathlib import Path
from typing import Any

from condprep.errors import Rejected, SourceError
from condprep.runtime.parquet_pages import check_whole
from condprep.runtime.retry import is_passing
from condprep.sources.base import CAPTION_COLUMNS, caption_values, stored_picture
from condprep.types import Entry, Sample

_SHARD = re.compile(r"(.+)-\d+-of-\d+\.parquet$")
_FOOTER = 1 << 16  # bytes at the end of a Parquet file that tell it from another one of the same size


@dataclass(frozen=True)
class HuggingFaceSource:
    """The rows of one split, by number. A picture is stored in its row, or as a path inside the dataset's folder."""

    dataset: Any  # datasets.Dataset, its rows as Arrow; the image column holds {"bytes", "path"} or bytes
    image_column: str
    caption_column: str | None
    split: str | None
    fingerprint: str
    folder: Path | None  # where paths in rows may lead; None: from the Hub, or a single Parquet file
    kind: str = "huggingface"

    @property
    def identity(self) -> dict[str, Any]:
        columns = {"image_column": self.image_column, "caption_column": self.caption_column}
        return {"kind": self.kind, "fingerprint": self.fingerprint, "split": self.split} | columns

    def entries(self) -> Iterator[Entry]:
        for row in range(len(self.dataset)):
            yield Entry(f"{self.split}:{row}" if self.split else str(row), self.fingerprint, offset=row)

    def read(self, entry: Entry) -> Sample:
        try:
            row = self.dataset[entry.offset].to_pylist()[0]
        except Exception as error:  # a damaged file shows in Arrow, in datasets or in Python
            if is_passing(error):
                raise
            raise Rejected("read", f"the row cannot be read: {error}", code="damaged-source") from None
        text = caption_values(row[self.caption_column]) if self.caption_column else ()
        return Sample(entry.name, stored_picture(row[self.image_column], self.folder, self.image_column), text)


def open_huggingface(
    path: str, *, image_column: str | None, caption_column: str | None, split: str | None
) -> HuggingFaceSource:
    """Open a dataset; the columns and the split need naming only where there is a choice. Raises SourceError."""
    import datasets

    loaded, fingerprint = _load(path)
    if isinstance(loaded, datasets.DatasetDict):
        split = _only(split, list(loaded), f"splits in {path!r}", "--split")
        loaded = loaded[split]
    elif split is not None:
        raise SourceError(f"{path!r} has no splits; leave out --split {split}")
    image_column = _image_column(loaded.features, image_column, path)
    caption_column = _caption_column(loaded.features, caption_column, path)
    if isinstance(loaded.features[image_column], datasets.Image):
        loaded = loaded.cast_column(image_column, datasets.Image(decode=False))
    # "arrow": a row is what is stored; as Python values, every feature that can would decode itself or open its path
    loaded = loaded.with_format("arrow").select_columns([image_column, *filter(None, [caption_column])])
    folder = Path(path) if Path(path).is_dir() else None
    return HuggingFaceSource(loaded, image_column, caption_column, split, fingerprint or loaded._fingerprint, folder)


def _load(path: str) -> tuple[Any, str | None]:
    """The dataset, and a fingerprint for Parquet: that of `datasets` would change with the place of the files."""
    import datasets

    local = Path(path)
    try:
        if not local.exists():
            return datasets.load_dataset(path), None
        files = [local] if local.is_file() else _parquet_files(local)
        if not files or (local / "dataset_dict.json").exists():
            return datasets.load_from_disk(path), None
        for file in files:
            check_whole(file)
        return datasets.load_dataset("parquet", data_files=_by_split(files, local)), _fingerprint(files)
    except Exception as error:  # datasets, pyarrow, fsspec and the network each have their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if local.exists():
            raise SourceError(f"{path!r} is no dataset that can be read: {reason}") from None
        raise SourceError(
            f"there is no file or folder {path!r}, and as a dataset on the Hub it cannot be loaded: {reason}"
        ) from None


def _parquet_files(folder: Path) -> list[Path]:
    hidden = re.compile(r"(^|/)\.")
    return [
        path for path in sorted(folder.rglob("*.parquet")) if not hidden.search(path.relative_to(folder).as_posix())
    ]


def _by_split(files: list[Path], folder: Path) -> dict[str, list[str]]:
    """Patterns for `datasets`: the split is in the name (train-00000-of-00002.parquet), or is the sub-folder's."""
    splits: dict[str, list[str]] = {}
    for file in files:
        named = _SHARD.match(file.name)
        inside = file.parent.name if file.parent not in (folder, folder.parent, folder / "data") else "train"
        split = re.sub(r"\W", "_", named[1] if named else inside)
        splits.setdefault(split, []).append(escape(str(file)))
    return splits


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

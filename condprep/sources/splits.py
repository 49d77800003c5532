"""Splits and configs by the rules of `datasets`: its own functions, called on a listing of names instead of a disk.

So its patterns and a README's `configs` mean here what they mean to `load_dataset`, and whatever they say, nothing but
those names can be reached.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from glob import has_magic
from pathlib import PurePosixPath
from typing import Any

from condprep.errors import Rejected, SourceError
from condprep.runtime.storage import Place
from condprep.sources.base import read_regular

MAX_README = 1 << 20  # bytes of it that are read
MAX_ALIASES = 10  # of YAML, in a README
FEW = 1000  # names; of more, patterns are tried only where a name holds a word that they could match
_ROOT = "listed://root"

Config = Mapping[str, Any]  # {"data_files": ..., "data_dir": ...}


def choose_split(splits: Mapping[str, Any], wanted: str | None, what: str) -> str:
    """The split that was asked for, or the only one. Raises SourceError that lists those that there are."""
    if wanted is None and len(splits) == 1:
        return next(iter(splits))
    if wanted is None:
        raise SourceError(f"{what} has the splits {', '.join(sorted(splits))}; choose one with --split")
    if wanted not in splits:
        raise SourceError(f"{wanted!r} is not among the splits in {what}: {', '.join(sorted(splits))}")
    return wanted


def find_splits(root: Place, names: Sequence[str], config: Config) -> dict[str, list[str]]:
    """Split -> which of these names are its files, in the order of `datasets`; "train" has all where nothing tells.

    names: relative to `root`, of data files alone. Raises SourceError where `datasets` makes no splits of them, or the
    config leads elsewhere.
    """
    import fsspec

    fsspec.register_implementation("listed", "condprep.sources.names.Names", clobber=True)
    try:
        if found := _resolve(names, config):
            return found
        raise ValueError("none of the files is of one")
    except (ValueError, TypeError, OSError, AssertionError, AttributeError) as error:
        where = "README.md" if config else "the names of the files"
        raise SourceError(f"{str(root)!r}: {where} give no splits: {_first_line(error)}") from None


def _resolve(names: Sequence[str], config: Config) -> dict[str, list[str]]:
    from datasets.data_files import get_data_patterns, sanitize_patterns
    from datasets.download import DownloadConfig

    options = DownloadConfig(storage_options={"listed": {"names": [*names]}})
    base = "/".join([_ROOT, *_inside(config.get("data_dir") or "").parts])
    if "data_files" in config:
        patterns = sanitize_patterns(config["data_files"])
    elif len(names) > FEW and not _may_have_splits(names):
        return {"train": [*names]}
    else:
        patterns = get_data_patterns(base, download_config=options)
    found = {}
    for split, given in patterns.items():
        files = (file for one in given for file in _matches(str(one), base, options))
        found[str(split)] = list(dict.fromkeys(file.removeprefix(f"{_ROOT}/") for file in files))
    return {split: files for split, files in found.items() if files}


def _matches(pattern: str, base: str, options: Any) -> Iterator[str]:
    from datasets.data_files import resolve_pattern

    _inside(pattern)
    try:
        yield from resolve_pattern(pattern, base, download_config=options)
    except FileNotFoundError:
        if not has_magic(pattern):
            raise ValueError(f"there is no {pattern!r}") from None


def _inside(path: str) -> PurePosixPath:
    """Raises ValueError for what is no plain relative path or pattern: an address, an absolute path, `..`."""
    parts = PurePosixPath(path)
    if "://" in path or "::" in path or os.path.isabs(path) or ".." in parts.parts:
        raise ValueError(f"{path!r} leads out of the dataset")
    return parts


def _may_have_splits(names: Sequence[str]) -> bool:
    from datasets.data_files import SPLIT_KEYWORDS

    words = [word for of_split in SPLIT_KEYWORDS.values() for word in of_split]
    return any("-of-" in name or any(word in name for word in words) for name in names)


def read_config(root: Place, wanted: str | None) -> Config:
    """What README.md says of the config that was asked for, of its default one, or of the only one; {} if it has none.

    Raises SourceError for a README that `datasets` does not understand, and where a config has to be chosen.
    """
    try:
        configs = _configs(root)
        default = configs.get_default_config_name() if configs else None
    except Exception as error:  # YAML, datasets and huggingface_hub each have their own
        raise SourceError(f"the configs in {str(root / 'README.md')!r} cannot be read: {_first_line(error)}") from None
    if not configs:
        if wanted is not None:
            raise SourceError(f"{str(root)!r} has no configs in a README.md; leave out --config {wanted}")
        return {}
    name = wanted if wanted is not None else default
    if name is None:
        raise SourceError(f"{str(root)!r} has the configs {', '.join(configs)}; choose one with --config")
    if name not in configs:
        raise SourceError(f"{wanted!r} is not among the configs in {str(root)!r}: {', '.join(configs)}")
    found: Config = configs[name]
    return found


def _configs(root: Place) -> Any:
    """`datasets`' MetadataConfigs of README.md and .huggingface.yaml."""
    import yaml
    from datasets.config import REPOCARD_FILENAME, REPOYAML_FILENAME
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard, DatasetCardData

    said: dict[str, Any] = {}
    if (text := _head(root / REPOCARD_FILENAME)).lstrip().startswith("---"):
        _refuse_aliases(text.lstrip().removeprefix("---").partition("\n---")[0])
        said |= DatasetCard(text).data.to_dict()
    if text := _head(root / REPOYAML_FILENAME):
        _refuse_aliases(text)
        said |= yaml.safe_load(text) or {}
    return MetadataConfigs.from_dataset_card_data(DatasetCardData(**said))


def _refuse_aliases(text: str) -> None:
    """Raises ValueError where YAML repeats itself more than a few times: thirty lines can stand for a billion."""
    import yaml

    if sum(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)) > MAX_ALIASES:
        raise ValueError(f"more than {MAX_ALIASES} aliases; write out what they stand for")


def _head(path: Place) -> str:
    try:
        return read_regular(path, cut=MAX_README).decode("utf-8-sig", "replace") if path.is_file() else ""
    except Rejected:
        return ""


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

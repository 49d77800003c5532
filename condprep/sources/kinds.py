"""What a file is by its name: a picture, a listing, an archive, something of the system's; and what is said of those left."""

from __future__ import annotations

import os
import re
from functools import cache
from importlib.util import find_spec

from condprep.errors import SourceError
from condprep.runtime.retry import as_fault, is_passing
from condprep.runtime.storage import Place, Remote

# the extensions that make a file an input
PICTURES = frozenset(
    {
        *("jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "avif", "bmp", "dib", "tif", "tiff", "gif"),
        *("jp2", "j2k", "j2c", "jpc", "jpf", "jpx", "ppm", "pgm", "pbm", "pnm", "tga", "ico"),
    }
)
PLUG_INS = {  # extension -> the package that reads it, and the extra of condprep that installs that
    **dict.fromkeys(("heic", "heif", "hif"), ("pillow_heif", "heif")),
    "jxl": ("pillow_jxl", "jxl"),
}
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # what makes a folder an imagefolder
LISTINGS = frozenset({".jsonl", ".json", ".csv", ".tsv", ".parquet"})
HIDDEN = "skipped: hidden files and folders, and those of the system"
UNUSED = "not used: a listing; give its path as the source to read it"
_SYSTEM = frozenset(
    {
        *("@eaDir", "lost+found", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "#recycle"),
        *("Thumbs.db", "ehthumbs.db", "desktop.ini", "Icon\r"),
    }
)
_LISTS = re.compile(r"(^|[_.-])(metadata|captions?|prompts?|annotations?|labels?|train|test|val|validation)([_.-]|$)")


@cache
def is_installed(package: str) -> bool:
    """Whether a plug-in can be imported; asked once."""
    return find_spec(package) is not None


def is_picture(name: str) -> bool:
    """Whether the extension makes a file an input. Its content is looked at only when it is decoded."""
    stem, _, extension = name.rpartition(".")
    extension = extension.lower()
    return bool(stem) and (extension in PICTURES or (extension in PLUG_INS and is_installed(PLUG_INS[extension][0])))


def is_metadata(name: str) -> bool:
    """Whether a file name is that of an imagefolder's listing."""
    return name in METADATA


def is_listing(name: str) -> bool:
    """Whether a file can be read as a listing where the user names it."""
    return os.path.splitext(name)[1].lower() in LISTINGS


def is_tar(name: str) -> bool:
    """Whether a file name is that of a tar, packed ones included: they are recognised to be refused with a reason."""
    return re.search(r"\.(tar|tgz|tbz2?|txz|tar\.(gz|bz2|xz|zst|lz4|br|z))$", name, re.IGNORECASE) is not None


def is_zip(name: str) -> bool:
    """Whether a file name is that of a zip."""
    return name.lower().endswith(".zip")


def is_parquet(name: str) -> bool:
    """Whether a file name is that of a Parquet file of rows, not of a listing."""
    return name.lower().endswith(".parquet") and not is_metadata(name)


def is_junk(name: str) -> bool:
    """Whether a file or folder is hidden, or something that a system leaves about."""
    return name.startswith(".") or name in _SYSTEM


def kind_left(name: str) -> str:
    """What a file that is not read is counted as."""
    if is_junk(name):
        return HIDDEN
    stem, extension = os.path.splitext(name.lower())
    if extension in LISTINGS and _LISTS.search(stem):
        return UNUSED
    if extension[1:] in PLUG_INS:
        return f"skipped: {extension} (read with pip install 'condprep[{PLUG_INS[extension[1:]][1]}]')"
    if is_zip(name):
        return "skipped: .zip (give its path as the source to read it)"
    plain = extension[1:].isalnum() and extension.isascii() and len(extension) <= 9
    return f"skipped: {extension}" if plain else "skipped: files of other kinds"


def listing(folder: Place) -> list[str]:
    """The names in a folder, sorted, without junk; none if there is no such folder. Raises SourceError."""
    if isinstance(folder, Remote):
        return [name for one in folder.listing().get("", ()) if not is_junk(name := one.rstrip("/"))]
    try:
        return sorted(name for name in os.listdir(folder) if not is_junk(name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        if is_passing(error):
            raise as_fault(error, str(folder)) from error
        raise SourceError(f"the folder {str(folder)!r} cannot be listed: {error.strerror}") from None


def existing_folder(found: Place) -> Place:
    """The same folder. Raises SourceError if there is none."""
    if not found.is_dir():
        raise SourceError(f"there is no folder {str(found)!r}")
    return found

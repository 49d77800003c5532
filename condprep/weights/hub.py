"""Weights files from the Hugging Face Hub: its cache on disk, and the download of one file at a pinned commit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from condprep.weights.pins import Hub, Pin

REACH_SECONDS = 10.0


def cached(pin: Pin, hub: Hub) -> Path | None:
    """Where the Hub cache (HF_HOME, HF_HUB_CACHE) holds the file at the pinned commit, or None. Not checked yet."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(hub.repo, pin.member or pin.name, revision=hub.revision)
    return Path(path) if isinstance(path, str) else None


def download(pin: Pin, hub: Hub, announce: Callable[[], None]) -> Path:
    """Download into the Hub cache, with the library's progress bar, locks and retries.

    `announce` is called once the Hub has answered. Raises whatever the library raises without network, with
    HF_HUB_OFFLINE=1, on a full disk.
    """
    from huggingface_hub import hf_hub_download, hf_hub_url
    from huggingface_hub.utils import get_session

    # One question without retries first: alone, hf_hub_download tries for 23 s before it says that there is no network.
    get_session().head(hf_hub_url(hub.repo, pin.member or pin.name, revision=hub.revision), timeout=REACH_SECONDS)
    announce()
    return Path(hf_hub_download(hub.repo, pin.member or pin.name, revision=hub.revision))

"""Batches on their way to a device and back: the same bytes, and nobody waits for a copy."""

from __future__ import annotations

import numpy as np
import pytest
from support.device import DEVICE, ON_CUDA, on_device, waits

from condprep.annotators.batches import as_batch
from condprep.annotators.transfer import Download, Upload

DEVICES = ["cpu", pytest.param(DEVICE, marks=on_device)]


def pictures(number: int) -> list[np.ndarray]:
    rng = np.random.default_rng(number)
    return [rng.integers(0, 256, (48, 80, 3), np.uint8) for _ in range(4)]


@pytest.mark.parametrize("device", DEVICES)
def test_what_goes_to_a_device_comes_back(device: str) -> None:
    """Many batches at once, each in its own memory: none has another's pixels, however late it is asked for."""
    uploads = [Upload(pictures(number), device) for number in range(8)]
    batches = [upload.batch() for upload in uploads]
    downloads = [Download([batch, batch[:, :, :40].float() + 1]) for batch in batches]
    del uploads, batches  # their memory may be given away, but not before the copies are done
    for number, download in enumerate(downloads):
        download.wait()
        for i, rgb in enumerate(pictures(number)):
            whole, part = download.arrays(i)
            assert np.array_equal(whole.transpose(1, 2, 0), rgb)
            assert np.array_equal(part.transpose(1, 2, 0), rgb[:40].astype(np.float32) + 1)


@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_is_laid_out_as_networks_want_it(device: str) -> None:
    """(B, 3, H, W) uint8 in channels_last, the same as every other way makes it."""
    batch, expected = Upload(pictures(0), device).batch(), as_batch(pictures(0))
    assert batch.device.type == device
    assert (batch.shape, batch.stride(), batch.dtype) == (expected.shape, expected.stride(), expected.dtype)
    assert np.array_equal(batch.cpu(), expected)


@pytest.mark.parametrize("device", [pytest.param(DEVICE, marks=on_device)])
def test_the_host_waits_for_no_copy(device: str) -> None:
    """Neither to a device nor from it, until the results are asked for."""
    Download([Upload(pictures(0), device).batch()]).wait()  # the first one makes streams and pinned memory
    downloads: list[Download] = []
    assert waits(lambda: downloads.append(Download([Upload(pictures(1), device).batch()]))) == 0
    downloads[0].wait()
    assert ON_CUDA or np.array_equal(downloads[0].arrays(0)[0].transpose(1, 2, 0), pictures(1)[0])

"""Making pictures smaller: bicubic (a = -0.5) with antialiasing, as Pillow does, in a sixth of its time."""

from __future__ import annotations

import threading

import numpy as np

Box = tuple[float, float, float, float]  # (top, left, height, width) in pixels, edges at integers

try:
    import cykooz_resizer
except ModuleNotFoundError:  # it has no wheels for Linux on ARM
    cykooz_resizer = None


def shrink(rgb: np.ndarray, size: tuple[int, int], box: Box | None = None) -> np.ndarray:
    """(H, W, 3) uint8 -> (*size, 3) uint8, contiguous; any strides. size: (h, w) with h <= H, w <= W, pixels.

    box: of the picture, only this; by default all of it. Pillow's values to within one level. docs/decisions/0002 has
    what else was measured.
    """
    if cykooz_resizer:
        return _with_cykooz(rgb, size, box)
    return _with_pillow(rgb, size, box) if box else _with_torch(rgb, size)


_local = threading.local()


def _with_cykooz(rgb: np.ndarray, size: tuple[int, int], box: Box | None) -> np.ndarray:
    if not hasattr(_local, "resizer"):
        _local.resizer = cykooz_resizer.Resizer()  # keeps its buffers
    (height, width), rgb8 = rgb.shape[:2], cykooz_resizer.PixelType.U8x3
    source = cykooz_resizer.ImageData(width, height, rgb8, rgb.tobytes())
    target = cykooz_resizer.ImageData(size[1], size[0], rgb8)
    bicubic = cykooz_resizer.ResizeAlg.convolution(cykooz_resizer.FilterType.catmull_rom)
    top, left, box_height, box_width = box or (0, 0, height, width)
    crop = cykooz_resizer.CropBox(left, top, box_width, box_height) if box else None
    _local.resizer.resize(source, target, cykooz_resizer.ResizeOptions(resize_alg=bicubic, crop_box=crop))
    return np.frombuffer(target.get_buffer(), np.uint8).reshape(*size, 3)


def _with_pillow(rgb: np.ndarray, size: tuple[int, int], box: Box) -> np.ndarray:
    from PIL import Image

    top, left, height, width = box
    whole = Image.fromarray(np.ascontiguousarray(rgb))
    edges = (left, top, left + width, top + height)
    return np.array(whole.resize(size[::-1], Image.Resampling.BICUBIC, edges))


def _with_torch(rgb: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    import cv2
    import torch
    from torch.nn.functional import interpolate

    tensor = torch.from_numpy(rgb).permute(2, 0, 1)[None]  # (1, 3, H, W), a view
    planes = interpolate(tensor, size, mode="bicubic", antialias=True)[0].numpy()  # (3, *size)
    return np.asarray(cv2.merge(list(planes)))  # 25 times as fast as a transposed copy

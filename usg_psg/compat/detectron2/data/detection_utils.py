"""Read images."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..utils.file_io import PathManager

__all__ = ["SizeMismatchError", "check_image_size", "convert_PIL_to_numpy", "read_image"]


class SizeMismatchError(ValueError):
    """An image is not of the size that its annotation says."""


def convert_PIL_to_numpy(image: Image.Image, format: str | None) -> np.ndarray:
    """A PIL image as an array (H, W, C).

    Args:
        format: a PIL mode, or "BGR"; None keeps the image's mode (and then (H, W) for single-channel ones).
    """
    if format is None:
        return np.asarray(image)
    pixels = np.asarray(image.convert("RGB" if format == "BGR" else format))
    if format == "BGR":
        return pixels[:, :, ::-1]
    return pixels[:, :, None] if format == "L" else pixels


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """Read an image file, turned upright as its EXIF orientation says.

    Args:
        format: as in `convert_PIL_to_numpy`.

    Returns:
        (H, W, C) uint8.
    """
    with PathManager.open(file_name, "rb") as file, Image.open(file) as image:
        return convert_PIL_to_numpy(ImageOps.exif_transpose(image), format)


def check_image_size(dataset_dict: dict[str, Any], image: np.ndarray) -> None:
    """Compare an image with `height` and `width` of its dict, and fill them in where they are missing.

    Raises:
        SizeMismatchError: if they differ.
    """
    height, width = image.shape[:2]
    expected = (dataset_dict.setdefault("height", height), dataset_dict.setdefault("width", width))
    if expected != (height, width):
        raise SizeMismatchError(
            f"image {dataset_dict.get('file_name', '')} is {height} x {width} (height x width), "
            f"its annotation says {expected[0]} x {expected[1]}"
        )

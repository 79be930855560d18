"""Limits of what servers take from visitors, checked before an image is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from ..images import open_image

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF")  # as Pillow calls them; MPO is a JPEG of some cameras


@dataclass(frozen=True)
class Limits:
    """What a request may take: megabytes (10^6) and megapixels (10^6) of its image, names in one box, seconds."""

    megabytes: float = 20.0
    megapixels: float = 30.0
    names: int = 500
    seconds: float = 120.0


def check_upload(file: str | bytes, limits: Limits) -> None:
    """Refuse an upload that is too large, no image, or of a format that is not taken, by its size and header alone.

    Args:
        file: path of the upload, or its content.
        limits: the server's.

    Raises:
        ValueError: with a sentence for the visitor, without folders of this machine.
    """
    name = Path(file).name if isinstance(file, str) else "The upload"
    size = (len(file) if isinstance(file, bytes) else Path(file).stat().st_size) / 1e6
    if size > limits.megabytes:
        raise ValueError(f"The file has {size:.1f} MB; at most {limits.megabytes:g} MB are taken.")
    try:
        with open_image(BytesIO(file) if isinstance(file, bytes) else file) as image:
            kind, (width, height) = image.format, image.size
    except Image.DecompressionBombError:
        raise ValueError(f"The image has too many pixels; at most {limits.megapixels:g} million are taken.") from None
    except (OSError, SyntaxError, ValueError):
        raise ValueError(f"{name} is not an image, or it is damaged.") from None
    if kind not in FORMATS:
        raise ValueError(f"{name} is a {kind} file; JPEG, PNG, WebP, BMP and TIFF are taken.")
    if width * height > limits.megapixels * 1e6:
        raise ValueError(f"The image has {width} x {height} pixels; at most {limits.megapixels:g} million are taken.")

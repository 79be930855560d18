"""Reads image files, whatever their kind and their camera's orientation.

Every error names the file and the image.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import numpy as np
from PIL import Image

MAX_PIXELS = 89_478_485  # where Pillow begins to warn, a quarter of a gigabyte as RGB
TOO_LARGE = f"pictures of more than {MAX_PIXELS:,} pixels are not read; shrink it first"
NO_FILE = "there is no such file"
# Formats whose decoders run inside this process. Pillow has others that start programs: EPS content goes to
# Ghostscript, whatever the file is called.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000")

# Pillow's warning of large pictures; `opened_image` refuses them.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_ORIENTATION_TAG = 0x0112
# What shows a picture upright, by the value of EXIF's orientation; 1 is upright already.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = (5, 6, 7, 8)


class ImageError(ValueError):
    """A picture that cannot be used; the text alone makes one, as loaders' processes hand their errors over.

    Attributes:
        problem: "unreadable", "too_large", "size", "mode", "unlisted_ids", "ids_without_pixels" or "too_many_segments".
        message: the text without file and image.
    """

    def __init__(self, text: str, problem: str = "unreadable", message: str = ""):
        super().__init__(text)
        self.problem, self.message = problem, message or text


class MissingImageError(FileNotFoundError):
    """A picture that is not there; attributes as in `ImageError`."""

    def __init__(self, text: str):
        super().__init__(text)
        # Not of the class: torch's loader would then make the error anew with a keyword `message`.
        self.problem, self.message = "missing", NO_FILE


def image_error(problem: str, file_name: str | IO[bytes] | Image.Image, image_id: str, message: str) -> ImageError:
    """The error of a file, which its text names."""
    return ImageError(f"{_where(file_name, image_id)}: {message}", problem, message)


def open_image(file: str | os.PathLike | IO[bytes], formats: tuple[str, ...] = IMAGE_FORMATS) -> Image.Image:
    """Open an image file whose content is of one of the formats; its pixels are not decoded yet."""
    return Image.open(file, formats=formats)


def read_image(
    file_name: str | Image.Image,
    image_format: str = "RGB",
    *,
    size: tuple[int, int] | None = None,
    image_id: str = "",
) -> np.ndarray:
    """Any image as three channels of eight bits: gray, palette, CMYK and 16-bit ones too.

    A camera's orientation note (EXIF) is followed, unless only the pixels as stored have the annotated size: COCO's
    annotations follow the rotated image, other tools' the stored one.

    Args:
        file_name: path, or the image that Pillow made of it.
        image_format: "RGB" or "BGR", the order of the channels.
        size: (height, width) that the annotations say; None accepts any.
        image_id: named in errors.

    Returns:
        (H, W, 3) uint8.

    Raises:
        FileNotFoundError, ValueError: if it is missing, no image, cut off, of another size, or above `MAX_PIXELS`.
    """
    if image_format not in ("RGB", "BGR"):
        raise ValueError(f"image_format: expected 'RGB' or 'BGR', got {image_format!r}")
    with opened_image(file_name, image_id) as image:
        turn = _needed_turn(image, file_name, size, image_id)
        image.load()
        if turn is not None:
            image = image.transpose(turn)
        pixels = np.array(_to_rgb(image))
    return pixels if image_format == "RGB" else np.ascontiguousarray(pixels[:, :, ::-1])


def image_size(file_name: str | Image.Image) -> tuple[int, int]:
    """(H, W) of the array that `read_image` makes, by the file's header alone; errors as there."""
    with opened_image(file_name, "") as image:
        size = (image.height, image.width)
        return size[::-1] if _orientation(image) in _SWAPS_SIDES else size


def check_image(file_name: str, size: tuple[int, int] | None, image_id: str = "") -> tuple[str, int]:
    """Raise what `read_image` would; returns Pillow's name of the colour mode and EXIF's orientation (1 is upright).

    A JPEG is decoded from its first byte to its last, but at an eighth of its size, which takes half the time.
    """
    mode, orientation = "", 1
    try:
        with opened_image(file_name, image_id) as image:
            mode, orientation = image.mode, _orientation(image)
            if image.format == "JPEG":
                _needed_turn(image, file_name, size, image_id)
                image.draft(None, (1, 1))
                image.load()
                return mode, orientation
    except ImageError:
        pass  # said by `read_image` in its own words
    read_image(file_name, size=size, image_id=image_id)
    return mode, orientation


@contextmanager
def opened_image(file_name: str | IO[bytes] | Image.Image, image_id: str) -> Iterator[Image.Image]:
    """The picture of a file, not decoded yet; whatever goes wrong inside becomes one of this module's errors."""
    try:
        if isinstance(file_name, Image.Image):
            yield file_name
            return
        # A named pipe would be waited for.
        if isinstance(file_name, str | os.PathLike) and not stat.S_ISREG(os.stat(file_name).st_mode):
            raise OSError("not a regular file")
        with open_image(file_name) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise image_error("too_large", file_name, image_id, TOO_LARGE) from None
    except FileNotFoundError:
        raise MissingImageError(f"{_where(file_name, image_id)}: {NO_FILE}") from None
    except Exception as error:
        # Pillow's decoders meet damaged files with errors of many types.
        text = str(error) or type(error).__name__
        raise image_error("unreadable", file_name, image_id, f"not a readable image ({text})") from error


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        # Damaged EXIF data say nothing about the pixels; cameras and editors write them often enough.
        return 1
    return value if value in _UPRIGHT else 1


def _needed_turn(
    image: Image.Image, file_name: str | Image.Image, size: tuple[int, int] | None, image_id: str
) -> Image.Transpose | None:
    """The transposition that gives an image its annotated size, upright where both ways have it."""
    orientation = _orientation(image)
    stored = (image.height, image.width)
    upright = stored[::-1] if orientation in _SWAPS_SIDES else stored
    if size is None or upright == tuple(size):
        return _UPRIGHT.get(orientation)
    if stored == tuple(size):
        return None
    raise image_error("size", file_name, image_id, size_message("image", size, upright))


def size_message(what: str, expected: tuple[int, int], found: tuple[int, int]) -> str:
    """An error's words for a size (H, W) other than the annotated one."""
    return f"the annotations say height x width {expected[0]} x {expected[1]}, the {what} has {found[0]} x {found[1]}"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow's own conversion clips at 255; 16-bit gray becomes its high byte.
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _where(file_name: str | IO[bytes] | Image.Image, image_id: str) -> str:
    name = str(getattr(file_name, "name", "") or getattr(file_name, "filename", "") or file_name)
    return f"{name} (image_id {image_id!r})" if image_id else name

"""Pictures of PSG: photographs in the frame of their annotations, and panoptic PNGs as segment positions.

Every error names the file and the image.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_SEGMENTS = 2**16 - 1


def read_image(
    file_name: str,
    image_format: str = "RGB",
    *,
    size: tuple[int, int] | None = None,
    image_id: str = "",
) -> np.ndarray:
    """Any image file as three channels of eight bits: gray, palette, CMYK and 16-bit ones too.

    A camera's orientation note (EXIF) is followed, unless only the pixels as stored have the annotated size: COCO's
    annotations follow the rotated image, other tools' the stored one.

    Args:
        file_name: path.
        image_format: "RGB" or "BGR", the order of the channels.
        size: (height, width) that the annotations say; None accepts any.
        image_id: named in errors.

    Returns:
        (H, W, 3) uint8.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no image, is cut off, or has another size.
    """
    if image_format not in ("RGB", "BGR"):
        raise ValueError(f"image_format: expected 'RGB' or 'BGR', got {image_format!r}")
    stored = _open(file_name, image_id)
    upright = ImageOps.exif_transpose(stored)
    image = upright
    if size is not None and (upright.height, upright.width) != tuple(size):
        image = stored
        if (stored.height, stored.width) != tuple(size):
            found = f"{upright.height} x {upright.width}"
            raise ValueError(
                f"{_where(file_name, image_id)}: the annotations say height x width {size[0]} x {size[1]}, "
                f"the image has {found}"
            )
    pixels = np.array(_to_rgb(image))
    return pixels if image_format == "RGB" else np.ascontiguousarray(pixels[:, :, ::-1])


def decode_panoptic_png(file_name: str, *, image_id: str = "") -> np.ndarray:
    """Segment ids of a panoptic PNG, R + 256 G + 256^2 B.

    Args:
        file_name: path of an eight-bit colour PNG.
        image_id: named in errors.

    Returns:
        (H, W) int32, 0 where no segment is.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no image, is cut off, or has no three colour channels.
    """
    image = _open(file_name, image_id)
    if image.mode != "RGB":
        raise ValueError(
            f"{_where(file_name, image_id)}: a panoptic PNG has three 8-bit colour channels (mode RGB), "
            f"this one has mode {image.mode}"
        )
    red, green, blue = np.moveaxis(np.asarray(image, dtype=np.int32), -1, 0)
    return red + 256 * green + 256**2 * blue


def encode_panoptic(ids: np.ndarray) -> np.ndarray:
    """Colours of segment ids, the inverse of `decode_panoptic_png`: (H, W) integers to (H, W, 3) uint8 RGB."""
    ids = ids.astype(np.int64)
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1).astype(np.uint8)


def segment_index_map(
    ids: np.ndarray, segments_info: list[dict], *, file_name: str = "", image_id: str = ""
) -> np.ndarray:
    """Segment ids to positions in segments_info.

    Args:
        ids: (H, W) int32 ids, 0 for unlabelled.
        segments_info: segments with unique "id".
        file_name, image_id: named in errors.

    Returns:
        (H, W) uint16: position + 1, 0 where no segment is.

    Raises:
        ValueError: if the map has an id that segments_info lacks, or the reverse.
    """
    if len(segments_info) > MAX_SEGMENTS:
        where = _where(file_name, image_id)
        raise ValueError(f"{where}: expected at most {MAX_SEGMENTS} segments, got {len(segments_info)}")
    listed = np.array([s["id"] for s in segments_info], dtype=np.int64)
    # Calloc'd and hardly touched, so cheaper than sorting the pixels.
    table = np.zeros(max(int(ids.max(initial=0)), int(listed.max(initial=0))) + 1, dtype=np.uint16)
    table[listed] = np.arange(1, len(listed) + 1)
    index = table[ids]
    unknown = np.unique(ids[(index == 0) & (ids != 0)])
    if len(unknown):
        raise ValueError(
            f"{_where(file_name, image_id)}: segments_info lacks the ids {_some(unknown)} of the panoptic PNG"
        )
    counts = np.bincount(index.ravel(), minlength=len(listed) + 1)[1:]
    if (counts == 0).any():
        missing = _some(listed[counts == 0])
        raise ValueError(f"{_where(file_name, image_id)}: the panoptic PNG lacks the ids {missing} of segments_info")
    return index


def read_segment_index_map(dataset_dict: dict) -> np.ndarray:
    """The panoptic PNG of a dataset dict as `segment_index_map`, checked against its height and width."""
    file_name, image_id = dataset_dict["pan_seg_file_name"], dataset_dict["image_id"]
    ids = decode_panoptic_png(file_name, image_id=image_id)
    size = (dataset_dict["height"], dataset_dict["width"])
    if ids.shape != size:
        raise ValueError(
            f"{_where(file_name, image_id)}: the annotations say height x width {size[0]} x {size[1]}, "
            f"the panoptic PNG has {ids.shape[0]} x {ids.shape[1]}"
        )
    return segment_index_map(ids, dataset_dict["segments_info"], file_name=file_name, image_id=image_id)


def _open(file_name: str, image_id: str) -> Image.Image:
    try:
        with Image.open(file_name) as image:
            image.load()
            return image
    except FileNotFoundError:
        raise FileNotFoundError(f"{_where(file_name, image_id)}: there is no such file") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{_where(file_name, image_id)}: not a readable image ({error})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow's own conversion clips at 255; 16-bit gray becomes its high byte.
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _where(file_name: str, image_id: str) -> str:
    return f"{file_name} (image_id {image_id!r})" if image_id else file_name


def _some(values: np.ndarray, limit: int = 5) -> str:
    shown = ", ".join(str(int(v)) for v in values[:limit])
    return shown if len(values) <= limit else f"{shown} and {len(values) - limit} more"

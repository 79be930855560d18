"""Panoptic PNGs of PSG as segment positions. Every error names the file and the image."""

from __future__ import annotations

from typing import IO

import numpy as np

from ..images import ImageError, image_error, opened_image, size_message
from ..masks import runs
from .validation.records import MAX_SEGMENT_ID

MAX_SEGMENTS = 2**16 - 1


def decode_panoptic_png(
    file_name: str | IO[bytes], *, size: tuple[int, int] | None = None, image_id: str = ""
) -> np.ndarray:
    """Segment ids of a panoptic PNG, R + 256 G + 256^2 B.

    Args:
        file_name: path of an eight-bit colour PNG, or the open file (a member of an archive, say).
        size, image_id: as in `read_image`, and so are the errors.

    Returns:
        (H, W) int32, 0 where no segment is.
    """
    with opened_image(file_name, image_id) as image:
        if image.mode != "RGB":
            message = f"a panoptic PNG has three 8-bit colour channels (mode RGB), this one has mode {image.mode}"
            raise image_error("mode", file_name, image_id, message)
        if size is not None and (image.height, image.width) != tuple(size):
            message = size_message("panoptic PNG", size, (image.height, image.width))
            raise image_error("size", file_name, image_id, message)
        image.load()
        colours = np.frombuffer(image.tobytes("raw", "RGBX"), dtype="<u4").reshape(image.height, image.width)
    return (colours & MAX_SEGMENT_ID).view(np.int32)  # the fourth byte says nothing


def encode_panoptic(ids: np.ndarray) -> np.ndarray:
    """Colours of segment ids, the inverse of `decode_panoptic_png`: (H, W) integers to (H, W, 3) uint8 RGB."""
    return np.ascontiguousarray(ids.astype("<u4")[..., None].view(np.uint8)[..., :3])


def segment_index_map(
    ids: np.ndarray, segments_info: list[dict], *, file_name: str = "", image_id: str = ""
) -> tuple[np.ndarray, list[ImageError]]:
    """Segment ids to positions in segments_info.

    Args:
        ids: (H, W) int32 ids, 0 for unlabelled.
        segments_info: segments with unique "id".
        file_name, image_id: named in errors.

    Returns:
        map: (H, W) uint8, uint16 for more than 255 segments: position + 1, 0 where no listed segment is.
        disagreements: errors, for callers that refuse or count them: one if the map has ids that segments_info lacks,
            which are 0 here, and one if segments have no pixel.

    Raises:
        ValueError: for more segments than the map can number.
    """
    if len(segments_info) > MAX_SEGMENTS:
        message = f"expected at most {MAX_SEGMENTS} segments, got {len(segments_info)}"
        raise image_error("too_many_segments", file_name, image_id, message)
    listed = np.array([s["id"] for s in segments_info], dtype=np.int64)
    starts, lengths = runs(ids.ravel())
    run_ids = ids.ravel()[starts]
    order = np.argsort(listed)
    place = np.searchsorted(listed, run_ids, sorter=order)
    number = np.append(order + 1, 0)[place]  # of the first listed id that is not smaller
    run_index = np.where(np.append(listed, -1)[number - 1] == run_ids, number, 0)
    unknown = np.unique(run_ids[(run_index == 0) & (run_ids != 0)])
    disagreements = []
    if len(unknown):
        message = f"segments_info lacks the ids {_some(unknown)} of the panoptic PNG"
        disagreements.append(image_error("unlisted_ids", file_name, image_id, message))
    missing = np.bincount(run_index, minlength=len(listed) + 1)[1:] == 0
    if missing.any():
        message = f"the panoptic PNG lacks the ids {_some(listed[missing])} of segments_info"
        disagreements.append(image_error("ids_without_pixels", file_name, image_id, message))
    kind = np.uint8 if len(listed) < 256 else np.uint16
    return np.repeat(run_index.astype(kind), lengths).reshape(ids.shape), disagreements


def read_segment_index_map(dataset_dict: dict) -> tuple[np.ndarray, list[ImageError]]:
    """The panoptic PNG of a dataset dict as `segment_index_map`, checked against its height and width."""
    file_name, image_id = dataset_dict["pan_seg_file_name"], dataset_dict["image_id"]
    size = (dataset_dict["height"], dataset_dict["width"])
    ids = decode_panoptic_png(file_name, size=size, image_id=image_id)
    return segment_index_map(ids, dataset_dict["segments_info"], file_name=file_name, image_id=image_id)


def _some(values: np.ndarray, limit: int = 5) -> str:
    shown = ", ".join(str(int(v)) for v in values[:limit])
    return shown if len(values) <= limit else f"{shown} and {len(values) - limit} more"

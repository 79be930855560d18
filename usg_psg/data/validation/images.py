"""What makes the pictures of a record unusable, and what is worth knowing of a usable record.

The pictures are judged by the functions that the loader reads them with (`panoptic.py`), in the loader's words.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from ...vocabulary import Vocabulary
from ..panoptic import (
    MAX_SEGMENTS,
    ImageError,
    MissingImageError,
    check_image,
    count_png_ids,
    no_pixels_message,
    too_many_message,
    unlisted_message,
)
from .records import PICTURE_KEYS, Fault, box_notes, file_name_faults, is_integer, record_faults, size_faults


def image_faults(record: object, image_id: str, vocabulary: Vocabulary, root: str) -> list[Fault]:
    """Every fault of one image: of its record, its picture and its panoptic PNG; what is mended and notes among them.

    Args:
        record: entry of the file's `data`, of any form.
        image_id: its id.
        vocabulary: names of the categories and predicates.
        root: folder that the file names are relative to, without symbolic links.

    Returns:
        Faults in the order of the loader's checks; those of pictures have their path in `file`.
    """
    faults = list(record_faults(record, image_id, vocabulary))
    if not isinstance(record, dict):
        return faults
    kinds = {fault.kind for fault in faults}
    is_whole = not kinds & {"structure", "missing_key", "repeated_key"}
    faults += _picture_faults(record, image_id, root, is_whole and not kinds & {"segment_id", "duplicate_segment_id"})
    if is_whole:
        faults += record_notes(record, image_id)
    return faults


def record_notes(record: dict, image_id: str) -> Iterator[Fault]:
    """Images without segments or relations, and boxes outside the image."""
    if not record["segments_info"]:
        yield Fault("no_segments", image_id, "segments_info", "the image has no segment")
    if not record["relations"]:
        yield Fault("no_relations", image_id, "relations", "the image has no relation")
    yield from box_notes(record, image_id)


def _picture_faults(record: dict, image_id: str, root: str, has_ids: bool) -> Iterator[Fault]:
    """Faults of the pictures that can be found by a record that may have faults itself.

    has_ids says that the record's segments have distinct, possible ids, to compare with the PNG's.
    """
    names = {key: name if isinstance(name := record.get(key), str) else "" for key in PICTURE_KEYS}
    invalid = {fault.field for fault in file_name_faults(names, image_id)}
    size = _size(record, image_id)
    for key in PICTURE_KEYS:
        if key in invalid:
            continue
        path = os.path.join(root, names[key])
        if leaves_root(path, root):
            yield Fault("link", image_id, key, "a symbolic link leads out of the data root", path)
        try:
            if key == "file_name":
                yield from _image_notes(path, size, image_id)
            else:
                ids, pixels = count_png_ids(path, size=size, image_id=image_id)
                if has_ids:
                    yield from _id_faults(record["segments_info"], ids, pixels, image_id, path)
        except (ImageError, MissingImageError) as error:
            kind = f"{error.problem}_{'image' if key == 'file_name' else 'png'}"
            yield Fault(kind, image_id, key, error.message, path)


def _size(record: dict, image_id: str) -> tuple[int, int] | None:
    height, width = record.get("height"), record.get("width")
    if not (is_integer(height) and is_integer(width)) or any(size_faults(record, image_id)):
        return None
    return height, width


def _image_notes(path: str, size: tuple[int, int] | None, image_id: str) -> Iterator[Fault]:
    mode, orientation = check_image(path, size, image_id)
    if mode != "RGB":
        yield Fault("colour_mode", image_id, "file_name", f"colour mode {mode}, read as RGB", path)
    if orientation != 1:
        yield Fault("exif_orientation", image_id, "file_name", f"EXIF orientation {orientation}", path)


def _id_faults(segments: list[dict], ids: np.ndarray, pixels: np.ndarray, image_id: str, path: str) -> Iterator[Fault]:
    """Ids that only one of segments_info and PNG has, and areas that disagree with the pixels."""
    if len(segments) > MAX_SEGMENTS:
        message = too_many_message(len(segments))
        yield Fault("too_many_segments_png", image_id, "pan_seg_file_name", message, path)
        return
    area_of = dict(zip(ids.tolist(), pixels.tolist(), strict=True))
    listed = {s["id"] for s in segments}
    unlisted = np.array([i for i in area_of if i != 0 and i not in listed])
    if len(unlisted):
        yield Fault("unlisted_ids_png", image_id, "pan_seg_file_name", unlisted_message(unlisted), path)
    absent = np.array([s["id"] for s in segments if s["id"] not in area_of])
    if len(absent):
        yield Fault("ids_without_pixels_png", image_id, "pan_seg_file_name", no_pixels_message(absent), path)
    for i, segment in enumerate(segments):
        area = area_of.get(segment["id"])
        if area is not None and segment["area"] != area:
            message = f"the file says {segment['area']!r} pixels, the panoptic PNG has {area}"
            yield Fault("area_differs", image_id, f"segments_info[{i}].area", message, path)


def leaves_root(path: str, root: str) -> bool:
    """True if symbolic links lead a path out of root; missing files do not."""
    try:
        folder, name = os.path.split(path)
        real = os.path.join(_real_folder(folder), name)
        if os.path.islink(path):
            real = os.path.realpath(path)
    except (OSError, ValueError):
        return False
    return os.path.commonpath([real, root]) != root


@lru_cache(maxsize=1024)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)

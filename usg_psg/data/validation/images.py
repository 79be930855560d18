"""The rules for the image files of a record, and warnings about a usable record.

The functions that the loader reads files with (`panoptic.py`) judge them, in the loader's words.
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
from .records import IMAGE_KEYS, Problem, box_warnings, file_name_problems, is_integer, size_problems, validate_record


def validate_image(record: object, image_id: str, vocabulary: Vocabulary, root: str) -> list[Problem]:
    """Every problem of one image: errors, what is mended and warnings, of its record, image file and panoptic PNG.

    Args:
        record: entry of the file's `data`, of any form.
        image_id: its id.
        vocabulary: names of the categories and predicates.
        root: folder that the file names are relative to, without symbolic links.

    Returns:
        Problems in the order of the loader's checks; those of image files have their path in `file`.
    """
    problems = list(validate_record(record, image_id, vocabulary))
    if not isinstance(record, dict):
        return problems
    kinds = {problem.kind for problem in problems}
    is_whole = not kinds & {"structure", "missing_key", "repeated_key"}
    problems += _image_file_problems(
        record, image_id, root, is_whole and not kinds & {"segment_id", "duplicate_segment_id"}
    )
    if is_whole:
        problems += record_warnings(record, image_id)
    return problems


def record_warnings(record: dict, image_id: str) -> Iterator[Problem]:
    """Images without segments or relations, and boxes outside the image."""
    if not record["segments_info"]:
        yield Problem("no_segments", image_id, "segments_info", "the image has no segment")
    if not record["relations"]:
        yield Problem("no_relations", image_id, "relations", "the image has no relation")
    yield from box_warnings(record, image_id)


def _image_file_problems(record: dict, image_id: str, root: str, has_ids: bool) -> Iterator[Problem]:
    """Problems of the image files that can be found by a record that may have problems itself.

    has_ids says that the record's segments have distinct, possible ids, to compare with the PNG's.
    """
    names = {key: name if isinstance(name := record.get(key), str) else "" for key in IMAGE_KEYS}
    invalid = {problem.field for problem in file_name_problems(names, image_id)}
    size = _size(record, image_id)
    for key in IMAGE_KEYS:
        if key in invalid:
            continue
        path = os.path.join(root, names[key])
        if leaves_root(path, root):
            yield Problem("link", image_id, key, "a symbolic link leads out of the data root", path)
        try:
            if key == "file_name":
                yield from _image_warnings(path, size, image_id)
            else:
                ids, pixels = count_png_ids(path, size=size, image_id=image_id)
                if has_ids:
                    yield from _id_problems(record["segments_info"], ids, pixels, image_id, path)
        except (ImageError, MissingImageError) as error:
            kind = f"{error.problem}_{'image' if key == 'file_name' else 'png'}"
            yield Problem(kind, image_id, key, error.message, path)


def _size(record: dict, image_id: str) -> tuple[int, int] | None:
    height, width = record.get("height"), record.get("width")
    if not (is_integer(height) and is_integer(width)) or any(size_problems(record, image_id)):
        return None
    return height, width


def _image_warnings(path: str, size: tuple[int, int] | None, image_id: str) -> Iterator[Problem]:
    mode, orientation = check_image(path, size, image_id)
    if mode != "RGB":
        yield Problem("colour_mode", image_id, "file_name", f"colour mode {mode}, read as RGB", path)
    if orientation != 1:
        yield Problem("exif_orientation", image_id, "file_name", f"EXIF orientation {orientation}", path)


def _id_problems(
    segments: list[dict], ids: np.ndarray, pixels: np.ndarray, image_id: str, path: str
) -> Iterator[Problem]:
    """Ids that only one of segments_info and PNG has, and areas that disagree with the pixels."""
    if len(segments) > MAX_SEGMENTS:
        message = too_many_message(len(segments))
        yield Problem("too_many_segments_png", image_id, "pan_seg_file_name", message, path)
        return
    area_of = dict(zip(ids.tolist(), pixels.tolist(), strict=True))
    listed = {s["id"] for s in segments}
    unlisted = np.array([i for i in area_of if i != 0 and i not in listed])
    if len(unlisted):
        yield Problem("unlisted_ids_png", image_id, "pan_seg_file_name", unlisted_message(unlisted), path)
    absent = np.array([s["id"] for s in segments if s["id"] not in area_of])
    if len(absent):
        yield Problem("ids_without_pixels_png", image_id, "pan_seg_file_name", no_pixels_message(absent), path)
    for i, segment in enumerate(segments):
        area = area_of.get(segment["id"])
        if area is not None and segment["area"] != area:
            message = f"the file says {segment['area']!r} pixels, the panoptic PNG has {area}"
            yield Problem("area_differs", image_id, f"segments_info[{i}].area", message, path)


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

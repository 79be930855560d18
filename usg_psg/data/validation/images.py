"""The rules for the image files of a record, and warnings about a usable record.

The functions that the loader reads files with (`panoptic.py`) judge them, in the loader's words.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from ...images import ImageError, MissingImageError, check_image
from ...vocabulary import Vocabulary
from ..panoptic import decode_panoptic_png, segment_index_map
from .records import (
    IMAGE_KEYS,
    Finding,
    Problem,
    box_warnings,
    file_name_problems,
    is_integer,
    size_problems,
    validate_record,
)

FileFinding = tuple[str, str, str, str]  # and the path


def validate_image(record: object, image_id: str, vocabulary: Vocabulary, root: str) -> list[Problem]:
    """Every problem of one image, of its record, image file and panoptic PNG, in the order of the loader's checks.

    Args:
        record: entry of the file's `data`, of any form.
        image_id, vocabulary: as in `PSGFile`.
        root: folder that the file names are relative to, without symbolic links.
    """
    problems = list(validate_record(record, image_id, vocabulary))
    if not isinstance(record, dict):
        return problems
    kinds = {problem.kind for problem in problems}
    is_whole = not kinds & {"structure", "missing_key", "repeated_key"}
    has_ids = is_whole and not kinds & {"segment_id", "duplicate_segment_id"}
    findings = [*_image_file_problems(record, image_id, root, has_ids), *(record_warnings(record) if is_whole else ())]
    return problems + [Problem(kind, image_id, *rest) for kind, *rest in findings]


def record_warnings(record: dict) -> Iterator[Finding]:
    """Images without segments or relations, and boxes outside the image."""
    if not record["segments_info"]:
        yield "no_segments", "segments_info", "the image has no segment"
    if not record["relations"]:
        yield "no_relations", "relations", "the image has no relation"
    yield from box_warnings(record)


def _image_file_problems(record: dict, image_id: str, root: str, has_ids: bool) -> Iterator[FileFinding]:
    """Problems of the image files that can be found by a record that may have problems itself.

    has_ids says that the record's segments have distinct, possible ids, to compare with the PNG's.
    """
    names = {key: name if isinstance(name := record.get(key), str) else "" for key in IMAGE_KEYS}
    invalid = {field for _, field, _ in file_name_problems(names)}
    size = _size(record)
    for key in IMAGE_KEYS:
        if key in invalid:
            continue
        path = os.path.join(root, names[key])
        if leaves_root(path, root):
            yield "link", key, "a symbolic link leads out of the data root", path
        try:
            if key == "file_name":
                yield from _image_warnings(path, size, image_id)
            else:
                ids = decode_panoptic_png(path, size=size, image_id=image_id)
                if has_ids:
                    yield from _id_problems(record["segments_info"], ids, path)
        except (ImageError, MissingImageError) as error:
            kind = f"{error.problem}_{'image' if key == 'file_name' else 'png'}"
            yield kind, key, error.message, path


def _size(record: dict) -> tuple[int, int] | None:
    height, width = record.get("height"), record.get("width")
    if not (is_integer(height) and is_integer(width)) or any(size_problems(record)):
        return None
    return height, width


def _image_warnings(path: str, size: tuple[int, int] | None, image_id: str) -> Iterator[FileFinding]:
    mode, orientation = check_image(path, size, image_id)
    if mode != "RGB":
        yield "colour_mode", "file_name", f"colour mode {mode}, read as RGB", path
    if orientation != 1:
        yield "exif_orientation", "file_name", f"EXIF orientation {orientation}", path


def _id_problems(segments: list[dict], ids: np.ndarray, path: str) -> Iterator[FileFinding]:
    """Ids that only one of segments_info and PNG has, and areas that disagree with the pixels."""
    index_map, disagreements = segment_index_map(ids, segments)
    for error in disagreements:
        yield f"{error.problem}_png", "pan_seg_file_name", error.message, path
    pixels = np.bincount(index_map.ravel(), minlength=len(segments) + 1)[1:]
    for i, (segment, area) in enumerate(zip(segments, pixels.tolist(), strict=True)):
        if area and segment["area"] != area:
            message = f"the file says {segment['area']!r} pixels, the panoptic PNG has {area}"
            yield "area_differs", f"segments_info[{i}].area", message, path


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

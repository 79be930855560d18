"""Reading of foreign files: values of the expected type, and errors that name file, image and field."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ...data.panoptic import decode_panoptic_png
from ..inputs import Prediction

KINDS = {dict: "an object", list: "a list", str: "a text", int: "a whole number"}


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Turn whatever goes wrong with a file, or with one record of it, into an error that names it."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{where}: expected the key {error}, which is missing") from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{where}: {error}") from error
    except (ValueError, TypeError, IndexError, OverflowError, zipfile.BadZipFile) as error:
        raise ValueError(f"{where}: {error}") from error


def parse_json(text: bytes, otherwise: str) -> Any:
    """JSON content; a ValueError says `otherwise`, with the parser's reason."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{otherwise} ({error})") from error


def shown(value: object) -> str:
    """The start of a value, for errors."""
    return str(value)[:80]


def field(record: dict, key: str, kind: type) -> Any:
    """A value of that type; KeyError if it is missing, ValueError if it is of another type."""
    value = record[key]
    if not isinstance(value, kind):
        raise ValueError(f"{key}: expected {KINDS[kind]}, got {shown(value)}")
    return value


def objects(record: dict, key: str) -> list[dict]:
    """A list of objects; errors as in `field`."""
    values = field(record, key, list)
    for n, value in enumerate(values):
        if not isinstance(value, dict):
            raise ValueError(f"{key}[{n}]: expected {KINDS[dict]}, got {shown(value)}")
    return values


def integers(values: list, name: str, width: int | None = None) -> np.ndarray:
    """(n,) int64, or (n, width) of rows; nothing is rounded, no text is taken for a number: ValueError."""
    shape = (len(values),) if width is None else (len(values), width)
    try:
        array = np.array(values) if values else np.zeros(shape, dtype=np.int64)
    except ValueError:
        array = np.array(None)  # rows of different lengths
    if array.dtype.kind != "i" or array.shape != shape:
        expected = "whole numbers" if width is None else f"rows of {width} whole numbers"
        raise ValueError(f"{name}: expected {expected}, got {shown(values)}")
    return array


def rows(record: dict, key: str, width: int) -> np.ndarray:
    """(n, width) int64; errors as in `field` and `integers`."""
    return integers(field(record, key, list), key, width)


def column(entries: list[dict], key: str, name: str) -> np.ndarray:
    """(n,) int64, one value of each entry; `name` is the list's in errors."""
    return integers([entry[key] for entry in entries], f"{key} of {name}")


def records(path: Path, content: Any, key: str, id_key: str, version: int | None = None) -> Iterator[tuple[str, dict]]:
    """The objects of a file's list `key`, each after a name for errors: the file and the record's `id_key`."""
    with naming(str(path)):
        if not isinstance(content, dict):
            raise ValueError(f"expected {KINDS[dict]}, got {shown(content)}")
        if version is not None and content.get("version") != version:
            raise ValueError(f"expected version {version}, got {content.get('version')!r}")
        found = objects(content, key)
    for position, record in enumerate(found):
        yield f"{path}, image {str(record.get(id_key, f'#{position}'))!r}", record


def read_map(
    folder: Path,
    record: dict,
    key: str = "pan_seg_file_name",
    least: int = 1,
    all_listed: bool = True,
    all_shown: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The panoptic map of a record, from the PNG in `folder` that its `key` names, and segments_info.

    Args:
        least: smallest id that a segment may have.
        all_listed: refuse an id of the PNG, 0 apart, that segments_info lacks; otherwise it is no segment.
        all_shown: refuse a segment without pixels.

    Returns:
        segment_map: (H, W), n + 1 inside segment n, 0 elsewhere.
        ids, labels: (S,) ids and categories of the segments.

    Raises:
        ValueError: for equal ids, ids below `least`, or those that are refused.
    """
    segments = objects(record, "segments_info")
    ids, labels = (column(segments, key, "segments_info") for key in ("id", "category_id"))
    if len(ids) and (ids.min() < least or len(np.unique(ids)) < len(ids)):
        raise ValueError(f"id of segments_info: expected different ids from {least}, got {shown(ids.tolist())}")
    png = decode_panoptic_png(str(inside(folder, field(record, key, str))))
    segment_map = positions(png, ids)
    unknown = png[(segment_map == 0) & (png != 0)]
    if all_listed and len(unknown):
        raise ValueError(f"segments_info: lacks the id {unknown.min()} of the PNG")
    empty = np.bincount(segment_map.ravel(), minlength=len(ids) + 1)[1:] == 0
    if all_shown and empty.any():
        raise ValueError(
            f"segments_info: the PNG has no pixel of the id {ids[empty][0]} (id = R + 256 G + 65536 B), as of "
            f"{int(empty.sum())} of {len(ids)} segments"
        )
    return segment_map, ids, labels


def positions(values: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """1-based positions of values in `ids`, 0 for those that are not there."""
    if not len(ids):
        return np.zeros(values.shape, dtype=np.int64)
    order = np.argsort(ids)
    nearest = order[np.searchsorted(ids, values, sorter=order).clip(max=len(ids) - 1)]
    return np.where(ids[nearest] == values, nearest + 1, 0)


def prediction_of_map(
    segment_map: np.ndarray,
    labels: np.ndarray,
    triplets: np.ndarray,
    image_id: str,
    triplets_ng: np.ndarray | None = None,
) -> Prediction:
    """The prediction of a model whose masks are the segments (S of them) of its panoptic map."""
    return Prediction(
        labels=labels,
        triplets=triplets,
        masks=segment_map[None] == np.arange(1, len(labels) + 1)[:, None, None],
        triplets_ng=triplets_ng,
        segment_map=segment_map,
        segment_labels=labels,
        mask_segment=np.arange(len(labels)),
        image_id=image_id,
    )


def inside(folder: Path, name: str) -> Path:
    """A file of that folder; ValueError if the name leads out of it."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"file name: expected a path inside {folder}, got {name!r}")
    return path

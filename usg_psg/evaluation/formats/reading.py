"""Reading of foreign files: values of the expected type, and errors that name file, image and field."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..inputs import Prediction

KINDS = {dict: "an object", list: "a list", str: "a text", int: "a whole number"}


class Reading:
    """Turns whatever goes wrong with a file, or with one record of it, into an error that names it."""

    def __init__(self, where: str):
        self.where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyError):
            raise ValueError(f"{self.where}: expected the key {error}, which is missing") from error
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(f"{self.where}: {error}") from error
        if isinstance(error, ValueError | TypeError | IndexError | OverflowError | zipfile.BadZipFile):
            raise ValueError(f"{self.where}: {error}") from error


def parse_json(text: bytes, otherwise: str) -> Any:
    """JSON content.

    Raises:
        ValueError: `otherwise`, with the parser's reason.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{otherwise} ({error})") from error


def shown(value: object) -> str:
    """The start of a value, for errors."""
    return str(value)[:80]


def field(record: dict, key: str, kind: type) -> Any:
    """A value of that type.

    Raises:
        KeyError, ValueError: if it is missing or of another type.
    """
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
    """(n,) int64, or (n, width) of rows; nothing is rounded, and no text is taken for a number.

    Raises:
        ValueError: for anything else.
    """
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


def versioned_records(path: Path, content: Any, version: int, key: str) -> Iterator[tuple[Reading, dict]]:
    """The records of a file of that version, each with what to read it under; their id is the value of `key`."""
    with Reading(str(path)):
        if not isinstance(content, dict):
            raise ValueError(f"expected {KINDS[dict]}, got {shown(content)}")
        if content.get("version") != version:
            raise ValueError(f"expected version {version}, got {content.get('version')!r}")
        records = objects(content, "images")
    for position, record in enumerate(records):
        yield Reading(f"{path}, image {record.get(key, f'#{position}')!r}"), record


def segment_ids(segments: list[dict], least: int = 1) -> np.ndarray:
    """(S,) int64, the ids of segments_info.

    Raises:
        ValueError: if two are equal, or one is below `least`.
    """
    ids = column(segments, "id", "segments_info")
    if len(ids) and (ids.min() < least or len(np.unique(ids)) < len(ids)):
        raise ValueError(f"id of segments_info: expected different ids from {least}, got {shown(ids.tolist())}")
    return ids


def positions(values: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """1-based positions of values in `ids`, 0 for those that are not there."""
    if not len(ids):
        return np.zeros(values.shape, dtype=np.int64)
    order = np.argsort(ids)
    nearest = order[np.searchsorted(ids, values, sorter=order).clip(max=len(ids) - 1)]
    return np.where(ids[nearest] == values, nearest + 1, 0)


def require_pixels(segment_map: np.ndarray, ids: np.ndarray) -> None:
    """Refuse a listed segment that the picture does not show.

    Args:
        segment_map: (H, W), position in `ids` + 1.
        ids: (S,) ids of segments_info.

    Raises:
        ValueError: names the first id.
    """
    empty = np.bincount(segment_map.ravel(), minlength=len(ids) + 1)[1:] == 0
    if empty.any():
        raise ValueError(
            f"segments_info: the picture has no pixel of the id {ids[empty][0]} (id = R + 256 G + 65536 B), as of "
            f"{int(empty.sum())} of {len(ids)} segments"
        )


def require_listed(ids: np.ndarray, segment_map: np.ndarray) -> None:
    """Refuse an id of the picture, 0 apart, that segments_info does not list.

    Args:
        ids: (H, W) of the picture.
        segment_map: the same as positions, 0 for none.

    Raises:
        ValueError: names the smallest id.
    """
    unknown = ids[(segment_map == 0) & (ids != 0)]
    if len(unknown):
        raise ValueError(f"segments_info: lacks the id {unknown.min()} of the picture")


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
    """A file of that folder.

    Raises:
        ValueError: if the name leads out of it.
    """
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"file name: expected a path inside {folder}, got {name!r}")
    return path

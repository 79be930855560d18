"""Prediction files of any model, in the formats of `export`, to `Prediction`s.

Every error names the file and, where there is one, the image and the field.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from ..data.panoptic import decode_panoptic_png, read_image
from ..run_lengths import compressed_masks
from .export import JSON_FORMAT, JSON_VERSION, SGBENCH_VERSION, openpsg_colours
from .scene import Prediction

_KINDS = {dict: "an object", list: "a list", str: "a text", int: "a whole number"}


def read_predictions(path: Path | str, image_ids: Sequence[str]) -> Iterator[tuple[str, Prediction]]:
    """Predictions of one file, one image at a time.

    Args:
        path: `predictions.json`, `sgbench.zip`, or a submission folder (or its `relation.json`).
        image_ids: every annotated image of the split that has relations, in the order of psg.json; a submission names
            its images by their position among them.

    Yields:
        image_id and prediction.

    Raises:
        FileNotFoundError: if the file, or a picture it names, is missing.
        ValueError: for an unknown format, a missing key, or values of another type or out of range.
    """
    path = _file(path)
    with _Reading(str(path)):
        is_archive = zipfile.is_zipfile(path)
        content = None if is_archive else _parse(path.read_bytes(), "neither an archive nor a complete JSON file")
    if is_archive:
        yield from _read_sgbench(path)
    elif isinstance(content, list):
        yield from _read_openpsg(path, content, image_ids)
    elif isinstance(content, dict) and content.get("format") == JSON_FORMAT:
        yield from _read_json(path, content)
    elif isinstance(content, dict) and "images" in content:
        raise ValueError(f"{path}: expected masks; SGBench's JSON without archive has boxes only")
    else:
        raise ValueError(
            f"{path}: expected this project's JSON (format {JSON_FORMAT!r}), SGBench's archive or OpenPSG's "
            "relation.json"
        )


def is_submission(path: Path | str) -> bool:
    """Whether a predictions file is an OpenPSG submission, which has no entry for images without relations.

    Raises:
        FileNotFoundError: if there is no file.
    """
    with open(_file(path), "rb") as file:
        return file.read(64).lstrip().startswith(b"[")


def _file(path: Path | str) -> Path:
    path = Path(path)
    if path.is_dir():
        path = path / "relation.json"
    if not path.is_file():
        raise FileNotFoundError(f"there is no predictions file {path}")
    return path


class _Reading:
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
        if isinstance(error, ValueError | TypeError | IndexError | zipfile.BadZipFile):
            raise ValueError(f"{self.where}: {error}") from error


def _parse(text: bytes, otherwise: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{otherwise} ({error})") from error


def _field(record: dict, key: str, kind: type) -> Any:
    value = record[key]
    if not isinstance(value, kind):
        raise ValueError(f"{key}: expected {_KINDS[kind]}, got {str(value)[:80]}")
    return value


def _objects(record: dict, key: str) -> list[dict]:
    values = _field(record, key, list)
    for n, value in enumerate(values):
        if not isinstance(value, dict):
            raise ValueError(f"{key}[{n}]: expected {_KINDS[dict]}, got {str(value)[:80]}")
    return values


def _integers(values: list, name: str, width: int | None = None) -> np.ndarray:
    """(n,) int64, or (n, width) of rows; nothing is rounded, and no text is taken for a number."""
    shape = (len(values),) if width is None else (len(values), width)
    try:
        array = np.array(values) if values else np.zeros(shape, dtype=np.int64)
    except ValueError:
        array = np.array(None)  # rows of different lengths
    if array.dtype.kind != "i" or array.shape != shape:
        expected = "whole numbers" if width is None else f"rows of {width} whole numbers"
        raise ValueError(f"{name}: expected {expected}, got {str(values)[:80]}")
    return array


def _rows(record: dict, key: str, width: int) -> np.ndarray:
    return _integers(_field(record, key, list), key, width)


def _column(entries: list[dict], key: str, name: str) -> np.ndarray:
    return _integers([entry[key] for entry in entries], f"{key} of {name}")


def _scores(instances: list[dict]) -> np.ndarray | None:
    """(n,) float64; None where a score is missing."""
    scores = [instance.get("score") for instance in instances]
    if None in scores:
        return None
    if not all(isinstance(score, int | float) for score in scores):
        raise ValueError(f"score of instances: expected numbers, got {str(scores)[:80]}")
    return np.array(scores)


def _images(path: Path, content: Any, version: int, key: str) -> Iterator[tuple[_Reading, dict]]:
    """The records of a file of that version, with what to read them under; their id is the value of `key`."""
    with _Reading(str(path)):
        if not isinstance(content, dict):
            raise ValueError(f"expected {_KINDS[dict]}, got {str(content)[:80]}")
        if content.get("version") != version:
            raise ValueError(f"expected version {version}, got {content.get('version')!r}")
        records = _objects(content, "images")
    for position, record in enumerate(records):
        yield _Reading(f"{path}, image {record.get(key, f'#{position}')!r}"), record


def _read_json(path: Path, content: dict) -> Iterator[tuple[str, Prediction]]:
    for reading, record in _images(path, content, JSON_VERSION, "image_id"):
        with reading:
            prediction = _from_json(path.parent, record)
        yield prediction.image_id, prediction


def _from_json(folder: Path, record: dict) -> Prediction:
    instances = _objects(record, "instances")
    return Prediction(
        labels=_column(instances, "category_id", "instances"),
        triplets=_rows(record, "relations", 3),
        masks=compressed_masks([x["segmentation"] for x in instances], "segmentation of instances"),
        triplets_ng=_rows(record, "relations_ng", 3) if "relations_ng" in record else None,
        mask_scores=_scores(instances),
        pairs=_rows(record, "pairs", 2) if "pairs" in record else None,
        image_id=str(record["image_id"]),
        **(_json_map(folder, record, instances) if "pan_seg_file_name" in record else {}),
    )


def _json_map(folder: Path, record: dict, instances: list[dict]) -> dict[str, Any]:
    segments = _objects(record, "segments_info")
    ids = _column(segments, "id", "segments_info")
    if len(ids) and (ids.min() < 1 or len(np.unique(ids)) < len(ids)):
        raise ValueError(f"id of segments_info: expected different ids from 1, got {str(ids.tolist())[:80]}")
    png = decode_panoptic_png(str(_inside(folder, _field(record, "pan_seg_file_name", str))))
    size = (record["height"], record["width"])
    if png.shape != size:
        raise ValueError(f"pan_seg_file_name: expected a picture of {size[0]} x {size[1]}, got {png.shape}")
    segment_map = _positions(png, ids)
    unknown = png[(segment_map == 0) & (png != 0)]
    if len(unknown):
        raise ValueError(f"segments_info: lacks the id {unknown.min()} of the picture")
    segment_ids = _column(instances, "segment_id", "instances")
    mask_segment = _positions(segment_ids, ids)
    unknown = segment_ids[(mask_segment == 0) & (segment_ids != 0)]
    if len(unknown):
        raise ValueError(f"segment_id: expected 0 or an id of segments_info, got {unknown[0]}")
    return {
        "segment_map": segment_map,
        "segment_labels": _column(segments, "category_id", "segments_info"),
        "mask_segment": mask_segment - 1,
    }


def _positions(values: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """1-based positions of values in `ids`, 0 for those that are not there."""
    if not len(ids):
        return np.zeros(values.shape, dtype=np.int64)
    order = np.argsort(ids)
    nearest = order[np.searchsorted(ids, values, sorter=order).clip(max=len(ids) - 1)]
    return np.where(ids[nearest] == values, nearest + 1, 0)


def _read_sgbench(path: Path) -> Iterator[tuple[str, Prediction]]:
    with _Reading(str(path)):
        archive = zipfile.ZipFile(path)
    with archive:
        with _Reading(str(path)):
            if "triplets.json" not in archive.namelist():
                raise ValueError("not SGBench's archive, triplets.json is missing")
            with _Reading("triplets.json"):
                content = _parse(_member(archive, "triplets.json").read(), "not a complete JSON file")
        for reading, record in _images(path, content, SGBENCH_VERSION, "id"):
            with reading:
                prediction = _from_sgbench(archive, record)
            yield prediction.image_id, prediction


def _member(archive: zipfile.ZipFile, name: str) -> io.BytesIO:
    try:
        return io.BytesIO(archive.read(name))
    except Exception as error:
        # Damaged archives are met with errors of many types.
        text = "there is no such member" if isinstance(error, KeyError) else f"cannot be read ({error})"
        raise ValueError(f"{name}: {text}") from error


def _from_sgbench(archive: zipfile.ZipFile, record: dict) -> Prediction:
    masks = _layers(archive, _field(record, "seg_filename", str))
    if "annotation" in record:
        labels = _column(_objects(record, "annotation"), "category", "annotation")
    else:  # as SGBench's README writes it
        labels = _integers(_field(record, "categories", list), "categories")
    image_id = str(record["id"])
    if record.get("usg_psg") is None:
        return Prediction(
            labels=labels,
            triplets=_rows(record, "triplets", 3),
            masks=masks,
            triplets_ng=_rows(record, "ng_triplets", 3) if record.get("ng_triplets") else None,
            image_id=image_id,
        )
    own = _field(record, "usg_psg", dict)
    count, map_name = _field(own, "num_masks", int), _field(own, "segment_map", str)
    if not 0 <= count <= len(masks):
        raise ValueError(f"num_masks: expected 0 to {len(masks)}, got {count}")
    with _Reading(map_name):
        segment_map = decode_panoptic_png(_member(archive, map_name))
    return Prediction(
        labels=labels[:count],
        triplets=_rows(own, "relations", 3),
        masks=masks[:count],
        segment_map=segment_map,
        segment_labels=_integers(_field(own, "segment_categories", list), "segment_categories"),
        mask_segment=_integers(_field(own, "mask_segment", list), "mask_segment"),
        pairs=None if own["pairs"] is None else _rows(own, "pairs", 2),
        image_id=image_id,
    )


def _layers(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """(N, H, W) bool of a TIFF."""
    file = _member(archive, name)
    try:
        with Image.open(file) as layers:
            masks = np.stack([np.asarray(layer) != 0 for layer in ImageSequence.Iterator(layers)])
    except Exception as error:
        # Pillow's decoders meet damaged files with errors of many types.
        raise ValueError(f"{name}: not a readable TIFF of layers of one size ({error})") from error
    if masks.ndim != 3:
        raise ValueError(f"{name}: expected layers without colours, got shape {masks.shape}")
    return masks


def _read_openpsg(path: Path, entries: list, image_ids: Sequence[str]) -> Iterator[tuple[str, Prediction]]:
    if len(entries) != len(image_ids):
        raise ValueError(
            f"{path}: expected one entry for each of the {len(image_ids)} annotated images with relations, got "
            f"{len(entries)}"
        )
    decode = np.argsort(openpsg_colours())
    for image_id, record in zip(image_ids, entries, strict=True):
        with _Reading(f"{path}, image {image_id!r}"):
            if not isinstance(record, dict):
                raise ValueError(f"expected {_KINDS[dict]}, got {str(record)[:80]}")
            if not _objects(record, "segments_info"):
                continue  # an image without prediction
            prediction = _from_openpsg(path.parent, record, decode, image_id)
        yield image_id, prediction


def _from_openpsg(folder: Path, record: dict, decode: np.ndarray, image_id: str) -> Prediction:
    picture = read_image(str(_inside(folder / "panseg", _field(record, "pan_seg_file_name", str))))
    red, green, blue = np.moveaxis(decode[picture], -1, 0)
    labels = _column(record["segments_info"], "category_id", "segments_info") - 1
    segment_map = _positions(red + 256 * green + 256**2 * blue, _column(record["segments_info"], "id", "segments_info"))
    return Prediction(
        labels=labels,
        triplets=_rows(record, "relations", 3) - np.array([0, 0, 1]),
        masks=segment_map[None] == np.arange(1, len(labels) + 1)[:, None, None],
        segment_map=segment_map,
        segment_labels=labels,
        mask_segment=np.arange(len(labels)),
        image_id=image_id,
    )


def _inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"file name: expected a path inside {folder}, got {name!r}")
    return path

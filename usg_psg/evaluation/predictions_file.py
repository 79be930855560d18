"""Prediction files of any model, in the formats of `export`, to `Prediction`s.

Every error names the file and the image.
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

from ..data.panoptic import decode_panoptic_png
from .export import JSON_FORMAT, JSON_VERSION, SGBENCH_VERSION, openpsg_colours
from .scene import Prediction


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
        ValueError: for an unknown format, a missing key, or values out of range.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "relation.json"
    if not path.is_file():
        raise FileNotFoundError(f"there is no predictions file {path}")
    if zipfile.is_zipfile(path):
        yield from _read_sgbench(path)
        return
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: neither an archive nor a complete JSON file ({error})") from error
    if isinstance(content, list):
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


class _Reading:
    """Turns whatever goes wrong with one record into a ValueError that names file and image."""

    def __init__(self, path: Path, image: object):
        self.where = f"{path}, image {image!r}"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyError):
            raise ValueError(f"{self.where}: expected the key {error}, which is missing") from error
        if isinstance(error, ValueError | TypeError | IndexError):
            raise ValueError(f"{self.where}: {error}") from error


def _read_json(path: Path, content: dict) -> Iterator[tuple[str, Prediction]]:
    if content.get("version") != JSON_VERSION:
        raise ValueError(f"{path}: expected version {JSON_VERSION}, got {content.get('version')!r}")
    for position, record in enumerate(content.get("images", [])):
        with _Reading(path, record.get("image_id", f"#{position}")):
            prediction = _from_json(path.parent, record)
        yield str(record["image_id"]), prediction


def _from_json(folder: Path, record: dict) -> Prediction:
    instances = record["instances"]
    scores = [x.get("score") for x in instances]
    return Prediction(
        labels=np.array([x["category_id"] for x in instances], dtype=np.int64),
        triplets=np.array([row[:3] for row in record["relations"]], dtype=np.int64),
        masks=[x["segmentation"] for x in instances],
        triplets_ng=np.array(record["relations_ng"], dtype=np.int64) if "relations_ng" in record else None,
        mask_scores=None if None in scores else np.array(scores),
        pairs=np.array(record["pairs"], dtype=np.int64) if "pairs" in record else None,
        image_id=str(record["image_id"]),
        **(_json_map(folder, record) if "pan_seg_file_name" in record else {}),
    )


def _json_map(folder: Path, record: dict) -> dict[str, Any]:
    ids = np.array([s["id"] for s in record["segments_info"]], dtype=np.int64)
    png = decode_panoptic_png(str(_inside(folder, record["pan_seg_file_name"])))
    size = (record["height"], record["width"])
    if png.shape != size:
        raise ValueError(f"pan_seg_file_name: expected a picture of {size[0]} x {size[1]}, got {png.shape}")
    position = _positions(png, ids)
    segment_ids = np.array([x["segment_id"] for x in record["instances"]], dtype=np.int64)
    unknown = segment_ids[~np.isin(segment_ids, [0, *ids])]
    if len(unknown):
        raise ValueError(f"segment_id: expected 0 or an id of segments_info, got {unknown[0]}")
    return {
        "segment_map": position[png],
        "segment_labels": np.array([s["category_id"] for s in record["segments_info"]], dtype=np.int64),
        "mask_segment": position[segment_ids] - 1,
    }


def _positions(png: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Table from the ids of a map to 1-based positions in `ids`, 0 for id 0."""
    table = np.full(max(int(png.max(initial=0)), int(ids.max(initial=0))) + 1, -1, dtype=np.int64)
    table[ids] = np.arange(1, len(ids) + 1)
    table[0] = 0
    unknown = np.unique(png[table[png] < 0])
    if len(unknown):
        raise ValueError(f"segments_info: lacks the id {unknown[0]} of the picture")
    return table


def _read_sgbench(path: Path) -> Iterator[tuple[str, Prediction]]:
    with zipfile.ZipFile(path) as archive:
        if "triplets.json" not in archive.namelist():
            raise ValueError(f"{path}: not SGBench's archive, triplets.json is missing")
        content = json.loads(archive.read("triplets.json"))
        if content.get("version") != SGBENCH_VERSION:
            raise ValueError(f"{path}: expected version {SGBENCH_VERSION}, got {content.get('version')!r}")
        for position, record in enumerate(content.get("images", [])):
            with _Reading(path, record.get("id", f"#{position}")):
                prediction = _from_sgbench(archive, record)
            yield str(record["id"]), prediction


def _from_sgbench(archive: zipfile.ZipFile, record: dict) -> Prediction:
    with Image.open(io.BytesIO(archive.read(record["seg_filename"]))) as layers:
        masks = np.stack([np.asarray(layer) != 0 for layer in ImageSequence.Iterator(layers)])
    if "annotation" in record:
        labels = np.array([x["category"] for x in record["annotation"]], dtype=np.int64)
    else:  # as SGBench's README writes it
        labels = np.array(record["categories"], dtype=np.int64)
    triplets = np.array(record["triplets"], dtype=np.int64).reshape(-1, 3)
    ng = record.get("ng_triplets")
    own = record.get("usg_psg")
    if own is None:
        return Prediction(
            labels=labels,
            triplets=triplets,
            masks=masks,
            triplets_ng=np.array(ng, dtype=np.int64) if ng else None,
            image_id=str(record["id"]),
        )
    with archive.open(own["segment_map"]) as file:
        segment_map = decode_panoptic_png(file)
    return Prediction(
        labels=labels[: own["num_masks"]],
        triplets=np.array(own["relations"], dtype=np.int64),
        masks=masks[: own["num_masks"]],
        segment_map=segment_map,
        segment_labels=np.array(own["segment_categories"], dtype=np.int64),
        mask_segment=np.array(own["mask_segment"], dtype=np.int64),
        pairs=None if own["pairs"] is None else np.array(own["pairs"], dtype=np.int64),
        image_id=str(record["id"]),
    )


def _read_openpsg(path: Path, entries: list, image_ids: Sequence[str]) -> Iterator[tuple[str, Prediction]]:
    if len(entries) != len(image_ids):
        raise ValueError(
            f"{path}: expected one entry for each of the {len(image_ids)} annotated images with relations, got "
            f"{len(entries)}"
        )
    decode = np.argsort(openpsg_colours())
    for image_id, record in zip(image_ids, entries, strict=True):
        with _Reading(path, image_id):
            if not record["segments_info"]:
                continue  # an image without prediction
            prediction = _from_openpsg(path.parent, record, decode, image_id)
        yield image_id, prediction


def _from_openpsg(folder: Path, record: dict, decode: np.ndarray, image_id: str) -> Prediction:
    with Image.open(_inside(folder / "panseg", record["pan_seg_file_name"])) as image:
        red, green, blue = np.moveaxis(decode[np.asarray(image.convert("RGB"))], -1, 0)
    ids = red + 256 * green + 256**2 * blue
    segments = np.array([s["id"] for s in record["segments_info"]], dtype=np.int64)
    labels = np.array([s["category_id"] for s in record["segments_info"]], dtype=np.int64) - 1
    order = np.argsort(segments)
    found = np.searchsorted(segments, ids, sorter=order).clip(max=len(segments) - 1)
    position = order[found]
    segment_map = np.where(segments[position] == ids, position + 1, 0)
    return Prediction(
        labels=labels,
        triplets=np.array(record["relations"], dtype=np.int64).reshape(-1, 3) - np.array([0, 0, 1]),
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

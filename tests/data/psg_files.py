"""A small, correct PSG data set written to a folder, for tests to damage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from usg_psg.data import encode_panoptic

THINGS, STUFF, PREDICATES = ["person", "cup"], ["wall"], ["on", "beside", "over", "holding"]
# The three bytes of an id all matter, also beyond 255 in each.
IDS = [200 + 100 * 256 + 250 * 256**2, 7, 255 * 256, 16_777_215]
COLORS = np.array([[0, 0, 0], [230, 30, 30], [30, 220, 40], [40, 60, 230], [240, 230, 60]], dtype=np.uint8)


def quadrants(height: int, width: int) -> np.ndarray:
    """Segment positions + 1: four quarters, with an unlabelled frame of two pixels."""
    index = np.zeros((height, width), dtype=np.int64)
    rows, columns = np.arange(height)[:, None] >= height // 2, np.arange(width)[None] >= width // 2
    index[:] = 1 + 2 * rows + columns
    index[:2], index[-2:], index[:, :2], index[:, -2:] = 0, 0, 0, 0
    return index


def record(image_id: str, height: int = 48, width: int = 64) -> dict:
    """An image with two persons (the second a crowd), a cup and a wall, one per quarter."""
    index = quadrants(height, width)
    categories = [0, 0, 1, 2]
    segments, annotations = [], []
    for i, category in enumerate(categories):
        mask = index == i + 1
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]
        segments.append(
            {
                "id": IDS[i],
                "category_id": category,
                "iscrowd": int(i == 1),
                "isthing": int(category < 2),
                "area": int(mask.sum()),
            }
        )
        annotations.append({"bbox": box, "bbox_mode": 0, "category_id": category})
    return {
        "image_id": image_id,
        "file_name": f"train2017/{image_id}.png",
        "pan_seg_file_name": f"panoptic_train2017/{image_id}.png",
        "height": height,
        "width": width,
        "segments_info": segments,
        "annotations": annotations,
        "relations": [[0, 3, 0], [1, 0, 1], [2, 3, 2], [0, 2, 3]],
    }


def content(records: list[dict], test_image_ids: list) -> dict:
    """The outermost level of psg.json."""
    return {
        "data": records,
        "thing_classes": THINGS,
        "stuff_classes": STUFF,
        "predicate_classes": PREDICATES,
        "test_image_ids": test_image_ids,
    }


def write_json(folder: Path, value: object) -> Path:
    path = folder / "psg.json"
    path.write_text(json.dumps(value))
    return path


def write_images(folder: Path, entry: dict) -> None:
    """Image with one colour per segment, and the panoptic PNG."""
    index = quadrants(entry["height"], entry["width"])
    for key, pixels in (
        ("file_name", COLORS[index]),
        ("pan_seg_file_name", encode_panoptic(np.array([0, *IDS])[index])),
    ):
        path = folder / entry[key]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)

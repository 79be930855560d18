"""COCO's panoptic annotation as a file of PSG's form without relations, to train objects alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..utils.files import write_json
from .psg_categories import PSG_VOCABULARY
from .psg_json import read_psg_json

SPLITS = {"train2017": "panoptic_train2017", "val2017": "panoptic_val2017"}  # folders of photographs and of PNGs


def convert_coco_panoptic(annotations: str | Path, output: str | Path, exclude: str | Path | None = None) -> int:
    """Write COCO's images as a PSG file: train2017 is its "trainval" split, val2017 its "test" split.

    Args:
        annotations: folder of panoptic_train2017.json and panoptic_val2017.json.
        output: file to write; it has PSG's names, and file names are relative to the folder that holds train2017.
        exclude: psg.json, whose test images are left out of the training images.

    Returns:
        the number of training images left out.

    Raises:
        FileNotFoundError, ValueError: names the file, and the image and field that are not COCO's.
    """
    left_out = _test_file_names(exclude) if exclude is not None else set()
    data: list[dict] = []
    test_ids: list[str] = []
    skipped = 0
    for folder, png_folder in SPLITS.items():
        path = Path(annotations) / f"{png_folder}.json"
        for record in _records(path, folder, png_folder):
            if folder == "train2017" and record["file_name"] in left_out:
                skipped += 1
                continue
            data.append(record)
            if folder == "val2017":
                test_ids.append(record["image_id"])
    write_json(output, {"data": data, "test_image_ids": test_ids, **PSG_VOCABULARY.names}, indent=None)
    return skipped


def _test_file_names(psg_json: str | Path) -> set[str]:
    content = read_psg_json(psg_json)
    records = zip(content.records, content.image_ids, strict=True)
    return {record["file_name"] for record, image_id in records if image_id in content.test_image_ids}


def _records(path: Path, folder: str, png_folder: str) -> list[dict]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        category = {c["id"]: PSG_VOCABULARY.object_classes.index(c["name"]) for c in content["categories"]}
        images = {image["id"]: image for image in content["images"]}
        return [_record(entry, images, category, folder, png_folder) for entry in content["annotations"]]
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not COCO's panoptic annotation ({type(error).__name__}: {error})") from error


def _record(entry: dict, images: dict, category: dict[int, int], folder: str, png_folder: str) -> dict[str, Any]:
    image, segments, boxes = images[entry["image_id"]], [], []
    for segment in entry["segments_info"]:
        number = category[segment["category_id"]]
        segments.append(
            {
                "id": segment["id"],
                "category_id": number,
                "isthing": int(number < len(PSG_VOCABULARY.thing_classes)),
                "iscrowd": segment["iscrowd"],
                "area": segment["area"],
            }
        )
        boxes.append({"bbox": segment["bbox"], "bbox_mode": 1, "category_id": number})  # x, y, width, height
    return {
        "image_id": str(entry["image_id"]),
        "file_name": f"{folder}/{image['file_name']}",
        "pan_seg_file_name": f"{png_folder}/{entry['file_name']}",
        "height": image["height"],
        "width": image["width"],
        "segments_info": segments,
        "annotations": boxes,
        "relations": [],
    }

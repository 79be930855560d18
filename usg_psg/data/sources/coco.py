"""COCO 2017: its archives, and its panoptic annotation as records of PSG's format.

Source: cocodataset.org, "Download" and "Data format, 4. Panoptic Segmentation".
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from ...vocabulary import Vocabulary
from ..psg_categories import PSG_VOCABULARY
from ..psg_json import collector_paused

COCO_URL = "http://images.cocodataset.org"
# Path below the URL, and SHA-256.
ARCHIVES = {
    "panoptic": (
        "annotations/panoptic_annotations_trainval2017.zip",
        "c05f76d2129b6b561eb70efe16e7006df62f73fb92889132d373b9d90e31a370",
    ),
    "val2017": ("zips/val2017.zip", "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05"),
    "train2017": ("zips/train2017.zip", "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929"),
}
PARTS = ("train2017", "val2017")  # folders of images; panoptic_* have their PNGs


@collector_paused()
def read_coco_panoptic(
    json_file: str | Path,
    image_folder: str,
    panoptic_folder: str,
    *,
    image_ids: Collection[int] | None = None,
) -> tuple[Vocabulary, list[dict]]:
    """Records of psg.json, without relations, from COCO's panoptic JSON.

    Args:
        json_file: such as panoptic_train2017.json.
        image_folder, panoptic_folder: of the images and the PNGs, in the data root.
        image_ids: images to read; None for all.

    Returns:
        vocabulary: the file's classes, in PSG's order if they are PSG's, with PSG's predicates.
        records: an image each, in the file's order; segments keep COCO's ids, areas and order.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not such a file, naming what is wrong.
    """
    try:
        with open(json_file, encoding="utf-8") as file:
            content = json.load(file)
        vocabulary, categories = _categories(content["categories"])
        images = {image["id"]: image for image in content["images"]}
        records = []
        for annotation in content["annotations"]:
            image_id = annotation["image_id"]
            if image_ids is None or image_id in image_ids:
                if image_id not in images:
                    raise ValueError(f"image_id {image_id!r}: annotated, but not among the images")
                image, segments = images[image_id], annotation["segments_info"]
                if unknown := [s["category_id"] for s in segments if s["category_id"] not in categories]:
                    raise ValueError(f"image_id {image_id!r}: category_id {unknown[0]!r} is not among the categories")
                names = f"{image_folder}/{image['file_name']}", f"{panoptic_folder}/{annotation['file_name']}"
                records.append(_record(image, names, segments, categories))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{json_file}: not COCO's panoptic annotation ({type(error).__name__}: {error})") from error
    except ValueError as error:
        raise ValueError(f"{json_file}: {error}") from error
    return vocabulary, records


def _categories(entries: list[dict]) -> tuple[Vocabulary, dict[int, tuple[int, int]]]:
    """The vocabulary, and (position in it, isthing) of each of the file's category ids."""
    entries = sorted(entries, key=lambda entry: not entry["isthing"])  # things first, otherwise in the file's order
    things, stuff = ([e["name"] for e in entries if bool(e["isthing"]) == isthing] for isthing in (True, False))
    predicates = PSG_VOCABULARY.predicate_classes
    vocabulary = Vocabulary(tuple(things), tuple(stuff), predicates)
    if all(set(vocabulary.names[key]) == set(names) for key, names in PSG_VOCABULARY.names.items()):
        vocabulary = PSG_VOCABULARY
    position = {name: i for i, name in enumerate(vocabulary.object_classes)}
    return vocabulary, {entry["id"]: (position[entry["name"]], int(bool(entry["isthing"]))) for entry in entries}


def _record(image: dict, names: tuple[str, str], segments: list[dict], categories: dict) -> dict:
    infos, annotations = [], []
    for segment in segments:
        category, isthing = categories[segment["category_id"]]
        x, y, width, height = segment["bbox"]
        info = {"id": segment["id"], "category_id": category, "iscrowd": segment.get("iscrowd", 0)}
        infos.append({**info, "isthing": isthing, "area": segment["area"]})
        annotations.append({"bbox": [x, y, x + width, y + height], "bbox_mode": 0, "category_id": category})
    return {
        "image_id": str(image["id"]),
        "coco_image_id": str(image["id"]),
        "file_name": names[0],
        "pan_seg_file_name": names[1],
        "height": image["height"],
        "width": image["width"],
        "segments_info": infos,
        "annotations": annotations,
        "relations": [],
    }


def psg_content(vocabulary: Vocabulary, records: list[dict], test_image_ids: list[str]) -> dict:
    """The outermost level of psg.json."""
    names = {key: list(value) for key, value in vocabulary.names.items()}
    return {**names, "data": records, "test_image_ids": test_image_ids}

"""COCO's panoptic annotation in PSG's form, without relations: to train objects alone, and to rebuild psg.json.

Source of the format: cocodataset.org, "Data format, 4. Panoptic Segmentation".
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from ..utils.files import write_json
from ..utils.garbage import collector_paused
from ..vocabulary import Vocabulary
from .psg_categories import PSG_VOCABULARY
from .psg_json import read_psg_json


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


def convert_coco_panoptic(
    json_file: str | Path,
    output: str | Path,
    *,
    test_json: str | Path | None = None,
    exclude: str | Path | None = None,
    image_folder: str = "",
    panoptic_folder: str = "",
) -> Counter:
    """Write COCO's images as a PSG file without relations.

    Args:
        json_file: the images to train on.
        output: file to write; file names are relative to the folder that holds the folders of images.
        test_json: the images to test on.
        exclude: psg.json, whose test images are left out of those to train on.
        image_folder, panoptic_folder: as in `read_coco_panoptic`; "" takes them from each JSON's name, which is
            panoptic_train2017.json for images in train2017 and PNGs in panoptic_train2017.

    Returns:
        numbers of images to train on, to test on, and left out.

    Raises:
        OSError, ValueError: as `read_coco_panoptic`; if the two files have other classes.
    """

    def read(path: str | Path) -> tuple[Vocabulary, list[dict]]:
        stem = Path(path).stem
        return read_coco_panoptic(path, image_folder or stem.removeprefix("panoptic_"), panoptic_folder or stem)

    vocabulary, every = read(json_file)
    left_out = _test_file_names(exclude) if exclude is not None else set()
    records = [record for record in every if record["file_name"] not in left_out]
    counts = Counter(train=len(records), test=0, excluded=len(every) - len(records))
    test_ids: list[str] = []
    if test_json is not None:
        names, test = read(test_json)
        if names != vocabulary:
            raise ValueError(f"{test_json}: its classes are not those of {json_file}")
        test_ids = [record["image_id"] for record in test]
        counts["test"] = len(test)
        records += test
    write_json(output, psg_content(vocabulary, records, test_ids), indent=None)
    return counts


def _test_file_names(psg_json: str | Path) -> set[str]:
    content = read_psg_json(psg_json)
    records = zip(content.records, content.image_ids, strict=True)
    return {record["file_name"] for record, image_id in records if image_id in content.test_image_ids}


def psg_content(vocabulary: Vocabulary, records: list[dict], test_image_ids: list[str]) -> dict:
    """The outermost level of psg.json."""
    names = {key: list(value) for key, value in vocabulary.names.items()}
    return {**names, "data": records, "test_image_ids": test_image_ids}

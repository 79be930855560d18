"""Any data set of the Hub's layout (`hub`) in PSG's format, with panoptic PNGs of its masks.

Letters: N objects, H W pixels.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from ...masks import stack_masks
from ...utils.files import write_json, write_whole
from ...vocabulary import Vocabulary
from ..annotation import reindex_relations
from ..coco_panoptic import psg_content
from ..panoptic import encode_panoptic
from ..psg_categories import PSG_VOCABULARY
from .hub import HubDataset, RowReader


def import_hub(
    hub: HubDataset, folder: Path, boxes_as_masks: bool = False, progress: Callable[[str], None] = lambda _: None
) -> tuple[dict, Counter]:
    """Write images and panoptic PNGs; interrupted, it goes on with the file of the Hub in which it stopped.

    Args:
        hub: the data set.
        folder: image root: images/SPLIT/ID.jpg and panoptic/SPLIT/ID.png.
        boxes_as_masks: take the whole box of an object without a segmentation, instead of refusing it.
        progress: called with the name of each finished file.

    Returns:
        content of psg.json. All classes are things, unless they are PSG's; the test images are those of the split test,
        or of val where there is none. Where masks overlap, the smaller object is on top; one of which nothing is left
        goes, with its relations.
        numbers of images, objects, relations and of objects that went.

    Raises:
        OSError: if the Hub cannot be reached or the disk is full.
        ValueError: names image and field: an object without mask, an unknown id, a name that cannot be a file's.
    """
    names = tuple(tuple(found[key] for key in sorted(found)) for found in hub.names)
    vocabulary = Vocabulary(names[0], (), names[1])
    if all(set(own) == set(psg) for own, psg in zip(names, _psg_names(), strict=True)):
        vocabulary = PSG_VOCABULARY
    reader, records = RowReader(hub.names, vocabulary), []
    counts: Counter = Counter()
    for split, shard in hub.shards:
        done = folder / "hub" / hub.commit / f"{shard}.json"
        if not done.exists():
            found = [_import_row(row, split, folder, reader, boxes_as_masks) for row in hub.rows(shard)]
            done.parent.mkdir(parents=True, exist_ok=True)
            write_json(done, found, indent=None)
        for entry in json.loads(done.read_text(encoding="ascii")):
            records.append(entry["record"])
            counts.update(entry["counts"])
        progress(shard)
    held_out = "test" if any(split == "test" for split, _ in hub.shards) else "val"
    test_ids = [r["image_id"] for r in records if r["image_id"].startswith(f"{held_out}-")]
    return psg_content(vocabulary, records, test_ids), counts


def _psg_names() -> tuple[tuple[str, ...], tuple[str, ...]]:
    return PSG_VOCABULARY.object_classes, PSG_VOCABULARY.predicate_classes


def _import_row(row: dict, split: str, folder: Path, reader: RowReader, boxes_as_masks: bool) -> dict:
    """The row's record and counts; its files are written."""
    own_id, suffix = str(row["image_id"]), PurePosixPath(row["file_name"]).suffix.lower()
    if not re.fullmatch(r"[\w-]+", own_id) or not re.fullmatch(r"\.\w+", suffix):
        raise ValueError(f"image_id {own_id!r}, file_name {row['file_name']!r}: they cannot name a file")
    split = "val" if split == "validation" else split
    image_file, png_file = f"images/{split}/{own_id}{suffix}", f"panoptic/{split}/{own_id}.png"
    label_map = stack_masks(list(_masks(row, boxes_as_masks)), (row["height"], row["width"]))
    pixels = np.bincount(label_map.ravel(), minlength=len(row["objects"]) + 1)[1:]
    kept = pixels > 0
    classes, relations = reader.classes(row), reindex_relations(reader.relations(row), kept)
    is_thing, segments, annotations = reader.vocabulary.is_thing, [], []
    for i in np.flatnonzero(kept):
        obj, category = row["objects"][i], int(classes[i])
        info = {"id": int(i) + 1, "category_id": category, "iscrowd": int(obj["iscrowd"] or 0)}
        segments.append({**info, "isthing": int(is_thing[category]), "area": int(pixels[i])})
        annotations.append({"bbox": list(obj["bbox"]), "bbox_mode": 1, "category_id": category})
    for name in (image_file, png_file):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    write_whole(folder / image_file, lambda file: file.write(row["image"]["bytes"]))
    write_whole(folder / png_file, lambda file: Image.fromarray(encode_panoptic(label_map)).save(file, "PNG"))
    record = {
        "image_id": f"{split}-{own_id}",  # a split may count its images from 0
        "file_name": image_file,
        "pan_seg_file_name": png_file,
        "height": row["height"],
        "width": row["width"],
        "segments_info": segments,
        "annotations": annotations,
        "relations": relations.tolist(),
    }
    counts = {"images": 1, "objects": len(segments), "relations": len(relations), "hidden objects": int((~kept).sum())}
    return {"record": record, "counts": counts}


def _masks(row: dict, boxes_as_masks: bool) -> Iterator[np.ndarray]:
    """(H, W) bool of each object."""
    height, width = row["height"], row["width"]
    for i, obj in enumerate(row["objects"]):
        if given := obj.get("segmentation"):
            rles = coco_mask.frPyObjects(given, height, width)
            yield coco_mask.decode(coco_mask.merge(rles) if isinstance(rles, list) else rles).astype(bool)
        elif boxes_as_masks:
            x, y, w, h = obj["bbox"]
            mask = np.zeros((height, width), dtype=bool)
            mask[max(round(y), 0) : max(round(y + h), 0), max(round(x), 0) : max(round(x + w), 0)] = True
            yield mask
        else:
            where = f"image_id {row['image_id']!r}, objects[{i}]"
            raise ValueError(f"{where}: it has a box but no segmentation; --boxes-as-masks takes its box")

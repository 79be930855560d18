"""psg.json rebuilt: the boxes and relations of `maelic/PSG-coco-format`, matched with COCO's panoptic segments.

PSG's objects are COCO's segments, unchanged, so that category and box tell which segment an object is.

Letters: N objects, M segments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from pycocotools import mask as coco_mask
from scipy.optimize import linear_sum_assignment

from ...vocabulary import Vocabulary
from ..annotation import reindex_relations
from .hub import RowReader

MIN_IOU = 0.5  # of an object's box with its segment's
MARGIN = 0.02  # sums of IoUs that differ by less do not tell two matchings apart
SAME_AREA = 0.05  # added to the IoU where an object has exactly the area of the segment
STATUSES = ("matched", "ambiguous", "incomplete", "missing", "repeated")


@dataclass
class Report:
    """What became of every image.

    Attributes:
        min_iou: the threshold of the matching.
        images: image ids by status. matched: each object is one segment. ambiguous: kept, though objects could be
            exchanged. incomplete: kept without the objects that are no segment, and without their relations. missing:
            left out, as it is not COCO's, has another size there, or none of its objects is a segment. repeated: left
            out, as it stands in the data set before.
        details: of the images that are not matched, what is the matter.
        counts: objects, relations and COCO's segments, by what became of them.
    """

    min_iou: float
    images: dict[str, list[str]] = field(default_factory=lambda: {status: [] for status in STATUSES})
    details: dict[str, str] = field(default_factory=dict)
    counts: Counter = field(default_factory=Counter)

    def add(self, image_id: str, status: str, detail: str = "") -> None:
        """Note an image."""
        self.images[status].append(image_id)
        if detail:
            self.details[f"{image_id} ({status})"] = detail

    def summary(self) -> str:
        """One line."""
        total = sum(map(len, self.images.values()))
        parts = [f"{len(ids):,} {status}" for status, ids in self.images.items()]
        counts = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in sorted(self.counts.items()))
        return f"{total:,} images: {', '.join(parts)}; {counts}"

    def to_dict(self) -> dict:
        """For a JSON file."""
        counts = {"images": {status: len(ids) for status, ids in self.images.items()}, **self.counts}
        return {"min_iou": self.min_iou, "counts": counts, "details": self.details, "images": self.images}


def match_segments(
    classes: np.ndarray,
    boxes: np.ndarray,
    areas: np.ndarray,
    segment_classes: np.ndarray,
    segment_boxes: np.ndarray,
    segment_areas: np.ndarray,
    min_iou: float = MIN_IOU,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the segment of each object: same class, boxes overlap by min_iou, one to one, greatest sum of IoUs.

    Args:
        classes, segment_classes: (N,) and (M,).
        boxes, segment_boxes: (N, 4) and (M, 4), x, y, width, height.
        areas, segment_areas: (N,) and (M,) pixels; where they are equal, the pair is preferred.
        min_iou: in (0, 1].

    Returns:
        (N,) int64 positions of segments, -1 for none; (N,) bool, True where another matching is as good.
    """
    position = np.full(len(classes), -1, dtype=np.int64)
    if not len(classes) or not len(segment_classes):
        return position, np.zeros(len(classes), dtype=bool)
    crowd = np.zeros(len(segment_classes), dtype=np.uint8)  # otherwise the overlap would be that of the object alone
    iou = coco_mask.iou(boxes.astype(np.float64), segment_boxes.astype(np.float64), crowd)
    fits = (iou >= min_iou) & (classes[:, None] == segment_classes)
    value = np.where(fits, iou + SAME_AREA * (areas[:, None] == segment_areas), 0.0)
    rows, columns = linear_sum_assignment(value, maximize=True)
    best = value[rows, columns].sum()
    kept = fits[rows, columns]
    position[rows[kept]] = columns[kept]
    ambiguous = np.zeros(len(classes), dtype=bool)
    contested = (fits.sum(axis=1) > 1) | (fits.sum(axis=0)[position] > 1)
    for row in np.flatnonzero((position >= 0) & contested):
        other = value.copy()
        other[row, position[row]] = 0.0
        ambiguous[row] = other[linear_sum_assignment(other, maximize=True)].sum() > best - MARGIN
    return position, ambiguous


def rebuild(
    rows: Iterable[tuple[str, dict]],
    names: tuple[dict[int, str], dict[int, str]],
    coco: Sequence[dict],
    vocabulary: Vocabulary,
    min_iou: float = MIN_IOU,
) -> tuple[list[dict], list[str], Report]:
    """PSG's records of a data set of boxes and relations.

    Args:
        rows: (split, row) of the data set (`hub`).
        names: its categories and predicates by id.
        coco: records of `read_coco_panoptic`, of at least these images.
        vocabulary: names of the records' numbers.
        min_iou: threshold of the matching.

    Returns:
        records in the order of rows; their segments are the matched ones, in the order of the row's objects.
        ids of the test images.
        report on every row.

    Raises:
        ValueError: if a row uses a name that the vocabulary lacks, or is not of the layout.
    """
    known = {record["image_id"]: record for record in coco}
    reader = RowReader(names, vocabulary)
    records: dict[str, dict] = {}
    test_ids: dict[str, None] = {}
    report = Report(min_iou)
    for split, row in rows:
        image_id = str(row["image_id"])
        if image_id in records:
            report.add(image_id, "repeated", f"again in {split}; its first annotation is kept")
        else:
            record, status, detail = _rebuild_image(row, known.get(image_id), reader, report)
            report.add(image_id, status, detail)
            if record is not None:
                records[image_id] = record
        # One that is in the test split and in another is not to be trained on.
        if split == "test" and image_id in records:
            test_ids[image_id] = None
    return list(records.values()), list(test_ids), report


def _rebuild_image(row: dict, coco: dict | None, reader: RowReader, report: Report) -> tuple[dict | None, str, str]:
    """The record or None, the status and its detail; counts what is in the image."""
    objects, relations, counts = row["objects"], reader.relations(row), report.counts
    size = (row["height"], row["width"])
    wrong = ""
    if coco is None:
        wrong = "COCO's panoptic annotation does not have the image"
    elif size != (coco["height"], coco["width"]):
        wrong = f"its height and width are {size}, COCO's {(coco['height'], coco['width'])}"
    if coco is None or wrong:
        counts.update(objects_left_out=len(objects), relations_left_out=len(relations))
        return None, "missing", wrong
    classes, segments = reader.classes(row), coco["segments_info"]
    segment_boxes = np.array([a["bbox"] for a in coco["annotations"]], dtype=np.float64).reshape(-1, 4)
    segment_boxes[:, 2:] -= segment_boxes[:, :2]
    position, ambiguous = match_segments(
        classes,
        np.array([obj["bbox"] for obj in objects], dtype=np.float64).reshape(-1, 4),
        np.array([obj["area"] for obj in objects]),
        np.array([s["category_id"] for s in segments]),
        segment_boxes,
        np.array([s["area"] for s in segments]),
        report.min_iou,
    )
    found = position >= 0
    kept = reindex_relations(relations, found).tolist()
    counts.update(
        objects_matched=int(found.sum()),
        objects_left_out=int((~found).sum()),
        relations_kept=len(kept),
        relations_left_out=len(relations) - len(kept),
        segments_without_object=len(segments) - int(found.sum()),
    )
    lost = [f"objects[{i}] ({reader.vocabulary.object_classes[classes[i]]})" for i in np.flatnonzero(~found)]
    if not found.any():
        return None, "missing", "none of its objects is a segment of COCO"
    record = {
        **coco,
        "segments_info": [segments[j] for j in position[found]],
        "annotations": [coco["annotations"][j] for j in position[found]],
        "relations": kept,
    }
    if lost:
        return record, "incomplete", f"no segment is {', '.join(lost)}"
    if ambiguous.any():
        doubtful = ", ".join(f"objects[{i}]" for i in np.flatnonzero(ambiguous))
        return record, "ambiguous", f"another matching is as good for {doubtful}"
    return record, "matched", ""

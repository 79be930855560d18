"""What annotators made of tasks: scenes to be written in PSG's layout, and every difference from the task.

Letters: N segments, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from ...masks import mask_box, stack_masks
from ...vocabulary import Vocabulary
from ..annotation import reindex_relations
from .tasks import KINDS, Scene, field_of, list_of, read_scene

SAME_SEGMENT_IOU = 0.5  # of a region without a known id, to be taken for a segment of the task

Triplet = tuple[int, int, int]  # subject's id, object's id, predicate


@dataclass(frozen=True)
class Change:
    """One difference: "segment added", "mask changed", "relation removed" and the like, and what it is about."""

    task: int
    image_id: str
    what: str
    about: str

    def describe(self) -> str:
        """The change as one line."""
        return f"task {self.task}, image_id {self.image_id!r}: {self.what}: {self.about}"


@dataclass(frozen=True)
class Correction:
    """One annotated image.

    Attributes:
        data: the task's.
        ids, categories, is_crowd: N segments: ids of the panoptic PNG, those of the task where it had the segment,
            category ids, and crowd flags.
        id_map: (H, W) int64, id of each pixel's segment, 0 where there is none.
        relations: rows (subject, object, predicate) of positions among the segments.
        changes: differences from the task.
    """

    data: dict[str, Any]
    ids: list[int]
    categories: list[int]
    is_crowd: list[bool]
    id_map: np.ndarray
    relations: list[list[int]]
    changes: list[Change]

    @property
    def same_masks(self) -> bool:
        """Whether the panoptic PNG of the task, if it has one, still holds."""
        return not any(change.what.startswith(("segment added", "segment removed", "mask")) for change in self.changes)

    def record(self, vocabulary: Vocabulary, pan_seg_file_name: str) -> dict[str, Any]:
        """The image in psg.json."""
        segments, annotations = [], []
        for segment_id, category, crowd in zip(self.ids, self.categories, self.is_crowd, strict=True):
            mask = self.id_map == segment_id
            flags = {"isthing": int(vocabulary.is_thing[category]), "iscrowd": int(crowd)}
            segments.append({"id": segment_id, "category_id": category, **flags, "area": int(mask.sum())})
            annotations.append({"bbox": list(mask_box(mask)), "bbox_mode": 0, "category_id": category})
        own = {key: self.data[key] for key in ("image_id", "file_name", "height", "width")}
        found = {"segments_info": segments, "annotations": annotations, "relations": self.relations}
        return {**own, "pan_seg_file_name": pan_seg_file_name, **found}


def read_corrections(
    exported: object, tasks: list[dict], vocabulary: Vocabulary, *, latest: bool = False
) -> Iterator[tuple[dict, Correction | None]]:
    """Compare Label Studio's export (its format JSON) with the tasks that it was given.

    Args:
        exported: the parsed file.
        tasks: made by `task_of`; data.image_id tells which of them an exported task is.
        vocabulary: the one that the tasks were made with.
        latest: of several annotations of a task, take the one that was changed last.

    Yields:
        data of each exported task, and its correction; None where no annotation was made, or it was cancelled. Then
        those tasks that had annotations and were not exported, as they are.
        Where masks overlap, the smaller is on top; a segment of which nothing is left goes, with its relations.

    Raises:
        ValueError: names the task and the field of what is broken, or is no such task.
    """
    known = {task["data"]["image_id"]: task for task in tasks}
    seen: dict[str, int] = {}
    for n, entry in enumerate(list_of(exported, "the export")):
        number = field_of(entry, "id", int, f"entry {n} of the export")
        where = f"task {number}"
        if "data" not in entry:
            raise ValueError(f"{where}: has no data; export the project as JSON, not JSON-MIN")
        image_id = field_of(field_of(entry, "data", dict, where), "image_id", str, f"{where}, data")
        if image_id not in known:
            raise ValueError(f"{where}, data.image_id: {image_id!r} is not among the tasks")
        if seen.setdefault(image_id, number) != number:
            raise ValueError(f"{where}, data.image_id: {image_id!r} is that of task {seen[image_id]}, too")
        task = known[image_id]
        result = _result(list_of(entry.get("annotations"), f"{where}, annotations"), where, latest)
        yield task["data"], None if result is None else _correct(number, task, result, vocabulary)
    for task in tasks:  # of a data set, images that were not exported stay as they are
        if task["data"]["image_id"] not in seen and "annotations" in task:
            given = task["annotations"][0]["result"]
            yield task["data"], _correct(0, task, ("given", given), vocabulary)


def _result(annotations: list, where: str, latest: bool) -> tuple[str, object] | None:
    made = [
        (str(entry.get("updated_at", "")), f"{where}, annotations[{n}]", entry.get("result"))
        for n, entry in enumerate(annotations)
        if isinstance(entry, dict) and not entry.get("was_cancelled")
    ]
    if len(made) > 1 and not latest:
        raise ValueError(f"{where}, annotations: expected one, got {len(made)}; --latest takes the last")
    return max(made, key=lambda found: found[0])[1:] if made else None


def _correct(number: int, task: dict, found: tuple[str, object], vocabulary: Vocabulary) -> Correction:
    data = task["data"]
    size = data["height"], data["width"]
    given: list = next((task[kind][0]["result"] for kind in KINDS if kind in task), [])
    before = read_scene(given, vocabulary, size, f"image_id {data['image_id']!r} of the given tasks")
    after = read_scene(found[1], vocabulary, size, found[0])
    label_map = stack_masks([region.mask for region in after.regions], size)
    keep = np.bincount(label_map.ravel(), minlength=len(after.regions) + 1)[1:] > 0
    match = _match(before, after)
    taken = {int(region.id) for region in before.regions}
    free = (n for n in count(1) if n not in taken)
    ids = np.array([int(before.regions[m].id) if m >= 0 else next(free) for m in match], dtype=np.int64)
    kept = np.flatnonzero(keep)
    rows = reindex_relations(after.relations, keep).tolist()
    categories = [after.regions[i].category_id for i in kept]
    crowd = set(data.get("crowd", ()))
    correction = Correction(
        data,
        ids[kept].tolist(),
        categories,
        [bool(i in crowd) for i in ids[kept].tolist()],
        np.append(0, ids)[label_map],
        rows,
        [],
    )
    for what, about in _changes(before, correction, match[kept], vocabulary):
        correction.changes.append(Change(number, data["image_id"], what, about))
    for i in np.flatnonzero(~keep):
        name = vocabulary.object_classes[after.regions[i].category_id]
        about = f"{name}, region {after.regions[i].id!r}: no pixel of its own"
        correction.changes.append(Change(number, data["image_id"], "region left out", about))
    return correction


def _match(before: Scene, after: Scene) -> np.ndarray:
    """Position in `before` of each region of `after`, by id, or else by overlap; -1 where there is none."""
    position = {region.id: i for i, region in enumerate(before.regions)}
    match = np.array([position.get(region.id, -1) for region in after.regions], dtype=np.int64)
    new, left = np.flatnonzero(match < 0), sorted(set(position.values()) - set(match.tolist()))
    overlap = np.array([[_iou(after.regions[i].mask, before.regions[j].mask) for j in left] for i in new])
    for i, j in zip(*linear_sum_assignment(-overlap.reshape(len(new), len(left))), strict=True):
        if overlap[i, j] > SAME_SEGMENT_IOU:
            match[new[i]] = left[j]
    return match


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def _changes(before: Scene, after: Correction, match: np.ndarray, vocabulary: Vocabulary) -> Iterator[tuple[str, str]]:
    """What changed, and about what, of segments, then of relations."""
    classes = vocabulary.object_classes
    names = {int(r.id): f"{classes[r.category_id]} {r.id}" for r in before.regions}
    for segment_id, category, m in zip(after.ids, after.categories, match, strict=True):
        name = names.setdefault(segment_id, f"{classes[category]} {segment_id}")
        if m < 0:
            yield "segment added", name
            continue
        region = before.regions[m]
        if category != region.category_id:
            yield "class changed", f"{name} -> {classes[category]}"
        if (iou := _iou(after.id_map == segment_id, region.mask)) < 1:
            yield "mask changed", f"{name}, IoU {iou:.3f}"
    for i in sorted(set(range(len(before.regions))) - set(match.tolist())):
        yield "segment removed", names[int(before.regions[i].id)]
    old_ids = [int(region.id) for region in before.regions]
    old = {(old_ids[s], old_ids[o], p): None for s, o, p in before.relations}
    new = {(after.ids[s], after.ids[o], p): None for s, o, p in after.relations}
    yield from _relation_changes(list(old), list(new), names, vocabulary.predicate_classes)


def _relation_changes(
    old: list[Triplet], new: list[Triplet], names: dict[int, str], predicates: tuple[str, ...]
) -> Iterator[tuple[str, str]]:
    """A predicate that went and one that came, of the same pair, are one change."""
    for pair in dict.fromkeys((s, o) for s, o, _ in old + new):
        subject, object_ = (names[i] for i in pair)
        gone = [predicates[p] for s, o, p in old if (s, o) == pair and (s, o, p) not in new]
        come = [predicates[p] for s, o, p in new if (s, o) == pair and (s, o, p) not in old]
        for i in range(max(len(gone), len(come))):
            if i < len(gone) and i < len(come):
                yield "relation changed", f"{subject} - {gone[i]} -> {come[i]} - {object_}"
            elif i < len(gone):
                yield "relation removed", f"{subject} - {gone[i]} - {object_}"
            else:
                yield "relation added", f"{subject} - {come[i]} - {object_}"

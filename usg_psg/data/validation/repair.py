"""A copy of a PSG file without what the loader refuses or mends.

Nothing is invented: relations, segments without pixels and images are removed, values are never changed. A segment
that has pixels in the panoptic PNG cannot go without the PNG, so its image goes as a whole. Ids that only a PNG has
stay: the loader takes their pixels for unlabelled.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ...images import ImageError, MissingImageError
from ...utils.files import read_json
from ...utils.worker_pool import Failure, run_isolated
from ...vocabulary import Vocabulary
from ..annotation import reindex_relations
from ..panoptic import decode_panoptic_png
from ..psg_json import PSGFile, read_psg_json
from .check_dataset import TIMEOUT
from .images import validate_image
from .records import Problem, is_segment_id

_RELATION_KINDS = ("relation_form", "relation_range", "predicate_range", "self_relation", "duplicate_relation")
_BROKEN_KINDS = ("structure", "missing_key", "repeated_key", "file_name", "text", "annotations")


@dataclass(frozen=True)
class Change:
    """One removal."""

    what: str  # "image", "segment", "relation" or "test_image_id"
    image_id: str
    field: str  # where it was in the original file
    reason: str

    def describe(self) -> str:
        """The change as one line."""
        return f"image_id {self.image_id!r}, {self.field}: {self.what} removed, {self.reason}"


def repair_dataset(
    json_file: str | Path,
    image_root: str | Path,
    *,
    workers: int = 1,
    timeout: float = TIMEOUT,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict, list[Change]]:
    """The content of a PSG file without its problems, and all that was removed.

    Args:
        as `check_dataset`.

    Returns:
        content for a JSON file, of which `check_dataset` finds no problem; changes in the file's order.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ValueError: if it is not a PSG file, or no image is left.
    """
    if not os.path.isdir(image_root):
        raise FileNotFoundError(f"there is no folder {image_root}")
    file = read_psg_json(json_file)
    results: list[tuple[dict | None, list[Change]]] = [(None, [])] * len(file.records)
    repair = partial(_repair_record, file, os.path.realpath(image_root))
    for done, (position, result) in enumerate(run_isolated(repair, len(file.records), workers, timeout), start=1):
        if isinstance(result, Failure):
            result = (None, [Change("image", file.image_ids[position], f"data[{position}]", result.message)])
        results[position] = result
        if progress is not None:
            progress(done, len(file.records))
    records, changes = [], []
    seen: dict[str, int] = {}
    for position, (record, found) in enumerate(results):
        image_id = file.image_ids[position]
        changes += found
        if record is None:
            continue
        if seen.setdefault(image_id, position) == position:
            records.append(record)
        else:
            reason = f"the image occurs more than once, first as data[{seen[image_id]}]"
            changes.append(Change("image", image_id, f"data[{position}]", reason))
    if not records:
        raise ValueError(f"{json_file}: no image is left")
    content = read_json(json_file)
    content["data"] = records
    test_ids = content["test_image_ids"]
    content["test_image_ids"] = [x for x in test_ids if str(x) in seen]
    changes += [
        Change("test_image_id", str(x), f"test_image_ids[{i}]", "there is no image of this id in data")
        for i, x in enumerate(test_ids)
        if str(x) not in seen
    ]
    return content, changes


def _repair_record(file: PSGFile, root: str, position: int) -> tuple[dict | None, list[Change]]:
    record, image_id = file.records[position], file.image_ids[position]
    return repair_image(record, image_id, f"data[{position}]", file.vocabulary, root)


def repair_image(
    record: object, image_id: str, field: str, vocabulary: Vocabulary, root: str
) -> tuple[dict | None, list[Change]]:
    """One record without its problems, and what was removed; None for one that goes as a whole.

    `field` says where it is in the file; other arguments as in `validate_image`.
    """
    problems = validate_image(record, image_id, vocabulary, root)
    broken = [f for f in problems if f.is_error and f.kind in _BROKEN_KINDS]
    if broken or not isinstance(record, dict):
        return None, [_whole(image_id, field, broken)]
    if all(f.severity == "warning" for f in problems):
        return record, []
    repaired = copy.deepcopy(record)
    rows, changes = _drop_relations(repaired, image_id, field, problems)
    changes += _drop_segments(repaired, rows, image_id, field, root)
    left = [f for f in validate_image(repaired, image_id, vocabulary, root) if f.is_error]
    if left:
        return None, [_whole(image_id, field, left)]
    return repaired, changes


def _whole(image_id: str, field: str, problems: list[Problem]) -> Change:
    return Change("image", image_id, field, "; ".join(f"{f.field}: {f.message}" for f in problems))


def _drop_relations(record: dict, image_id: str, field: str, problems: list[Problem]) -> tuple[list[int], list[Change]]:
    """Take faulty relations out; also returns the rows that the others had."""
    reasons: dict[int, str] = {}
    for problem in problems:
        if problem.kind in _RELATION_KINDS:
            reasons.setdefault(int(problem.field.removeprefix("relations[").removesuffix("]")), problem.message)
    rows = [i for i in range(len(record["relations"])) if i not in reasons]
    record["relations"] = [record["relations"][i] for i in rows]
    changes = [Change("relation", image_id, f"{field}.relations[{i}]", reason) for i, reason in sorted(reasons.items())]
    return rows, changes


def _drop_segments(record: dict, rows: list[int], image_id: str, field: str, root: str) -> list[Change]:
    """Take segments without a pixel out, with their annotations and relations; the others are numbered anew.

    rows says where in the file the record's relations are.
    """
    try:
        ids = set(np.unique(decode_panoptic_png(os.path.join(root, record["pan_seg_file_name"]))).tolist())
    except (ImageError, MissingImageError):
        return []
    # An impossible id stays: pixels that the PNG has under an unlisted one may be its.
    keep = np.array([not is_segment_id(s["id"]) or s["id"] in ids for s in record["segments_info"]], dtype=bool)
    if keep.all():
        return []
    changes = []
    for i in np.flatnonzero(~keep):
        reason = f"the panoptic PNG has no pixel of its id {record['segments_info'][i]['id']!r}"
        changes.append(Change("segment", image_id, f"{field}.segments_info[{i}]", reason))
    for row, (subject, object_, _) in zip(rows, record["relations"], strict=True):
        gone = [int(end) for end in dict.fromkeys((subject, object_)) if not keep[end]]
        if gone:
            reason = f"it relates segment {' and '.join(map(str, gone))}, which was removed"
            changes.append(Change("relation", image_id, f"{field}.relations[{row}]", reason))
    record["relations"] = reindex_relations(record["relations"], keep).tolist()
    for key in ("segments_info", "annotations"):
        record[key] = [item for item, kept in zip(record[key], keep, strict=True) if kept]
    return changes

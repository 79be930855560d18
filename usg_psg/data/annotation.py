"""An image's annotation as arrays, at the image's own size: what an evaluation compares predictions with.

Letters: N segments, R relations, H W pixels.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np

from ..masks import present_in
from .panoptic import read_segment_index_map

logger = logging.getLogger(__name__)


class Annotation(NamedTuple):
    """Segments and relations of an image."""

    labels: np.ndarray  # (N,) int64 category ids
    relations: np.ndarray  # (R, 3) int64 rows (subject, object, predicate), positions in labels
    label_map: np.ndarray  # (H, W) position + 1 of each pixel's segment, 0 where there is none
    is_crowd: np.ndarray  # (N,) bool


def reindex_relations(relations: np.ndarray | list, keep: np.ndarray) -> np.ndarray:
    """Relations between the segments that are left.

    Args:
        relations: (R, 3) rows (subject, object, predicate), 0-based positions among N segments.
        keep: (N,) bool, True for a segment that stays.

    Returns:
        (R', 3) int64 in the same order, positions among the kept segments; a relation that loses an end is gone.
    """
    rows = np.asarray(relations, dtype=np.int64).reshape(-1, 3)
    keep = np.asarray(keep, dtype=bool)
    new_position = np.cumsum(keep) - 1
    rows = rows[keep[rows[:, 0]] & keep[rows[:, 1]]]
    rows[:, :2] = new_position[rows[:, :2]]
    return rows


def annotation_arrays(record: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes (N,), relations (R, 3) and crowd flags (N,) of a dataset dict, without opening a file."""
    segments = record["segments_info"]
    labels = np.array([s["category_id"] for s in segments], dtype=np.int64)
    relations = np.array(record["relations"], dtype=np.int64).reshape(-1, 3)
    return labels, relations, np.array([s["iscrowd"] for s in segments], dtype=bool)


def annotation_of(record: dict, label_map: np.ndarray) -> Annotation:
    """The annotation of a dict and the map of its segments; those without a pixel go, with their relations."""
    labels, relations, is_crowd = annotation_arrays(record)
    keep = present_in(label_map, len(labels))
    if not keep.all():
        relations, labels, is_crowd = reindex_relations(relations, keep), labels[keep], is_crowd[keep]
        label_map = np.append(0, np.cumsum(keep))[label_map]
    return Annotation(labels, relations, label_map, is_crowd)


def read_annotation(record: dict) -> Annotation:
    """The annotation of a dataset dict; reads its panoptic PNG, where ids that no segment lists are unlabelled."""
    label_map, disagreements = read_segment_index_map(record)
    for disagreement in disagreements:
        logger.warning("%s", disagreement)
    return annotation_of(record, label_map)

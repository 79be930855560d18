"""Panoptic quality (Kirillov et al., CVPR 2019) as counts that add up across images and processes.

Letters: C object classes, S predicted segments, G annotated segments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

# IoUs are summed as multiples of 2^-40, exactly in any order; their rounding is far below what is printed.
_IOU_UNIT = 2.0**40


class PanopticQuality:
    """Accumulates PQ, SQ and RQ of C classes, whose flags are is_thing.

    A predicted and an annotated segment match if their classes agree and their IoU, void pixels left out of the
    union, exceeds one half; at most one pair can. Crowd segments are neither found nor missed. An unmatched predicted
    segment counts as false unless more than half of it lies on void pixels or on crowds of its class.
    """

    def __init__(self, is_thing: Sequence[bool]):
        self.is_thing = np.asarray(is_thing, dtype=bool)
        self.iou_sum = np.zeros(len(self.is_thing), dtype=np.int64)
        # Columns: true positives, false positives, false negatives.
        self.counts = np.zeros((len(self.is_thing), 3), dtype=np.int64)

    def add(
        self, joint: np.ndarray, pred_labels: np.ndarray, gt_labels: np.ndarray, is_crowd: np.ndarray | None = None
    ) -> None:
        """Count one image: `joint_histogram` (S + 1, G + 1), classes (S,) and (G,), crowd flags (G,)."""
        num_classes = len(self.is_thing)
        crowd = np.zeros(len(gt_labels), dtype=bool) if is_crowd is None else np.asarray(is_crowd, dtype=bool)
        intersection = joint[1:, 1:]
        pred_area, gt_area = joint.sum(axis=1)[1:], joint.sum(axis=0)[1:]
        on_void = joint[1:, 0]
        union = (pred_area - on_void)[:, None] + gt_area[None, :] - intersection
        same = pred_labels[:, None] == gt_labels[None, :]
        # Twice the intersection above the union: IoU above one half, in integers.
        matched = same & ~crowd[None, :] & (2 * intersection > union)
        pred, gt = np.nonzero(matched)
        units = np.rint(intersection[pred, gt] / union[pred, gt] * _IOU_UNIT).astype(np.int64)
        np.add.at(self.iou_sum, gt_labels[gt], units)
        self.counts[:, 0] += np.bincount(gt_labels[gt], minlength=num_classes)

        ignored = on_void + (intersection * (same & crowd[None, :])).sum(axis=1)
        false_positive = ~matched.any(axis=1) & (2 * ignored <= pred_area) & (pred_area > 0)
        self.counts[:, 1] += np.bincount(pred_labels[false_positive], minlength=num_classes)
        self.miss(gt_labels[~matched.any(axis=0) & ~crowd & (gt_area > 0)])

    def miss(self, gt_labels: np.ndarray) -> None:
        """Count annotated segments that were not found, by class index."""
        self.counts[:, 2] += np.bincount(gt_labels, minlength=len(self.is_thing))

    def merge(self, other: PanopticQuality) -> None:
        """Add the counts of another process."""
        self.iou_sum += other.iou_sum
        self.counts += other.counts

    def compute(self, parts: Mapping[str, np.ndarray] | None = None) -> dict[str, float]:
        """PQ, SQ, RQ in percent, of all classes, things (`_th`) and stuff (`_st`): means over classes that occur.

        Args:
            parts: C flags of further groups of classes, by suffix.
        """
        found, false, missed = self.counts.T
        occurs = self.counts.any(axis=1)
        iou_sum = self.iou_sum / _IOU_UNIT
        sq = iou_sum / np.maximum(found, 1)
        rq = found / np.maximum(found + 0.5 * false + 0.5 * missed, 0.5)
        result = {}
        groups = {"": occurs, "_th": self.is_thing, "_st": ~self.is_thing, **(parts or {})}
        for suffix, group in ((suffix, occurs & part) for suffix, part in groups.items()):
            for name, values in (("PQ", sq * rq), ("SQ", sq), ("RQ", rq)):
                result[name + suffix] = 100.0 * float(values[group].mean()) if group.any() else float("nan")
        return result

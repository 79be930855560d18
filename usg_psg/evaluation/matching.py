"""Which predicted masks and triplets match which annotated ones. Arrays in, arrays out.

Letters: N predicted masks, M masks of the other side, G annotated segments, R predicted triplets (best first),
T annotated triplets, H W pixels. Triplets are rows (subject, object, predicate), 0-based.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..masks import Masks, decode_masks, runs

NEVER = np.iinfo(np.int64).max  # rank of an annotated triplet that no prediction hits


@dataclass(frozen=True)
class Overlap:
    """Pixel counts from which the IoU of every predicted mask with every annotated one follows.

    Attributes:
        intersection: (N, G) int64.
        pred_area: (N,) int64.
        gt_area: (G,) int64.
    """

    intersection: np.ndarray
    pred_area: np.ndarray
    gt_area: np.ndarray

    def iou(self) -> np.ndarray:
        """(N, G) float64 in [0, 1]; 0 for two empty masks.

        The division of two integers is rounded correctly, so `iou >= 0.5` is exact.
        """
        union = self.pred_area[:, None] + self.gt_area[None, :] - self.intersection
        return np.divide(self.intersection, union, out=np.zeros(union.shape), where=union > 0)


def mask_overlap(pred_masks: Masks, gt_map: np.ndarray, num_gt: int) -> Overlap:
    """Overlap of N masks, which may cover each other, with a map (H, W): n + 1 inside annotated segment n.

    Masks are packed 64 pixels to a word and compared with the pieces of the map's segments in each word: half of the
    time goes into reading them once. ValueError if the sizes differ.
    """
    masks = decode_masks(pred_masks, "masks", gt_map.shape)
    flat, gt_flat = masks.reshape(len(masks), gt_map.size), gt_map.ravel()
    starts, lengths = runs(gt_flat, at_most=64)
    by_segment = np.argsort(gt_flat[starts], kind="stable")
    starts, lengths = starts[by_segment], lengths[by_segment]
    numbers, first = np.unique(gt_flat[starts], return_index=True)
    inside = (_ALL_BITS >> (64 - lengths).astype(np.uint64)) << (starts % 64).astype(np.uint64)
    pixels = np.zeros((len(masks), num_gt + 1), dtype=np.int64)
    for n in range(0, len(masks), _BLOCK):
        bits = _count_bits(_pack(flat[n : n + _BLOCK]).take(starts // 64, axis=1) & inside)
        pixels[n : n + _BLOCK, numbers] = np.add.reduceat(bits, first, axis=1, dtype=np.int32)
    gt_area = np.bincount(gt_flat[starts], lengths, minlength=num_gt + 1).astype(np.int64)
    return Overlap(pixels[:, 1:], pixels.sum(axis=1), gt_area[1:])


_ALL_BITS = np.uint64(2**64 - 1)
_BLOCK = 16  # masks whose words stay in a processor's cache


def _pack(masks: np.ndarray) -> np.ndarray:
    """(N, n) bool to (N, ceil(n / 64)) uint64, the first pixel of a word in its lowest bit."""
    packed = np.packbits(masks, axis=1, bitorder="little")
    if padding := -packed.shape[1] % 8:
        packed = np.pad(packed, [(0, 0), (0, padding)])
    return packed.view("<u8")


def _count_bits(words: np.ndarray) -> np.ndarray:
    """Set bits of each word, (N, n) uint64 to uint8."""
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(words)
    # numpy 1
    return np.unpackbits(words[..., None].view(np.uint8), axis=-1).sum(axis=-1, dtype=np.uint8)


def joint_histogram(pred_map: np.ndarray, gt_map: np.ndarray, num_pred: int, num_gt: int) -> np.ndarray:
    """Pixels of each pair of values of two maps: (num_pred + 1, num_gt + 1) int64, row and column 0 for no segment.

    Raises:
        ValueError: if the sizes differ or a value is out of range.
    """
    if pred_map.shape != gt_map.shape:
        raise ValueError(f"segment_map: expected height and width {gt_map.shape}, got {pred_map.shape}")
    starts, lengths = runs(pred_map.ravel(), gt_map.ravel())
    pred, gt = (x.ravel()[starts].astype(np.int64) for x in (pred_map, gt_map))
    for name, values, limit in (("segment_map", pred, num_pred), ("label_map", gt, num_gt)):
        if values.size and not (0 <= values.min() and values.max() <= limit):
            raise ValueError(f"{name}: expected values 0 to {limit}, got {values.min()} to {values.max()}")
    pixels = np.bincount(pred * (num_gt + 1) + gt, lengths, minlength=(num_pred + 1) * (num_gt + 1))
    return pixels.astype(np.int64).reshape(num_pred + 1, num_gt + 1)


def overlap_of_maps(joint: np.ndarray) -> Overlap:
    """Overlap of the segments of two maps, from their `joint_histogram`."""
    return Overlap(joint[1:, 1:], joint.sum(axis=1)[1:], joint.sum(axis=0)[1:])


def match_any(
    iou: np.ndarray, pred_labels: np.ndarray | None, gt_labels: np.ndarray | None, threshold: float = 0.5
) -> np.ndarray:
    """(N, G) bool: same label (None leaves labels out) and IoU at or above the threshold.

    A prediction may match several segments and a segment several predictions, as in OpenPSG's evaluator.
    """
    matched = iou >= threshold
    if pred_labels is not None and gt_labels is not None:
        matched &= pred_labels[:, None] == gt_labels[None, :]
    return matched


def match_one_to_one(
    iou: np.ndarray, pred_labels: np.ndarray, gt_labels: np.ndarray, threshold: float = 0.5
) -> np.ndarray:
    """(N, G) bool with at most one True in each row and column.

    Each prediction goes to the segment of its label with the largest IoU; each segment keeps the prediction with the
    largest IoU among those; the IoU must exceed the threshold. Ties go to the first.

    Source: "A Fair Ranking and New Model for Panoptic Scene Graph Generation" (arXiv 2407.09216), SingleMPO.
    """
    candidate = np.where(pred_labels[:, None] == gt_labels[None, :], iou, 0.0)
    matched = np.zeros(candidate.shape, dtype=bool)
    if candidate.size == 0:
        return matched
    rows = np.arange(len(candidate))
    best_gt = candidate.argmax(axis=1)
    best_iou = candidate[rows, best_gt]
    claim = np.zeros_like(candidate)
    claim[rows, best_gt] = np.where(best_iou > threshold, best_iou, 0.0)
    best_pred = claim.argmax(axis=0)
    columns = np.arange(candidate.shape[1])
    matched[best_pred, columns] = claim[best_pred, columns] > 0
    return matched


def triplet_hits(triplets: np.ndarray, matched: np.ndarray, gt_triplets: np.ndarray) -> np.ndarray:
    """(R, T) bool: both ends of the predicted triplet match those of the annotated one, and the predicates agree.

    Ends of triplets (R, 3) are rows of `matched` (N, G), those of gt_triplets (T, 3) its columns.
    """
    return pair_hits(triplets, matched, gt_triplets) & (triplets[:, None, 2] == gt_triplets[None, :, 2])


def pair_hits(pairs: np.ndarray, matched: np.ndarray, gt_pairs: np.ndarray) -> np.ndarray:
    """(R, T) bool: as `triplet_hits`, with predicates left out; only the first two columns are read."""
    subject = matched[pairs[:, 0]][:, gt_pairs[:, 0]]
    return subject & matched[pairs[:, 1]][:, gt_pairs[:, 1]]


def first_ranks(hits: np.ndarray) -> np.ndarray:
    """Rank from 0 of the first row that hits each column, `NEVER` where none does: (R, T) bool to (T,) int64."""
    if len(hits) == 0:
        return np.full(hits.shape[1], NEVER)
    return np.where(hits.any(axis=0), hits.argmax(axis=0), NEVER)


def greedy_ranks(hits: np.ndarray) -> np.ndarray:
    """As `first_ranks`, but each row takes one column only: the first that it hits and that is still free.

    Source: the rule of the released USG code, usg_par/eval/recall.py at 39e6b77.
    """
    ranks, last = [NEVER] * hits.shape[1], -1
    for row, column in np.argwhere(hits).tolist():
        if row != last and ranks[column] == NEVER:
            ranks[column] = last = row
    return np.array(ranks, dtype=np.int64)


def first_of_each(rows: np.ndarray) -> np.ndarray:
    """Positions, in order, of the first occurrence of each distinct row: (R, c) integers to (R',) int64."""
    if len(rows) == 0:
        return np.zeros(0, dtype=np.int64)
    key = np.zeros(len(rows), dtype=np.int64)
    for column in rows.T:
        key = key * (int(column.max()) + 1) + column
    return np.sort(np.unique(key, return_index=True)[1])

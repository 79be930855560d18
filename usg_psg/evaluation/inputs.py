"""Annotation and prediction of one image as plain arrays, checked on entry.

Letters: N predicted masks, S segments of the predicted panoptic map, G annotated segments, R predicted triplets,
T annotated triplets, K pair proposals, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..masks import Masks, decode_masks
from .matching import Overlap, first_of_each


@contextmanager
def naming_image(image_id: str) -> Iterator[None]:
    """Put the image, if it has an id, before the text of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise (ValueError(f"image {image_id!r}: {error}") if image_id else error) from None


@dataclass
class GroundTruth:
    """Annotation of one image.

    Attributes:
        labels: (G,) class of each segment, 0-based.
        triplets: (T, 3) rows (subject, object, predicate), 0-based; duplicates are allowed.
        label_map: (H, W) integers: n + 1 inside segment n, 0 elsewhere.
        is_crowd: (G,) bool; None for none. Only panoptic quality leaves crowds out, as in every evaluator of PSG.
        image_id: named in errors.
    """

    labels: np.ndarray
    triplets: np.ndarray
    label_map: np.ndarray
    is_crowd: np.ndarray | None = None
    image_id: str = ""

    def __post_init__(self) -> None:
        with naming_image(self.image_id):
            self._check()

    def _check(self) -> None:
        self.labels = _labels(self.labels, "labels")
        self.triplets = _rows(self.triplets, 3, len(self.labels), "triplets")
        limit, values = len(self.labels), self.label_map
        if values.ndim != 2 or not np.issubdtype(values.dtype, np.integer):
            raise ValueError(f"label_map: expected integers (H, W), got {values.dtype} of shape {values.shape}")
        if values.size and not (0 <= values.min() and values.max() <= limit):
            raise ValueError(f"label_map: expected 0 to {limit}, got {values.min()} to {values.max()}")
        if self.is_crowd is not None:
            self.is_crowd = np.asarray(self.is_crowd, dtype=bool)
            if self.is_crowd.shape != self.labels.shape:
                raise ValueError(f"is_crowd: expected {limit} flags, got shape {self.is_crowd.shape}")

    @cached_property
    def unique_triplets(self) -> np.ndarray:
        """The triplets without exact duplicates, in order."""
        return self.triplets[first_of_each(self.triplets)]

    @cached_property
    def unique_pairs(self) -> np.ndarray:
        """(T', 2) distinct ordered (subject, object) pairs, in order."""
        return self.triplets[first_of_each(self.triplets[:, :2]), :2]


@dataclass
class Prediction:
    """Prediction for one image.

    `triplets` may hold several predicates for one pair: the first row of each ordered pair, in order, is the ranking
    with graph constraint. `single` and panoptic quality need a map without overlaps; if none is given, `flatten_masks`
    makes it.

    Attributes:
        labels: (N,) class of each mask.
        triplets: (R, 3) rows (subject, object, predicate), best first; subject and object index the masks.
        masks: (N, H, W) bool, or N COCO run lengths; may overlap. May be None if `overlap` is given.
        triplet_scores: (R,); if given, triplets and scores are sorted by it, best first, ties in the given order.
        triplets_ng: (R', 3) ranking without graph constraint, best first; None takes `triplets`.
        mask_scores: (N,), for `flatten_masks`.
        segment_map, segment_labels: (H, W) integers, n + 1 inside segment n, and (S,) class of each segment.
        mask_segment: (N,) segment of the map that each mask became, -1 for none.
        pairs: (K, 2) pair proposals as mask indices, best first.
        overlap: of the masks with the annotation, where it was computed already (e.g. on a GPU).
        image_id: named in errors.
    """

    labels: np.ndarray
    triplets: np.ndarray
    masks: Masks | None = None
    triplet_scores: np.ndarray | None = None
    triplets_ng: np.ndarray | None = None
    mask_scores: np.ndarray | None = None
    segment_map: np.ndarray | None = None
    segment_labels: np.ndarray | None = None
    mask_segment: np.ndarray | None = None
    pairs: np.ndarray | None = None
    overlap: Overlap | None = field(default=None, repr=False)
    image_id: str = ""

    @classmethod
    def nothing(cls, gt: GroundTruth) -> Prediction:
        """The prediction of an image that nothing was predicted for."""
        none = np.zeros(0, dtype=np.int64)
        overlap = Overlap(np.zeros((0, len(gt.labels)), np.int64), none, np.zeros(len(gt.labels), np.int64))
        masks, rows = np.zeros((0, *gt.label_map.shape), dtype=bool), np.zeros((0, 3), dtype=np.int64)
        return cls(none, rows, masks, pairs=rows[:, :2], overlap=overlap, image_id=gt.image_id)

    def __post_init__(self) -> None:
        with naming_image(self.image_id):
            self._check()
            self._check_map()

    def _check(self) -> None:
        count = len(self.labels)
        self.labels = _labels(self.labels, "labels")
        self.triplets = _rows(self.triplets, 3, count, "triplets")
        if self.triplet_scores is not None:
            scores = _scores(self.triplet_scores, len(self.triplets), "triplet_scores")
            order = np.argsort(-scores, kind="stable")
            self.triplets, self.triplet_scores = self.triplets[order], scores[order]
        if self.mask_scores is not None:
            self.mask_scores = _scores(self.mask_scores, count, "mask_scores")
        if self.triplets_ng is not None:
            self.triplets_ng = _rows(self.triplets_ng, 3, count, "triplets_ng")
        if self.pairs is not None:
            self.pairs = _rows(self.pairs, 2, count, "pairs")
        if self.masks is not None and len(self.masks) != count:
            raise ValueError(f"masks: expected {count} as there are labels, got {len(self.masks)}")

    def _check_map(self) -> None:
        given = sum(x is not None for x in (self.segment_map, self.segment_labels, self.mask_segment))
        if not given:
            return
        if given < 3:
            raise ValueError(f"segment_map, segment_labels and mask_segment belong together, got {given} of the three")
        self.segment_labels = _labels(self.segment_labels, "segment_labels")
        self.mask_segment = np.asarray(self.mask_segment, dtype=np.int64)
        limit = len(self.segment_labels)
        bad = self.mask_segment[(self.mask_segment < -1) | (self.mask_segment >= limit)]
        if self.mask_segment.shape != self.labels.shape or len(bad):
            raise ValueError(
                f"mask_segment: expected {len(self.labels)} segments from -1 to {limit - 1}, got shape "
                f"{self.mask_segment.shape}" + (f" with {bad[0]}" if len(bad) else "")
            )

    @cached_property
    def constrained(self) -> np.ndarray:
        """(R', 3) ranking with graph constraint: the first predicate of each ordered pair of masks."""
        return self.triplets[first_of_each(self.triplets[:, :2])]

    @cached_property
    def unconstrained(self) -> np.ndarray:
        """(R', 3) ranking without graph constraint, without repeated rows."""
        if self.triplets_ng is None and len(self.constrained) == len(self.triplets):
            return self.constrained
        rows = self.triplets if self.triplets_ng is None else self.triplets_ng
        return rows[first_of_each(rows)]

    def decoded_masks(self, size: tuple[int, ...] | None = None) -> np.ndarray:
        """(N, H, W) bool; a ValueError if no masks were given, or they have another size."""
        if self.masks is None:
            raise ValueError("masks: expected masks, got none")
        return decode_masks(self.masks, size=size)

    def ensure_map(self, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`segment_map`, `segment_labels`, `mask_segment`, made of the masks if none were given; size is (H, W).

        Raises:
            ValueError: if neither a map nor masks were given.
        """
        if self.segment_map is None or self.segment_labels is None or self.mask_segment is None:
            masks = self.decoded_masks(size)
            self.segment_map, source, self.mask_segment = flatten_masks(masks, self._mask_order())
            self.segment_labels = self.labels[source]
        return self.segment_map, self.segment_labels, self.mask_segment

    def _mask_order(self) -> np.ndarray:
        """Masks by score; without scores, by their first mention in the triplets, the others last."""
        if self.mask_scores is not None:
            return np.argsort(-self.mask_scores, kind="stable")
        mentions = np.concatenate([self.triplets[:, :2].ravel(), np.arange(len(self.labels))])
        return mentions[first_of_each(mentions[:, None])]

    def segment_triplets(self) -> tuple[np.ndarray, np.ndarray]:
        """Rankings with and without graph constraint, on the segments of the panoptic map, which must be there.

        Rows with an end that is in no segment are left out. Rows whose two ends became one segment match nothing, but
        take a rank. Of rows that become the same, or one pair under graph constraint, the best stays.

        Source: scripts/convert_openpsg.py of fair-psgg at fba4da3, which keeps and drops the same rows.
        """
        constrained = self._on_segments(self.triplets)
        rows = constrained if self.triplets_ng is None else self._on_segments(self.triplets_ng)
        return constrained[first_of_each(constrained[:, :2])], rows[first_of_each(rows)]

    def _on_segments(self, triplets: np.ndarray) -> np.ndarray:
        assert self.mask_segment is not None, "ensure_map comes first"
        rows = triplets.copy()
        rows[:, :2] = self.mask_segment[triplets[:, :2]]
        return rows[(rows[:, 0] >= 0) & (rows[:, 1] >= 0)]


def flatten_masks(
    masks: np.ndarray, order: np.ndarray, threshold: float = 0.5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks (N, H, W) that may overlap to a map in which each pixel has one owner.

    From the most trusted mask on, `order` (N,): a mask whose IoU with a kept one reaches the threshold is the same
    segment, whatever its label; any other is kept and gets the pixels that are still free.

    Returns:
        segment_map: (H, W) int32, n + 1 inside segment n, 0 elsewhere.
        source: (S,) the mask that each segment was made of.
        mask_segment: (N,) segment of each mask, -1 for one without pixels of its own.

    Source: after the conversion of one-stage outputs in arXiv 2407.09216, which merges in the same way.
    """
    flat = masks.reshape(len(masks), masks.shape[1] * masks.shape[2])
    weights = flat.astype(np.float32)
    intersection = (weights @ weights.T).astype(np.int64)
    area = np.diag(intersection)
    same = Overlap(intersection, area, area).iou() >= threshold
    owner = np.zeros(flat.shape[1], dtype=np.int32)
    source: list[int] = []
    mask_segment = np.full(len(masks), -1, dtype=np.int64)
    for mask in order.tolist():
        if not area[mask]:
            continue
        twin = next((n for n, kept in enumerate(source) if same[mask, kept]), None)
        if twin is not None:
            mask_segment[mask] = twin
            continue
        free = flat[mask] & (owner == 0)
        if free.any():
            mask_segment[mask] = len(source)
            source.append(mask)
            owner[free] = len(source)
    return owner.reshape(masks.shape[1:]), np.array(source, dtype=np.int64), mask_segment


def _labels(values: np.ndarray | None, name: str) -> np.ndarray:
    array = _integers(values, (0,))
    if array.ndim != 1 or array.dtype.kind not in "iu" or (array < 0).any():
        found = f" with {array.min()}" if array.dtype != object and array.size else ""
        raise ValueError(f"{name}: expected a vector of class indices from 0, got {_kind(array)}{found}")
    return array.astype(np.int64)


def _rows(values: np.ndarray, width: int, num_masks: int, name: str) -> np.ndarray:
    array = _integers(values, (0, width))
    if array.ndim != 2 or array.shape[1] != width or array.dtype.kind not in "iu":
        raise ValueError(f"{name}: expected integers of shape (rows, {width}), got {_kind(array)}")
    bad = array[(array < 0).any(axis=1) | (array[:, :2] >= num_masks).any(axis=1)]
    if len(bad):
        raise ValueError(
            f"{name}: expected subject and object from 0 to {num_masks - 1} and no negative value, got the row "
            f"{bad[0].tolist()}"
        )
    return array.astype(np.int64)


def _integers(values: np.ndarray | None, empty: tuple[int, ...]) -> np.ndarray:
    """An array as given; numpy takes an empty list for one of floats."""
    array = np.asarray(values)
    return array if array.size else np.zeros(empty, dtype=np.int64)


def _scores(values: np.ndarray, count: int, name: str) -> np.ndarray:
    array = np.asarray(values) if np.size(values) else np.zeros(0)
    if array.shape != (count,) or array.dtype.kind not in "iuf":
        raise ValueError(f"{name}: expected {count} numbers, got {_kind(array)}")
    if np.isnan(array).any():
        raise ValueError(f"{name}: expected {count} numbers, got some with NaN")
    return array.astype(np.float64)


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype} of shape {array.shape}"

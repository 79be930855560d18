"""Hits and misses among the first triplets of one image, for looking at; matched as in `SGDetMetrics`.

Letters: S predicted segments, R predicted triplets, T annotated triplets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..masks import encode_masks, encode_segments
from .image_match import ImageMatch
from .matching import NEVER, first_ranks, pair_hits, triplet_hits

ERROR_PROTOCOLS = ("single", "openpsg")


@dataclass(frozen=True)
class TripletErrors:
    """The first k triplets of a prediction, with graph constraint, and the annotated triplets that they hit.

    Attributes:
        labels, masks: (S,) class of each predicted segment, and S COCO run lengths.
        triplets: (R, 3) the first k rows of the ranking, indices into `labels`; best first.
        hits, near: (R,) bool: the row hits an annotated triplet; or none, but its pair has another predicate.
        ranks: (T,) int64: first row that hits each of `GroundTruth.unique_triplets`, `NEVER` for none.
    """

    labels: np.ndarray
    masks: list[dict]
    triplets: np.ndarray
    hits: np.ndarray
    near: np.ndarray
    ranks: np.ndarray

    @property
    def found(self) -> np.ndarray:
        """(T,) bool: the annotated triplet is hit by one of the rows."""
        return self.ranks != NEVER

    @property
    def recall(self) -> float:
        """In [0, 1]; NaN without annotated triplets."""
        return float(self.found.mean()) if len(self.ranks) else float("nan")

    @property
    def missed(self) -> int:
        """Annotated triplets that no row hits."""
        return int((~self.found).sum())


def triplet_errors(match: ImageMatch, protocol: str, k: int) -> TripletErrors:
    """Compare the first k triplets of an image with its annotation.

    Under "single": segments of the map, matched one to one; under "openpsg": every mask, matched to any.

    Raises:
        ValueError: for another protocol, or where sizes or values do not fit.
    """
    if protocol not in ERROR_PROTOCOLS:
        raise ValueError(f"protocol: expected one of {', '.join(ERROR_PROTOCOLS)}, got {protocol!r}")
    if protocol == "single":
        segment_map, labels, _ = match.panoptic
        rows, matched = match.segment_triplets[0], match.segments
        masks = encode_segments(segment_map, range(1, len(labels) + 1))
    else:
        labels, rows, matched = match.prediction.labels, match.prediction.constrained, match.masks
        masks = encode_masks(match.prediction.decoded_masks())
    rows, annotated = rows[:k], match.gt.unique_triplets
    hits = triplet_hits(rows, matched, annotated)
    hit = np.any(hits, axis=1)
    near = np.any(pair_hits(rows, matched, annotated), axis=1) & ~hit
    return TripletErrors(labels, masks, rows, hit, near, first_ranks(hits))

"""Hits, misses and wrong triplets of one image, for looking at.

The same matching as in `SGDetMetrics`, so that the recall here is the one in its tables.
Letters: S predicted segments, R predicted triplets, T annotated triplets, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .image_match import ImageMatch
from .inputs import GroundTruth, Prediction
from .matching import first_ranks, triplet_hits

ERROR_PROTOCOLS = ("single", "openpsg")


@dataclass(frozen=True)
class TripletErrors:
    """What one image's prediction got right, with graph constraint.

    Attributes:
        labels: (S,) class of each predicted segment.
        masks: (S, H, W) bool.
        triplets: (R, 3) the first k rows of the ranking, indices into `labels`; best first.
        hits: (R,) bool: the row hits an annotated triplet.
        found: (T,) bool: the annotated triplet (of `GroundTruth.unique_triplets`) is hit by one of the rows.
    """

    labels: np.ndarray
    masks: np.ndarray
    triplets: np.ndarray
    hits: np.ndarray
    found: np.ndarray

    @property
    def recall(self) -> float:
        """In [0, 1]; NaN without annotated triplets."""
        return float(self.found.mean()) if len(self.found) else float("nan")

    @property
    def missed(self) -> int:
        """Annotated triplets that no row hits."""
        return int((~self.found).sum())


def triplet_errors(gt: GroundTruth, prediction: Prediction | None, protocol: str, k: int) -> TripletErrors:
    """Compare the first k triplets of an image with its annotation.

    Args:
        gt: annotation.
        prediction: None for an image that nothing was predicted for. Its panoptic map is made if it has none.
        protocol: "single" (segments of the map, matched one to one) or "openpsg" (every mask, matched to any).
        k: rows of the ranking that count.

    Raises:
        ValueError: for another protocol, or where sizes or values do not fit.
    """
    if protocol not in ERROR_PROTOCOLS:
        raise ValueError(f"protocol: expected one of {', '.join(ERROR_PROTOCOLS)}, got {protocol!r}")
    match = ImageMatch(gt, Prediction.nothing(gt) if prediction is None else prediction)
    if protocol == "single":
        segment_map, labels = match.prediction.ensure_map(gt.label_map.shape)
        rows, matched = match.segment_triplets[0], match.segments
        masks = segment_map[None] == np.arange(1, len(labels) + 1)[:, None, None]
    else:
        labels, rows, matched = match.prediction.labels, match.prediction.constrained, match.masks
        masks = match.prediction.decoded_masks()
        masks = masks if len(masks) else np.zeros((0, *gt.label_map.shape), dtype=bool)
    rows = rows[:k]
    hits = triplet_hits(rows, matched, gt.unique_triplets)
    return TripletErrors(labels, masks, rows, np.any(hits, axis=1), first_ranks(hits) < len(rows))

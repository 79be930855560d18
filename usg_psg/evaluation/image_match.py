"""One image's prediction matched with its annotation; metrics, error pages and comparisons share it.

Letters: N predicted masks, S segments of the predicted panoptic map, G annotated segments, R predicted triplets,
T annotated triplets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .inputs import GroundTruth, Prediction
from .matching import (
    Overlap,
    first_ranks,
    greedy_ranks,
    joint_histogram,
    mask_overlap,
    match_any,
    match_one_to_one,
    overlap_of_maps,
    pair_hits,
    triplet_hits,
)

MATCHINGS = ("one_to_one", "any", "rows", "greedy")


@dataclass(frozen=True)
class Ranks:
    """Rank from 0 at which each annotated item is found, `NEVER` for not at all.

    Attributes:
        triplets: (T, 3) the annotated triplets that count.
        constrained, unconstrained: (T,) with and without graph constraint; None where the rules have no such ranking.
        pairs: (T',) of each annotated pair that counts, predicates left out, with graph constraint.
    """

    triplets: np.ndarray
    constrained: np.ndarray
    unconstrained: np.ndarray | None
    pairs: np.ndarray


class ImageMatch:
    """A prediction, None for none, and the annotation of its image; all is computed when it is first asked for."""

    def __init__(self, gt: GroundTruth, prediction: Prediction | None):
        self.gt, self.prediction = gt, Prediction.nothing(gt) if prediction is None else prediction
        self._ranks: dict[str, Ranks] = {}

    def check(self) -> None:
        """Raise ValueError if sizes differ, or there are neither masks nor overlap, before anything is counted."""
        _ = self.overlap, self.joint

    @cached_property
    def overlap(self) -> Overlap:
        """Of the N masks with the annotated segments: the one that was given, or one made of the masks."""
        given, expected = self.prediction.overlap, (len(self.prediction.labels), len(self.gt.labels))
        if given is None:
            if self.prediction.masks is None:
                raise ValueError("masks: expected masks, or their overlap, got neither")
            return mask_overlap(self.prediction.masks, self.gt.label_map, len(self.gt.labels))
        if given.intersection.shape != expected:
            raise ValueError(f"overlap: expected {expected}, got {given.intersection.shape}")
        return given

    @cached_property
    def panoptic(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The map (H, W), the labels (S,) of its segments and the segment of each mask (N,)."""
        return self.prediction.ensure_map(self.gt.label_map.shape)

    @cached_property
    def joint(self) -> np.ndarray:
        """(S + 1, G + 1) pixels of the panoptic map's segments on annotated ones, see `joint_histogram`."""
        segment_map, labels, _ = self.panoptic
        return joint_histogram(segment_map, self.gt.label_map, len(labels), len(self.gt.labels))

    @cached_property
    def masks(self) -> np.ndarray:
        """(N, G) bool: the mask matches the segment, see `match_any`."""
        return match_any(self.overlap.iou(), self.prediction.labels, self.gt.labels)

    @cached_property
    def segments(self) -> np.ndarray:
        """(S, G) bool: the segment of the map is the annotated one's match, see `match_one_to_one`."""
        return match_one_to_one(overlap_of_maps(self.joint).iou(), self.panoptic[1], self.gt.labels)

    @cached_property
    def segment_triplets(self) -> tuple[np.ndarray, np.ndarray]:
        """The prediction's rankings on the segments of the map, see `Prediction.segment_triplets`."""
        _ = self.panoptic
        return self.prediction.segment_triplets()

    def ranks(self, matching: str) -> Ranks:
        """Ranks of the annotated triplets under one of `MATCHINGS`, see `protocols.Protocol`."""
        if matching not in self._ranks:
            self._ranks[matching] = self._compute_ranks(matching)
        return self._ranks[matching]

    def _compute_ranks(self, matching: str) -> Ranks:
        gt, prediction = self.gt, self.prediction
        if matching == "one_to_one":
            return _ranks(gt.unique_triplets, gt.unique_pairs, *self.segment_triplets, self.segments)
        rankings = prediction.constrained, prediction.unconstrained
        if matching == "any":
            return _ranks(gt.unique_triplets, gt.unique_pairs, *rankings, self.masks)
        if matching == "greedy":
            return _ranks(gt.triplets, gt.unique_pairs, *rankings, self.masks, greedy_ranks)
        if matching != "rows":
            raise ValueError(f"matching: expected one of {', '.join(MATCHINGS)}, got {matching!r}")
        rows, triplets = prediction.triplets, gt.unique_triplets
        repeated = len(prediction.constrained) < len(rows)
        found = first_ranks(triplet_hits(rows, self.masks, triplets)) if repeated else self.ranks("any").constrained
        return Ranks(triplets, found, None, first_ranks(pair_hits(rows, self.masks, triplets)))

    def reranked(self, triplets: np.ndarray, triplets_ng: np.ndarray) -> ImageMatch:
        """The same objects with other relations, best first: (R, 3) with graph constraint, (R', 3) without."""
        other = replace(
            self.prediction, triplets=triplets, triplets_ng=triplets_ng, triplet_scores=None, pairs=None, masks=None
        )
        match = ImageMatch(self.gt, other)
        match.joint, match.masks, match.segments = self.joint, self.masks, self.segments
        return match


def _ranks(
    triplets: np.ndarray,
    pairs: np.ndarray,
    constrained: np.ndarray,
    unconstrained: np.ndarray,
    matched: np.ndarray,
    rule: Callable[[np.ndarray], np.ndarray] = first_ranks,
) -> Ranks:
    with_constraint = rule(triplet_hits(constrained, matched, triplets))
    without = with_constraint
    if unconstrained is not constrained:
        without = rule(triplet_hits(unconstrained, matched, triplets))
    return Ranks(triplets, with_constraint, without, rule(pair_hits(constrained, matched, pairs)))

"""Recall as integer counts that add up across images and processes.

Letters: K values of k, C groups (one for plain recall, the predicates for mean recall), T annotated triplets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class RecallTable:
    """Counts behind "recall per image, then the mean over images", for ranks `ks` and C groups of annotated triplets.

    An image with n triplets of a group and h hits adds h/n, so the sum of h and the number of images for each n hold
    everything, in integers: the result does not depend, to the last bit, on the order of images or on processes.
    """

    def __init__(self, ks: Sequence[int], num_groups: int = 1):
        self.ks = tuple(ks)
        # Last axis: triplets of the group in the image, grown when an image has more.
        self.hits = np.zeros((len(self.ks), num_groups, 1), dtype=np.int64)
        self.images = np.zeros((num_groups, 1), dtype=np.int64)

    def add(self, ranks: np.ndarray, groups: np.ndarray | None = None) -> None:
        """Count one image: ranks from 0 (T,) of the annotated triplets, see `first_ranks`, and their groups (T,)."""
        found = (ranks < np.array(self.ks)[:, None]).astype(np.int64)
        if groups is None:
            self._grow(len(ranks))
            self.images[0, len(ranks)] += len(ranks) > 0
            self.hits[:, 0, len(ranks)] += found.sum(axis=1)
            return
        totals = np.bincount(groups, minlength=len(self.images))
        self._grow(int(totals.max(initial=0)))
        present = np.flatnonzero(totals)
        self.images[present, totals[present]] += 1
        np.add.at(self.hits, (np.arange(len(self.ks))[:, None], groups, totals[groups]), found)

    def merge(self, other: RecallTable) -> None:
        """Add the counts of another table, e.g. of another process."""
        size = other.images.shape[1]
        self._grow(size - 1)
        self.hits[..., :size] += other.hits
        self.images[:, :size] += other.images

    def _grow(self, largest: int) -> None:
        missing = largest + 1 - self.images.shape[1]
        if missing > 0:
            self.hits = np.pad(self.hits, ((0, 0), (0, 0), (0, missing)))
            self.images = np.pad(self.images, ((0, 0), (0, missing)))

    def num_images(self) -> np.ndarray:
        """(C,) int64: images that have a triplet of the group."""
        return self.images.sum(axis=1)

    def num_triplets(self) -> np.ndarray:
        """(C,) int64: annotated triplets of the group."""
        return self.images @ np.arange(self.images.shape[1])

    def image_mean(self) -> np.ndarray:
        """(K, C) in [0, 1]: recall of each image, averaged over the images that have the group; NaN for none."""
        share = self.hits[..., 1:] / np.arange(1, self.hits.shape[-1])
        return _divide(share.sum(axis=-1), self.num_images())

    def pooled(self) -> np.ndarray:
        """(K, C) in [0, 1]: hits over triplets of all images together; NaN for none."""
        return _divide(self.hits.sum(axis=-1).astype(np.float64), self.num_triplets())


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)


def mean_over_predicates(recall: np.ndarray, absent_as_zero: bool, among: np.ndarray | None = None) -> float:
    """Mean of recalls (P,), NaN for predicates without annotation; NaN if nothing is left to average.

    Args:
        absent_as_zero: count those as 0, as OpenPSG's tables do; otherwise leave them out.
        among: indices of the predicates to average; None for all.
    """
    recall = recall if among is None else recall[among]
    recall = np.nan_to_num(recall, nan=0.0) if absent_as_zero else recall[~np.isnan(recall)]
    return float(recall.mean()) if len(recall) else float("nan")


def harmonic_mean(a: float, b: float) -> float:
    """Of two numbers from 0; 0 if both are 0, NaN if one is NaN."""
    return 2.0 * a * b / (a + b) if a + b != 0 else 0.0

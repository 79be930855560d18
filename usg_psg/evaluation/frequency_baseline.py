"""The relations of the training data: which triplets are new to a model, and what their frequency alone predicts.

Letters: C object classes, P predicates, N objects of an image, T triplets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..training_counts import TripletCounts
from .matching import first_of_each


@dataclass(frozen=True)
class TrainingTriplets:
    """Counts of a training set.

    Attributes:
        relations: (C, C, P) annotated relations by class of subject, class of object and predicate.
        pairs: (C, C) ordered pairs of different segments, annotated with a relation or not.
    """

    relations: np.ndarray
    pairs: np.ndarray

    @classmethod
    def of(cls, counts: TripletCounts) -> TrainingTriplets:
        """As tables, in the order of their own names."""
        return cls(counts.table(), counts.pairs)

    def check(self, num_classes: int | None, num_predicates: int) -> None:
        """Raise ValueError unless the numbers of classes, where known, and of predicates are these."""
        found = self.relations.shape
        expected = (found[0] if num_classes is None else num_classes, num_predicates)
        if (found[0], found[2]) != expected:
            raise ValueError(
                f"training: expected relations of {expected[0]} classes and {expected[1]} predicates, got "
                f"{found[0]} and {found[2]}"
            )

    @cached_property
    def predicates(self) -> np.ndarray:
        """(P,) int64 relations of each predicate."""
        return self.relations.sum(axis=(0, 1), dtype=np.int64)

    def unseen(self, labels: np.ndarray, triplets: np.ndarray) -> np.ndarray:
        """(T,) bool: no training image has a relation of these classes, labels (G,), and this predicate."""
        return self.relations[labels[triplets[:, 0]], labels[triplets[:, 1]], triplets[:, 2]] == 0

    @cached_property
    def _share(self) -> np.ndarray:
        return self.relations / (self.pairs + 1)[..., None]

    @cached_property
    def _order(self) -> np.ndarray:
        """Place of each predicate, the most frequent first; ties in the vocabulary's order."""
        return np.argsort(np.argsort(-self.predicates, kind="stable"))

    def rank(self, labels: np.ndarray, scores: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The relations that frequency alone predicts for N objects of classes `labels`, and `scores` unless equal.

        Each ordered pair gets each predicate that some training pair of its classes has, scored by the share of those
        pairs that have it, n / (N + 1), so that a pair met once is not certain, times both objects' scores. Pairs of
        classes without any relation in training come last, with the predicate that is most frequent over all. Ties: the
        first pair, subject before object; then the more frequent predicate; then the vocabulary's order.

        Returns:
            triplets: (R, 3) with graph constraint, the best predicate of each pair, best first.
            triplets_ng: (R', 3) without.

        Source: the frequency baseline of Neural Motifs (Zellers et al., CVPR 2018).
        """
        subject, object_ = np.nonzero(~np.eye(len(labels), dtype=bool))
        share = self._share[labels[subject], labels[object_]]
        pair, predicate = np.nonzero(share)
        share = share[pair, predicate]
        met = np.zeros(len(subject), dtype=bool)
        met[pair] = True
        pair = np.concatenate([pair, np.flatnonzero(~met)])
        predicate = np.concatenate([predicate, np.full(len(pair) - len(predicate), self._order.argmin())])
        score = np.concatenate([share, np.ones(len(pair) - len(share))])
        if scores is not None:
            score = score * (scores[subject] * scores[object_])[pair]
        best_first = np.lexsort((self._order[predicate], pair, -score, ~met[pair]))
        rows = np.stack([subject[pair], object_[pair], predicate], axis=1)[best_first]
        return rows[first_of_each(rows[:, :2])], rows

"""Names that a model was not trained on, and the parts of an annotation that they make."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..vocabulary import Vocabulary

PARTS = ("base", "novel_class", "novel_predicate")


@dataclass(frozen=True)
class NovelNames:
    """Which names of a vocabulary are novel.

    Attributes:
        classes: (C,) bool.
        predicates: (P,) bool.
    """

    classes: np.ndarray
    predicates: np.ndarray

    @classmethod
    def of(cls, trained: Vocabulary, vocabulary: Vocabulary) -> NovelNames | None:
        """The names that another vocabulary, that of training, lacks; None if it has them all."""
        classes, predicates = (
            np.array([name not in known for name in names], dtype=bool)
            for names, known in (
                (vocabulary.object_classes, trained.object_classes),
                (vocabulary.predicate_classes, trained.predicate_classes),
            )
        )
        return cls(classes, predicates) if classes.any() or predicates.any() else None

    def parts(self, labels: np.ndarray, triplets: np.ndarray) -> dict[str, np.ndarray]:
        """Which triplets of an image have a novel class, a novel predicate (or both), or neither ("base").

        Args:
            labels: (G,) classes of its segments.
            triplets: (T, 3).

        Returns:
            (T,) bool of each of `PARTS`.
        """
        novel_class = self.classes[labels[triplets[:, :2]]].any(axis=1)
        novel_predicate = self.predicates[triplets[:, 2]]
        return dict(zip(PARTS, (~novel_class & ~novel_predicate, novel_class, novel_predicate), strict=True))

"""Who writes down which relations of a scene of the preset "psg", and under which names.

PSG's annotators wrote down some of what is true: large, central things and actions rather than what goes without
saying. The preset imitates that. A relation is written down with a probability that grows with its salience and depends
on its predicate; of several true names, an image's annotator uses the habitual one, the same throughout the image.
"""

from __future__ import annotations

import numpy as np

from .frequencies import NAME_WEIGHTS, WRITTEN_RATES
from .truth import SYNONYMS, Relation

_DILIGENCE = 0.45  # spread of an annotator's diligence, in natural logarithms


def salience(segments: np.ndarray, is_thing: np.ndarray) -> np.ndarray:
    """How much each segment catches the eye, about 1 on average: by size, nearness to the middle, and thing-ness.

    Args:
        segments: (H, W) int, position + 1.
        is_thing: (N,) bool.

    Returns:
        (N,) float.
    """
    height, width = segments.shape
    count = len(is_thing)
    flat = segments.ravel() - 1
    area = np.bincount(flat, minlength=count) / flat.size
    rows, columns = np.indices(segments.shape)
    y = np.bincount(flat, rows.ravel(), count) / (area * flat.size) / height
    x = np.bincount(flat, columns.ravel(), count) / (area * flat.size) / width
    middle = np.exp(-2.0 * ((x - 0.5) ** 2 + (y - 0.5) ** 2))
    return 1.4 * (0.25 + area**0.25) * middle * np.where(is_thing, 1.3, 1.0)


def written_relations(relations: list[Relation], salient: np.ndarray, rng: np.random.Generator) -> list[Relation]:
    """The relations that the annotator of an image writes down, by the names of his habit.

    Args:
        relations: all of them, with canonical predicates.
        salient: (N,) salience of the segments.
        rng: decides what chance decides.
    """
    diligence = rng.lognormal(-(_DILIGENCE**2) / 2, _DILIGENCE)
    habit = {name: np.log(weight) + rng.gumbel() for name, weight in NAME_WEIGHTS.items()}
    written: dict[Relation, None] = {}
    for (subject, object_, predicate), chance in zip(relations, rng.random(len(relations)), strict=True):
        rate = WRITTEN_RATES[predicate] * diligence * salient[subject] * salient[object_]
        if chance < 1 - np.exp(-rate):
            names = (predicate, *SYNONYMS.get(predicate, ()))
            written[subject, object_, max(names, key=habit.__getitem__)] = None
    return list(written)

"""Renumber predictions by name from another vocabulary into that of the annotations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..vocabulary import Vocabulary
from .inputs import Prediction


def rename_predictions(
    predictions: Iterable[tuple[str, Prediction]], file: Vocabulary, annotated: Vocabulary, where: str
) -> Iterator[tuple[str, Prediction]]:
    """Replace class and predicate ids of (image_id, prediction) pairs by those of the annotations.

    Args:
        file: names of the predictions' ids, things before stuff. It must have every name of the annotations; further
            ones may be in it, but not be predicted.
        annotated: names of the annotations.
        where: file of the annotations, for errors.

    Raises:
        ValueError: if the file lacks a name, or an id has none, or one that the annotations do not know.
    """
    file.check_covers(where, annotated)
    objects = _table(file.object_classes, annotated.object_classes)
    predicates = _table(file.predicate_classes, annotated.predicate_classes)
    for image_id, prediction in predictions:
        at = f"image {image_id!r}"
        changed: dict[str, Any] = {
            "labels": _renamed(prediction.labels, objects, file.object_classes, f"{at}, labels", file.source)
        }
        if prediction.segment_labels is not None:
            labels = prediction.segment_labels
            changed["segment_labels"] = _renamed(labels, objects, file.object_classes, f"{at}, segment", file.source)
        for key in ("triplets", "triplets_ng"):
            rows = getattr(prediction, key)
            if rows is not None:
                rows = np.array(rows)
                rows[:, 2] = _renamed(rows[:, 2], predicates, file.predicate_classes, f"{at}, {key}", file.source)
                changed[key] = rows
        yield image_id, replace(prediction, **changed)


def _table(own: Sequence[str], annotated: Sequence[str]) -> np.ndarray:
    """Of each own id the id in the annotations, -1 for none."""
    position = {name: i for i, name in enumerate(annotated)}
    return np.array([position.get(name, -1) for name in own], dtype=np.int64)


def _renamed(ids: np.ndarray, table: np.ndarray, names: Sequence[str], at: str, path: str) -> np.ndarray:
    outside = ids[(ids < 0) | (ids >= len(table))]
    if len(outside):
        raise ValueError(f"{at}: {path} has {len(table)} names, got the id {outside[0]}")
    new = table[ids]
    if (new < 0).any():
        raise ValueError(f"{at}: {names[ids[new < 0][0]]!r} of {path} is not a name of the annotations")
    return new

"""How often each predicate is annotated in training data, and how often to show the images of rare ones.

Letters: N images, P predicates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class PredicateFrequency:
    """Counts of a training set, by name, so that they mean the same in any vocabulary.

    Attributes:
        names: P predicate names.
        relations: of each predicate, the annotated relations; equal ones of an image count once.
        images: of each predicate, the images that have it.
        num_images: N.
    """

    names: tuple[str, ...]
    relations: tuple[int, ...]
    images: tuple[int, ...]
    num_images: int

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.relations) == len(self.images):
            raise ValueError(
                f"names, relations and images: expected as many of each, got {len(self.names)}, "
                f"{len(self.relations)} and {len(self.images)}"
            )

    @classmethod
    def of_dataset(cls, dataset: Iterable[dict], names: Sequence[str]) -> PredicateFrequency:
        """Count the relations of dataset dicts, whose predicates are positions in names."""
        relations, images, num_images = [0] * len(names), [0] * len(names), 0
        for record in dataset:
            num_images += 1
            distinct = {tuple(row) for row in record["relations"]}
            for _, _, predicate in distinct:
                relations[predicate] += 1
            for predicate in {row[2] for row in distinct}:
                images[predicate] += 1
        return cls(tuple(names), tuple(relations), tuple(images), num_images)

    def record(self) -> dict[str, Any]:
        """Plain lists and numbers, for a checkpoint."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> PredicateFrequency:
        """What `record` returned.

        Raises:
            ValueError: if it is something else.
        """
        kinds = {"names": str, "relations": int, "images": int}
        if (
            not isinstance(record, dict)
            or set(record) != {*kinds, "num_images"}
            or not isinstance(record["num_images"], int)
            or not all(isinstance(record[key], list) for key in kinds)
            or not all(isinstance(value, kind) for key, kind in kinds.items() for value in record[key])
        ):
            raise ValueError("expected lists of names, relations and images, and num_images")
        return cls(**{key: tuple(record[key]) for key in kinds}, num_images=record["num_images"])

    def aligned(self, values: Sequence[float], names: Sequence[str], default: float) -> list[float]:
        """Values of this object's predicates in the order of other names; default for names it does not have."""
        by_name = dict(zip(self.names, values, strict=True))
        return [by_name.get(name, default) for name in names]


def predicate_repeat_factors(
    dataset: Iterable[dict], frequency: PredicateFrequency, threshold: float, use_sqrt: bool = True
) -> np.ndarray:
    """How often each image is to be shown in a pass.

    A predicate in a fraction f of the images gets max(1, sqrt(threshold / f)), an image the largest factor of its
    predicates, 1 without any.

    Args:
        dataset: dataset dicts of the N images.
        frequency: of the same images.
        threshold: fraction of images below which a predicate's are repeated, in (0, 1].
        use_sqrt: False leaves out the root.

    Returns:
        (N,) float64 >= 1.

    Raises:
        ValueError: if threshold is out of range.

    Source: LVIS (Gupta et al. 2019), section B.2, and Detectron2's RepeatFactorTrainingSampler, for categories there.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"DATALOADER.REPEAT_THRESHOLD: repeat factors need a number in (0, 1], got {threshold}")
    factors = []
    for images in frequency.images:
        ratio = threshold * frequency.num_images / images if images else 1.0
        factors.append(max(1.0, math.sqrt(ratio) if use_sqrt else ratio))
    return np.array([max((factors[row[2]] for row in record["relations"]), default=1.0) for record in dataset])

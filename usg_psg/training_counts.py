"""What training data annotate: predicates, triplets and pairs; and how often to show the images of rare predicates.

Letters: N images, C object classes, P predicates, T distinct triplets of classes.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from .vocabulary import Vocabulary

# Of the records in a checkpoint, since the training data may not be there where it is evaluated.
FREQUENCY_KEY, TRIPLETS_KEY = "predicate_frequency", "training_triplets"


@dataclass(frozen=True, eq=False)
class TripletCounts:
    """Relations by class of subject, class of object and predicate.

    Attributes:
        objects, predicates: C and P names.
        triplets: (T, 4) int64 rows (subject, object, predicate, relations), positions in the names.
        pairs: (C, C) int64 ordered pairs of different segments, annotated with a relation or not.
    """

    objects: tuple[str, ...]
    predicates: tuple[str, ...]
    triplets: np.ndarray
    pairs: np.ndarray

    def record(self) -> dict[str, Any]:
        """Names, and arrays as texts (base64 of zlib of int64, column by column), for a checkpoint."""
        arrays = {"triplets": _as_text(self.triplets), "pairs": _as_text(self.pairs)}
        return {"objects": list(self.objects), "predicates": list(self.predicates), **arrays}

    @classmethod
    def from_record(cls, record: Any) -> TripletCounts:
        """What `record` returned; ValueError for something else."""
        names = {"objects": str, "predicates": str}
        if not _has_lists(record, names) or set(record) != {*names, "triplets", "pairs"}:
            raise ValueError("expected lists of objects and predicates, and triplets and pairs")
        size = len(record["objects"]), len(record["objects"]), len(record["predicates"])
        triplets = _from_text("triplets", record["triplets"], 4, math.prod(size))
        pairs = _from_text("pairs", record["pairs"], size[0], size[0])
        if (triplets[:, :3] >= size).any() or len(pairs) != size[0]:
            raise ValueError(f"expected triplets and pairs of {size[0]} objects and {size[2]} predicates")
        return cls(tuple(record["objects"]), tuple(record["predicates"]), triplets, pairs)

    def table(self) -> np.ndarray:
        """(C, C, P) int64 relations."""
        table = np.zeros((*self.pairs.shape, len(self.predicates)), dtype=np.int64)
        np.add.at(table, tuple(self.triplets[:, :3].T), self.triplets[:, 3])
        return table

    def share(self) -> np.ndarray:
        """(C + 1, C + 1, P + 1) float64 n / (N + 1) of the n relations and N pairs of classes; last what is unknown.

        An unknown class has the relations and pairs of all classes, an unknown predicate the mean share of all: the
        expectation where a name tells nothing, so that it is neither preferred nor put back.
        """
        relations, pairs = np.pad(self.table(), ((0, 1), (0, 1), (0, 0))), np.pad(self.pairs, (0, 1))
        for counts in (relations, pairs):
            counts[-1] = counts.sum(axis=0)
            counts[:, -1] = counts.sum(axis=1)
        share = relations / (pairs + 1)[..., None]
        return np.concatenate([share, share.mean(axis=-1, keepdims=True)], axis=-1)


@dataclass(frozen=True)
class TrainingCounts:
    """Counts of a training set, by name, so that they mean the same in any vocabulary.

    Equal relations of an image count once, relations of a segment to itself do not count.

    Attributes:
        names: P predicate names.
        relations: of each predicate, the annotated relations.
        images: of each predicate, the images that have it.
        num_images: N.
        triplets: the relations by classes; None in older checkpoints.
    """

    names: tuple[str, ...]
    relations: tuple[int, ...]
    images: tuple[int, ...]
    num_images: int
    triplets: TripletCounts | None = None

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.relations) == len(self.images):
            raise ValueError(
                f"names, relations and images: expected as many of each, got {len(self.names)}, "
                f"{len(self.relations)} and {len(self.images)}"
            )

    @classmethod
    def of_dataset(cls, dataset: Iterable[dict], vocabulary: Vocabulary) -> TrainingCounts:
        """Count the segments and relations of dataset dicts, which have positions in the vocabulary's names."""
        segments: list[int] = []
        rows: list[Sequence[int]] = []
        sizes: list[tuple[int, int]] = []
        for record in dataset:
            segments += [segment["category_id"] for segment in record["segments_info"]]
            rows += record["relations"]
            sizes.append((len(record["segments_info"]), len(record["relations"])))
        num_images, num_predicates = len(sizes), len(vocabulary.predicate_classes)
        num_segments, num_rows = np.array(sizes, dtype=np.int64).reshape(-1, 2).T
        labels, image_of_segment = np.array(segments, dtype=np.int64), np.repeat(np.arange(num_images), num_segments)
        first_segment = np.repeat(np.cumsum(num_segments) - num_segments, num_rows)
        subject, object_, predicate = np.array(rows, dtype=np.int64).reshape(-1, 3).T
        subject, object_ = subject + first_segment, object_ + first_segment  # among the segments of all images
        shape = len(labels), len(labels), num_predicates
        cells = np.unique(np.ravel_multi_index((subject, object_, predicate), shape)[subject != object_])
        subject, object_, predicate = np.unravel_index(cells, shape)

        num_classes = len(vocabulary.object_classes)
        shape = num_classes, num_classes, num_predicates
        cells, number = np.unique(
            np.ravel_multi_index((labels[subject], labels[object_], predicate), shape), return_counts=True
        )
        ones = np.ones(len(labels), dtype=np.int64)
        of_class = csr_array((ones, (image_of_segment, labels)), shape=(num_images, num_classes))
        pairs = (of_class.T @ of_class).toarray() - np.diag(of_class.sum(axis=0))
        image = np.unique(image_of_segment[subject] * num_predicates + predicate)
        return cls(
            vocabulary.predicate_classes,
            tuple(np.bincount(predicate, minlength=num_predicates).tolist()),
            tuple(np.bincount(image % num_predicates, minlength=num_predicates).tolist()),
            num_images,
            TripletCounts(
                vocabulary.object_classes,
                vocabulary.predicate_classes,
                np.stack([*np.unravel_index(cells, shape), number], axis=1),
                pairs,
            ),
        )

    def records(self) -> dict[str, dict[str, Any]]:
        """Plain lists and numbers by key of a checkpoint."""
        counts = {key: list(getattr(self, key)) for key in ("names", "relations", "images")}
        records: dict[str, dict[str, Any]] = {FREQUENCY_KEY: {**counts, "num_images": self.num_images}}
        return records if self.triplets is None else {**records, TRIPLETS_KEY: self.triplets.record()}

    @classmethod
    def from_record(cls, record: Any) -> TrainingCounts:
        """Of `FREQUENCY_KEY` in `records`, without the triplets; ValueError for something else."""
        kinds, number = {"names": str, "relations": int, "images": int}, "num_images"
        if not _has_lists(record, kinds) or set(record) != {*kinds, number} or not isinstance(record[number], int):
            raise ValueError("expected lists of names, relations and images, and num_images")
        names, relations, images = (tuple(record[key]) for key in kinds)
        return cls(names, relations, images, record[number])

    @classmethod
    def pop_from(cls, checkpoint: dict[str, Any]) -> TrainingCounts | None:
        """Take `records` out of the content of a checkpoint; None without any, ValueError for something else."""
        frequency, triplets = (checkpoint.pop(key, None) for key in (FREQUENCY_KEY, TRIPLETS_KEY))
        if frequency is None:
            return None
        counts = cls.from_record(frequency)
        return counts if triplets is None else replace(counts, triplets=TripletCounts.from_record(triplets))

    def aligned(self, values: Sequence[float], names: Sequence[str], default: float) -> list[float]:
        """Values of this object's predicates in the order of other names; default for names it does not have."""
        by_name = dict(zip(self.names, values, strict=True))
        return [by_name.get(name, default) for name in names]


def predicate_repeat_factors(
    dataset: Iterable[dict], counts: TrainingCounts, threshold: float, use_sqrt: bool = True
) -> np.ndarray:
    """How often each image is to be shown in a pass.

    A predicate in a fraction f of the images gets max(1, sqrt(threshold / f)), an image the largest factor of its
    predicates, 1 without any.

    Args:
        dataset: dataset dicts of the N images.
        counts: of the same images.
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
    for images in counts.images:
        ratio = threshold * counts.num_images / images if images else 1.0
        factors.append(max(1.0, math.sqrt(ratio) if use_sqrt else ratio))
    return np.array([max((factors[row[2]] for row in record["relations"]), default=1.0) for record in dataset])


def _as_text(array: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(array.T.astype("<i8").tobytes())).decode("ascii")


def _from_text(key: str, text: Any, width: int, most: int) -> np.ndarray:
    """(n, width) int64 >= 0 of `_as_text`, n at most `most`."""
    try:
        stream = zlib.decompressobj()
        content = stream.decompress(base64.b64decode(text, validate=True), 8 * width * most + 1)
        array = np.frombuffer(content, dtype="<i8").reshape(width, -1).T.astype(np.int64)
        if stream.eof and (array >= 0).all():
            return array
    except (TypeError, ValueError, zlib.error):
        pass
    raise ValueError(f"{key}: expected the text of an array with {width} columns and at most {most} rows")


def _has_lists(record: Any, kinds: Mapping[str, type]) -> bool:
    return isinstance(record, dict) and all(
        isinstance(record.get(key), list) and all(type(value) is kind for value in record[key])
        for key, kind in kinds.items()
    )

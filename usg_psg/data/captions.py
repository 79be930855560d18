"""Captioned windows of annotated images: pairs of picture and text, to train a CLIP model on.

Letters: N images, M regions, S longest side of an image, B windows of a batch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from ..images import read_image
from ..utils.text import spoken_name
from ..vocabulary import Vocabulary
from .annotation import Annotation, read_annotation

OBJECT_CAPTIONS = (
    "{}",
    "a {}",
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
)
PREDICATE_CAPTIONS = ("{}", "a photo of something {} something.", "one thing is {} another thing")
TRIPLET_CAPTIONS = ("{} {} {}", "a {} {} a {}", "a photo of a {} {} a {}.")

_POINTS = 16  # pixels of a segment that a window may be around
_MIN_SIDE = 32.0  # of a window, pixels
_SPREAD = 1.5  # of a window's side, up and down
_MARGIN = 1.3  # a window's side, for a segment in roots of its area, for a pair in longer sides of its box


class CaptionedWindows:
    """Windows of images with what they show: an object's class, a pair's predicate, or a pair's whole triplet.

    A batch has no text twice: a contrastive loss would take one of two equal texts for a wrong one. Rare names come as
    often as others.

    Args:
        records: N dataset dicts.
        vocabulary: names of their categories and predicates.

    Attributes:
        pictures: (N, 3, S, S) uint8, RGB, padded at the right and below.

    Raises:
        ValueError: if there are no images, or as `read_image` and `read_annotation`.
    """

    def __init__(self, records: Sequence[dict], vocabulary: Vocabulary):
        if not records:
            raise ValueError("the data set has no images to train on")
        side = max(max(record["height"], record["width"]) for record in records)
        self.pictures = torch.zeros(len(records), 3, side, side, dtype=torch.uint8)
        self._objects = [spoken_name(name) for name in vocabulary.object_classes]
        self._predicates = [spoken_name(name) for name in vocabulary.predicate_classes]
        regions: dict[tuple[int, ...], list[tuple[int, np.ndarray, float]]] = {}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for n, found in enumerate(pool.map(self._read, range(len(records)), records)):
                for key, points, length in found:
                    regions.setdefault(key, []).append((n, points, length))
        # Classes (c,) and predicates (p, 0) are names; triplets are (subject, predicate, object).
        self._keys = sorted(regions, key=lambda key: (len(key), key))
        self._num_names = sum(len(key) < 3 for key in self._keys)
        counts = np.array([len(regions[key]) for key in self._keys])
        self._first, self._count = np.cumsum(counts) - counts, counts
        images, points, lengths = zip(*(region for key in self._keys for region in regions[key]), strict=True)
        self._image, self._points, self._length = np.array(images), np.stack(points), np.array(lengths)

    def _read(self, n: int, record: dict) -> list[tuple[tuple[int, ...], np.ndarray, float]]:
        """Copy a picture and list its regions: key, points to be around, and typical side of a window."""
        size = (record["height"], record["width"])
        image = read_image(record["file_name"], size=size, image_id=record["image_id"])
        self.pictures[n, :, : size[0], : size[1]] = torch.from_numpy(image).permute(2, 0, 1)
        return regions_of(read_annotation(record), np.random.default_rng(n))

    def sample(self, batch_size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, list[str]]:
        """Draw a batch, half of it single names as far as there are so many.

        Returns:
            image: (B,) int64, at most batch_size.
            boxes: (B, 4) float32 x0, y0, x1, y1 in pixels, squares; parts of them may lie outside of the picture.
            captions: B different texts.
        """
        num_triplets = len(self._keys) - self._num_names
        names = rng.permutation(self._num_names)[: max(batch_size // 2, batch_size - num_triplets)]
        triplets = self._num_names + rng.permutation(num_triplets)[: batch_size - len(names)]
        keys = np.concatenate([names, triplets])
        region = self._first[keys] + rng.integers(self._count[keys])
        middle = self._points[region, rng.integers(_POINTS, size=len(keys))]
        side = self._length[region] * _MARGIN * _SPREAD ** rng.uniform(-1, 1, len(keys))
        half = np.maximum(side, _MIN_SIDE)[:, None] / 2
        boxes = torch.from_numpy(np.concatenate([middle - half, middle + half], axis=1)).float()
        return torch.from_numpy(self._image[region]), boxes, [self._caption(self._keys[k], rng) for k in keys]

    def _caption(self, key: tuple[int, ...], rng: np.random.Generator) -> str:
        if len(key) == 1:
            return OBJECT_CAPTIONS[rng.integers(len(OBJECT_CAPTIONS))].format(self._objects[key[0]])
        if len(key) == 2:
            return PREDICATE_CAPTIONS[rng.integers(len(PREDICATE_CAPTIONS))].format(self._predicates[key[0]])
        subject, predicate, object_ = key
        names = self._objects[subject], self._predicates[predicate], self._objects[object_]
        return TRIPLET_CAPTIONS[rng.integers(len(TRIPLET_CAPTIONS))].format(*names)


def regions_of(annotation: Annotation, rng: np.random.Generator) -> list[tuple[tuple[int, ...], np.ndarray, float]]:
    """The regions of an image that a caption can be about.

    Returns:
        For each segment (class,), some of its pixels as (16, 2) x and y, and the root of its area; for each relation
        (predicate, 0) and (subject's class, predicate, object's class), the middle of the pair's box and its longer
        side.
    """
    labels, relations, label_map, _ = annotation
    found: list[tuple[tuple[int, ...], np.ndarray, float]] = []
    boxes = np.zeros((len(labels), 4))
    for i, label in enumerate(labels):
        y, x = np.nonzero(label_map == i + 1)
        boxes[i] = x.min(), y.min(), x.max() + 1, y.max() + 1
        chosen = rng.integers(len(x), size=_POINTS)
        found.append(((int(label),), np.stack([x[chosen], y[chosen]], axis=1) + 0.5, float(np.sqrt(len(x)))))
    for subject, object_, predicate in relations.tolist():
        low = np.minimum(boxes[subject, :2], boxes[object_, :2])
        high = np.maximum(boxes[subject, 2:], boxes[object_, 2:])
        middle, length = np.tile((low + high) / 2, (_POINTS, 1)), float((high - low).max())
        found.append(((predicate, 0), middle, length))
        found.append(((int(labels[subject]), predicate, int(labels[object_])), middle, length))
    return found

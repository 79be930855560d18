"""A generated scene, what lies behind its things, and where its segments meet.

Letters: H W pixels.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np


@dataclass
class Background:
    """The stuff behind the things.

    Attributes:
        picture: (H, W, 3) float32.
        labels: (H, W) int16 index into names.
        names: stuff classes.
        horizon: y of the line where the ground begins, pixels.
    """

    picture: np.ndarray
    labels: np.ndarray
    names: list[str]
    horizon: float

    def at(self, x: float, y: float) -> str:
        """Class at a point, moved into the picture if it lies outside."""
        height, width = self.labels.shape
        return self.names[self.labels[min(max(int(y), 0), height - 1), min(max(int(x), 0), width - 1)]]

    def ground_below(self, x: float, y: float, ground: Collection[str]) -> str | None:
        """The first ground straight below a point."""
        height, width = self.labels.shape
        column = self.labels[min(max(int(y), 0), height - 1) :, min(max(int(x), 0), width - 1)]
        return next((self.names[i] for i in column if self.names[i] in ground), None)


@dataclass
class Scene:
    """A finished picture with its annotation.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        segments: (H, W) int32, position + 1 in names; every pixel belongs to a segment.
        names: class of each segment: things in order of placement, then stuff.
        relations: (subject, object, predicate name), positions in names.
    """

    image: np.ndarray
    segments: np.ndarray
    names: list[str]
    relations: list[tuple[int, int, str]]


def meeting(segments: np.ndarray, count: int) -> np.ndarray:
    """(count, count) bool: whether pixels of two segments lie side by side; segments are position + 1."""
    meets = np.zeros((count, count), dtype=bool)
    for first, second in ((segments[:, :-1], segments[:, 1:]), (segments[:-1], segments[1:])):
        differ = first != second
        a, b = first[differ] - 1, second[differ] - 1
        meets[a, b] = meets[b, a] = True
    return meets

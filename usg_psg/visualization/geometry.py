"""Boxes and line segments in the plane, many at once.

Letters: A, B boxes; S, T segments. Boxes are rows (left, bottom, right, top) with left < right and bottom < top (in
images whose rows count downwards: left, top, right, bottom); segments are rows (x0, y0, x1, y1). All are float64 in
one unit of length.
"""

from __future__ import annotations

import numpy as np


def boxes_around(centres: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(A, 4) boxes of centres (A, 2) and sizes (A, 2), width before height."""
    return np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)


def shared_area(a: np.ndarray, b: np.ndarray, gap: float | np.ndarray = 0.0) -> np.ndarray:
    """(A, B) area that boxes share, each box of `a` grown on every side by `gap`, a number or (A, B)."""
    width = np.minimum(a[:, None, 2] + gap, b[None, :, 2]) - np.maximum(a[:, None, 0] - gap, b[None, :, 0])
    height = np.minimum(a[:, None, 3] + gap, b[None, :, 3]) - np.maximum(a[:, None, 1] - gap, b[None, :, 1])
    return np.clip(width, 0, None) * np.clip(height, 0, None)


def length_inside(segments: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(S, A) length of each segment that lies inside each box."""
    start, step = segments[:, None, :2], (segments[:, 2:] - segments[:, :2])[:, None]
    flat = np.abs(step) < 1e-9
    safe = np.where(flat, 1.0, step)
    low, high = (boxes[None, :, :2] - start) / safe, (boxes[None, :, 2:] - start) / safe
    enter, leave = np.minimum(low, high), np.maximum(low, high)
    # A segment parallel to an axis lies between the two sides everywhere or nowhere.
    between = (start >= boxes[None, :, :2]) & (start <= boxes[None, :, 2:])
    enter = np.where(flat, np.where(between, -np.inf, np.inf), enter).max(axis=2)
    leave = np.where(flat, np.where(between, np.inf, -np.inf), leave).min(axis=2)
    part = np.clip(np.minimum(leave, 1.0) - np.maximum(enter, 0.0), 0.0, 1.0)
    return part * np.linalg.norm(step, axis=2)


def crossings(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(S, T) bool: the segments cross in a point that is inside both."""

    def side(lines: np.ndarray, points: np.ndarray) -> np.ndarray:
        """(S, T) on which side of each line the points of the same row lie."""
        along = (lines[:, 2:] - lines[:, :2])[:, None]
        away = points - lines[:, None, :2]
        return along[..., 0] * away[..., 1] - along[..., 1] * away[..., 0]

    apart_b = side(a, b[None, :, :2]) * side(a, b[None, :, 2:]) < 0
    apart_a = side(b, a[None, :, :2]) * side(b, a[None, :, 2:]) < 0
    return apart_b & apart_a.T

"""Pieces of a picture with soft edges, and the brush that paints them.

A sprite's segment is where its opacity is at least one half, so image and mask agree to the pixel. Coordinates are
(x, y) with y downwards; the brush takes unit coordinates of the sprite's box, (0, 0) at its top left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

Color = tuple[float, float, float]  # RGB, 0 to 255
Point = tuple[float, float]
Points = Sequence[Point] | np.ndarray  # (n, 2)

_SUBPIXEL_BITS = 4
_MARGIN = 3
_OUTLINE_TONE = 0.45
_PIVOT = np.array([0.5, 1.0])


def tone(color: Color, factor: float) -> Color:
    """The colour in another lightness; factors above 1 make it lighter."""
    red, green, blue = (min(255.0, c * factor) for c in color)
    return red, green, blue


@dataclass
class Sprite:
    """A painted piece.

    Attributes:
        x, y: column and row of its array in the picture; may lie outside.
        color: (h, w, 3) float32 RGB, 0 to 255.
        alpha: (h, w) float32 opacity, 0 to 1.
    """

    x: int
    y: int
    color: np.ndarray
    alpha: np.ndarray

    def clipped(self, height: int, width: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Slices of the picture and of the sprite where both overlap; empty slices if nowhere."""
        h, w = self.alpha.shape
        top, bottom = max(self.y, 0), max(min(self.y + h, height), max(self.y, 0))
        left, right = max(self.x, 0), max(min(self.x + w, width), max(self.x, 0))
        inside = slice(top, bottom), slice(left, right)
        own = slice(top - self.y, bottom - self.y), slice(left - self.x, right - self.x)
        return inside, own

    def mask(self, height: int, width: int) -> np.ndarray:
        """(height, width) bool: where the sprite's segment is if nothing hides it."""
        full = np.zeros((height, width), dtype=bool)
        inside, own = self.clipped(height, width)
        full[inside] = self.alpha[own] >= 0.5
        return full

    def paint_on(self, picture: np.ndarray) -> None:
        """Blend into a float32 RGB picture, in place."""
        inside, own = self.clipped(*picture.shape[:2])
        alpha = self.alpha[own][..., None]
        picture[inside] += alpha * (self.color[own] - picture[inside])


class Brush:
    """Paints outlined shapes into a sprite.

    Args:
        box: x0, y0, x1, y1 in pixels, where the unit square lies before it is turned.
        flip: mirror left and right.
        angle: turn clockwise about the middle of the lower edge, degrees.
        outline: width of the outlines in pixels.
    """

    def __init__(
        self, box: tuple[float, float, float, float], *, flip: bool = False, angle: float = 0.0, outline: float = 1.5
    ):
        x0, y0, x1, y1 = box
        width, height = x1 - x0, y1 - y0
        scale_x = -width if flip else width
        cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        rotation = np.array([[cos, -sin], [sin, cos]])
        # Unit square to pixels about the pivot (0.5, 1), then rotation about it.
        self._matrix = rotation @ np.diag([scale_x, height])
        self._pivot = np.array([(x0 + x1) / 2, y1])
        corners = self._to_pixels([(-0.2, -0.1), (1.2, -0.1), (1.2, 1.1), (-0.2, 1.1)])
        low = np.floor(corners.min(axis=0)).astype(int) - _MARGIN
        high = np.ceil(corners.max(axis=0)).astype(int) + _MARGIN
        self._origin = low
        w, h = high - low
        self._unit = float(np.sqrt(abs(width * height)))
        self._outline = max(1, round(outline))
        self._color = np.zeros((3, h, w), dtype=np.float32)  # NumPy is slow where the last axis is short
        self.alpha = np.zeros((h, w), dtype=np.float32)

    def _to_pixels(self, points: Points) -> np.ndarray:
        return (np.asarray(points, dtype=float) - _PIVOT) @ self._matrix.T + self._pivot

    def _fixed(self, points: Points) -> np.ndarray:
        local = self._to_pixels(points) - self._origin
        return np.round(local * 2**_SUBPIXEL_BITS).astype(np.int32)

    def _lay(self, cover: np.ndarray, color: Color) -> None:
        x, y, w, h = cv2.boundingRect(cover)  # most strokes are much smaller than the sprite
        rows, columns = slice(y, y + h), slice(x, x + w)
        cover = cover[rows, columns].astype(np.float32) / 255
        painted, alpha = self._color[:, rows, columns], self.alpha[rows, columns]
        painted += cover * (np.array(color, dtype=np.float32)[:, None, None] - painted)
        np.maximum(alpha, cover, out=alpha)

    def polygon(self, points: Points, color: Color, *, outline: bool = True) -> None:
        """A filled polygon; its outline is a darker shade of the colour."""
        fixed = self._fixed(points)
        if outline:
            cover = np.zeros(self.alpha.shape, dtype=np.uint8)
            cv2.polylines(cover, [fixed], True, 255, 2 * self._outline, cv2.LINE_AA, _SUBPIXEL_BITS)
            self._lay(cover, tone(color, _OUTLINE_TONE))
        cover = np.zeros(self.alpha.shape, dtype=np.uint8)
        cv2.fillPoly(cover, [fixed], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
        self._lay(cover, color)

    def ellipse(
        self, center: Point, radii: Point, color: Color, *, outline: bool = True, arc: Point = (0, 360)
    ) -> None:
        """A filled ellipse or, between two angles in degrees (0 is right, 90 is down), a segment of it."""
        self.polygon(np.array(center) + np.array(radii) * _unit_arc(*arc), color, outline=outline)

    def rectangle(self, x0: float, y0: float, x1: float, y1: float, color: Color, *, outline: bool = True) -> None:
        """An upright rectangle in unit coordinates."""
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], color, outline=outline)

    def line(self, points: Points, width: float, color: Color, *, outline: bool = True) -> None:
        """A stroke; width relative to the square root of the box's area."""
        fixed = self._fixed(points)
        pixels = max(1, round(width * self._unit))
        strokes = [(pixels, color)]
        if outline:
            strokes.insert(0, (pixels + 2 * self._outline, tone(color, _OUTLINE_TONE)))
        for thickness, shade in strokes:
            cover = np.zeros(self.alpha.shape, dtype=np.uint8)
            cv2.polylines(cover, [fixed], False, 255, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
            self._lay(cover, shade)

    def finish(self) -> Sprite:
        """The sprite, shaded as lit from the upper left."""
        h, w = self.alpha.shape
        light = 1.16 - 0.26 * _ramp(h)[:, None] - 0.08 * _ramp(w)
        color = np.clip(self._color * light, 0, 255).transpose(1, 2, 0)
        return Sprite(int(self._origin[0]), int(self._origin[1]), np.ascontiguousarray(color), self.alpha)


@lru_cache(maxsize=1024)
def _ramp(length: int) -> np.ndarray:
    return np.linspace(0, 1, length, dtype=np.float32)


@lru_cache(maxsize=256)
def _unit_arc(begin: float, end: float) -> np.ndarray:
    """(33, 2) points of the unit circle between two angles in degrees."""
    return np.array([(np.cos(t), np.sin(t)) for t in np.radians(np.linspace(begin, end, 33))])

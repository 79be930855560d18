"""How the stuff of generated scenes looks: colour gradients with a texture of their own for each class.

A region is an opacity map (H, W) float32 over the whole picture; `paint_stuff` gives it its surface.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from .sprite import Brush, Color, Point, Sprite

Texture = Callable[[np.ndarray, np.random.Generator], None]


def region(height: int, width: int, polygons: Sequence[Sequence[Point]]) -> np.ndarray:
    """Opacity of a union of polygons, (x, y) in pixels, with soft edges."""
    cover = np.zeros((height, width), dtype=np.uint8)
    for polygon in polygons:
        cv2.fillPoly(cover, [np.round(np.asarray(polygon) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return cover.astype(np.float32) / 255


def below(height: int, width: int, edge: np.ndarray) -> np.ndarray:
    """Opacity of everything below a line, given as one y in pixels per column."""
    rows = np.arange(height, dtype=np.float32)[:, None]
    return np.clip(rows - edge[None].astype(np.float32) + 0.5, 0, 1)


def wavy(width: int, level: float, swing: float, rng: np.random.Generator) -> np.ndarray:
    """A gently bent line: one y per column about `level`."""
    x = np.linspace(0, 1, width)
    phase, bend = rng.uniform(0, 2 * np.pi, 2), rng.uniform(0.6, 1.8, 2)
    return level + swing * (
        0.6 * np.sin(2 * np.pi * bend[0] * x + phase[0]) + 0.4 * np.sin(2 * np.pi * bend[1] * x + phase[1])
    )


def smooth_noise(height: int, width: int, cells: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(height, width) float32, about standard normal, with `cells` (rows, columns) of independent values."""
    coarse = rng.standard_normal(cells).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _clouds(color: np.ndarray, rng: np.random.Generator) -> None:
    height, width = color.shape[:2]
    field = smooth_noise(height, width, (9, 5), rng) + 0.5 * smooth_noise(height, width, (18, 11), rng)
    amount = np.clip((field - 0.5) * 0.9, 0, 0.85)[..., None]
    color += amount * (np.float32(252) - color)


def _blades(color: np.ndarray, rng: np.random.Generator) -> None:
    height, width = color.shape[:2]
    color += 7 * smooth_noise(height, width, (max(2, height // 10), max(2, width // 3)), rng)[..., None]
    color += 6 * smooth_noise(height, width, (6, 4), rng)[..., None]


def _speckles(color: np.ndarray, rng: np.random.Generator) -> None:
    height, width = color.shape[:2]
    color += 5 * smooth_noise(height, width, (max(2, height // 2), max(2, width // 2)), rng)[..., None]
    color += 5 * smooth_noise(height, width, (7, 5), rng)[..., None]


def _asphalt(color: np.ndarray, rng: np.random.Generator) -> None:
    height, width = color.shape[:2]
    color += 4 * smooth_noise(height, width, (max(2, height // 2), max(2, width // 2)), rng)[..., None]


def _waves(color: np.ndarray, rng: np.random.Generator) -> None:
    height, width = color.shape[:2]
    field = smooth_noise(height, width, (max(2, height // 7), 7), rng)
    color += 9 * field[..., None] + 30 * np.clip(field - 1.1, 0, 1)[..., None]


def _leaves(color: np.ndarray, rng: np.random.Generator) -> None:
    height, width = color.shape[:2]
    field = smooth_noise(height, width, (max(2, height // 9), max(2, width // 9)), rng)
    color += 13 * field[..., None]


def _windows(color: np.ndarray, rng: np.random.Generator) -> None:
    height, width = color.shape[:2]
    step_x, step_y = max(8, width // 16), max(8, height // 14)
    offset = rng.integers(step_x)
    glass = np.array((150, 190, 214), dtype=np.float32)
    for y in range(step_y // 3, height, step_y):
        for x in range(int(offset) - step_x, width, step_x):
            lit = rng.random() < 0.3
            pane = (slice(y, y + step_y // 2), slice(max(0, x), max(0, x + step_x // 2)))
            color[pane] = (250, 226, 150) if lit else glass
    color += 3 * smooth_noise(height, width, (5, 5), rng)[..., None]


def _wallpaper(color: np.ndarray, rng: np.random.Generator) -> None:
    width = color.shape[1]
    period = max(6, width // int(rng.integers(12, 22)))
    stripe = (np.arange(width) // period % 2).astype(np.float32) * 7 - 3
    color += stripe[None, :, None]


def _planks(color: np.ndarray, rng: np.random.Generator) -> None:
    height, width = color.shape[:2]
    rows = np.cumsum(np.geomspace(max(2, height / 40), max(4, height / 9), 14)).astype(int)
    start = max(0, height - int(rows[-1]))
    color += 5 * smooth_noise(height, width, (max(2, height // 3), 4), rng)[..., None]
    previous = start
    for row in start + rows:
        color[previous:row] += rng.uniform(-9, 9)
        color[max(0, row - 1) : row + 1] *= 0.72
        previous = row


def _rings(color: np.ndarray, rng: np.random.Generator) -> None:
    height, width = color.shape[:2]
    color += 10 * np.sign(np.sin(np.arange(width) * 2 * np.pi / max(6, width // 28)))[None, :, None].astype(np.float32)
    color += 4 * smooth_noise(height, width, (max(2, height // 3), max(2, width // 3)), rng)[..., None]


def _plain(color: np.ndarray, rng: np.random.Generator) -> None:
    height, width = color.shape[:2]
    color += 2 * smooth_noise(height, width, (5, 5), rng)[..., None]


# Colours at the top and the bottom of the region, and the texture laid over them.
SURFACES: dict[str, tuple[Color, Color, Texture]] = {
    "road": ((128, 130, 138), (96, 98, 106), _asphalt),
    "sand": ((236, 214, 164), (214, 182, 124), _speckles),
    "sea": ((58, 138, 176), (30, 96, 148), _waves),
    "tree-merged": ((92, 146, 72), (48, 98, 50), _leaves),
    "sky-other-merged": ((92, 156, 226), (206, 230, 246), _clouds),
    "ceiling-merged": ((238, 236, 230), (220, 216, 208), _plain),
    "floor-wood": ((190, 142, 92), (160, 108, 64), _planks),
    "grass-merged": ((138, 186, 88), (78, 138, 52), _blades),
    "building-other-merged": ((206, 160, 130), (180, 132, 106), _windows),
    "wall-other-merged": ((226, 214, 190), (206, 190, 164), _wallpaper),
    "rug-merged": ((166, 70, 82), (130, 46, 70), _rings),
    "fence-merged": ((232, 226, 214), (232, 226, 214), _plain),
}


def paint_stuff(name: str, alpha: np.ndarray, rng: np.random.Generator) -> Sprite:
    """Give a region the surface of a class.

    Args:
        name: a key of `SURFACES`.
        alpha: (H, W) float32 opacity, at least one pixel of it 0.5.
        rng: chooses shade and texture.
    """
    rows = np.flatnonzero((alpha >= 0.5).any(axis=1))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    # One row more on both sides, for the soft edge.
    first, last = max(0, top - 1), min(alpha.shape[0], bottom + 1)
    high, low, texture = SURFACES[name]
    shade = rng.uniform(-10, 10, 3) + rng.uniform(-8, 8)
    mix = np.linspace(0, 1, last - first, dtype=np.float32)[:, None, None]
    color = (np.asarray(high, np.float32) * (1 - mix) + np.asarray(low, np.float32) * mix) + shade.astype(np.float32)
    color = np.repeat(color, alpha.shape[1], axis=1)
    texture(color, rng)
    return Sprite(0, first, np.clip(color, 0, 255), np.ascontiguousarray(alpha[first:last]))


def mark_lane(sprite: Sprite, upper: np.ndarray, lower: np.ndarray) -> None:
    """Paint a dashed line along a road, in place; upper and lower are its edges, one y per column."""
    height, width = sprite.alpha.shape
    middle = (upper + lower) / 2 - sprite.y
    half = np.maximum(1.0, (lower - upper) * 0.025)
    rows = np.arange(height, dtype=np.float32)[:, None]
    cover = np.clip(half[None] + 0.5 - np.abs(rows - middle[None]), 0, 1)
    cover *= (np.arange(width) // max(4, width // 16) % 2 == 0)[None]
    sprite.color += (0.9 * cover[..., None]).astype(np.float32) * (np.float32(240) - sprite.color)


def draw_fence(box: tuple[float, float, float, float], rng: np.random.Generator) -> Sprite:
    """A picket fence that fills a box (x0, y0, x1, y1), pixels."""
    brush = Brush(box, outline=max(1.0, (box[3] - box[1]) / 90))
    red, green, blue = (c + rng.uniform(-10, 10) for c in SURFACES["fence-merged"][0])
    color = (red, green, blue)
    for y in (0.3, 0.7):
        brush.rectangle(0.0, y, 1.0, y + 0.1, color)
    for x in np.linspace(0.0, 0.94, 6):
        brush.polygon([(x, 1.0), (x, 0.1), (x + 0.03, 0.0), (x + 0.06, 0.1), (x + 0.06, 1.0)], color)
    return brush.finish()

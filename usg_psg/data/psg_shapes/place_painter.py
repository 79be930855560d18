"""Paints the backgrounds of `places.py`: where each stuff lies."""

from __future__ import annotations

import cv2
import numpy as np

from .places import FIXED, PLACES, WALLS, Place
from .scene import Background
from .stuff import below, paint_surface, region, wavy


def _between(height: int, width: int, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    return below(height, width, upper) * (1 - below(height, width, lower))


def _ridge(height: int, width: int, horizon: float, rng: np.random.Generator) -> np.ndarray:
    count = int(rng.integers(4, 8))
    xs = np.linspace(-0.05, 1.05, count) * width
    ys = horizon - rng.uniform(0.25, 1.0, count) * rng.uniform(0.15, 0.45) * height
    return region(height, width, [[(xs[0], height), *zip(xs, ys, strict=True), (xs[-1], height)]])


def _trees(height: int, width: int, horizon: float, rng: np.random.Generator) -> np.ndarray:
    cover = np.zeros((height, width), dtype=np.uint8)
    size = rng.uniform(0.7, 1.7)
    for _ in range(int(rng.integers(1, 5))):
        middle, across = rng.uniform(0, width), size * rng.uniform(0.7, 1.2) * 0.1 * height
        for _ in range(8):
            x, y = middle + rng.normal(0, 0.9) * across, horizon - rng.uniform(0.3, 2.6) * across
            cv2.circle(cover, (int(x * 16), int(y * 16)), int(across * 16), 255, -1, cv2.LINE_AA, 4)
        top_left = (int(middle - 0.2 * across), int(horizon - across))
        cv2.rectangle(cover, top_left, (int(middle + 0.2 * across), int(horizon + 0.04 * height)), 255, -1)
    return cover.astype(np.float32) / 255


def _boxes(height: int, width: int, horizon: float, rng: np.random.Generator) -> np.ndarray:
    boxes, x = [], rng.uniform(-0.2, 0.3) * width
    while x < width:
        step, roof = rng.uniform(0.18, 0.4) * width, horizon - rng.uniform(0.14, 0.42) * height
        boxes.append([(x, roof), (x + step, roof), (x + step, horizon + 0.05 * height), (x, horizon + 0.05 * height)])
        x += step + (rng.uniform(0.05, 0.3) * width if rng.random() < 0.5 else 0)
    return region(height, width, boxes or [[(0, horizon - 20), (width, horizon - 20), (width, horizon), (0, horizon)]])


def _house(height: int, width: int, horizon: float, rng: np.random.Generator) -> np.ndarray:
    x, across, tall = rng.uniform(0.05, 0.7) * width, rng.uniform(0.2, 0.35) * width, rng.uniform(0.16, 0.28) * height
    foot = horizon + 0.05 * height
    eaves, right = foot - tall, x + across
    return region(
        height, width, [[(x, eaves), (x + across / 2, foot - 1.5 * tall), (right, eaves), (right, foot), (x, foot)]]
    )


def _wall(height: int, width: int, horizon: float, rng: np.random.Generator) -> np.ndarray:
    top = horizon - rng.uniform(0.06, 0.14) * height
    return _between(height, width, np.full(width, top), np.full(width, horizon + 0.02 * height))


def _fence(height: int, width: int, horizon: float, rng: np.random.Generator) -> np.ndarray:
    cover = np.zeros((height, width), dtype=np.uint8)
    foot, tall = horizon + rng.uniform(0.02, 0.08) * height, rng.uniform(0.1, 0.18) * height
    left, right = sorted(rng.uniform(0, width, 2)) if rng.random() < 0.5 else (0.0, float(width))
    right = max(right, left + 0.3 * width)
    step = max(5, tall * 0.3)
    for x in np.arange(left, right, step):
        cv2.rectangle(cover, (int(x), int(foot - tall)), (int(x + 0.55 * step), int(foot)), 255, -1)
    for y in (0.3, 0.7):
        top = int(foot - y * tall)
        cv2.rectangle(cover, (int(left), top), (int(right), top + max(1, int(0.12 * tall))), 255, -1)
    return cover.astype(np.float32) / 255


def _bridge(height: int, width: int, horizon: float, rng: np.random.Generator) -> np.ndarray:
    top = horizon - rng.uniform(0.08, 0.2) * height
    thick = 0.05 * height
    deck = [(0, top), (width, top), (width, top + thick), (0, top + thick)]
    piers = [
        [(x * width, top), ((x + 0.05) * width, top), ((x + 0.05) * width, horizon + 2), (x * width, horizon + 2)]
        for x in (0.15, 0.5, 0.82)
    ]
    return region(height, width, [deck, *piers])


def _strip(height: int, width: int, horizon: float, rng: np.random.Generator) -> np.ndarray:
    shore = wavy(width, horizon + rng.uniform(0.15, 0.35) * height, 0.03 * height, rng)
    return _between(height, width, np.full(width, horizon), shore)


_STANDING = {
    "mountain-merged": _ridge,
    "tree-merged": _trees,
    "building-other-merged": _boxes,
    "house": _house,
    "wall-other-merged": _wall,
    "fence-merged": _fence,
    "bridge": _bridge,
    "sea": _strip,
}

# Patches on walls: range of width and height in picture heights, and of the y of their upper edge between ceiling and
# floor.
_ON_WALL: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "window-other": ((0.2, 0.4), (0.2, 0.36), (0.15, 0.4)),
    "window-blind": ((0.2, 0.36), (0.2, 0.36), (0.15, 0.35)),
    "door-stuff": ((0.16, 0.24), (0.45, 0.6), (1.0, 1.0)),
    "curtain": ((0.1, 0.22), (0.4, 0.55), (0.1, 0.2)),
    "mirror-stuff": ((0.2, 0.34), (0.2, 0.34), (0.15, 0.35)),
    "shelf": ((0.2, 0.34), (0.16, 0.3), (0.2, 0.5)),
    "cabinet-merged": ((0.3, 0.7), (0.16, 0.24), (0.12, 0.2)),
    "towel": ((0.07, 0.12), (0.14, 0.22), (0.4, 0.6)),
    "light": ((0.06, 0.12), (0.05, 0.1), (0.1, 0.3)),
    "paper-merged": ((0.1, 0.18), (0.12, 0.2), (0.2, 0.5)),
    "banner": ((0.25, 0.5), (0.07, 0.12), (0.3, 0.6)),
}
# Patches on the ground: width and height in those of the picture.
# fmt: off
_ON_GROUND = {
    "flower": (0.25, 0.1), "rock-merged": (0.22, 0.12), "dirt-merged": (0.5, 0.1), "grass-merged": (0.5, 0.1),
    "rug-merged": (0.6, 0.16), "food-other-merged": (0.26, 0.12), "fruit": (0.2, 0.12), "paper-merged": (0.3, 0.12),
    "cardboard": (0.3, 0.2), "towel": (0.24, 0.1), "water-other": (0.5, 0.1),
}
# fmt: on


def _rectangle(height: int, width: int, x: float, y: float, w: float, h: float) -> np.ndarray:
    return region(height, width, [[(x, y), (x + w, y), (x + w, y + h), (x, y + h)]])


def _patch(
    name: str, place: Place, labels: np.ndarray, names: list[str], horizon: float, rng: np.random.Generator
) -> np.ndarray | None:
    """Opacity of a patch, or None if there is no room for it."""
    height, width = labels.shape
    if name == "ceiling-merged":
        return 1 - below(height, width, np.full(width, rng.uniform(0.06, 0.16) * height))
    if name == "counter":
        top = horizon - rng.uniform(0.14, 0.22) * height
        left = rng.uniform(-0.1, 0.4) * width
        return _rectangle(height, width, left, top, rng.uniform(0.5, 0.9) * width, horizon + 0.04 * height - top)
    if name == "table-merged":
        return below(height, width, np.full(width, rng.uniform(0.8, 0.9) * height))
    if name == "stairs":
        return _rectangle(height, width, rng.uniform(0.1, 0.7) * width, horizon, 0.25 * width, 0.14 * height)
    if name == "tent":
        x, foot = rng.uniform(0.1, 0.8) * width, horizon + rng.uniform(0.1, 0.3) * height
        size = rng.uniform(0.14, 0.24) * height
        return region(height, width, [[(x - size, foot), (x, foot - 1.2 * size), (x + size, foot)]])
    if name == "net":
        foot, x = horizon + 0.12 * height, rng.uniform(0.1, 0.5) * width
        return _rectangle(height, width, x, foot - 0.14 * height, 0.4 * width, 0.14 * height)
    if name == "roof":
        built = [i for i, n in enumerate(names) if n in ("house", "building-other-merged")]
        rows, columns = np.nonzero(np.isin(labels, built))
        if not len(rows):
            return None
        x0, x1, y = columns.min() - 4, columns.max() + 4, rows.min()
        ridge, slope = y - rng.uniform(0.06, 0.12) * height, 0.12 * (x1 - x0)
        return region(height, width, [[(x0, y + 3), (x0 + slope, ridge), (x1 - slope, ridge), (x1, y + 3)]])
    if name in _ON_GROUND and (not place.indoors or name == "rug-merged" or "table-merged" in names):
        across, tall = (f * s * rng.uniform(0.7, 1.3) for f, s in zip(_ON_GROUND[name], (width, height), strict=True))
        x, y = rng.uniform(0.1, 0.9) * width, horizon + rng.uniform(0.2, 0.75) * (height - horizon)
        angles = np.linspace(0, 2 * np.pi, 25)[:-1]
        radii = rng.uniform(0.8, 1.1, 24) if name not in ("rug-merged", "paper-merged") else np.ones(24)
        xs, ys = x + across / 2 * radii * np.cos(angles), y + tall / 2 * radii * np.sin(angles)
        return region(height, width, [list(zip(xs, ys, strict=True))])
    return _on_wall(name, labels, names, horizon, rng)


def _on_wall(
    name: str, labels: np.ndarray, names: list[str], horizon: float, rng: np.random.Generator
) -> np.ndarray | None:
    height, width = labels.shape
    (low_w, high_w), (low_h, high_h), (low_y, high_y) = _ON_WALL[name]
    holders = [i for i, n in enumerate(names) if n in WALLS or n in ("building-other-merged", "house", "fence-merged")]
    outdoors = "sky-other-merged" in names
    for _ in range(6):
        w, h = rng.uniform(low_w, high_w) * height, rng.uniform(low_h, high_h) * height
        if outdoors:
            w, h = 0.5 * w, 0.45 * h
        rows = [0.55 * horizon] if outdoors else np.flatnonzero(np.isin(labels[:, width // 2], holders))
        if not len(rows):
            return None
        top, bottom = float(rows[0]), float(horizon)
        y = bottom - h if low_y == 1.0 else top + rng.uniform(low_y, high_y) * max(0.0, bottom - top - h)
        x = rng.uniform(-0.2 * w, width - 0.8 * w)
        inside = labels[max(0, int(y)) : int(y + h) - 1, max(0, int(x)) : int(x + w)]
        if inside.size and np.isin(inside, holders).mean() > 0.85:
            return _rectangle(height, width, x, y, w, h)
    return None


def paint_place(name: str, height: int, width: int, rng: np.random.Generator, absent: frozenset[str]) -> Background:
    """Lay out and paint the stuff of a scene.

    Args:
        name: a key of `PLACES`.
        height, width: of the picture, pixels.
        rng: decides everything else.
        absent: classes that must not occur; the place needs a back and a ground that are not among them.
    """
    place = PLACES[name]
    horizon = rng.uniform(*place.horizon) * height
    picture = np.zeros((height, width, 3), dtype=np.float32)
    labels = np.zeros((height, width), dtype=np.int16)
    names: list[str] = []

    def lay(stuff: str, alpha: np.ndarray | None) -> None:
        if alpha is None or stuff in absent or np.count_nonzero(alpha >= 0.5) < 0.002 * alpha.size:
            return
        paint_surface(stuff, alpha, rng).paint_on(picture)
        if stuff not in names:
            names.append(stuff)
        labels[alpha >= 0.5] = names.index(stuff)

    lay(_choose(place.back, absent, rng), np.ones((height, width), dtype=np.float32))
    for stuff, chance in place.far:
        if rng.random() < chance:
            lay(stuff, _STANDING[stuff](height, width, horizon, rng))
    swing = 0.0 if place.indoors else 0.02 * height
    edge = horizon if "sea" not in names else horizon + rng.uniform(0.15, 0.3) * height
    lay(_choose(place.ground, absent, rng), below(height, width, wavy(width, edge, swing, rng)))
    for stuff, chance in place.paths:
        if rng.random() < chance:
            top = rng.uniform(edge + 0.06 * height, max(edge + 0.07 * height, 0.76 * height))
            tilt = np.linspace(-1, 1, width) * rng.uniform(-0.04, 0.04) * height
            bottom = top + rng.uniform(0.14, 0.3) * height
            lay(stuff, _between(height, width, top + tilt, bottom + tilt))
            break
    for stuff, chance in place.patches:
        if rng.random() < chance:
            for _ in range(int(rng.integers(1, 3)) if stuff in FIXED else 1):
                lay(stuff, _patch(stuff, place, labels, names, horizon, rng))
    return Background(picture, labels, names, float(edge))


def _choose(names: tuple[str, ...], absent: frozenset[str], rng: np.random.Generator) -> str:
    allowed = [name for name in names if name not in absent]
    return str(allowed[rng.integers(len(allowed))])

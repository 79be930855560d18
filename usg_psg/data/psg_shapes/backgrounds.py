"""Backgrounds of generated scenes: which stuff there is and where.

Each function returns the layers from back to front: (class, opacity (H, W)), and roads with their edges.
"""

from __future__ import annotations

import cv2
import numpy as np

from .scene import Background
from .stuff import below, mark_lane, paint_stuff, region, wavy

Layer = tuple[str, np.ndarray, tuple[np.ndarray, np.ndarray] | None]
Layers = tuple[list[Layer], float]  # and the horizon


def _back(name: str, height: int, width: int) -> Layer:
    return name, np.ones((height, width), dtype=np.float32), None


def _road(height: int, width: int, top: float, bottom: float, rng: np.random.Generator) -> Layer:
    tilt = rng.uniform(-0.04, 0.04) * height
    slope = np.linspace(-tilt, tilt, width)
    upper, lower = top + slope, bottom + slope
    return "road", below(height, width, upper) * (1 - below(height, width, lower)), (upper, lower)


def _trees(height: int, width: int, horizon: float, rng: np.random.Generator) -> Layer:
    cover = np.zeros((height, width), dtype=np.uint8)
    for _ in range(int(rng.integers(1, 4))):
        center = rng.uniform(0, width)
        for _ in range(7):
            x = center + rng.normal(0, 0.07) * width
            radius = rng.uniform(0.06, 0.11) * height
            y = horizon - rng.uniform(0.3, 2.0) * radius
            cv2.circle(cover, (int(x * 16), int(y * 16)), int(radius * 16), 255, -1, cv2.LINE_AA, 4)
        trunk = (int(center - 0.012 * width), int(horizon - 0.1 * height))
        cv2.rectangle(cover, trunk, (int(center + 0.012 * width), int(horizon)), 255, -1)
    return "tree-merged", cover.astype(np.float32) / 255, None


def meadow(height: int, width: int, rng: np.random.Generator) -> Layers:
    """Sky over grass, and often a road across it."""
    horizon = rng.uniform(0.34, 0.46) * height
    layers = [_back("sky-other-merged", height, width)]
    layers.append(("grass-merged", below(height, width, wavy(width, horizon, 0.02 * height, rng)), None))
    if rng.random() < 0.65:
        top = rng.uniform(0.66, 0.72) * height
        layers.append(_road(height, width, top, top + rng.uniform(0.19, 0.25) * height, rng))
    return layers, horizon


def park(height: int, width: int, rng: np.random.Generator) -> Layers:
    """Sky, trees, grass, sometimes a path."""
    horizon = rng.uniform(0.3, 0.46) * height
    layers = [_back("sky-other-merged", height, width)]
    trees = _trees(height, width, horizon + 0.03 * height, rng)
    if rng.random() < 0.8:
        layers.append(trees)
    layers.append(("grass-merged", below(height, width, wavy(width, horizon, 0.025 * height, rng)), None))
    if rng.random() < 0.35:
        top = rng.uniform(0.55, 0.75) * height
        layers.append(_road(height, width, top, top + rng.uniform(0.12, 0.18) * height, rng))
    return layers, horizon


def street(height: int, width: int, rng: np.random.Generator) -> Layers:
    """Sky, buildings, a strip of grass, a road."""
    horizon = rng.uniform(0.42, 0.54) * height
    layers = [_back("sky-other-merged", height, width)]
    houses, x = [], -rng.uniform(0, 0.15) * width
    while x < width:
        step, roof = rng.uniform(0.18, 0.34) * width, horizon - rng.uniform(0.16, 0.38) * height
        houses.append([(x, roof), (x + step, roof), (x + step, horizon + 0.05 * height), (x, horizon + 0.05 * height)])
        x += step + (rng.uniform(0.03, 0.1) * width if rng.random() < 0.4 else 0)
    layers.append(("building-other-merged", region(height, width, houses), None))
    layers.append(("grass-merged", below(height, width, np.full(width, horizon)), None))
    top = horizon + rng.uniform(0.06, 0.14) * height
    layers.append(_road(height, width, top, top + rng.uniform(0.24, 0.32) * height, rng))
    return layers, horizon


def coast(height: int, width: int, rng: np.random.Generator) -> Layers:
    """Sky, sea, sand."""
    horizon = rng.uniform(0.3, 0.42) * height
    layers = [_back("sky-other-merged", height, width)]
    layers.append(("sea", below(height, width, np.full(width, horizon)), None))
    shore = rng.uniform(0.62, 0.76) * height
    layers.append(("sand", below(height, width, wavy(width, shore, 0.03 * height, rng)), None))
    return layers, horizon


def room(height: int, width: int, rng: np.random.Generator) -> Layers:
    """Wall, floor, often a ceiling and a rug."""
    floor = rng.uniform(0.56, 0.66) * height
    layers = [_back("wall-other-merged", height, width)]
    if rng.random() < 0.6:
        ceiling = rng.uniform(0.06, 0.13) * height
        layers.append(("ceiling-merged", 1 - below(height, width, np.full(width, ceiling)), None))
    layers.append(("floor-wood", below(height, width, np.full(width, floor)), None))
    if rng.random() < 0.55:
        x, y = rng.uniform(0.3, 0.7) * width, floor + rng.uniform(0.5, 0.65) * (height - floor)
        angles = np.linspace(0, 2 * np.pi, 49)[:-1]
        rx, ry = rng.uniform(0.22, 0.34) * width, 0.3 * (height - floor)
        ellipse = [(x + rx * np.cos(t), y + ry * np.sin(t)) for t in angles]
        layers.append(("rug-merged", region(height, width, [ellipse]), None))
    return layers, floor


BACKGROUNDS = {"meadow": meadow, "park": park, "street": street, "coast": coast, "room": room}


def paint_background(kind: str, height: int, width: int, rng: np.random.Generator) -> Background:
    """Lay out and paint the stuff of a scene.

    Args:
        kind: a key of `BACKGROUNDS`.
        height, width: of the picture, pixels.
        rng: decides everything else.
    """
    layers, horizon = BACKGROUNDS[kind](height, width, rng)
    picture = np.zeros((height, width, 3), dtype=np.float32)
    labels = np.zeros((height, width), dtype=np.int16)
    names: list[str] = []
    for name, alpha, edges in layers:
        if not (alpha >= 0.5).any():
            continue
        sprite = paint_stuff(name, alpha, rng)
        if edges is not None:
            mark_lane(sprite, *edges)
        sprite.paint_on(picture)
        labels[alpha >= 0.5] = len(names)
        names.append(name)
    return Background(picture, labels, names, float(horizon))

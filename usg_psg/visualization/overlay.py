"""Masks and labels over an image."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .colors import class_color, text_color

if TYPE_CHECKING:
    from ..predictor import SceneGraph

MIN_LONG_SIDE, MIN_SHORT_SIDE = 900, 240  # smaller images are enlarged, so that labels are readable
THING_OPACITY, STUFF_OPACITY = 0.45, 0.22  # stuff covers most of a picture

Box = tuple[float, float, float, float]


@lru_cache(maxsize=8)
def label_font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def draw_overlay(image: np.ndarray, graph: SceneGraph) -> np.ndarray:
    """Paint the masks of all objects of a graph with their names.

    Args:
        image: (H, W, 3) uint8 RGB of the graph's size.
        graph: what to draw; large masks come first, so that small ones stay visible.

    Returns:
        (H', W', 3) uint8 RGB, enlarged by one factor if the image is small.

    Raises:
        ValueError: if image and graph differ in size.
    """
    if image.shape[:2] != (graph.height, graph.width):
        raise ValueError(f"image: expected {graph.height}x{graph.width}, got {image.shape[0]}x{image.shape[1]}")
    scale = max(1.0, MIN_LONG_SIDE / max(image.shape[:2]), MIN_SHORT_SIDE / min(image.shape[:2]))
    size = (round(graph.width * scale), round(graph.height * scale))
    canvas = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC).astype(np.float32)
    masks = [
        cv2.resize(o.mask_array().astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
        for o in graph.objects
    ]
    thickness = max(1, round(max(size) / 600))
    order = sorted(range(len(masks)), key=lambda i: -int(masks[i].sum()))
    for index in order:
        color = np.array(class_color(graph.objects[index].name), np.float32)
        opacity = THING_OPACITY if graph.objects[index].isthing else STUFF_OPACITY
        canvas[masks[index]] += opacity * (color - canvas[masks[index]])
    canvas = np.ascontiguousarray(canvas.round().clip(0, 255).astype(np.uint8))
    for index in order:
        contours, _ = cv2.findContours(masks[index].astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, contours, -1, class_color(graph.objects[index].name), thickness, cv2.LINE_AA)
    picture = Image.fromarray(canvas)
    _draw_labels(ImageDraw.Draw(picture), graph, masks, size)
    return np.asarray(picture)


def _draw_labels(draw: ImageDraw.ImageDraw, graph: SceneGraph, masks: list[np.ndarray], size: tuple[int, int]) -> None:
    font = label_font(max(13, round(max(size) / 55)))
    placed: list[Box] = []
    # Small objects first: they have the fewest places for a label.
    for index in sorted(range(len(masks)), key=lambda i: int(masks[i].sum())):
        if not masks[index].any():
            continue
        text = graph.objects[index].label
        left, top, right, bottom = font.getbbox(text)
        pad = font.size // 4
        extent = (right - left + 2 * pad, bottom - top + 2 * pad)
        box = _free_place(masks[index], extent, size, placed)
        placed.append(box)
        color = class_color(graph.objects[index].name)
        draw.rounded_rectangle(box, radius=pad, fill=color)
        draw.text((box[0] + pad - left, box[1] + pad - top), text, font=font, fill=text_color(color))


def _free_place(mask: np.ndarray, extent: tuple[int, int], size: tuple[int, int], placed: list[Box]) -> Box:
    """A box inside the picture, near the middle of the mask's thickest part, that covers no other label if it can."""
    padded = np.pad(mask.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    width, height = extent
    best, least = None, np.inf
    step = height * 0.6
    for ring in range(25):
        angles = np.linspace(0, 2 * np.pi, max(1, 8 * ring), endpoint=False)
        for angle in angles:
            cx, cy = x + 1.6 * ring * step * np.cos(angle), y + ring * step * np.sin(angle)
            left = float(np.clip(cx - width / 2, 0, max(0, size[0] - width)))
            top = float(np.clip(cy - height / 2, 0, max(0, size[1] - height)))
            box = (left, top, left + width, top + height)
            covered = sum(_overlap(box, other) for other in placed)
            if covered == 0:
                return box
            if covered < least:
                best, least = box, covered
    return best


def _overlap(a: Box, b: Box) -> float:
    """Area that two boxes share, with one pixel of air around."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    return max(0.0, width) * max(0.0, height)

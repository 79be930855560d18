"""Masks and labels over an image, as pixels or as a vector drawing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from PIL import Image, ImageDraw, ImageFont

from ..masks import resize_nearest
from ..scene_graph import SceneGraph
from .colors import class_color, text_color
from .figures import POINT, add_box, drawing, write
from .label_places import Place, place_labels, tangled

MIN_LONG_SIDE, MIN_SHORT_SIDE = 900, 240  # smaller images are enlarged, so that labels are readable
MAX_LONG_SIDE, MAX_PIXELS = 16_000, 8_000_000  # nothing is enlarged beyond; WebP ends at 16383
MIN_FONT = 13  # pixels
GROWTH, MAX_STEPS = 1.4, 10  # crowded images are enlarged step by step until every label has room
UNTANGLE = 2.0  # and to at most so much until no line crosses another or runs under a label
THING_OPACITY, STUFF_OPACITY = 0.45, 0.22  # stuff covers most of an image
VECTOR_SUFFIXES = (".svg", ".pdf")
PIXEL_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Label:
    """A name, the colour of its object (RGB, 0 to 255), and its place in the image."""

    text: str
    color: Color
    place: Place


@dataclass(frozen=True)
class Overlay:
    """An image (H', W', 3) uint8 RGB with painted masks, the labels that found room on it, and their font's pixels."""

    pixels: np.ndarray
    labels: list[Label]
    font: int


@lru_cache(maxsize=8)
def label_font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def draw_overlay(image: np.ndarray, graph: SceneGraph, scale: float | None = None) -> np.ndarray:
    """Paint the masks of all objects of a graph, with their names, over an image (H, W, 3) uint8 RGB of its size.

    Names lie inside the image and never on each other; those of related objects choose their place first. One that
    would hide its object, or finds no room on it, stands beside it with a line to it, off others of its category where
    it can. Where masks overlap, the smaller one shows.

    Args:
        scale: of the result to the image; names that find no room are left out. None enlarges small images, and
            crowded ones until every name has room and lines keep apart, but not beyond 16000 pixels a side and 8
            million in all.

    Returns:
        (H', W', 3) uint8 RGB; a ValueError if image and graph differ in size.
    """
    overlay = compose_overlay(image, graph, scale)
    canvas = overlay.pixels.copy()
    width = max(2, round(overlay.font / 9))
    for label in overlay.labels:
        if label.place.leader is not None:
            start, end = (tuple(round(16 * (v - 0.5)) for v in p) for p in (label.place.anchor, label.place.leader))
            radius = _dot(label.place, width)
            for color, extra in (((255, 255, 255), 2), (label.color, 0)):
                cv2.line(canvas, start, end, color, width + extra, cv2.LINE_AA, shift=4)
                cv2.circle(canvas, start, round(16 * (radius + extra / 2)), color, -1, cv2.LINE_AA, shift=4)
    drawn = Image.fromarray(canvas)
    draw, font = ImageDraw.Draw(drawn), label_font(overlay.font)
    for label in overlay.labels:
        left, top, right, bottom = label.place.box
        draw.rounded_rectangle((left, top, right - 1, bottom - 1), radius=_pad(overlay.font), fill=label.color)
        middle = ((left + right) / 2, (top + bottom) / 2)
        draw.text(middle, label.text, font=font, fill=text_color(label.color), anchor="mm")
    return np.asarray(drawn)


def save_overlay(path: str | Path, image: np.ndarray, graph: SceneGraph, scale: float | None = None) -> None:
    """Write the result of `draw_overlay`; in SVG and PDF files lines and names are vectors over the embedded pixels.

    Raises:
        ValueError: for an unknown suffix, or if image and graph differ in size.
    """
    suffix = Path(path).suffix.lower()
    if suffix in PIXEL_SUFFIXES:
        Image.fromarray(draw_overlay(image, graph, scale)).save(path)
        return
    if suffix not in VECTOR_SUFFIXES:
        known = ", ".join((*PIXEL_SUFFIXES, *VECTOR_SUFFIXES))
        raise ValueError(f"{path}: cannot write images of this suffix; known are {known}")
    overlay = compose_overlay(image, graph, scale)
    height, width = overlay.pixels.shape[:2]
    figure, axes = drawing(width, height)
    add_overlay(axes, overlay)
    figure.savefig(path)


def add_overlay(axes: Axes, overlay: Overlay, left: float = 0.0, bottom: float = 0.0) -> None:
    """Draw an overlay into axes that count in pixels with y upwards, its lower left corner at (left, bottom)."""
    height, width = overlay.pixels.shape[:2]
    view = axes.axis()
    axes.imshow(overlay.pixels, extent=(left, left + width, bottom, bottom + height), interpolation="none", zorder=0)
    axes.set_aspect("auto")
    axes.axis(view)  # imshow fits the axes to the image
    top = bottom + height
    thin = max(2.0, overlay.font / 9) * POINT
    for label in overlay.labels:
        color = np.array(label.color) / 255
        if label.place.leader is not None:
            (x0, y0), (x1, y1) = label.place.anchor, label.place.leader
            dot = 2 * POINT * _dot(label.place, thin / POINT)
            for shade, extra, layer in (("white", 2 * POINT, 1), (color, 0, 2)):
                line = ([left + x0, left + x1], [top - y0, top - y1])
                axes.plot(*line, color=shade, linewidth=thin + extra, zorder=layer, solid_capstyle="round")
                axes.plot(left + x0, top - y0, "o", color=shade, markersize=dot + extra, mew=0, zorder=layer)
        x0, y0, x1, y1 = label.place.box
        add_box(axes, (left + x0, top - y1, left + x1, top - y0), _pad(overlay.font), color=color, lw=0, zorder=3)
        middle = (left + (x0 + x1) / 2, top - (y0 + y1) / 2)
        ink = np.array(text_color(label.color)) / 255
        write(axes, *middle, label.text, overlay.font, ha="center", color=ink, zorder=4)


def compose_overlay(image: np.ndarray, graph: SceneGraph, scale: float | None = None) -> Overlay:
    """The painted image and its labels, for `draw_overlay` and `add_overlay`; arguments as of the former."""
    if image.shape[:2] != (graph.height, graph.width):
        raise ValueError(f"image: expected {graph.height}x{graph.width}, got {image.shape[0]}x{image.shape[1]}")
    owner = owner_map(graph)
    texts = [obj.label for obj in graph.objects]
    related = related_objects(graph)
    short, long = sorted(image.shape[:2])
    most = max(1.0, min(MAX_LONG_SIDE / long, (MAX_PIXELS / (short * long)) ** 0.5))
    start = scale or min(most, max(1.0, MIN_LONG_SIDE / long, MIN_SHORT_SIDE / short))
    largest = max(MIN_FONT, round(start * min(long / 55, short / 12)))
    # A crowded image first gets a smaller font, then more room.
    tries = [(start, font) for font in sorted({largest, max(MIN_FONT, largest // 2), MIN_FONT}, reverse=True)]
    if scale is None:
        tries += [(start * GROWTH**n, MIN_FONT) for n in range(1, MAX_STEPS) if start * GROWTH**n <= most]
    present, kinds = np.unique(owner[owner > 0]) - 1, [obj.category_id for obj in graph.objects]
    least: tuple[float, float] = (np.inf, np.inf)
    for factor, font in tries:
        enlarged = resize_nearest(owner, scaled(owner.shape, factor))
        tried = place_labels(enlarged, [label_size(text, font) for text in texts], related, kinds)
        trouble = (sum(tried[n] is None for n in present), tangled(tried))
        if least[0] or trouble < least:
            least, places, chosen = trouble, tried, (factor, font)
        if trouble[0] == 0 and (trouble[1] == 0 or factor * GROWTH > UNTANGLE * start):
            break
    factor, font = chosen
    labels = [
        Label(obj.label, class_color(obj.name), place)
        for obj, place in zip(graph.objects, places, strict=True)
        if place is not None
    ]
    return Overlay(paint_masks(image, graph, factor), labels, font)


def owner_map(graph: SceneGraph) -> np.ndarray:
    """(H, W) int32: n + 1 inside object n, 0 elsewhere; where masks overlap, the smallest one has the pixel."""
    owner = np.zeros((graph.height, graph.width), np.int32)
    masks = {index: obj.mask_array() for index, obj in enumerate(graph.objects)}
    for index in sorted(masks, key=lambda i: -int(masks[i].sum())):
        owner[masks[index]] = index + 1
    return owner


def related_objects(graph: SceneGraph) -> set[int]:
    """Indices of the objects that take part in relations."""
    return {index for relation in graph.relations for index in (relation.subject, relation.object)}


def paint_masks(image: np.ndarray, graph: SceneGraph, scale: float = 1.0) -> np.ndarray:
    """The image with the colours of its objects, outlined, and nothing outside their masks changed, at a scale.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    owner = resize_nearest(owner_map(graph), scaled(image.shape, scale))
    size = owner.shape[::-1]
    shrinks = size[0] < image.shape[1]
    canvas = image
    if size != image.shape[1::-1]:
        canvas = cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    colors = np.array([(0, 0, 0), *(class_color(obj.name) for obj in graph.objects)], np.float32)
    opacity = [THING_OPACITY if obj.isthing else STUFF_OPACITY for obj in graph.objects]
    opacity = np.array([0.0, *opacity], np.float32)[owner]
    opacity[_outlines(owner, max(1, round(min(max(size) / 600, min(size) / 120))))] = 1.0
    painted = canvas + opacity[..., None] * (colors[owner] - canvas)
    return painted.round().clip(0, 255).astype(np.uint8)


def _outlines(owner: np.ndarray, thickness: int) -> np.ndarray:
    """(H, W) bool: pixels of objects that are at most `thickness` pixels from another owner's, on the inside."""
    edge = np.zeros(owner.shape, bool)
    for step in range(1, thickness + 1):
        across, down = owner[:, step:] != owner[:, :-step], owner[step:] != owner[:-step]
        edge[:, step:] |= across
        edge[:, :-step] |= across
        edge[step:] |= down
        edge[:-step] |= down
    return edge & (owner > 0)


def scaled(shape: tuple[int, ...], scale: float) -> tuple[int, int]:
    """(H', W') of an image of `shape`, at least 1 pixel each."""
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _dot(place: Place, width: float) -> float:
    """Radius of the dot at a line of this width: a tiny object has to show beside it."""
    return float(np.clip(place.reach / 2, width / 2, 2 * width))


def _pad(font: int) -> int:
    return max(2, font // 4)


def label_size(text: str, font: int) -> tuple[int, int]:
    """Width and height of a label in pixels, the same height for every text."""
    left, _, right, _ = label_font(font).getbbox(text)
    ascent, descent = label_font(font).getmetrics()
    return int(np.ceil(right - left)) + 2 * _pad(font) + 2, ascent + descent + 2

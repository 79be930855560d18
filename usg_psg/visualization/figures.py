"""Figures that count in pixels and keep text as text in SVG files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import IO, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text

DPI = 100
FONT = "DejaVu Sans"  # matplotlib brings it along
POINT = 72 / DPI  # points in a pixel


class Drawing(Figure):
    """A figure whose SVG files have searchable text and are the same each time they are written."""

    def savefig(self, fname: str | os.PathLike | IO, **kwargs: Any) -> None:
        """As matplotlib's, for any suffix it knows."""
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "usg_psg"}):
            if str(fname).lower().endswith(".svg"):
                kwargs.setdefault("metadata", {"Date": None})
            super().savefig(fname, **kwargs)


def drawing(width: float, height: float) -> tuple[Drawing, Axes]:
    """An empty white drawing of a size in pixels, and axes over all of it with one unit to the pixel, y upwards."""
    figure = Drawing(
        figsize=(width / DPI, height / DPI),
        dpi=DPI,
        layout="none",  # type: ignore[arg-type]  # documented, but not in matplotlib's stubs
        facecolor="white",
    )
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    return figure, axes


def to_array(figure: Figure) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a figure at its own resolution."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def write(axes: Axes | Figure, x: float, y: float, text: str, size: float, **style: Any) -> Text:
    """Write text as it stands, in a font size in pixels; style as of matplotlib's `Axes.text`."""
    style = {"fontsize": size * POINT, "fontfamily": FONT, "parse_math": False, "va": "center_baseline", **style}
    return axes.text(x, y, text, **style)


def add_box(axes: Axes, box: Sequence[float], radius: float, **look: Any) -> None:
    """Draw a box (left, bottom, right, top) with round corners; look as of matplotlib's patches."""
    left, bottom, right, top = box
    style = f"round,pad=0,rounding_size={radius}"
    axes.add_patch(FancyBboxPatch((left, bottom), right - left, top - bottom, boxstyle=style, **look))


@lru_cache(maxsize=4096)
def text_size(text: str, pixels: float) -> tuple[float, float]:
    """Width and height in pixels of text, lines included, in a font size in pixels."""
    figure = Drawing(figsize=(1, 1), dpi=DPI)
    FigureCanvasAgg(figure)
    extent = write(figure, 0, 0, text, pixels, va="baseline").get_window_extent()
    return extent.width, extent.height

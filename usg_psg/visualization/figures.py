"""Figures that count in pixels and keep text as text in SVG files."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DPI = 100
FONT = "DejaVu Sans"  # matplotlib brings it along
POINT = 72 / DPI  # points in a pixel


class Drawing(Figure):
    """A figure whose SVG files have searchable text and are the same each time they are written."""

    def savefig(self, fname, **kwargs) -> None:
        """As matplotlib's, for any suffix it knows."""
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "usg_psg"}):
            if str(fname).lower().endswith(".svg"):
                kwargs.setdefault("metadata", {"Date": None})
            super().savefig(fname, **kwargs)


def drawing(width: float, height: float) -> tuple[Drawing, matplotlib.axes.Axes]:
    """An empty white drawing of a size in pixels, and axes over all of it with one unit to the pixel, y upwards."""
    figure = Drawing(figsize=(width / DPI, height / DPI), dpi=DPI, layout="none", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    return figure, axes


def to_array(figure: Figure) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a figure at its own resolution."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def text_size(text: str, pixels: float, **font) -> tuple[float, float]:
    """Width and height in pixels of text, lines included, in a font size in pixels."""
    figure, axes = drawing(10, 10)
    drawn = axes.text(0, 0, text, fontsize=pixels * POINT, fontfamily=FONT, parse_math=False, **font)
    extent = drawn.get_window_extent(figure.canvas.get_renderer())
    return extent.width, extent.height

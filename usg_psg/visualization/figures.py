"""Figures that count in pixels and keep text as text in SVG files."""

from __future__ import annotations

import os
from typing import IO, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

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


def text_size(text: str, pixels: float) -> tuple[float, float]:
    """Width and height in pixels of text, lines included, in a font size in pixels."""
    _, axes = drawing(10, 10)
    drawn = axes.text(0, 0, text, fontsize=pixels * POINT, fontfamily=FONT, parse_math=False)
    extent = drawn.get_window_extent()
    return extent.width, extent.height

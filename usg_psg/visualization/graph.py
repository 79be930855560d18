"""Drawing of a scene graph as nodes and labelled arrows."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from ..scene_graph import SceneGraph
from .colors import class_color, text_color
from .figures import add_box, drawing, text_size, write
from .graph_layout import layout_graph, route

WEAK_SCORE = 0.02  # relations below it are left out by default, and faint where they are asked for
FAINT = 0.35  # opacity
NODE_FONT, LABEL_FONT = 19.0, 15.0  # pixels
NODE_PAD, LABEL_PAD = np.array([24.0, 18.0]), np.array([12.0, 8.0])  # what a box adds to its text, both sides together
MARGIN = 24.0
SMALLEST = np.array([420.0, 200.0])  # of a drawing
HEAD = np.array([14.0, 5.5])  # length and half width of an arrow's head


def draw_graph(graph: SceneGraph, show_scores: bool = True) -> Figure:
    """Draw the relations of a graph, e.g. `graph.constrained().top(k, WEAK_SCORE)`, between the objects that have any.

    Nodes have the colours of their masks in `draw_overlay`; each arrow goes from subject to object, in the subject's
    colour, and through the box of its predicate. Several predicates of one pair share an arrow. The drawing grows
    with the graph, so that no box covers another. With show_scores predicates have scores behind them, and arrows
    whose scores are all below `WEAK_SCORE` are faint.

    Returns:
        A figure, to be saved with `figure.savefig(path)` as PNG, SVG or PDF.
    """
    edges: dict[tuple[int, int], list[str]] = {}
    strong: set[tuple[int, int]] = set()
    for relation in graph.relations:
        pair, score = (relation.subject, relation.object), f" {relation.score:.2f}" if show_scores else ""
        edges.setdefault(pair, []).append(relation.predicate + score)
        if not show_scores or relation.score >= WEAK_SCORE:
            strong.add(pair)
    nodes = sorted({i for pair in edges for i in pair})
    if not nodes:
        figure, axes = drawing(*SMALLEST)
        x, y = SMALLEST / 2
        write(axes, x, y, "no relations", NODE_FONT, ha="center", va="center", color="0.4")
        return figure
    names = [graph.objects[i].label for i in nodes]
    labels = ["\n".join(lines) for lines in edges.values()]
    node_sizes = [text_size(name, NODE_FONT) + NODE_PAD for name in names]
    sizes = np.array([*node_sizes, *(text_size(label, LABEL_FONT) + LABEL_PAD for label in labels)])
    position = {node: n for n, node in enumerate(nodes)}
    arrows = [(position[subject], position[object_]) for subject, object_ in edges]
    centres, extent = layout_graph(sizes, arrows)
    size = np.maximum(np.ceil(extent) + 2 * MARGIN, SMALLEST)
    centres = centres + (size - extent) / 2
    figure, axes = drawing(*size)
    colors = [class_color(graph.objects[i].name) for i in nodes]
    opacity = [1.0 if pair in strong else FAINT for pair in edges]
    _draw_arrows(axes, arrows, centres, sizes, [_dark(color) for color in colors], opacity)
    for n, name in enumerate(names):
        _draw_box(axes, centres[n], sizes[n], name, NODE_FONT, np.array(colors[n]) / 255, "0.2", text_color(colors[n]))
    for n, label in enumerate(labels, start=len(nodes)):
        arrow = n - len(nodes)
        edge = _dark(colors[arrows[arrow][0]])
        _draw_box(axes, centres[n], sizes[n], label, LABEL_FONT, "white", edge, (25, 25, 25), opacity[arrow])
    return figure


def _dark(color: tuple[int, int, int]) -> np.ndarray:
    """The colour in 0 to 1, darkened until a thin line of it shows on white."""
    shade = np.array(color) / 255
    luminance = float(shade @ (0.299, 0.587, 0.114))
    return shade * min(1.0, 0.45 / max(luminance, 1e-6))


def _draw_box(
    axes: Axes,
    centre: np.ndarray,
    size: np.ndarray,
    text: str,
    font: float,
    face: np.ndarray | str,
    edge: np.ndarray | str,
    color: tuple[int, int, int],
    opacity: float = 1.0,
) -> None:
    x, y = centre
    low, high = centre - size / 2, centre + size / 2
    look: dict[str, Any] = {"facecolor": face, "edgecolor": (edge, opacity), "linewidth": 1.1, "zorder": 3}
    add_box(axes, (*low, *high), min(8.0, size[1] / 4), **look)
    ink: dict[str, Any] = {"color": np.array(color) / 255, "alpha": 0.5 + 0.5 * opacity}  # text has to be read
    write(axes, x, y, text, font, ha="center", va="center", zorder=4, **ink)


def _draw_arrows(
    axes: Axes,
    arrows: list[tuple[int, int]],
    centres: np.ndarray,
    sizes: np.ndarray,
    colors: list[np.ndarray],
    opacity: list[float],
) -> None:
    count = len(centres) - len(arrows)
    subject, object_ = (centres[[arrow[end] for arrow in arrows]] for end in (0, 1))
    for n, line in enumerate(route(subject, centres[count:], object_, points=60)):
        target = arrows[n][1]
        # The second half, from the label on: up to where it enters the object's box.
        away = np.abs(line - centres[target]) - sizes[target] / 2
        outside = np.flatnonzero((away > 2.0).any(axis=1))
        last = int(outside[-1])
        tip = line[last]
        start = line[max(0, last - 4)] if np.linalg.norm(tip - line[max(0, last - 4)]) > 1 else line[0]
        along = (tip - start) / np.linalg.norm(tip - start)
        back = tip - HEAD[0] * along
        side = HEAD[1] * np.array([-along[1], along[0]])
        # The line stops inside the head, whose point would be blunt otherwise.
        body = line[: last + 1]
        body = np.vstack([body[np.linalg.norm(body - tip, axis=1) > HEAD[0]], back + 0.2 * (tip - back)])
        look: dict[str, Any] = {"color": colors[arrows[n][0]], "alpha": opacity[n]}
        axes.plot(*body.T, linewidth=1.6, solid_capstyle="butt", zorder=1, **look)
        axes.add_patch(Polygon([tip, back + side, back - side], closed=True, lw=0, zorder=2, **look))

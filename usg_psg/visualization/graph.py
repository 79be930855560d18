"""Drawing of a scene graph as nodes and labelled arrows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib
import networkx
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.transforms import Bbox

from .colors import class_color, display_names, text_color

if TYPE_CHECKING:
    from ..predictor import SceneGraph

CURVATURE = 0.14  # keeps the arrows of (a, b) and (b, a) apart
ALONG = np.linspace(0.5, 0.12, 20)  # places of a label on its arrow, middle first


def draw_graph(graph: SceneGraph, show_scores: bool = True) -> Figure:
    """Draw the relations of a graph between the objects that take part in them.

    Nodes have the colours of their masks in `draw_overlay`; each arrow goes from subject to object and carries the
    predicate. Several predicates of one pair share an arrow.

    Args:
        graph: usually `graph.constrained().top(k)`.
        show_scores: write scores behind predicates.

    Returns:
        A figure, to be saved with `figure.savefig(path)` as PNG or SVG.
    """
    edges: dict[tuple[int, int], list[str]] = {}
    for relation in graph.relations:
        score = f" {relation.score:.2f}" if show_scores else ""
        edges.setdefault((relation.subject, relation.object), []).append(relation.predicate + score)
    nodes = sorted({i for pair in edges for i in pair})
    side = 4.2 + 0.4 * len(nodes)
    figure = Figure(figsize=(1.35 * side, side), dpi=100, layout="none")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-1.45, 1.45)
    axes.set_ylim(-1.2, 1.2)
    if not nodes:
        axes.text(0, 0, "no relations", ha="center", va="center", fontsize=16, color="0.4")
        return figure
    place = _layout(nodes, edges)
    names = display_names([o.name for o in graph.objects])
    boxes = [_draw_node(axes, place[i], names[i], class_color(graph.objects[i].name)) for i in nodes]
    taken = [patch.get_window_extent(figure.canvas.get_renderer()) for patch in boxes]
    patches = dict(zip(nodes, boxes, strict=True))
    for (subject, object_), labels in edges.items():
        _draw_edge(axes, place[subject], place[object_], patches[subject], patches[object_], "\n".join(labels), taken)
    return figure


def _layout(nodes: list[int], edges: dict[tuple[int, int], list[str]]) -> dict[int, np.ndarray]:
    """Places in [-1.15, 1.15] x [-1, 1]: on an ellipse, in an order that keeps related nodes close."""
    related = networkx.Graph()
    related.add_nodes_from(nodes)
    related.add_edges_from(edges)
    if len(nodes) <= 3:
        order = nodes
    else:
        spread = networkx.kamada_kawai_layout(related.subgraph(nodes)) if networkx.is_connected(related) else None
        spread = spread or networkx.spring_layout(related, seed=0)
        order = sorted(nodes, key=lambda i: np.arctan2(spread[i][1], spread[i][0]))
    angles = np.pi / 2 + 2 * np.pi * np.arange(len(order)) / len(order)
    if len(order) == 2:
        angles = np.array([np.pi, 0.0])
    return {
        node: np.array([1.12 * np.cos(angle), 0.98 * np.sin(angle)]) for node, angle in zip(order, angles, strict=True)
    }


def _draw_node(axes, place: np.ndarray, name: str, color: tuple[int, int, int]):
    text = axes.text(
        *place,
        name,
        ha="center",
        va="center",
        fontsize=14,
        color=np.array(text_color(color)) / 255,
        bbox={"boxstyle": "round,pad=0.45", "facecolor": np.array(color) / 255, "edgecolor": "0.25"},
        zorder=3,
    )
    text.draw(axes.figure.canvas.get_renderer())  # gives the box its size
    return text.get_bbox_patch()


def _draw_edge(axes, start, end, start_patch, end_patch, label: str, taken: list[Bbox]) -> None:
    arrow = FancyArrowPatch(
        start,
        end,
        connectionstyle=f"arc3,rad={CURVATURE}",
        arrowstyle="-|>",
        mutation_scale=18,
        patchA=start_patch,
        patchB=end_patch,
        shrinkA=2,
        shrinkB=3,
        color="0.45",
        linewidth=1.6,
        zorder=1,
    )
    axes.add_patch(arrow)
    text = axes.text(
        0,
        0,
        label,
        ha="center",
        va="center",
        fontsize=11,
        color="0.1",
        bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "0.8", "linewidth": 0.6},
        zorder=2,
    )
    # The control point of matplotlib's arc3, in screen pixels: off the middle by CURVATURE times the distance.
    to_pixels = axes.transData.transform
    a, b = to_pixels(start), to_pixels(end)
    control = (a + b) / 2 + CURVATURE * np.array([b[1] - a[1], a[0] - b[0]])
    renderer = axes.figure.canvas.get_renderer()
    best, least = None, np.inf
    for t in (t for near in ALONG for t in (near, 1 - near)):
        point = (1 - t) ** 2 * a + 2 * t * (1 - t) * control + t**2 * b
        text.set_position(axes.transData.inverted().transform(point))
        text.draw(renderer)
        extent = text.get_bbox_patch().get_window_extent(renderer)
        covered = sum(_shared_area(extent, other) for other in taken)
        if covered < least:
            best, least = (text.get_position(), extent), covered
        if covered == 0:
            break
    text.set_position(best[0])
    taken.append(best[1])


def _shared_area(a: Bbox, b: Bbox) -> float:
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(0.0, width) * max(0.0, height)


matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text in SVG files

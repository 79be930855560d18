"""Annotation beside prediction: which relations were found, which are wrong, which are missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..evaluation.errors import TripletErrors, triplet_errors
from ..evaluation.image_match import ImageMatch
from ..evaluation.inputs import GroundTruth, Prediction
from ..evaluation.matching import NEVER
from ..masks import label_map_from_masks
from ..scene_graph import SceneGraph, SceneRelation
from ..utils.text import counted
from .figures import drawing, text_size, write
from .overlay import add_overlay, compose_overlay, label_font

PANEL_WIDTH, PANEL_HEIGHT = 680, 620  # pixels; the larger side of the image decides
MARGIN, TITLE, ROW, TEXT = 24, 40, 26, 15  # pixels
GREEN, RED, AMBER, GRAY = "#1a7f37", "#c0262d", "#9a6700", "#6e7781"


def compare_graphs(ground_truth: SceneGraph, prediction: SceneGraph, k: int) -> TripletErrors:
    """Match the first k relations of a prediction with an annotation, by the rules of `single` in docs/evaluation.md.

    One rule has no place here: pairs whose ends became one segment take ranks there, but a scene graph has none.

    Raises:
        ValueError: if the sizes differ, masks of one graph overlap, or one id stands for two names.
    """
    sizes = [(graph.height, graph.width) for graph in (ground_truth, prediction)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"prediction: expected {sizes[0][0]}x{sizes[0][1]}, got {sizes[1][0]}x{sizes[1][1]}")
    _check_vocabulary(ground_truth, prediction)
    labels, rows, segment_map = _arrays(prediction, "prediction masks")
    predicted = Prediction(
        labels, rows, segment_map=segment_map, segment_labels=labels, mask_segment=np.arange(len(labels))
    )
    return triplet_errors(ImageMatch(GroundTruth(*_arrays(ground_truth, "ground_truth masks")), predicted), "single", k)


def _arrays(graph: SceneGraph, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Category ids (N,), relations (R, 3) and label map (H, W)."""
    labels = np.array([o.category_id for o in graph.objects], dtype=np.int64)
    rows = np.array([(r.subject, r.object, r.predicate_id) for r in graph.relations], dtype=np.int64).reshape(-1, 3)
    return labels, rows, label_map_from_masks([o.mask for o in graph.objects], name, (graph.height, graph.width))


def draw_comparison(
    image: np.ndarray, ground_truth: SceneGraph, prediction: SceneGraph, k: int = 20, title: str = ""
) -> Figure:
    """Masks and relations of an annotation, left, and of the first k relations of a prediction, right.

    Annotated relations are marked as found, with the rank, or missed; predicted ones as right, as right but for the
    predicate, or as not annotated. The image is (H, W, 3) uint8 RGB; errors as of `compare_graphs`.

    Returns:
        A figure, to be saved with `figure.savefig(path)` as PNG, SVG or PDF.
    """
    errors = compare_graphs(ground_truth, prediction, k)
    annotated = list({(r.subject, r.object, r.predicate_id): r for r in ground_truth.relations}.values())
    predicted = prediction.constrained().relations[:k]
    scale = min(PANEL_WIDTH / image.shape[1], PANEL_HEIGHT / image.shape[0])
    overlays = [
        compose_overlay(image, replace(graph, relations=relations), scale)
        for graph, relations in ((ground_truth, annotated), (prediction, predicted))
    ]
    left = _annotated_lines(ground_truth, annotated, errors)
    right = _predicted_lines(prediction, predicted, errors)
    shown = overlays[0].pixels.shape[0]
    above = TITLE if title else 0
    listed = ROW * max(len(left), len(right), 1)
    width, height = 2 * PANEL_WIDTH + 3 * MARGIN, 2 * MARGIN + above + TITLE + shown + MARGIN + listed + ROW
    figure, axes = drawing(width, height)
    top = height - MARGIN
    if title:
        write(axes, MARGIN, top - above / 2, _fit(title, width - 2 * MARGIN, TEXT + 3), TEXT + 3)
    headings = (
        f"Annotation: {int(errors.found.sum())} of {counted(len(annotated), 'relation')} found",
        f"Prediction: {int(errors.hits.sum())} annotated among the first {len(predicted)}",
    )
    for n, (heading, overlay, lines) in enumerate(zip(headings, overlays, (left, right), strict=True)):
        x, y = MARGIN + n * (PANEL_WIDTH + MARGIN), top - above
        write(axes, x, y - TITLE / 2, heading, TEXT + 2, weight="bold")
        y -= TITLE + shown
        add_overlay(axes, overlay, x + (PANEL_WIDTH - overlay.pixels.shape[1]) // 2, y)
        _write_lines(axes, x, y - MARGIN, lines)
    legend = "\u2713 found, \u2717 missed or not annotated, \u2260 pair annotated with another predicate"
    write(axes, MARGIN, MARGIN, legend, TEXT - 2, color=GRAY)
    return figure


Line = tuple[str, str, str, str]  # mark, its colour, relation, remark


def _annotated_lines(graph: SceneGraph, relations: Sequence[SceneRelation], errors: TripletErrors) -> list[Line]:
    lines = []
    for relation, rank in zip(relations, errors.ranks.tolist(), strict=True):
        mark, color, remark = ("\u2713", GREEN, f"rank {rank + 1}") if rank != NEVER else ("\u2717", RED, "missed")
        lines.append((mark, color, _spoken(graph, relation), remark))
    return lines


def _predicted_lines(graph: SceneGraph, relations: Sequence[SceneRelation], errors: TripletErrors) -> list[Line]:
    lines = []
    for n, relation in enumerate(relations):
        mark, color = ("\u2713", GREEN) if errors.hits[n] else ("\u2260", AMBER) if errors.near[n] else ("\u2717", GRAY)
        lines.append((mark, color, f"{n + 1}. {_spoken(graph, relation)}", f"{relation.score:.2f}"))
    return lines


def _spoken(graph: SceneGraph, relation: SceneRelation) -> str:
    ends = (graph.objects[i].label for i in (relation.subject, relation.object))
    return f" {relation.predicate} ".join(ends)


def _write_lines(axes: Axes, x: float, y: float, lines: list[Line]) -> None:
    if not lines:
        write(axes, x, y - ROW / 2, "no relations", TEXT, color=GRAY)
    for mark, color, relation, remark in lines:
        write(axes, x, y - ROW / 2, mark, TEXT, color=color, weight="bold")
        ink = GRAY if color == GRAY else "black"
        write(axes, x + 24, y - ROW / 2, _fit(relation, PANEL_WIDTH - 24 - 90), TEXT, color=ink)
        write(axes, x + PANEL_WIDTH, y - ROW / 2, remark, TEXT, color=color, ha="right")
        y -= ROW


def _fit(text: str, width: float, size: int = TEXT) -> str:
    """The text, cut off with an ellipsis where it is wider than `width` pixels."""
    # Pillow measures faster; matplotlib's glyphs are some percent wider or narrower, so near the limit it decides.
    if label_font(size).getlength(text) < 0.9 * width or text_size(text, size)[0] <= width:
        return text
    low, high = 0, len(text)  # that many letters fit, that many do not
    while high - low > 1:
        middle = (low + high) // 2
        fits = text_size(text[:middle] + "\u2026", size)[0] <= width
        low, high = (middle, high) if fits else (low, middle)
    return text[:low] + "\u2026"


def _check_vocabulary(*graphs: SceneGraph) -> None:
    names: dict[tuple[str, int], str] = {}
    for graph in graphs:
        entries = [("category_id", o.category_id, o.name) for o in graph.objects]
        entries += [("predicate_id", r.predicate_id, r.predicate) for r in graph.relations]
        for kind, index, name in entries:
            if names.setdefault((kind, index), name) != name:
                known = names[kind, index]
                raise ValueError(f"prediction: {kind} {index} is {name!r}, but {known!r} in ground_truth")

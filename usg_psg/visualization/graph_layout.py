"""Places for the boxes of a scene graph drawing: nodes, and the labels that sit on the arrows between them.

A label is a box of its own half-way between subject and object, so an arrow always passes through its own label, and
boxes that are kept apart keep labels readable. Letters: N nodes, E arrows, M = N + E boxes (nodes first, then the
label of each arrow). Units are pixels, y upwards.
"""

from __future__ import annotations

from collections.abc import Sequence

import networkx
import numpy as np

from .geometry import boxes_around, crossings, length_inside

GAP = 12.0  # least distance between two boxes
ARROW = 30.0  # least distance between a label and the nodes of its arrow, so that the arrow shows
ASPECT = 1.6  # width to height of the drawing that is aimed at
STARTS, MOVES = 4, 300  # layouts tried, and improvements tried on each
LARGE = 60  # boxes from which one start has to do
HUGE = 240  # boxes from which a faster method has to do


def layout_graph(sizes: np.ndarray, arrows: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Centres of all boxes so that no two overlap, connected components side by side.

    Args:
        sizes: (M, 2) width and height of the boxes: N nodes, then one label for each arrow.
        arrows: E pairs (subject, object) of nodes.

    Returns:
        centres (M, 2), from 0 upwards, and the width and height of the drawing.
    """
    count = len(sizes) - len(arrows)
    links = np.array([(a, count + n, b) for n, (a, b) in enumerate(arrows)], dtype=np.int64).reshape(-1, 3)
    linked = networkx.Graph()
    linked.add_nodes_from(range(len(sizes)))
    linked.add_edges_from([*links[:, :2].tolist(), *links[:, 1:].tolist()])
    centres, blocks = np.zeros((len(sizes), 2)), []
    for members in networkx.connected_components(linked):
        block = np.array(sorted(members))
        inside = np.searchsorted(block, links[np.isin(links[:, 0], block)])
        centres[block] = _layout_component(sizes[block], inside, np.random.default_rng(0))
        blocks.append(block)
    return _pack(centres, sizes, blocks)


def route(subject: np.ndarray, label: np.ndarray, object_: np.ndarray, points: int = 17) -> np.ndarray:
    """(E, 2 * points - 1, 2) polylines from subjects through labels to objects, each (E, 2), smooth at the label."""
    along = object_ - subject
    away = label - subject
    loop = np.abs(along).sum(axis=1) < 1e-9  # a relation of an object with itself leaves and enters side by side
    along = (
        np.where(loop[:, None], np.stack([-away[:, 1], away[:, 0]], axis=1), along) * np.where(loop, 0.6, 0.22)[:, None]
    )
    # Bounded, so that a short half does not curl.
    reach = np.minimum(np.linalg.norm(label - subject, axis=1), np.linalg.norm(object_ - label, axis=1))
    length = np.linalg.norm(along, axis=1)
    along *= np.minimum(1.0, 0.55 * reach / np.maximum(length, 1e-9))[:, None]
    t = np.linspace(0, 1, points)[None, :, None]

    def curve(start: np.ndarray, bend: np.ndarray, end: np.ndarray) -> np.ndarray:
        start, bend, end = start[:, None], bend[:, None], end[:, None]
        return (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end

    first, second = curve(subject, label - along, label), curve(label, label + along, object_)
    return np.concatenate([first, second[:, 1:]], axis=1)


def _layout_component(sizes: np.ndarray, links: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(m, 2) centres of the boxes of one component; links (e, 3) are rows (subject, label, object)."""
    if len(sizes) == 1:
        return np.zeros((1, 2))
    if len(sizes) == 3 and len(links) == 1:  # two nodes and their arrow, in one line
        (subject, label, object_), centres = links[0], np.zeros((3, 2))
        centres[label, 0] = sizes[[subject, label], 0].sum() / 2 + ARROW
        centres[object_, 0] = centres[label, 0] + sizes[[label, object_], 0].sum() / 2 + ARROW
        return centres
    gaps = np.full((len(sizes), len(sizes)), GAP)
    for end in (0, 2):
        gaps[links[:, end], links[:, 1]] = gaps[links[:, 1], links[:, end]] = ARROW
    found = []
    for start in range(STARTS if len(sizes) <= LARGE else 1):
        centres = _separate(_spread(sizes, links, rng, start), sizes, gaps)
        found.append(_improve(centres, sizes, links, gaps, rng))
    return min(found, key=lambda layout: layout[1])[0]


def _spread(sizes: np.ndarray, links: np.ndarray, rng: np.random.Generator, start: int) -> np.ndarray:
    """A layout whose links are about as long as boxes and arrows need; boxes may still overlap."""
    # Boxes are wide and low: lay out in a plane where they are about square, then stretch it.
    reach = (sizes[:, 0] / ASPECT + sizes[:, 1]) / 4
    graph = networkx.Graph()
    graph.add_nodes_from(range(len(sizes)))
    pairs = np.unique(np.concatenate([links[:, :2], links[:, 2:0:-1]]), axis=0)
    lengths = reach[pairs].sum(axis=1) + ARROW
    graph.add_weighted_edges_from(zip(*pairs.T.tolist(), lengths.tolist(), strict=True))
    angles = rng.permutation(len(sizes)) * 2 * np.pi / len(sizes)
    circle = {n: np.array([np.cos(a), np.sin(a)]) for n, a in enumerate(angles)}
    if len(sizes) > HUGE:
        place = networkx.spring_layout(graph, pos=circle, weight=None, iterations=60, seed=0)
    else:
        place = networkx.kamada_kawai_layout(graph, pos=circle if start else None)
    centres = np.array([place[n] for n in range(len(sizes))])
    # networkx fits the result into a square of its own: give the links the length that they need.
    found = np.linalg.norm(centres[pairs[:, 0]] - centres[pairs[:, 1]], axis=1)
    return centres * np.median(lengths / np.maximum(found, 1e-6)) * np.array([ASPECT, 1.0])


def _separate(centres: np.ndarray, sizes: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """Push boxes apart until no two are closer than their gap."""
    centres = centres.copy()
    need = (sizes[:, None] + sizes[None]) / 2 + gaps[..., None] + 0.5
    diagonal = np.arange(len(sizes))
    # Boxes in one place go apart by their index.
    tie = np.where(diagonal[:, None] > diagonal[None], 1.0, -1.0)[..., None]
    while True:
        for _ in range(200):
            offset = centres[:, None] - centres[None]
            missing = need - np.abs(offset)
            missing[diagonal, diagonal] = 0
            close = (missing > 0).all(axis=2)
            if not close.any():
                return centres
            # Along the axis where less is missing, in relation to what the boxes need.
            vertical = missing[..., 1] * ASPECT < missing[..., 0]
            axis = np.stack([~vertical, vertical], axis=2) & close[..., None]
            direction = np.where(offset == 0, tie, np.sign(offset))
            centres += 0.5 * (missing * direction * axis).sum(axis=1) / np.maximum(1, axis.sum(axis=1)) * 1.05
        centres *= 1.15


def _improve(
    centres: np.ndarray, sizes: np.ndarray, links: np.ndarray, gaps: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Move single boxes, or exchange two nodes, as long as arrows become easier to follow; also the cost reached."""
    cost = _cost(centres, sizes, links)
    nodes = np.setdiff1d(np.arange(len(sizes)), links[:, 1])
    moves = MOVES if len(sizes) <= LARGE else MOVES // 3
    for move in range(moves):
        trial = centres.copy()
        if move % 6 == 5 and len(nodes) > 2:
            swapped = rng.choice(nodes, 2, replace=False)
            trial[swapped] = trial[swapped[::-1]]
        elif move % 3 == 0:
            # A label that was carried away returns to the middle of its arrow.
            subject, label, object_ = links[rng.integers(len(links))]
            trial[label] = (trial[subject] + trial[object_]) / 2 + rng.normal(size=2) * (8, 8)
        else:
            box = rng.integers(len(sizes))
            trial[box] += rng.normal(size=2) * np.array([ASPECT, 1.0]) * rng.choice([15.0, 60.0, 150.0])
        offset = np.abs(trial[:, None] - trial[None])
        close = (offset < (sizes[:, None] + sizes[None]) / 2 + gaps[..., None]).all(axis=2)
        np.fill_diagonal(close, False)
        if close.any():
            continue
        new = _cost(trial, sizes, links, cost)
        if new < cost:
            centres, cost = trial, new
    return centres, cost


def _cost(centres: np.ndarray, sizes: np.ndarray, links: np.ndarray, limit: float = np.inf) -> float:
    """How hard a drawing is to read: arrows behind foreign boxes, crossings, length and bends, size. In pixels.

    From `limit` on it need not be exact.
    """
    subject, label, object_ = (centres[links[:, n]] for n in range(3))
    lines = route(subject, label, object_, points=3)
    segments = np.concatenate([lines[:, :-1], lines[:, 1:]], axis=2).reshape(-1, 4)
    bend = np.linalg.norm(label - (subject + object_) / 2, axis=1).sum()
    extent = (centres + sizes / 2).max(axis=0) - (centres - sizes / 2).min(axis=0)
    length = np.linalg.norm(segments[:, 2:] - segments[:, :2], axis=1).sum()
    cost = float(length + 1.6 * bend + 2 * max(extent[0] / ASPECT, extent[1]))
    if cost >= limit:
        return cost
    owner = np.repeat(np.arange(len(links)), lines.shape[1] - 1)
    inside = length_inside(segments, boxes_around(centres, sizes + 8))
    inside[np.arange(len(segments))[:, None], links[owner]] = 0
    crossed = crossings(segments, segments)
    crossed[owner[:, None] == owner[None]] = False
    return cost + float(12 * inside.sum() + 250 * (inside > 0).sum() + 60 * crossed.sum())


def _pack(centres: np.ndarray, sizes: np.ndarray, blocks: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Put components on shelves, tallest first; moves `centres` in place and returns the extent, (2,), too."""
    space = 3 * GAP
    low = np.array([(centres[b] - sizes[b] / 2).min(axis=0) for b in blocks]).reshape(-1, 2)
    extents = np.array([(centres[b] + sizes[b] / 2).max(axis=0) for b in blocks]).reshape(-1, 2) - low
    limit = max(extents[:, 0].max(initial=0), np.sqrt((extents + space).prod(axis=1).sum() * ASPECT))
    x = y = shelf = width = 0.0
    for n in np.argsort(-extents[:, 1], kind="stable"):
        if x and x + extents[n, 0] > limit:
            x, y, shelf = 0.0, y + shelf + space, 0.0
        centres[blocks[n]] += np.array([x, y]) - low[n]
        x += extents[n, 0] + space
        shelf, width = max(shelf, extents[n, 1]), max(width, x - space)
    return centres, np.array([width, y + shelf])

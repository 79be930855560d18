"""Places for the labels of masks in an image: inside it, apart from each other, close to what they name.

Letters: N objects, C candidate places, H W pixels. Coordinates are pixels (x, y) from the upper left corner; a box is
(left, top, right, bottom).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import find_objects

from .geometry import crossings, length_inside, shared_area

GAP = 3.0  # least distance between labels
SITS = 0.6  # part of a label that must lie on its object for the label to need no line
HIDES = 0.35  # part of its object that a label on it may cover
CHECKED = 60  # best places whose lines are looked at
NEAR = (4.0, 12.0, np.inf)  # label heights from the object's middle within which places are looked for first
# Costs, in label heights of distance.
LINE, COVER, CROSS = 2.5, 8.0, 12.0


@dataclass(frozen=True)
class Place:
    """Where a label goes.

    Attributes:
        box: of the label.
        anchor: a point of the object, in the middle of its thickest part.
        leader: end of the line from the anchor to the label, None for a label that sits on its object.
    """

    box: tuple[float, float, float, float]
    anchor: tuple[float, float]
    leader: tuple[float, float] | None


def place_labels(
    owner: np.ndarray, sizes: list[tuple[float, float]], first: Collection[int] = ()
) -> list[Place | None]:
    """Places for the labels of N objects with these widths and heights, small objects first.

    Args:
        owner: (H, W) int32: n + 1 inside object n, 0 elsewhere.
        first: objects whose labels choose before all others.

    Returns:
        N places; None for an object without pixels, and where no room is left.
    """
    count = len(sizes)
    area = np.bincount(owner.ravel(), minlength=count + 1)[1:]
    # A label over another object costs the part of it that it hides.
    weight = np.concatenate([[0.0], 1.0 / np.maximum(area, 1)]).astype(np.float32)
    hidden = cv2.integral(weight[owner], sdepth=cv2.CV_64F)
    crops = find_objects(owner, max_label=count)
    places: list[Place | None] = [None] * count
    boxes, lines = np.zeros((0, 4)), np.zeros((0, 4))
    for index in sorted(np.flatnonzero(area).tolist(), key=lambda n: (n not in first, area[n])):
        crop = crops[index]
        mask = (owner[crop] == index + 1).astype(np.uint8)
        place = _best_place(mask, crop, sizes[index], hidden, boxes, lines)
        if place is None:
            continue
        places[index] = place
        boxes = np.vstack([boxes, place.box])
        if place.leader is not None:
            lines = np.vstack([lines, [*place.anchor, *place.leader]])
    return places


def anchors(owner: np.ndarray, count: int) -> list[tuple[float, float] | None]:
    """A point (x, y) of each of `count` objects, in the middle of its thickest part; None for one without pixels."""
    found = []
    for index, crop in enumerate(find_objects(owner, max_label=count)):
        mask = crop and (owner[crop] == index + 1).astype(np.uint8)
        found.append(None if mask is None else tuple(_anchor(mask, crop).tolist()))
    return found


def has_room(owner: np.ndarray, places: list[Place | None]) -> bool:
    """Every object that has pixels has a place."""
    present = np.unique(owner)
    return all(places[n - 1] is not None for n in present[present > 0])


def _best_place(
    mask: np.ndarray,
    crop: tuple[slice, slice],
    size: tuple[float, float],
    hidden: np.ndarray,
    boxes: np.ndarray,
    lines: np.ndarray,
) -> Place | None:
    height, width = hidden.shape[0] - 1, hidden.shape[1] - 1
    if size[0] > width or size[1] > height:
        return None
    anchor = _anchor(mask, crop)
    candidates = _candidates(anchor, size, (width, height))
    own = cv2.integral(mask), np.array([crop[1].start, crop[0].start] * 2)
    from_edge = np.linalg.norm(np.clip(anchor, candidates[:, :2], candidates[:, 2:]) - anchor, axis=1)
    # A place costs its distance at least: the best near one is the best of all if no farther one can cost less.
    for reach in NEAR:
        near = candidates[from_edge <= reach * size[1]]
        found = _cheapest(near, anchor, size, float(mask.sum()), own, hidden, boxes, lines)
        if found is not None and found[1] <= reach:
            break
    return found and found[0]


def _anchor(mask: np.ndarray, crop: tuple[slice, slice]) -> np.ndarray:
    """(x, y) of the pixel in the middle of a mask's thickest part; the mask is cut out of the image at crop."""
    distance = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    thickest = np.argwhere(distance > distance.max() - 1)  # a whole line of them in a long object: its middle
    row, column = thickest[np.linalg.norm(thickest - thickest.mean(axis=0), axis=1).argmin()]
    return np.array([crop[1].start + column + 0.5, crop[0].start + row + 0.5])


def _cheapest(
    candidates: np.ndarray,
    anchor: np.ndarray,
    size: tuple[float, float],
    area: float,
    mask: tuple[np.ndarray, np.ndarray],
    hidden: np.ndarray,
    boxes: np.ndarray,
    lines: np.ndarray,
) -> tuple[Place, float] | None:
    """The place of least cost among the candidates, and its cost; None where each touches another label."""
    if len(boxes):
        candidates = candidates[(shared_area(candidates, boxes, GAP) == 0).all(axis=1)]
    if not len(candidates):
        return None
    own = _inside(mask[0], candidates - mask[1])
    sits = (own >= SITS * size[0] * size[1]) & (own <= HIDES * area)
    nearest = np.clip(anchor, candidates[:, :2], candidates[:, 2:])
    from_middle = np.linalg.norm((candidates[:, :2] + candidates[:, 2:]) / 2 - anchor, axis=1)
    from_edge = np.linalg.norm(nearest - anchor, axis=1)
    cost = np.where(sits, from_middle, from_edge) / size[1] + np.where(sits, 0.0, LINE + COVER * own / area)
    # Nearly under its own label a line would be too short to see.
    cost[~sits & (from_edge < 0.4 * size[1])] += LINE
    cost += COVER * np.clip(_inside(hidden, candidates) - own / area, 0, None)
    if len(lines):
        cost += CROSS * (length_inside(lines, candidates) > 0).sum(axis=0)
    best = np.argsort(cost, kind="stable")[:CHECKED]
    drawn = np.concatenate([np.broadcast_to(anchor, (len(best), 2)), nearest[best]], axis=1)
    trouble = (length_inside(drawn, boxes) > 0).sum(axis=1) + crossings(drawn, lines).sum(axis=1)
    total = cost[best] + np.where(sits[best], 0, CROSS * trouble)
    chosen = best[np.argmin(total)]
    leader = None if sits[chosen] else tuple(nearest[chosen].tolist())
    return Place(tuple(candidates[chosen].tolist()), tuple(anchor.tolist()), leader), float(total.min())


def _candidates(anchor: np.ndarray, size: tuple[float, float], image: tuple[int, int]) -> np.ndarray:
    """(C, 4) boxes in whole pixels all over the image, among them the one around the anchor."""
    axes = []
    for n in (0, 1):
        room = image[n] - size[n]
        step = max(3.0, size[1] / 2)
        centred = np.clip(anchor[n] - size[n] / 2, 0, room)
        before, after = np.arange(centred, 0, -step), np.arange(centred, room, step)
        axes.append(np.unique(np.floor(np.concatenate([[0.0, room, centred], before, after]))))
    left, top = (x.ravel() for x in np.meshgrid(*axes))
    return np.stack([left, top, left + size[0], top + size[1]], axis=1)


def _inside(integral: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(C,) sum over the pixels of each box, of an integral image (h + 1, w + 1); outside of it there is nothing."""
    x = np.clip(np.round(boxes[:, [0, 2]]).astype(int), 0, integral.shape[1] - 1)
    y = np.clip(np.round(boxes[:, [1, 3]]).astype(int), 0, integral.shape[0] - 1)
    sums = integral[y[:, 1], x[:, 1]] - integral[y[:, 0], x[:, 1]] - integral[y[:, 1], x[:, 0]]
    return (sums + integral[y[:, 0], x[:, 0]]).astype(float)

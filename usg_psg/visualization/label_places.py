"""Places for the labels of masks in an image: inside it, apart from each other, close to what they name.

Letters: N objects, C candidate places, H W pixels. Coordinates are pixels (x, y) from the upper left corner; a box is
(left, top, right, bottom).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
LINE, COVER, CROSS, CONFUSE = 2.5, 8.0, 12.0, 6.0
POINT = 4.0  # half side of the square around an object's anchor that lines to others avoid, pixels


@dataclass(frozen=True)
class Place:
    """Where a label goes.

    Attributes:
        box: of the label.
        anchor: a point of the object, in the middle of its thickest part.
        leader: end of the line from the anchor to the label, None for a label that sits on its object.
        reach: from the anchor to the object's edge, pixels.
    """

    box: tuple[float, float, float, float]
    anchor: tuple[float, float]
    leader: tuple[float, float] | None
    reach: float = np.inf


@dataclass(frozen=True)
class _Object:
    """An object's mask cut out of the image, as an integral image, its corner (x, y), anchor, reach and area."""

    mask: np.ndarray
    corner: np.ndarray
    anchor: np.ndarray
    reach: float
    area: int


@dataclass
class _Taken:
    """What labels avoid: as integral images, parts of objects that they hide; as rows, boxes, lines and anchors."""

    hidden: np.ndarray
    boxes: np.ndarray
    lines: np.ndarray
    points: np.ndarray


def place_labels(
    owner: np.ndarray,
    sizes: list[tuple[float, float]],
    first: Collection[int] = (),
    kinds: Sequence[int] | None = None,
) -> list[Place | None]:
    """Places for the labels of N objects with these widths and heights, small objects first.

    Args:
        owner: (H, W) int32: n + 1 inside object n, 0 elsewhere.
        first: objects whose labels choose before all others.
        kinds: category of each object; a label avoids others of its kind, which it would seem to name.

    Returns:
        N places; None for an object without pixels, and where no room is left.
    """
    count = len(sizes)
    area = np.bincount(owner.ravel(), minlength=count + 1)
    # A label over another object costs the part of it that it hides.
    weight = np.where(area > 0, 1.0 / np.maximum(area, 1), 0.0).astype(np.float32)
    weight[0] = 0.0
    kind = np.array([-1, *(range(count) if kinds is None else kinds)])
    present, times = np.unique(kind[1:][area[1:] > 0], return_counts=True)
    shared = {k: cv2.integral((kind == k)[owner].view(np.uint8)) for k in present[times > 1].tolist()}
    objects = _objects(owner, count)
    points = np.array(
        [[-np.inf] * 4 if obj is None else (*(obj.anchor - POINT), *(obj.anchor + POINT)) for obj in objects]
    )
    taken = _Taken(cv2.integral(weight[owner], sdepth=cv2.CV_64F), np.zeros((0, 4)), np.zeros((0, 4)), points)
    places: list[Place | None] = [None] * count
    for index in sorted(range(count), key=lambda n: (n not in first, area[n + 1])):
        obj = objects[index]
        if obj is None:
            continue
        taken.points = np.delete(points, index, axis=0)
        place = places[index] = _best_place(obj, sizes[index], taken, shared.get(int(kind[index + 1])))
        if place is None:
            continue
        taken.boxes = np.vstack([taken.boxes, place.box])
        if place.leader is not None:
            taken.lines = np.vstack([taken.lines, [*place.anchor, *place.leader]])
    return places


def anchors(owner: np.ndarray, count: int) -> list[tuple[float, float] | None]:
    """A point (x, y) of each of `count` objects, in the middle of its thickest part; None for one without pixels."""
    return [None if obj is None else (obj.anchor[0], obj.anchor[1]) for obj in _objects(owner, count)]


def tangled(places: list[Place | None]) -> int:
    """How many lines cross another line, or pass under the label of another object."""
    found = [place for place in places if place is not None]
    lines = np.array([[*p.anchor, *p.leader] for p in found if p.leader is not None]).reshape(-1, 4)
    boxes = np.array([p.box for p in found]).reshape(-1, 4)
    own = np.array([[p is q for q in found] for p in found if p.leader is not None], bool).reshape(
        len(lines), len(found)
    )
    under = (length_inside(lines, boxes) > 0) & ~own
    return int((under.any(axis=1) | crossings(lines, lines).any(axis=1)).sum())


def _objects(owner: np.ndarray, count: int) -> list[_Object | None]:
    """`count` objects of a map; None for one without pixels."""
    found: list[_Object | None] = []
    for index, crop in enumerate(find_objects(owner, max_label=count)):
        if crop is None:
            found.append(None)
            continue
        mask = (owner[crop] == index + 1).astype(np.uint8)
        distance = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
        thickest = np.argwhere(distance > distance.max() - 1)  # a whole line of them in a long object: its middle
        middle = thickest[np.linalg.norm(thickest - thickest.mean(axis=0), axis=1).argmin()][::-1]
        corner = np.array([crop[1].start, crop[0].start])
        found.append(
            _Object(cv2.integral(mask), np.tile(corner, 2), corner + middle + 0.5, distance.max(), int(mask.sum()))
        )
    return found


def _best_place(obj: _Object, size: tuple[float, float], taken: _Taken, peers: np.ndarray | None) -> Place | None:
    height, width = taken.hidden.shape[0] - 1, taken.hidden.shape[1] - 1
    if size[0] > width or size[1] > height:
        return None
    candidates = _candidates(obj.anchor, size, (width, height))
    from_edge = np.linalg.norm(np.clip(obj.anchor, candidates[:, :2], candidates[:, 2:]) - obj.anchor, axis=1)
    # A place costs its distance at least: the best near one is the best of all if no farther one can cost less.
    for reach in NEAR:
        near = candidates[from_edge <= reach * size[1]]
        found = _cheapest(near, obj, size, taken, peers)
        if found is not None and found[1] <= reach:
            break
    return found and found[0]


def _cheapest(
    candidates: np.ndarray, obj: _Object, size: tuple[float, float], taken: _Taken, peers: np.ndarray | None
) -> tuple[Place, float] | None:
    """The place of least cost among the candidates, and its cost; None where each touches another label.

    peers: integral image of all objects of its kind, itself among them; None if it is alone.
    """
    if len(taken.boxes):
        candidates = candidates[(shared_area(candidates, taken.boxes, GAP) == 0).all(axis=1)]
    if not len(candidates):
        return None
    anchor, label_area = obj.anchor, size[0] * size[1]
    own = _inside(obj.mask, candidates - obj.corner)
    sits = (own >= SITS * label_area) & (own <= HIDES * obj.area)
    nearest = np.clip(anchor, candidates[:, :2], candidates[:, 2:])
    from_middle = np.linalg.norm((candidates[:, :2] + candidates[:, 2:]) / 2 - anchor, axis=1)
    from_edge = np.linalg.norm(nearest - anchor, axis=1)
    cost = np.where(sits, from_middle, from_edge) / size[1] + np.where(sits, 0.0, LINE + COVER * own / obj.area)
    # Nearly under its own label a line would be too short to see.
    cost[~sits & (from_edge < 0.4 * size[1])] += LINE
    cost += COVER * np.clip(_inside(taken.hidden, candidates) - own / obj.area, 0, None)
    if peers is not None:
        cost += CONFUSE * (_inside(peers, candidates) - own) / label_area
    cost += CROSS * (length_inside(taken.lines, candidates) > 0).sum(axis=0)
    best = np.argsort(cost, kind="stable")[:CHECKED]
    drawn = np.concatenate([np.broadcast_to(anchor, (len(best), 2)), nearest[best]], axis=1)
    trouble = crossings(drawn, taken.lines).sum(axis=1)
    for boxes in (taken.boxes, taken.points):
        trouble += (length_inside(drawn, boxes) > 0).sum(axis=1)
    total = cost[best] + np.where(sits[best], 0, CROSS * trouble)
    chosen = best[np.argmin(total)]
    leader = None if sits[chosen] else tuple(nearest[chosen].tolist())
    place = Place(tuple(candidates[chosen].tolist()), tuple(anchor.tolist()), leader, float(obj.reach))
    return place, float(total.min())


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

"""Places for names in the page's image, as `draw_overlay` finds them, for the sizes at which browsers show it.

Letters: N objects, H W pixels.
"""

from __future__ import annotations

import numpy as np

from ..masks import resize_nearest
from ..scene_graph import SceneGraph
from .label_places import Place, anchors, place_labels
from .overlay import label_size, owner_map, related_objects, scaled

SIDES = (200, 280, 390, 550, 770)  # longer side of the image in CSS pixels; the page enlarges the next smaller
FONT = 12  # CSS pixels
MOST, SHARE = 60, 0.3  # labels that get a place, and the part of the image that they may hide together
LONGEST = 5.0  # line in label heights; a name farther off is shown only where the reader points
NARROWEST = 3  # label heights; a narrower image has no room for names
NO_ROOM = (np.inf, np.inf)


def page_labels(graph: SceneGraph) -> list[dict]:
    """Where the page writes the names of N objects, for each of `SIDES`.

    Returns:
        Records of `side`, `font` (both pixels) and `places`: for each object None if it has no pixels; else, in whole
        pixels, x, y of a point in its thickest part; if its name has room, left, top, width, height of the label; and
        if the label stands beside the object, x, y where the line from the point ends.
    """
    owner = owner_map(graph)
    area = np.bincount(owner.ravel(), minlength=len(graph.objects) + 1)[1:]
    related = related_objects(graph)
    order = sorted(range(len(area)), key=lambda n: (n not in related, -area[n]))[:MOST]
    sizes = [label_size(obj.label, FONT) for obj in graph.objects]
    covered = np.cumsum([sizes[n][0] * sizes[n][1] for n in order])
    kinds = [obj.category_id for obj in graph.objects]
    sets = []
    for side in SIDES:
        shown = _reduced(owner, area, side / max(owner.shape))
        width = shown.shape[1]
        named = {n for n, hidden in zip(order, covered, strict=True) if hidden <= SHARE * shown.size or n == order[0]}
        fitting = [
            (min(w, width), h) if n in named and width >= NARROWEST * h else NO_ROOM for n, (w, h) in enumerate(sizes)
        ]
        places = []
        for point, place in zip(anchors(shown, len(area)), place_labels(shown, fitting, related, kinds), strict=True):
            record = list(point or ())
            if place is not None and _is_near(place):
                left, top, right, bottom = place.box
                record += [left, top, right - left, bottom - top, *(place.leader or ())]
            places.append([round(x) for x in record] or None)
        sets.append({"side": side, "font": FONT, "places": places})
    return sets


def _is_near(place: Place) -> bool:
    height = place.box[3] - place.box[1]
    return place.leader is None or np.hypot(*np.subtract(place.leader, place.anchor)) <= LONGEST * height


def _reduced(owner: np.ndarray, area: np.ndarray, scale: float) -> np.ndarray:
    """The map of objects at another size; an object that would vanish keeps one pixel."""
    reduced = resize_nearest(owner, scaled(owner.shape, scale))
    lost = np.flatnonzero((area > 0) & (np.bincount(reduced.ravel(), minlength=len(area) + 1)[1:] == 0))
    if len(lost):
        values, first = np.unique(owner, return_index=True)
        rows, columns = np.divmod(first[np.searchsorted(values, lost + 1)], owner.shape[1])
        height, width = reduced.shape
        reduced = reduced.copy()
        reduced[rows * height // owner.shape[0], columns * width // owner.shape[1]] = lost + 1
    return reduced

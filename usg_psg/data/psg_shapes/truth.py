"""All relations of a finished scene of the preset "psg", read off where things lie.

Each relation has one canonical predicate, the most specific name that is true of it; `SYNONYMS` lists the other names
that an annotator may write instead. The rules:

- the group that was built for an action has it (`actions.py`);
- a thing on the ground has a support predicate with the stuff under its foot, by class and pose; a thing in the air is
  "flying over" the first ground straight below it; what lies on furniture is "on" it; an animal with its head down is
  "eating" the grass or "drinking" the water;
- of two things on the ground or on the same piece of furniture, the nearer one is "in front of" the other if it hides
  part of it and their segments meet; if not, but they are equally deep and close, the left one is "beside" the right;
- somebody seen in profile, or an animal, is "looking at" the nearest thing beside in that direction;
- a thing is "in front of" the upright stuff (tree, building, fence, ...) that fills most of its surroundings;
- sky and ceiling are "over" the stuff that they meet and over the ground;
- windows, doors, lamps, ... are "attached to" the wall, house, ... that they meet, curtains, towels and nets are
  "hanging from" it;
- upright stuff is "on" the land below it and "in front of" what it hides; walls are "beside" the floor, grounds that
  meet are "beside" each other, a rug is "on" the floor.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np

from ...masks import mask_box
from .figures import ANIMALS, GAZES
from .places import FIXED, GROUND, TOPS, WALLS, WATER
from .psg_layout import Item
from .scene import Background, meeting

Relation = tuple[int, int, str]

# Other names that are true of a relation, besides its canonical predicate.
SYNONYMS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("standing on", "lying on", "sitting on", "parked on", "driving on", "painted on"), ("on",)),
    **dict.fromkeys(("climbing", "riding", "on back of"), ("on",)),
    "walking on": ("on", "standing on"),
    "running on": ("on", "walking on"),
    "crossing": ("on", "walking on"),
    "in front of": ("beside",),
    "hanging from": ("attached to", "on"),
    "attached to": ("on",),
    "flying over": ("over",),
    "driving": ("in", "riding"),
    "carrying": ("holding",),
    "swinging": ("holding", "playing"),
    "eating": ("holding",),
    "drinking": ("holding",),
    "talking to": ("looking at", "beside"),
    "kissing": ("touching",),
    "playing with": ("beside", "looking at"),
    "enclosing": ("in front of",),
    "leaning on": ("on", "beside"),
}

_WALKING = {
    **dict.fromkeys(("walking", "entering", "carrying", "guiding"), "walking on"),
    "running": "running on",
}
_VEHICLES = frozenset(("car", "bus", "truck", "motorcycle", "train", "bicycle"))
_SITTERS = ANIMALS | {"person"}
_HOLDERS = WALLS | {"building-other-merged", "house", "fence-merged", "bridge", "ceiling-merged"}
_BESIDE_GAP = 0.1  # picture widths
_BESIDE_DEPTH = 0.12  # picture heights
_GAZE_GAP = 0.16
_HIDES = 0.03  # of the farther outline


def support(item: Item, ground: str) -> str:
    """How a thing rests on the ground under its foot."""
    if item.name in _VEHICLES:
        return "driving on" if item.pose == "driving" else "parked on"
    if ground in WATER:
        return "in"
    if item.name not in _SITTERS:
        return "on"
    if item.pose == "lying":
        return "lying on"
    return _WALKING.get(item.pose, "standing on")


class SceneTruth:
    """Reads relations off a scene.

    Args:
        background: its stuff, as laid out.
        items: its things, and fences, in the order of their segments.
        segments: (H, W) int32, position + 1 in items, then in stuff.
        stuff: stuff classes of the segments after the items'.
    """

    def __init__(self, background: Background, items: list[Item], segments: np.ndarray, stuff: list[str]):
        self._background, self._items, self._segments = background, items, segments
        self._position: dict[Item | str, int] = {item: i for i, item in enumerate(items)}
        self._position.update({name: len(items) + i for i, name in enumerate(stuff)})
        self._stuff = stuff
        self._meeting = meeting(segments, len(items) + len(stuff))

    def relations(self) -> list[Relation]:
        """Every relation once, (subject, object, canonical predicate), positions of segments."""
        found: dict[tuple[int, int, str], None] = {}
        linked = set()
        for item in self._items:
            for subject, predicate, object_ in item.links:
                if subject in self._position and object_ in self._position:
                    i, j = self._position[subject], self._position[object_]
                    linked.add(frozenset((i, j)))
                    found[i, j, predicate] = None
        rules = (self._supports(linked), self._pairs(linked), self._before_stuff(linked), self._between_stuff())
        found.update(dict.fromkeys(chain(*rules)))
        return list(found)

    def _supports(self, linked: set[frozenset[int]]) -> Iterator[Relation]:
        for i, item in enumerate(self._items):
            if isinstance(item.rests, Item):
                yield i, self._position[item.rests], "on"
            elif item.rests == "ground":
                j = self._position.get(self._background.at(*item.foot))
                if j is not None and frozenset((i, j)) not in linked:
                    ground = self._stuff[j - len(self._items)]
                    yield i, j, support(item, ground)
                    if item.pose == "grazing" and (ground == "grass-merged" or ground in WATER):
                        yield i, j, "drinking" if ground in WATER else "eating"
            elif item.rests == "air":
                below = self._background.ground_below(*item.foot, GROUND)
                if below in self._position:
                    yield i, self._position[below], "flying over"

    def _pairs(self, linked: set[frozenset[int]]) -> Iterator[Relation]:
        height, width = self._segments.shape
        boxes = [mask_box(item.outline)[::2] for item in self._items]
        order = sorted(range(len(self._items)), key=lambda i: sum(boxes[i]))  # from left to right
        nearest: dict[int, tuple[float, int]] = {}
        for k, left in enumerate(order):
            for right in order[k + 1 :]:
                a, b = self._items[left], self._items[right]
                if a.rests in (None, "air") or a.rests != b.rests or frozenset((left, right)) in linked:
                    continue
                gap = max(0.0, (boxes[right][0] - boxes[left][1]) / width)
                apart = abs(a.foot[1] - b.foot[1]) / height
                near = self._nearer(left, right) if gap == 0 else None
                if near is not None:
                    yield near, left + right - near, "in front of"
                elif apart <= _BESIDE_DEPTH and gap <= _BESIDE_GAP:
                    yield left, right, "beside"
                if apart > _BESIDE_DEPTH or gap > _GAZE_GAP:
                    continue
                for subject, other, faces in ((left, right, 1), (right, left, -1)):
                    if self._gazes(subject, faces) and gap < nearest.get(subject, (2.0, 0))[0]:
                        nearest[subject] = gap, other
        for subject, (_, other) in nearest.items():
            yield subject, other, "looking at"

    def _gazes(self, i: int, faces: int) -> bool:
        item = self._items[i]
        sees = item.pose in GAZES or (item.name in ANIMALS and item.pose not in ("grazing", "lying"))
        return sees and item.faces == faces

    def _nearer(self, i: int, j: int) -> int | None:
        """The nearer of two things if it hides part of the other and their segments meet."""
        near, far = (i, j) if self._items[i].depth >= self._items[j].depth else (j, i)
        hidden = np.count_nonzero(self._items[near].outline & self._items[far].outline)
        if hidden < _HIDES * np.count_nonzero(self._items[far].outline) or not self._meeting[near, far]:
            return None
        return near

    def _before_stuff(self, linked: set[frozenset[int]]) -> Iterator[Relation]:
        labels = self._background.labels
        for i, item in enumerate(self._items):
            if item.rests != "ground":
                continue
            x0, y0, x1, y1 = mask_box(item.outline)
            margin = 2 + (x1 - x0) // 8
            upper = labels[y0 : (y0 + y1 - 1) // 2 + 1, max(0, x0 - margin) : x1 + margin]
            shares = np.bincount(upper.ravel(), minlength=len(self._background.names)) / upper.size
            best = int(shares.argmax())
            name = self._background.names[best]
            j = self._position.get(name)
            if j is None or shares[best] < 0.5 or name in GROUND | TOPS | WALLS or frozenset((i, j)) in linked:
                continue
            yield i, j, "in front of"

    def _between_stuff(self) -> Iterator[Relation]:
        order = {name: i for i, name in enumerate(self._background.names)}
        laid = [name for name in self._stuff if name in order]
        rows = {name: (self._segments == self._position[name] + 1).any(axis=1) for name in laid}
        mean_row = {name: float(np.flatnonzero(row).mean()) for name, row in rows.items()}
        for a in laid:
            for b in laid:
                if a == b:
                    continue
                i, j = self._position[a], self._position[b]
                if a in TOPS and (b in GROUND or self._meeting[i, j]) and b not in FIXED and mean_row[b] > mean_row[a]:
                    yield i, j, "over"
                if not self._meeting[i, j] or a in TOPS or b in TOPS:
                    continue
                yield from self._meet(a, b, order, mean_row)

    def _meet(self, a: str, b: str, order: dict[str, int], mean_row: dict[str, float]) -> Iterator[Relation]:
        """Relation of stuff a to stuff b that it meets, if a is the subject of one."""
        i, j = self._position[a], self._position[b]
        if a in FIXED:
            if b in _HOLDERS:
                yield i, j, FIXED[a]
        elif a == "rug-merged" or a in ("food-other-merged", "fruit", "flower", "paper-merged", "cardboard", "roof"):
            if b in GROUND or a == "roof":
                yield i, j, "on"
        elif b in FIXED:
            return
        elif a in GROUND and b in GROUND:
            if order[a] > order[b] and b != "rug-merged":
                yield i, j, "beside"
        elif a not in GROUND and b in GROUND:
            yield i, j, "beside" if a in WALLS or b in WATER else "on"
        elif a not in GROUND and b not in GROUND and order[a] > order[b]:
            yield i, j, "attached to" if b in WALLS else "in front of"

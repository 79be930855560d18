"""A generated scene: its pieces, and the segments and relations that follow from where they lie.

Relations are read off the finished layout by these rules; nothing that cannot be seen is annotated:

- a thing that stands on the ground has a support predicate with the stuff under its foot (`SUPPORT`);
- a thing in the air is "flying over" the first ground straight below it;
- the sky (or ceiling) is "over" the ground that begins highest;
- a part of a group has the relation that its group was built for (sitting on a bench, in a boat, ...);
- of two main things on the ground, of different groups, whose outlines overlap and whose segments meet, the nearer one
  is "in front of" the other;
- of two such things whose outlines do not overlap, but that are equally deep in the picture and close to each other,
  the left one is "beside" the right one.

Letters: H W pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np

from .sprite import Sprite
from .stuff import SURFACES

GROUND = ("grass-merged", "road", "sand", "sea", "floor-wood", "rug-merged")
TOPS = ("sky-other-merged", "ceiling-merged")

# Predicate between a thing and the ground under its foot: by pose, else by name and ground, else by name.
SUPPORT_BY_POSE = {"lying": "lying on"}
SUPPORT_BY_GROUND = {("car", "road"): "driving on", ("bus", "road"): "driving on", ("boat", "sea"): "in"}
SUPPORT = {
    **dict.fromkeys(("person", "dog", "cat", "horse", "bird"), "standing on"),
    **dict.fromkeys(("car", "bus"), "parked on"),
}


@dataclass(frozen=True)
class RelationRules:
    """Thresholds of the rules between two things. Layouts between two limits of a pair are not drawn at all.

    Attributes:
        overlap: limits of the hidden part of the farther outline: below the first it does not count as overlapping,
            from the second on it does.
        gap: limits of the horizontal distance of two boxes, in picture widths: up to the first they are beside each
            other, from the second on they are not.
        depth: largest difference of the feet of two things beside each other, in picture heights.
    """

    overlap: tuple[float, float]
    gap: tuple[float, float]
    depth: float


@dataclass(eq=False)
class Piece:
    """A thing, or a patch of stuff that can hide things.

    Attributes:
        name: class.
        sprite: its picture.
        depth: larger is nearer; decides who hides whom.
        foot: x, y of its lower middle, pixels.
        group: number of the group it was placed with.
        place: "ground", "air", or "part" (it rests on or hangs from something that `links` name).
        pose: as drawn.
        links: (predicate, other) with a piece, or the name of a stuff class.
        outline: (H, W) bool, the sprite's mask.
        is_main: the piece that stands for its group in rules between groups.
    """

    name: str
    sprite: Sprite
    depth: float
    foot: tuple[float, float]
    group: int
    place: str = "ground"
    pose: str = ""
    links: list[tuple[str, Piece | str]] = field(default_factory=list)
    outline: np.ndarray = field(kw_only=True, repr=False)
    is_main: bool = True

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 of the outline inside the picture, ends exclusive."""
        return mask_box(self.outline)


@dataclass
class Background:
    """The stuff behind the things.

    Attributes:
        picture: (H, W, 3) float32.
        labels: (H, W) int16 index into names.
        names: stuff classes.
        horizon: y of the line where the ground begins, pixels.
    """

    picture: np.ndarray
    labels: np.ndarray
    names: list[str]
    horizon: float

    def at(self, x: float, y: float) -> str:
        """Class at a point, moved into the picture if it lies outside."""
        height, width = self.labels.shape
        return self.names[self.labels[min(max(int(y), 0), height - 1), min(max(int(x), 0), width - 1)]]

    def ground_below(self, x: float, y: float, ground: Collection[str]) -> str | None:
        """The first ground straight below a point."""
        height, width = self.labels.shape
        column = self.labels[min(max(int(y), 0), height - 1) :, min(max(int(x), 0), width - 1)]
        return next((self.names[i] for i in column if self.names[i] in ground), None)

    def first_ground(self) -> str:
        """The ground that begins highest in the picture."""
        is_ground = np.isin(self.labels, [i for i, name in enumerate(self.names) if name in GROUND])
        return self.names[self.labels[is_ground][0]]


@dataclass
class Scene:
    """A finished picture with its annotation.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        segments: (H, W) int32, position + 1 in names; every pixel belongs to a segment.
        names: class of each segment: things in order of placement, then stuff.
        relations: (subject, object, predicate name), positions in names.
    """

    image: np.ndarray
    segments: np.ndarray
    names: list[str]
    relations: list[tuple[int, int, str]]


def mask_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of a non-empty mask, ends exclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def pair_relation(a: Piece, b: Piece, rules: RelationRules) -> tuple[Piece, Piece, str] | None:
    """What two main things of different groups have with each other.

    Returns:
        (subject, object, predicate), or None.

    Raises:
        AmbiguousLayoutError: if a threshold does not decide clearly.
    """
    near, far = (a, b) if a.depth >= b.depth else (b, a)
    hidden = np.count_nonzero(near.outline & far.outline) / max(1, int(np.count_nonzero(far.outline)))
    on_ground = a.place == "ground" and b.place == "ground"
    if hidden >= rules.overlap[1] and on_ground:
        return near, far, "in front of"
    if hidden >= rules.overlap[0]:
        # Too little to tell, or something in the air or on a wall, whose depth nobody sees.
        raise AmbiguousLayoutError
    if not on_ground:
        return None
    height, width = a.outline.shape
    left, right = (a, b) if sum(a.box[::2]) <= sum(b.box[::2]) else (b, a)
    gap = max(0, right.box[0] - left.box[2]) / width
    apart = abs(a.foot[1] - b.foot[1]) / height
    if gap >= rules.gap[1] or apart > 1.3 * rules.depth:
        return None
    if gap > rules.gap[0] or apart > rules.depth:
        raise AmbiguousLayoutError
    return left, right, "beside"


class AmbiguousLayoutError(Exception):
    """Two things lie so that one would have to guess whether they are related."""


def support_predicate(piece: Piece, ground: str) -> str:
    """How a thing rests on the ground under its foot."""
    if piece.pose in SUPPORT_BY_POSE:
        return SUPPORT_BY_POSE[piece.pose]
    return SUPPORT_BY_GROUND.get((piece.name, ground)) or SUPPORT.get(piece.name, "on")


def compose(background: Background, pieces: list[Piece], rules: RelationRules) -> Scene:
    """Paint the pieces from back to front and read off segments and relations."""
    picture = background.picture.copy()
    things = [p for p in pieces if p.name not in SURFACES]
    stuff = list(dict.fromkeys([*background.names, *(p.name for p in pieces if p.name in SURFACES)]))
    names = [p.name for p in things] + stuff
    position: dict[Piece | str, int] = {p: i for i, p in enumerate(things)}
    position.update({name: len(things) + i for i, name in enumerate(stuff)})
    position.update({p: position[p.name] for p in pieces if p.name in SURFACES})
    segments = background.labels.astype(np.int32) + len(things) + 1
    for piece in sorted(pieces, key=lambda p: p.depth):
        piece.sprite.paint_on(picture)
        segments[piece.outline] = position[piece] + 1
    meets = meeting(segments, len(names))
    relations = [
        (position[subject], position[object_], predicate)
        for subject, object_, predicate in _relations(background, pieces, rules)
        # A third thing may hide the place where one covers the other.
        if predicate != "in front of" or meets[position[subject], position[object_]]
    ]
    return _without_absent(Scene(np.clip(picture, 0, 255).astype(np.uint8), segments, names, relations))


def meeting(segments: np.ndarray, count: int) -> np.ndarray:
    """(count, count) bool: whether pixels of two segments lie side by side; segments are position + 1."""
    meets = np.zeros((count, count), dtype=bool)
    for first, second in ((segments[:, :-1], segments[:, 1:]), (segments[:-1], segments[1:])):
        differ = first != second
        a, b = first[differ] - 1, second[differ] - 1
        meets[a, b] = meets[b, a] = True
    return meets


def _relations(
    background: Background, pieces: list[Piece], rules: RelationRules
) -> Iterator[tuple[Piece | str, Piece | str, str]]:
    mains = [p for p in pieces if p.is_main]
    for piece in pieces:
        if piece.place == "ground" and piece.name not in SURFACES:
            ground = background.at(*piece.foot)
            yield piece, ground, support_predicate(piece, ground)
        elif piece.place == "air":
            below = background.ground_below(*piece.foot, GROUND)
            if below:
                yield piece, below, "flying over"
        for predicate, other in piece.links:
            yield piece, other, predicate
    for i, a in enumerate(mains):
        for b in mains[i + 1 :]:
            found = pair_relation(a, b, rules)
            if found:
                yield found
    if "rug-merged" in background.names:
        yield "rug-merged", "floor-wood", "on"
    for top in TOPS:
        if top in background.names:
            yield top, background.first_ground(), "over"


def _without_absent(scene: Scene) -> Scene:
    """Take out stuff that is hidden altogether; things are never, the layout sees to that."""
    counts = np.bincount(scene.segments.ravel(), minlength=len(scene.names) + 1)[1:]
    keep = counts > 0
    if keep.all():
        return scene
    number = np.concatenate([[0], np.cumsum(keep)]).astype(np.int32)
    relations = [(number[s + 1] - 1, number[o + 1] - 1, p) for s, o, p in scene.relations if keep[s] and keep[o]]
    names = [name for name, kept in zip(scene.names, keep, strict=True) if kept]
    return Scene(scene.image, number[scene.segments], names, [(int(s), int(o), p) for s, o, p in relations])

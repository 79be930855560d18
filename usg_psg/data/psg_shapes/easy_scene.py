"""Scenes of the preset "easy": a few large things on a meadow, and the relations that can be seen.

Relations are read off the finished layout by these rules:

- a thing that stands on the ground has a support predicate with the stuff under its foot;
- a thing in the air is "flying over" the first ground straight below it;
- the sky is "over" the ground that begins highest;
- of two things on the ground whose outlines overlap and whose segments meet, the nearer one is "in front of" the other;
- of two such things whose outlines do not overlap, but that are equally deep in the picture and close to each other,
  the left one is "beside" the right one.

Layouts in which a threshold does not decide clearly are not drawn.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np

from ...masks import mask_box
from .looks import LOOKS, draw_look
from .scene import Background, Scene, meeting
from .sprite import Sprite
from .stuff import below, mark_lane, paint_stuff, wavy

GROUND = ("grass-merged", "road")
NAMES = {
    "thing_classes": ("person", "car", "airplane", "bench", "dog", "kite"),
    "stuff_classes": (*GROUND, "sky-other-merged"),
    "predicate_classes": "over, in front of, beside, on, standing on, flying over, parked on, driving on".split(", "),
}
# Of things on the ground; those that are not listed are "on" it.
SUPPORT = {"person": "standing on", "dog": "standing on", "car": "parked on"}
NUM_THINGS = (3, 5)
MIN_AREA = 0.004  # visible area of a segment, in picture areas
OVERLAP = (0.004, 0.08)  # hidden part of the farther outline: does not count below the first, counts from the second on
GAP = (0.12, 0.16)  # between two boxes in picture widths: beside each other up to the first, not from the second on
DEPTH = 0.14  # largest difference of the feet of two things beside each other, in picture heights
_PERSON = (0.38, 0.5)  # height of a person at the bottom of the picture, in picture heights
_FAR = 0.8  # size at the horizon, relative to the bottom
_VISIBLE = 0.7  # part of each thing
_INSIDE = 0.98  # part of each thing's box that lies inside the picture, at least
_PLACES_TO_TRY = 24
_SCENES_TO_TRY = 60


@dataclass(frozen=True)
class _Kind:
    """What is drawn: how often, the ground that it may stand on (none in the air), and the range of its foot's height.

    In the picture, 0 is the top, 1 the horizon, 2 the bottom.
    """

    name: str
    weight: float
    ground: Collection[str] = GROUND
    zone: tuple[float, float] = (1.15, 1.97)


_KINDS = (
    _Kind("person", 5),
    _Kind("car", 2.0, ("road",)),
    _Kind("car", 1.2, ("grass-merged",), (1.2, 1.97)),
    _Kind("dog", 2.5),
    _Kind("bench", 1.5, ("grass-merged",), (1.2, 1.97)),
    _Kind("airplane", 1.8, (), (0.35, 0.8)),
    _Kind("kite", 1.2, (), (0.45, 0.9)),
)


@dataclass(eq=False)
class Thing:
    """A thing.

    Attributes:
        name: class.
        sprite: its picture.
        foot: x, y of its lower middle, pixels; a lower one is nearer and hides others.
        on_ground: rather than in the air.
        outline: (H, W) bool, the sprite's mask.
    """

    name: str
    sprite: Sprite
    foot: tuple[float, float]
    on_ground: bool
    outline: np.ndarray = field(repr=False)


class AmbiguousLayoutError(Exception):
    """Two things lie so that one would have to guess whether they are related."""


def make_easy_scene(height: int, width: int, rng: np.random.Generator) -> Scene:
    """One scene; rng decides everything.

    Raises:
        ValueError: if no scene fits, because the picture is too small or too narrow.
    """
    for _ in range(_SCENES_TO_TRY):
        rng.random()  # which once chose the kind of background; without it, all scenes would change
        background = _paint_meadow(height, width, rng)
        things = _place_things(background, rng)
        if len(things) < NUM_THINGS[0]:
            continue
        scene = _compose(background, things)
        areas = np.bincount(scene.segments.ravel(), minlength=len(scene.names) + 1)[1:]
        if areas.min() >= MIN_AREA * height * width:
            return scene
    raise ValueError(f"size: no scene of this preset fits into {height} x {width} pixels")


def _paint_meadow(height: int, width: int, rng: np.random.Generator) -> Background:
    """Sky over grass, and often a road across it."""
    horizon = rng.uniform(0.34, 0.46) * height
    layers = {
        "sky-other-merged": np.ones((height, width), dtype=np.float32),
        "grass-merged": below(height, width, wavy(width, horizon, 0.02 * height, rng)),
    }
    if rng.random() < 0.65:
        top = rng.uniform(0.66, 0.72) * height
        bottom, tilt = top + rng.uniform(0.19, 0.25) * height, rng.uniform(-0.04, 0.04) * height
        upper, lower = (edge + np.linspace(-tilt, tilt, width) for edge in (top, bottom))
        layers["road"] = below(height, width, upper) * (1 - below(height, width, lower))
    picture = np.zeros((height, width, 3), dtype=np.float32)
    labels = np.zeros((height, width), dtype=np.int16)
    for number, (name, alpha) in enumerate(layers.items()):
        sprite = paint_stuff(name, alpha, rng)
        if name == "road":
            mark_lane(sprite, upper, lower)
        sprite.paint_on(picture)
        labels[alpha >= 0.5] = number
    return Background(picture, labels, list(layers), float(horizon))


def _place_things(background: Background, rng: np.random.Generator) -> list[Thing]:
    """Place things one after the other, as far as they fit."""
    weights = np.array([kind.weight for kind in _KINDS])
    person, count = rng.uniform(*_PERSON), int(rng.integers(NUM_THINGS[0], NUM_THINGS[1] + 1))
    things: list[Thing] = []
    for _ in range(3 * count):
        if len(things) == count:
            break
        kind = _KINDS[rng.choice(len(_KINDS), p=weights / weights.sum())]
        if placed := _place(kind, background, things, person, rng):
            things.append(placed)
    return things


def _place(
    kind: _Kind, background: Background, others: list[Thing], person: float, rng: np.random.Generator
) -> Thing | None:
    """Try places for a thing until one is clear and hides nothing too much."""
    height, width = background.labels.shape
    for _ in range(_PLACES_TO_TRY):
        x, zone = rng.uniform(0.02, 0.98) * width, rng.uniform(*kind.zone)
        horizon = background.horizon
        y = zone * horizon if zone <= 1 else horizon + (zone - 1) * (height - horizon)
        nearness = min(max((y - horizon) / (height - horizon), 0.0), 1.0)
        size = person * height * (_FAR + (1 - _FAR) * nearness)
        if kind.ground and not _stands(background, x, y, 0.12 * size, kind.ground):
            continue
        flip = rng.random() < 0.5
        sprite = draw_look(LOOKS[kind.name], (x, y), size, rng, flip=flip)
        thing = Thing(kind.name, sprite, (x, y), bool(kind.ground), sprite.mask(height, width))
        if _fits(thing, others):
            return thing
    return None


def _stands(background: Background, x: float, y: float, reach: float, ground: Collection[str]) -> bool:
    """Whether one of the allowed grounds, and no other, lies around the foot."""
    around = {background.at(x + dx, y + dy) for dx in (-reach, 0, reach) for dy in (-0.3 * reach, 0, 0.15 * reach)}
    return len(around) == 1 and around <= set(ground)


def _fits(thing: Thing, others: list[Thing]) -> bool:
    if np.count_nonzero(thing.outline) < _INSIDE * np.count_nonzero(thing.sprite.alpha >= 0.5):
        return False
    hidden = np.zeros_like(thing.outline)
    for each in sorted([*others, thing], key=lambda t: -t.foot[1]):
        area = np.count_nonzero(each.outline)
        shown = np.count_nonzero(each.outline & ~hidden)
        if shown < _VISIBLE * area or shown < MIN_AREA * hidden.size:
            return False
        hidden |= each.outline
    try:
        for other in others:
            pair_relation(thing, other)
    except AmbiguousLayoutError:
        return False
    return True


def pair_relation(a: Thing, b: Thing) -> tuple[Thing, Thing, str] | None:
    """What two things have with each other.

    Returns:
        (subject, object, predicate), or None.

    Raises:
        AmbiguousLayoutError: if a threshold does not decide clearly.
    """
    near, far = (a, b) if a.foot[1] >= b.foot[1] else (b, a)
    hidden = np.count_nonzero(near.outline & far.outline) / max(1, int(np.count_nonzero(far.outline)))
    on_ground = a.on_ground and b.on_ground
    if hidden >= OVERLAP[1] and on_ground:
        return near, far, "in front of"
    if hidden >= OVERLAP[0]:  # too little to tell, or something in the air, whose depth nobody sees
        raise AmbiguousLayoutError
    if not on_ground:
        return None
    height, width = a.outline.shape
    boxes = {thing: mask_box(thing.outline) for thing in (a, b)}
    left, right = (a, b) if sum(boxes[a][::2]) <= sum(boxes[b][::2]) else (b, a)
    gap = max(0, boxes[right][0] - boxes[left][2]) / width
    apart = abs(a.foot[1] - b.foot[1]) / height
    if gap >= GAP[1] or apart > 1.3 * DEPTH:
        return None
    if gap > GAP[0] or apart > DEPTH:
        raise AmbiguousLayoutError
    return left, right, "beside"


def _compose(background: Background, things: list[Thing]) -> Scene:
    """Paint the things from back to front and read off segments and relations."""
    picture, names = background.picture, [thing.name for thing in things] + background.names
    position: dict[Thing | str, int] = {thing: i for i, thing in enumerate(things)}
    position.update({name: len(things) + i for i, name in enumerate(background.names)})
    segments = background.labels.astype(np.int32) + len(things) + 1
    for thing in sorted(things, key=lambda t: t.foot[1]):
        thing.sprite.paint_on(picture)
        segments[thing.outline] = position[thing] + 1
    meets = meeting(segments, len(names))
    relations = [
        (position[subject], position[object_], predicate)
        for subject, object_, predicate in _relations(background, things)
        # A third thing may hide the place where one covers the other.
        if predicate != "in front of" or meets[position[subject], position[object_]]
    ]
    return Scene(np.clip(picture, 0, 255).astype(np.uint8), segments, names, relations)


def _relations(background: Background, things: list[Thing]) -> Iterator[tuple[Thing | str, Thing | str, str]]:
    for thing in things:
        if thing.on_ground:
            ground = background.at(*thing.foot)
            drives = thing.name == "car" and ground == "road"
            yield thing, ground, "driving on" if drives else SUPPORT.get(thing.name, "on")
        elif below_it := background.ground_below(*thing.foot, GROUND):
            yield thing, below_it, "flying over"
    for i, a in enumerate(things):
        for b in things[i + 1 :]:
            if found := pair_relation(a, b):
                yield found
    is_ground = np.isin(background.labels, [i for i, name in enumerate(background.names) if name in GROUND])
    yield "sky-other-merged", background.names[background.labels[is_ground][0]], "over"

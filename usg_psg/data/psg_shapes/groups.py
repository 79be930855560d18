"""Groups of pieces that generated scenes are made of: one thing, or things that do something with each other.

A builder gets the place of its main thing and returns its pieces, the main one first. Heights are in heights of a
standing person at that place; `side` is 1 if the group looks right, -1 if left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .looks import LOOKS, STRETCH, draw_look
from .scene import Background, Piece
from .stuff import draw_fence


@dataclass(frozen=True)
class Site:
    """Where a group goes.

    Attributes:
        foot: x, y of the lower middle of the main thing, pixels.
        person: height of a standing person there, pixels.
        depth: of the main thing.
        group: number of the group.
        background: what lies behind.
    """

    foot: tuple[float, float]
    person: float
    depth: float
    group: int
    background: Background


Builder = Callable[[Site, np.random.Generator], list[Piece]]


def _piece(
    site: Site,
    rng: np.random.Generator,
    name: str,
    *,
    shift: tuple[float, float] = (0.0, 0.0),
    depth: float = 0.0,
    place: str = "part",
    pose: str = "",
    size: float = 1.0,
    is_main: bool = False,
    **turn: Any,
) -> Piece:
    """A thing at the site's foot plus shift (right, up), in heights of a person; turn is as of `draw_look`."""
    foot = (site.foot[0] + shift[0] * site.person, site.foot[1] - shift[1] * site.person)
    stretch = STRETCH.get(pose, (1.0, 1.0))
    sprite = draw_look(LOOKS[name], foot, size * site.person, rng, pose=pose, stretch=stretch, **turn)
    outline = sprite.mask(*site.background.labels.shape)
    return Piece(name, sprite, site.depth + depth, foot, site.group, place, pose, outline=outline, is_main=is_main)


def single(name: str, *, pose: str = "", place: str = "ground") -> Builder:
    """One thing alone."""

    def build(site: Site, rng: np.random.Generator) -> list[Piece]:
        return [_piece(site, rng, name, place=place, pose=pose, flip=rng.random() < 0.5, is_main=True)]

    return build


def _pair(
    main: str,
    other: str,
    shift: tuple[float, float],
    *links: tuple[int, str, int],
    main_pose: str = "",
    main_size: float = 1.0,
    spread: float = 0.0,
    depth: float = 1e-3,
    pose: str = "",
    size: float = 1.0,
) -> Builder:
    """A thing on the ground and another one at it.

    Args:
        main, other: classes, each with its pose and size.
        shift: of the other one from the main one's foot, (forwards, up).
        links: (subject, predicate, object), where 0 is the main one.
        spread: draws the horizontal shift from -spread to spread.
        depth: of the other one beyond the main one's.
    """

    def build(site: Site, rng: np.random.Generator) -> list[Piece]:
        side = 1 if rng.random() < 0.5 else -1
        first = _piece(site, rng, main, place="ground", pose=main_pose, flip=side < 0, is_main=True, size=main_size)
        right = rng.uniform(-spread, spread) if spread else side * shift[0]
        second = _piece(site, rng, other, shift=(right, shift[1]), depth=depth, pose=pose, flip=side < 0, size=size)
        pieces = [first, second]
        for subject, predicate, object_ in links:
            pieces[subject].links.append((predicate, pieces[object_]))
        return pieces

    return build


def holding(name: str) -> Builder:
    """A person who holds a thing in the raised hand."""
    shift = {"umbrella": (0.18, 0.62), "sports ball": (0.24, 0.7), "surfboard": (0.24, 0.0), "teddy bear": (0.26, 0.58)}
    over = [(1, "over", 0)] if name == "umbrella" else []
    return _pair("person", name, shift[name], (0, "holding", 1), *over, main_pose="holding")


def riding(mount: str) -> Builder:
    """A person on a horse or bicycle; the pair has two predicates."""
    lift = {"horse": 0.47, "bicycle": 0.3}[mount]
    return _pair(mount, "person", (-0.06, lift), (1, "riding", 0), (1, "on", 0), pose="riding")


def seated(seat: str, who: str, pose: str) -> Builder:
    """Somebody sitting, lying or standing on a seat."""
    top, spread = {"bench": (0.275, 0.3), "chair": (0.36, 0.06)}[seat]
    predicate = {"sitting": "sitting on", "lying": "lying on", "": "standing on"}[pose]
    if who == "teddy bear":
        predicate = "sitting on"
    sink = 0.21 if pose == "sitting" else 0.01
    return _pair(seat, who, (0.0, top - sink), (1, predicate, 0), spread=spread, pose=pose, size=0.9)


# A person in a boat, the hull in front of the legs.
boat_with_sailor = _pair("boat", "person", (-0.56, 0.16), (1, "in", 0), main_size=1.3, depth=-1e-3, pose="aboard")


def laid_table(site: Site, rng: np.random.Generator) -> list[Piece]:
    """A table with one to three things on it."""
    table = _piece(site, rng, "dining table", place="ground", is_main=True)
    pieces = [table]
    count = int(rng.integers(1, 4))
    for place in rng.permutation([-0.42, 0.0, 0.42])[:count]:
        name = ("cup", "bottle", "laptop", "potted plant")[rng.choice(4, p=[0.4, 0.3, 0.2, 0.1])]
        size = 0.7 if name == "potted plant" else 1.0
        shift = (float(place), 0.5)
        item = _piece(site, rng, name, shift=shift, depth=1e-3, flip=rng.random() < 0.5, size=size)
        item.links.append(("on", table))
        pieces.append(item)
    return pieces


def fenced(name: str) -> Builder:
    """An animal behind a fence that encloses it; the pair has two predicates."""

    def build(site: Site, rng: np.random.Generator) -> list[Piece]:
        animal = _piece(site, rng, name, place="ground", flip=rng.random() < 0.5, is_main=True)
        look, (x, y) = LOOKS[name], site.foot
        half, top = 0.72 * look.width * site.person, 0.55 * look.height * site.person
        sprite = draw_fence((x - half, y - top, x + half, y + 0.06 * site.person), rng)
        outline = sprite.mask(*site.background.labels.shape)
        depth = site.depth + 1e-3
        fence = Piece("fence-merged", sprite, depth, site.foot, site.group, "part", outline=outline, is_main=False)
        fence.links += [("enclosing", animal), ("in front of", animal)]
        return [animal, fence]

    return build


def leaning(site: Site, rng: np.random.Generator) -> list[Piece]:
    """A tilted surfboard whose tip lies on a tree, a building or a wall."""
    angle = rng.uniform(14, 22) * (1 if rng.random() < 0.5 else -1)
    board = _piece(site, rng, "surfboard", angle=angle, is_main=True)
    tip_x = site.foot[0] + np.sin(np.radians(angle)) * 0.93 * site.person
    tip_y = site.foot[1] - np.cos(np.radians(angle)) * 0.93 * site.person
    behind = site.background.at(tip_x, tip_y)
    if behind not in ("tree-merged", "building-other-merged", "wall-other-merged"):
        return []
    board.links.append(("leaning on", behind))
    return [board]


def attached(name: str) -> Builder:
    """A thing on a wall or a building."""

    def build(site: Site, rng: np.random.Generator) -> list[Piece]:
        thing = _piece(site, rng, name, is_main=True)
        if not thing.outline.any():
            return []
        x0, y0, x1, y1 = thing.box
        behind = {site.background.at(x, y) for x in (x0, x1 - 1) for y in (y0, y1 - 1)}
        if len(behind) != 1 or not behind <= {"wall-other-merged", "building-other-merged"}:
            return []
        thing.links.append(("attached to", behind.pop()))
        return [thing]

    return build


def hanging_plant(site: Site, rng: np.random.Generator) -> list[Piece]:
    """A potted plant on a cord from the ceiling or a tree."""
    plant = _piece(site, rng, "potted plant", pose="hanging", is_main=True)
    top = site.foot[1] - LOOKS["potted plant"].height * site.person
    holder = site.background.at(site.foot[0], top)
    if holder not in ("ceiling-merged", "tree-merged"):
        return []
    plant.links.append(("hanging from", holder))
    return [plant]

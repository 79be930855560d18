"""Groups of things that do something with each other, for the preset "psg"; `actions.py` is the table of them.

Lengths are in heights of a standing person at the place, x to the right, y upwards from the ground. Each group is built
facing right and may be mirrored.
"""

from __future__ import annotations

from dataclasses import dataclass

from .figures import PERSON_WIDTH, POSES
from .places import LAND, PLACES

ROOMS = frozenset(("living", "bedroom", "kitchen", "bathroom"))
OUTDOORS = frozenset(name for name, place in PLACES.items() if not place.indoors)
GRASSY = frozenset(("park", "savanna", "field"))
STANDING_PLACES = OUTDOORS | ROOMS
HOLDERS = frozenset(("tree-merged", "building-other-merged", "house", "fence-merged", "mountain-merged", "rock-merged"))


@dataclass(frozen=True)
class Part:
    """One thing of a group.

    Attributes:
        names: classes, one of which is drawn.
        at: where it is, from the foot of the first part; or "hand" of the first part.
        pose: see `figures.POSES`.
        size: enlarges it.
        grip: which of its own points lies there: 0 is the middle of its lower edge, 1 of its upper edge.
        angle: turned clockwise about the middle of its lower edge, degrees.
        turned: faces left.
        ground: whether it stands on the ground itself.
        behind: whether the first part hides it rather than the other way round.
    """

    names: tuple[str, ...]
    at: tuple[float, float] | str = (0.0, 0.0)
    pose: str = ""
    size: float = 1.0
    grip: float = 0.0
    angle: float = 0.0
    turned: bool = False
    ground: bool = False
    behind: bool = False


@dataclass(frozen=True)
class Event:
    """A group and its relations.

    Attributes:
        predicate: the one that it is drawn for.
        share: part of the predicate's occurrences that look like this.
        parts: the first one stands on the ground.
        links: (subject, predicate, object), positions in parts; the object may be "ground", the stuff below the first
            part, or "behind", the stuff behind its upper half.
        places: keys of `PLACES`.
        ground: stuff that the first part may stand on; empty if it need not stand.
        behind: stuff that must be behind it, if a link needs it.
        zone: (low, high) of the foot's height, where 0 is the top of the picture, 1 the horizon, 2 the bottom.
    """

    predicate: str
    share: float
    parts: tuple[Part, ...]
    links: tuple[tuple[int, str, int | str], ...]
    places: frozenset[str] = STANDING_PLACES
    ground: frozenset[str] = LAND
    behind: frozenset[str] = frozenset()
    zone: tuple[float, float] = (1.08, 1.97)


def hand(pose: str) -> tuple[float, float]:
    """Where a person's hand is, from the foot."""
    x, y = POSES[pose].hand
    return (x - 0.5) * PERSON_WIDTH, 1 - y


def person(pose: str = "", **options: object) -> Part:
    return Part(("person",), pose=pose, ground=True, **options)  # type: ignore[arg-type]


def held(
    predicate: str,
    share: float,
    pose: str,
    names: tuple[str, ...],
    places: frozenset[str] = STANDING_PLACES,
    *,
    size: float = 1.3,
    grip: float = 0.5,
    angle: float = 0.0,
) -> Event:
    """A person with something in the hand."""
    parts = (person(pose), Part(names, "hand", size=size, grip=grip, angle=angle))
    return Event(predicate, share, parts, ((0, predicate, 1),), places)


def toward(predicate: str, share: float, pose: str, other: Part, places: frozenset[str] = STANDING_PLACES) -> Event:
    """A person and something in front of them."""
    return Event(predicate, share, (person(pose), other), ((0, predicate, 1),), places)


def mounted(
    predicate: str,
    share: float,
    mounts: tuple[str, ...],
    at: tuple[float, float],
    pose: str,
    places: frozenset[str],
    *,
    riders: tuple[str, ...] = ("person",),
    size: float = 1.0,
    angle: float = 0.0,
    behind: bool = False,
    ground: frozenset[str] = LAND,
) -> Event:
    """Somebody on something."""
    parts = (Part(mounts, ground=True), Part(riders, at, pose, size, angle=angle, behind=behind))
    return Event(predicate, share, parts, ((1, predicate, 0),), places, ground)


def hung(
    predicate: str,
    share: float,
    name: str,
    size: float,
    places: frozenset[str],
    behind: frozenset[str],
    zone: tuple[float, float],
) -> Event:
    """A thing on a wall, a building or a ceiling."""
    return Event(
        predicate, share, (Part((name,), size=size),), ((0, predicate, "behind"),), places, frozenset(), behind, zone
    )

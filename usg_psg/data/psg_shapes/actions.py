"""Groups of things that do something with each other, for the preset "psg": how each predicate looks.

Lengths are in heights of a standing person at the place, x to the right, y upwards from the ground. Each group is built
facing right and may be mirrored. No two predicates look the same: poses, and things in the hand or near it, tell them
apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .figures import ANIMALS, PERSON_WIDTH, POSES
from .places import LAND, PLACES, WATER

Names = str | frozenset[str]

ROOMS = frozenset(("living", "bedroom", "kitchen", "bathroom"))
OUTDOORS = frozenset(name for name, place in PLACES.items() if not place.indoors)
GRASSY = frozenset(("park", "savanna", "field"))
STANDING_PLACES = OUTDOORS | ROOMS


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


class Event:
    """A group and its relations; classes and places are a set, or a text that separates them by ", ".

    Args:
        predicate: the one that it is drawn for.
        share: part of the predicate's occurrences that look like this.
        parts: the first one stands on the ground.
        links: (subject, predicate, object), positions in parts; the object may be "ground", the stuff below the first
            part, or "behind", the stuff behind its upper half; none: the first part does it to the second.
        places: keys of `PLACES`.
        ground: stuff that the first part may stand on; empty if it need not stand.
        behind: stuff that must be behind it, if a link needs it.
        zone: (low, high) of the foot's height, where 0 is the top of the picture, 1 the horizon, 2 the bottom.
    """

    def __init__(
        self,
        predicate: str,
        share: float,
        *parts: Part,
        links: tuple[tuple[int, str, int | str], ...] = (),
        places: Names = STANDING_PLACES,
        ground: Names = LAND,
        behind: Names = frozenset(),
        zone: tuple[float, float] = (1.08, 1.97),
    ):
        self.predicate, self.share, self.parts, self.zone = predicate, share, parts, zone
        self.links = links or ((0, predicate, 1),)
        self.places, self.ground, self.behind = (
            frozenset(names.split(", ")) if isinstance(names, str) else names for names in (places, ground, behind)
        )


def hand(pose: str) -> tuple[float, float]:
    """Where a person's hand is, from the foot."""
    x, y = POSES[pose].hand
    return (x - 0.5) * PERSON_WIDTH, 1 - y


def _part(names: str, *args: Any, **options: Any) -> Part:
    return Part(tuple(names.split(", ")), *args, **options)


def _stands(names: str, *args: Any, **options: Any) -> Part:
    return _part(names, *args, ground=True, **options)


def _person(pose: str = "", **options: Any) -> Part:
    return _stands("person", pose=pose, **options)


def _held(
    predicate: str,
    share: float,
    names: str,
    places: Names = STANDING_PLACES,
    size: float = 1.3,
    grip: float = 0.5,
    angle: float = 0.0,
) -> Event:
    """A person with something in the hand."""
    thing = _part(names, "hand", size=size, grip=grip, angle=angle)
    return Event(predicate, share, _person(predicate), thing, places=places)


def _toward(
    predicate: str, share: float, pose: str, other: Part, places: Names = STANDING_PLACES, **options: Any
) -> Event:
    """A person and something in front of them."""
    return Event(predicate, share, _person(pose, **options), other, places=places)


def _mounted(
    predicate: str,
    share: float,
    mount: str | Part,
    at: tuple[float, float],
    pose: str,
    places: Names,
    riders: str = "person",
    size: float = 1.0,
    ground: Names = LAND,
    **options: Any,
) -> Event:
    """Somebody on something, or something that something is done to."""
    below = _stands(mount) if isinstance(mount, str) else mount
    rider = _part(riders, at, pose, size, **options)
    return Event(predicate, share, below, rider, links=((1, predicate, 0),), places=places, ground=ground)


def _before(
    predicate: str,
    share: float,
    thing: Part,
    places: Names,
    behind: Names,
    zone: tuple[float, float],
    ground: Names = LAND,
) -> Event:
    """A thing that has a relation with the stuff behind it."""
    links = ((0, predicate, "behind"),)
    return Event(predicate, share, thing, links=links, places=places, ground=ground, behind=behind, zone=zone)


def _on(predicate: str, share: float, thing: Part, places: Names, ground: Names = LAND) -> Event:
    """A thing that has a relation with the ground."""
    return Event(predicate, share, thing, links=((0, predicate, "ground"),), places=places, ground=ground)


def _hung(
    predicate: str, share: float, name: str, size: float, places: Names, behind: Names, zone: tuple[float, float]
) -> Event:
    """A thing on a wall, a building or a ceiling."""
    return _before(predicate, share, _part(name, size=size), places, behind, zone, frozenset())


_PLAIN_WALLS = "wall-other-merged, wall-wood, wall-brick, wall-tile"
_HOLDERS = "tree-merged, building-other-merged, house, fence-merged, mountain-merged, rock-merged, wall-other-merged"
_CLIMBED = "tree-merged, mountain-merged, rock-merged, wall-other-merged, building-other-merged"
_FOODS = "banana, apple, orange, sandwich, hot dog, donut, carrot, pizza, cake, broccoli"
_BALL = "sports ball"

# fmt: off
EVENTS: tuple[Event, ...] = (
    _held("holding", 0.2, "umbrella", OUTDOORS - {"station"}, 1.0, 0.05),
    _held("holding", 0.16, "cell phone, remote, book, scissors, toothbrush, hair drier", size=1.6),
    _held("holding", 0.16, "bottle, cup, wine glass, bowl, knife, fork, spoon", ROOMS, 1.4),
    _held("holding", 0.14, "frisbee, sports ball, kite, teddy bear", OUTDOORS, 0.9),
    _held("holding", 0.14, "tennis racket, baseball bat", "field, park", 1.0, 0.15),
    _held("holding", 0.1, "surfboard", "coast", 1.0, 0.6),
    _held("holding", 0.1, _FOODS),
    _held("carrying", 0.6, "handbag, suitcase, backpack", size=1.0, grip=1.0),
    _held("carrying", 0.25, "skis, snowboard", "snow", 0.9),
    _held("carrying", 0.15, "surfboard, skateboard", "coast, street", 0.8),
    Event("wearing", 0.4, _person(), _part("tie", (0.0, 0.78), size=1.3, grip=1.0)),
    Event("wearing", 0.35, _person("walking"), _part("backpack", (-0.14, 0.8), grip=1.0), places=OUTDOORS),
    Event("wearing", 0.25, _person("catching"), _part("baseball glove", "hand", grip=0.5, size=1.1),
           places="field, park"),
    _toward("looking at", 0.5, "looking", _stands("person, dog, cat, horse, cow", (0.75, 0.0), turned=True)),
    _toward("looking at", 0.3, "looking", _stands("elephant, giraffe, zebra, sheep", (1.3, 0.0)), GRASSY),
    _toward("looking at", 0.2, "looking", _part("tv, laptop, book, cell phone", (0.42, 0.62), size=1.2), ROOMS),
    _toward("talking to", 1.0, "talking", _stands("person", (0.62, 0.0), "talking", turned=True)),
    _toward("kissing", 1.0, "looking", _stands("person", (0.23, 0.0), "looking", turned=True)),
    _held("eating", 0.5, _FOODS),
    _on("eating", 0.25, _stands("horse, cow, sheep, zebra, giraffe, elephant", pose="grazing"), GRASSY, "grass-merged"),
    _before("eating", 0.25, _stands("giraffe, elephant"), "park, savanna", "tree-merged", (1.02, 1.3)),
    _held("drinking", 0.6, "bottle, cup, wine glass", size=1.4),
    _on("drinking", 0.4, _stands("horse, cow, zebra, elephant, bear", pose="grazing"), "savanna, park", WATER),
    Event("feeding", 1.0, _person("touching"),
           _stands("giraffe, elephant, horse, cow, sheep", (1.05, 0.0), turned=True),
           _part("banana, apple, carrot", "hand", size=1.2, grip=0.5), places=GRASSY,
           links=((0, "feeding", 1), (0, "holding", 2), (1, "eating", 2))),
    Event("biting", 1.0, _stands("dog", pose="running"),
           _part("frisbee, teddy bear, sports ball", (0.42, 0.28), size=0.8, grip=0.5), places=OUTDOORS),
    _toward("catching", 0.6, "catching", _part("frisbee, sports ball", (0.45, 0.86), size=0.9, grip=0.5), OUTDOORS),
    Event("catching", 0.4, _person("catching"), _part("baseball glove", "hand", grip=0.5),
           _part(_BALL, (0.46, 0.9), size=0.5, grip=0.5), places="field, park",
           links=((0, "catching", 2), (0, "wearing", 1))),
    Event("picking", 1.0, _person("touching"), _part("apple, orange, banana", "hand", size=1.1, grip=0.5),
           places=GRASSY, behind="tree-merged", zone=(1.02, 1.3)),
    Event("playing with", 0.6, _stands("dog, cat"),
           _stands("sports ball, frisbee, teddy bear", (0.44, 0.0), size=0.9)),
    _toward("playing with", 0.4, "playing", _stands("dog, cat", (0.62, 0.0), turned=True)),
    Event("chasing", 1.0, _stands("dog, horse, cow", pose="running"),
           _stands("sheep, cat, dog, person", (1.25, 0.0), "running"), places=OUTDOORS),
    _before("climbing", 1.0, _person("climbing"), OUTDOORS, _CLIMBED, (0.9, 1.06)),
    Event("cleaning", 1.0, _person("touching"), _stands("toilet, sink, oven, refrigerator", (0.68, 0.0)),
           _part("towel", "hand", size=1.2, grip=0.7), places=ROOMS, links=((0, "cleaning", 1), (0, "holding", 2))),
    _toward("playing", 0.45, "playing", _part("sports ball, frisbee", (0.62, 0.78), size=0.9, grip=0.5),
            "field, park, coast"),
    _held("playing", 0.35, "tennis racket", "field, park", 1.0, 0.1),
    _held("playing", 0.2, "remote, cell phone", ROOMS, 1.5),
    _toward("touching", 0.4, "touching", _stands("horse, cow, elephant, zebra, giraffe", (0.95, 0.0)), OUTDOORS),
    _toward("touching", 0.3, "touching", _stands("person, dog", (0.58, 0.0))),
    _toward("touching", 0.3, "touching", _stands("refrigerator, couch, bed", (0.58, 0.0)), ROOMS),
    _toward("pushing", 1.0, "pushing", _stands("bicycle, motorcycle, suitcase, car", (0.86, 0.0)), OUTDOORS),
    _toward("pulling", 0.5, "pulling", _stands("suitcase", (-0.5, 0.0)), "street, station, airport"),
    _toward("pulling", 0.5, "pulling", _stands("dog, horse, cow", (-0.82, 0.0)), OUTDOORS),
    _toward("guiding", 1.0, "guiding", _stands("horse, cow, elephant", (-0.72, 0.0), behind=True), GRASSY),
    _toward("opening", 1.0, "touching", _stands("refrigerator, oven", (0.6, 0.0), "open"), "kitchen"),
    Event("cooking", 1.0, _person("looking"), _stands("oven", (0.55, 0.0)),
           _part("pizza, hot dog, carrot, broccoli", (0.5, 0.59), size=1.1), places="kitchen",
           links=((0, "cooking", 2), (2, "on", 1))),
    _toward("throwing", 1.0, "throwing", _part("frisbee, sports ball", (0.56, 1.02), size=0.8, grip=0.5), OUTDOORS),
    _mounted("slicing", 1.0, "pizza, cake, carrot, sandwich, apple, orange", (0.06, 0.06), "", "table", "knife", 1.2,
             angle=35),
    _mounted("driving", 1.0, "motorcycle", (-0.08, 0.26), "riding", "street, park, airport"),
    _mounted("riding", 0.3, "horse, elephant", (-0.06, 0.48), "riding", OUTDOORS, size=0.95),
    _mounted("riding", 0.2, "bicycle", (-0.08, 0.26), "riding", OUTDOORS),
    _mounted("riding", 0.14, "skateboard", (0.0, 0.1), "balancing", "street, park"),
    _mounted("riding", 0.18, "skis, snowboard", (0.0, 0.03), "balancing", "snow"),
    _mounted("riding", 0.18, _stands("surfboard", angle=80.0), (0.42, 0.08), "balancing", "coast", ground=WATER),
    _mounted("on back of", 1.0, "horse, cow, elephant, zebra", (-0.1, 0.62), "", GRASSY, "bird", 0.9),
    _mounted("falling off", 0.5, "skateboard", (0.28, 0.16), "falling", "street, park", angle=55),
    _mounted("falling off", 0.5, _stands("surfboard", angle=80.0), (0.6, 0.2), "falling", "coast", ground=WATER,
             angle=60),
    Event("going down", 1.0, _person("running", angle=14), _part("skis, snowboard", (0.05, -0.02), angle=14),
           places="snow", links=((0, "going down", "ground"), (0, "on", 1))),
    _mounted("painted on", 1.0, _stands("bus, train, truck", size=1.1), (-0.3, 0.32), "painted", "street, station",
             "bird, person, giraffe", 0.45),
    _on("crossing", 1.0, _person("crossing"), "street, station", "road, railroad"),
    _mounted("sitting on", 0.35, "bench", (0.1, 0.06), "sitting", OUTDOORS, size=0.95),
    _mounted("sitting on", 0.3, "chair", (0.06, 0.14), "sitting", ROOMS | {"coast"}, "person, teddy bear", 0.95),
    _mounted("sitting on", 0.25, "couch, bed", (0.1, 0.06), "sitting", ROOMS, "person, teddy bear", 0.95),
    _mounted("sitting on", 0.1, "toilet", (0.1, 0.0), "sitting", "bathroom", size=0.95),
    _mounted("lying on", 0.3, "bed, couch", (0.0, 0.3), "lying", ROOMS, "cat, dog"),
    _mounted("lying on", 0.2, "bench", (0.0, 0.26), "lying", OUTDOORS, "cat, dog", 0.9),
    _mounted("jumping over", 1.0, "fire hydrant, bench, suitcase, dog", (0.0, 0.55), "jumping", OUTDOORS),
    Event("jumping from", 0.5, _person("jumping"), _part("skis, snowboard", (0.0, 0.12), size=0.9), places="snow",
           links=((0, "jumping from", "ground"), (0, "on", 1))),
    _mounted("jumping from", 0.5, "skateboard", (0.0, 0.3), "jumping", "street, park"),
    Event("about to hit", 0.5, _person("hitting"), _part("baseball bat", "hand", grip=0.05, angle=-30, size=1.2),
           _part(_BALL, (0.72, 0.8), size=0.5, grip=0.5), places="field, park",
           links=((0, "about to hit", 2), (0, "holding", 1))),
    Event("about to hit", 0.5, _person("hitting"), _part("tennis racket", "hand", grip=0.05),
           _part(_BALL, (0.7, 0.9), size=0.45, grip=0.5), places="field, park",
           links=((0, "about to hit", 2), (0, "holding", 1))),
    _toward("kicking", 1.0, "kicking", _part(_BALL, (0.46, 0.06), size=0.9), "field, park, coast"),
    _held("swinging", 0.5, "tennis racket", "field, park", 1.1, 0.05, 70),
    _held("swinging", 0.5, "baseball bat", "field, park", 1.2, 0.05, 70),
    _toward("entering", 1.0, "entering", _stands("bus, train, airplane", (0.5, 0.0), size=1.1, behind=True),
            "street, station, airport"),
    _toward("exiting", 1.0, "walking", _stands("bus, train, airplane", (-0.75, 0.0), size=1.1, behind=True),
            "street, station, airport"),
    _before("leaning on", 0.6, _stands("surfboard, skis, bicycle, snowboard", angle=-16), OUTDOORS, _HOLDERS,
            (1.02, 1.18)),
    _toward("leaning on", 0.4, "", _stands("car, bicycle, motorcycle", (-0.75, 0.0), behind=True), OUTDOORS, angle=-14),
    _mounted("enclosing", 1.0, ", ".join(sorted(ANIMALS - {"bird", "giraffe"})), (0.0, 0.0), "", GRASSY,
             "fence-merged"),
    _mounted("in", 0.4, _stands("bowl", size=1.5), (0.0, 0.1), "", "table", "apple, orange, banana, broccoli", 1.1,
             behind=True),
    _mounted("in", 0.3, _stands("boat", size=1.2), (-0.4, 0.14), "aboard", "coast", ground=WATER, behind=True),
    _mounted("in", 0.3, "suitcase, handbag, backpack", (0.0, 0.24), "", ROOMS, "teddy bear, cat", behind=True),
    _hung("hanging from", 0.5, "potted plant", 0.9, ROOMS, "ceiling-merged", (0.3, 0.5)),
    _hung("hanging from", 0.5, "backpack", 1.0, ROOMS, _PLAIN_WALLS, (0.6, 0.9)),
    _hung("attached to", 0.03, "clock", 1.0, ROOMS, _PLAIN_WALLS, (0.35, 0.7)),
    _hung("attached to", 0.03, "clock", 1.0, "street, station", "building-other-merged", (0.7, 0.95)),
    _hung("attached to", 0.03, "tv", 1.1, ROOMS, _PLAIN_WALLS, (0.5, 0.85)),
    _hung("attached to", 0.02, "sink", 1.0, "bathroom, kitchen", _PLAIN_WALLS, (0.75, 0.95)),
)
# fmt: on

"""Backgrounds of the preset "psg": which stuff there is and where.

A place is painted from back to front: sky or wall, what stands on the horizon, the ground, a path across it, patches.
"""

from __future__ import annotations

from .frequencies import read_numbers

WATER = frozenset(("sea", "river", "water-other"))
LAND = frozenset(
    "grass-merged road sand snow dirt-merged gravel pavement-merged playingfield railroad platform floor-wood "
    "floor-other-merged rug-merged stairs table-merged".split()
)
GROUND = LAND | WATER
TOPS = frozenset(("sky-other-merged", "ceiling-merged"))
WALLS = frozenset(("wall-brick", "wall-stone", "wall-tile", "wall-wood", "wall-other-merged"))
# Patches on walls, buildings and ceilings, and the predicate that holds them there.
FIXED = {
    **dict.fromkeys(("window-other", "window-blind", "door-stuff", "mirror-stuff", "light", "shelf"), "attached to"),
    **dict.fromkeys(("banner", "paper-merged"), "attached to"),
    **dict.fromkeys(("curtain", "towel", "net"), "hanging from"),
}


class Place:
    """A kind of background, of classes in a text, separated by commas.

    Args:
        weight: how often it is drawn.
        horizon: lowest and highest y of the line where the ground begins, in picture heights.
        back: what fills the upper part; one is chosen. Outdoors it is sky, or nothing but what stands on the horizon.
        far: what stands on the horizon, each with its probability.
        ground: one is chosen.
        paths: bands across the ground; at most one, with its probability.
        patches: what is on walls, houses and on the ground, each with its probability.
    """

    def __init__(
        self,
        weight: float,
        horizon: tuple[float, float],
        *,
        back: str = "sky-other-merged",
        far: str = "",
        ground: str,
        paths: str = "",
        patches: str = "",
    ):
        self.weight, self.horizon, self.indoors = weight, horizon, back != "sky-other-merged"
        self.back, self.ground = tuple(back.split(", ")), tuple(ground.split(", "))
        self.far, self.paths, self.patches = (tuple(read_numbers(odds).items()) for odds in (far, paths, patches))


_ROOM_WALLS = "wall-other-merged, wall-other-merged, wall-other-merged, wall-wood, wall-brick"

# fmt: off
PLACES: dict[str, Place] = {
    "park": Place(1.5, (0.28, 0.46),
        far="mountain-merged 0.12, building-other-merged 0.2, tree-merged 0.85, fence-merged 0.12",
        ground="grass-merged, grass-merged, grass-merged, dirt-merged",
        paths="pavement-merged 0.2, road 0.15, gravel 0.07, river 0.1",
        patches="flower 0.1, rock-merged 0.1, dirt-merged 0.14"),
    "savanna": Place(0.8, (0.28, 0.44), far="mountain-merged 0.25, tree-merged 0.75, fence-merged 0.25",
        ground="grass-merged, dirt-merged", paths="river 0.14, water-other 0.1, dirt-merged 0.2",
        patches="rock-merged 0.25, grass-merged 0.15"),
    "street": Place(1.9, (0.36, 0.52), far="tree-merged 0.4, building-other-merged 0.8, house 0.15, bridge 0.05",
        ground="pavement-merged, pavement-merged, grass-merged", paths="road 0.95",
        patches="window-other 0.65, door-stuff 0.35, banner 0.2, light 0.3, roof 0.1, stairs 0.06"),
    "station": Place(0.6, (0.36, 0.5),
        far="tree-merged 0.55, building-other-merged 0.5, bridge 0.14, fence-merged 0.15",
        ground="gravel, platform, grass-merged", paths="railroad 0.97",
        patches="window-other 0.6, roof 0.15, light 0.3, door-stuff 0.15"),
    "coast": Place(1.1, (0.28, 0.44), far="mountain-merged 0.25, sea 0.9, bridge 0.05", ground="sand, sand, sea",
        paths="sand 0.14", patches="rock-merged 0.15, tent 0.05"),
    "snow": Place(0.8, (0.26, 0.42), far="mountain-merged 0.5, tree-merged 0.55, fence-merged 0.15, house 0.1",
        ground="snow", patches="rock-merged 0.14, banner 0.04, roof 0.05"),
    "field": Place(1.1, (0.28, 0.4),
        far="tree-merged 0.5, building-other-merged 0.2, wall-other-merged 0.3, fence-merged 0.45",
        ground="playingfield, playingfield, grass-merged", paths="dirt-merged 0.35, pavement-merged 0.05",
        patches="banner 0.14, net 0.12"),
    "airport": Place(0.45, (0.4, 0.56), far="mountain-merged 0.2, tree-merged 0.35, building-other-merged 0.35",
        ground="grass-merged, pavement-merged", paths="road 0.55, pavement-merged 0.2", patches="window-other 0.5"),
    "living": Place(1.3, (0.56, 0.7), back=_ROOM_WALLS, ground="floor-wood, floor-wood, floor-other-merged",
        patches="ceiling-merged 0.35, window-other 0.75, window-blind 0.25, door-stuff 0.5, curtain 0.22, "
                "shelf 0.3, cabinet-merged 0.2, light 0.4, mirror-stuff 0.14, rug-merged 0.35, table-merged 0.1, "
                "paper-merged 0.05"),
    "bedroom": Place(0.6, (0.54, 0.66), back=_ROOM_WALLS, ground="floor-wood, floor-other-merged",
        patches="ceiling-merged 0.25, window-other 0.75, window-blind 0.25, door-stuff 0.5, curtain 0.22, "
                "light 0.4, shelf 0.12, cabinet-merged 0.14, rug-merged 0.25"),
    "kitchen": Place(0.9, (0.6, 0.72), back="wall-tile, wall-other-merged, wall-wood",
        ground="floor-other-merged, floor-wood",
        patches="ceiling-merged 0.3, cabinet-merged 0.75, counter 0.6, window-other 0.6, shelf 0.15, towel 0.08, "
                "light 0.35, paper-merged 0.08"),
    "bathroom": Place(0.5, (0.56, 0.7), back="wall-tile, wall-tile, wall-other-merged", ground="floor-other-merged",
        patches="ceiling-merged 0.12, mirror-stuff 0.6, towel 0.3, window-other 0.4, cabinet-merged 0.2, "
                "curtain 0.14, rug-merged 0.15, light 0.35"),
    "table": Place(1.1, (0.3, 0.46), back="wall-other-merged, wall-wood, wall-brick, wall-stone",
        ground="table-merged",
        patches="window-other 0.5, curtain 0.08, paper-merged 0.2, food-other-merged 0.2, fruit 0.1, flower 0.06, "
                "towel 0.04, cardboard 0.05"),
}
# fmt: on

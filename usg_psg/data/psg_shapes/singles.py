"""Things that stand, lie or fly alone in the scenes of the preset "psg", by place, and what lies on furniture."""

from __future__ import annotations

from dataclasses import dataclass

from .places import LAND, WATER


@dataclass(frozen=True)
class Single:
    """A thing that stands or flies alone.

    Attributes:
        weight: how often it is drawn, relative to the others of its place.
        names: classes, one of which is drawn.
        poses: one of them is chosen.
        ground: stuff that it stands on; empty in the air.
        zone: as in `Event`.
        size: enlarges it.
    """

    weight: float
    names: tuple[str, ...]
    poses: tuple[str, ...] = ("",)
    ground: frozenset[str] = LAND
    zone: tuple[float, float] = (1.06, 1.98)
    size: float = 1.0


_WALKERS = ("", "", "walking", "walking", "walking", "walking", "running", "looking")
_ROAD = frozenset(("road",))
_KERB = frozenset(("road", "pavement-merged", "grass-merged", "dirt-merged", "gravel"))
_AIR: frozenset[str] = frozenset()
_PEOPLE = Single(5, ("person",), _WALKERS)
_STANDING = Single(2, ("person",), ("", "", "looking"))
_BIRDS = Single(0.7, ("bird",), ("flying",), _AIR, (0.2, 0.85))
_KITES = Single(0.8, ("kite",), ("",), _AIR, (0.35, 0.9))
_PLANES = Single(0.6, ("airplane",), ("",), _AIR, (0.3, 0.8), 0.9)
_TABLEWARE = ("fork", "knife", "spoon", "cup", "bowl", "wine glass", "bottle")
_FOODS = ("pizza", "sandwich", "cake", "donut", "hot dog", "banana", "apple", "orange", "broccoli", "carrot")
_ANIMAL_POSES = ("", "", "grazing", "running", "lying")

# fmt: off
SINGLES: dict[str, tuple[Single, ...]] = {
    "park": (
        _PEOPLE, Single(1.4, ("dog",), ("", "running", "lying")), Single(1.0, ("bench",)), Single(0.8, ("bicycle",)),
        Single(0.8, ("horse", "sheep", "cow"), _ANIMAL_POSES), Single(0.5, ("bird",)),
        Single(0.4, ("umbrella", "sports ball", "frisbee", "backpack", "chair", "potted plant", "fire hydrant")),
        Single(0.5, ("car", "truck", "motorcycle"), ("", "driving"), _KERB), Single(0.3, ("boat",), ("",), WATER),
        _KITES, _BIRDS,
    ),
    "savanna": (
        Single(1.6, ("elephant",), ("", "", "running")),
        Single(1.6, ("giraffe", "zebra"), ("", "", "grazing", "running")),
        Single(1.4, ("sheep", "cow"), _ANIMAL_POSES), Single(0.8, ("horse",), _ANIMAL_POSES),
        Single(0.7, ("bear",), ("", "running", "lying")),
        Single(1.2, ("bear", "elephant", "cow", "bird"), ("",), WATER), Single(0.6, ("person",), _WALKERS),
        Single(0.3, ("bird",)), _BIRDS,
    ),
    "street": (
        Single(4.5, ("car",), ("driving", "driving", "driving", ""), _ROAD),
        Single(1.6, ("car", "truck", "motorcycle"), ("",), _KERB),
        Single(1.4, ("bus", "truck", "motorcycle"), ("driving", "driving", ""), _ROAD),
        Single(0.8, ("motorcycle", "bicycle")), Single(4, ("person",), _WALKERS),
        Single(1.2, ("traffic light", "stop sign", "parking meter", "fire hydrant"), ("",), LAND - _ROAD),
        Single(0.5, ("bench", "potted plant", "handbag", "suitcase", "skateboard", "chair")),
        Single(0.4, ("dog", "bird", "horse"), ("", "lying")), _BIRDS,
    ),
    "station": (
        Single(4, ("train",), ("driving", "driving", ""), frozenset(("railroad",)), size=0.8),
        Single(2.5, ("person",), _WALKERS), Single(0.8, ("suitcase", "backpack", "handbag")),
        Single(0.7, ("bench", "traffic light", "clock")), Single(0.4, ("car", "truck"), ("",), _KERB),
    ),
    "coast": (
        Single(4, ("person",), _WALKERS), Single(2.2, ("person",), ("", "balancing"), WATER),
        Single(2.0, ("boat",), ("",), WATER), Single(1.0, ("surfboard",), ("",)),
        Single(0.9, ("umbrella", "chair", "backpack", "sports ball", "frisbee")),
        Single(0.7, ("dog", "horse"), ("", "running", "lying")), Single(0.4, ("bird",)), _KITES, _BIRDS, _PLANES,
    ),
    "snow": (
        Single(4, ("person",), ("", "", "walking", "looking", "balancing")),
        Single(1.0, ("skis", "snowboard", "backpack")), Single(0.5, ("dog", "bear", "bird"), ("", "running")),
        Single(0.3, ("car", "truck", "bench")),
    ),
    "field": (
        Single(4, ("person",), ("", "walking", "running", "looking", "playing")),
        Single(0.8, ("sports ball", "frisbee", "baseball glove", "tennis racket", "baseball bat")),
        Single(0.7, ("bench", "chair", "backpack", "bottle", "handbag")), _KITES,
        Single(0.3, ("dog",), ("", "running")),
    ),
    "airport": (
        Single(2.5, ("airplane",), ("",), LAND, (1.1, 1.8), 1.9),
        Single(1.4, ("truck", "bus", "car"), ("driving", ""), _KERB),
        Single(1.4, ("person",), ("", "walking", "looking")), Single(0.7, ("suitcase", "backpack", "handbag")),
        Single(1.0, ("airplane",), ("",), _AIR, (0.25, 0.8), 1.2), _BIRDS,
    ),
    "living": (
        _STANDING, Single(1.4, ("couch",)), Single(1.8, ("chair",)), Single(1.2, ("potted plant", "vase")),
        Single(0.6, ("teddy bear", "book", "remote", "sports ball", "cell phone", "handbag", "umbrella"), size=1.3),
        Single(1.0, ("cat", "dog"), ("", "lying", "lying")), Single(0.5, ("suitcase", "backpack")),
    ),
    "bedroom": (
        Single(2.0, ("bed",)), _STANDING, Single(0.9, ("chair", "potted plant", "suitcase")),
        Single(0.9, ("cat", "dog"), ("", "lying")),
        Single(0.8, ("teddy bear", "book", "hair drier", "clock", "tie", "backpack"), size=1.3),
    ),
    "kitchen": (
        Single(1.5, ("refrigerator",)), Single(1.4, ("oven",)), _STANDING, Single(1.2, ("chair",)),
        Single(0.8, ("bottle", "bowl", "toaster", "microwave"), size=1.3), Single(0.5, ("cat", "dog"), ("", "lying")),
        Single(0.4, ("potted plant", "vase")),
    ),
    "bathroom": (
        Single(2.4, ("toilet",)), Single(1.2, ("sink",)),
        Single(0.8, ("bottle", "toothbrush", "hair drier", "cup"), size=1.6),
        Single(0.8, ("cat", "dog", "person"), ("", "lying")),
        Single(0.5, ("potted plant", "scissors", "teddy bear"), size=1.3),
    ),
    "table": (
        Single(4, _TABLEWARE), Single(4, _FOODS),
        Single(1.4, ("laptop", "keyboard", "mouse", "cell phone", "remote", "book")),
        Single(0.8, ("vase", "clock", "scissors", "teddy bear", "potted plant", "cat")),
        Single(0.4, ("microwave", "toaster", "toothbrush", "tie")),
    ),
}
# fmt: on
# Furniture that small things lie on: height of its top in heights of a person, and the things.
TABLETOPS: dict[str, tuple[float, tuple[str, ...]]] = {
    "dining table": (0.49, (*_TABLEWARE, *_FOODS, "laptop", "book", "vase", "potted plant", "cell phone")),
    "oven": (0.59, ("bowl", "bottle", "pizza")),
    "bed": (0.34, ("book", "teddy bear", "laptop", "handbag", "pillow", "pillow", "pillow", "blanket", "blanket")),
    "couch": (0.3, ("book", "remote", "teddy bear", "laptop", "pillow", "pillow", "blanket")),
    "bench": (0.27, ("handbag", "backpack", "book")),
    "refrigerator": (1.09, ("bottle", "bowl", "clock")),
}
LADEN = {"dining table": 0.92, "bed": 0.6, "couch": 0.4}  # how often there is anything on it
TABLE_CHANCE = {"living": 0.5, "kitchen": 0.5, "bedroom": 0.1, "park": 0.06}

"""Persons and animals in poses; the preset "psg" tells actions by them.

Everything faces right in the unit square of a brush. A person's square is `PERSON_WIDTH` times as wide as high, so that
stretched limbs fit; the feet stand at its lower edge.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from .looks import DARK, SKINS, Look
from .sprite import Brush, Color, Point, tone

PERSON_WIDTH = 0.8
Limb = tuple[Point, ...]

_LEGS: tuple[Limb, Limb] = (((0.45, 0.54), (0.42, 0.97)), ((0.55, 0.54), (0.58, 0.97)))
_STEP: tuple[Limb, Limb] = (((0.46, 0.54), (0.4, 0.76), (0.28, 0.96)), ((0.54, 0.54), (0.62, 0.75), (0.7, 0.97)))
_LUNGE: tuple[Limb, Limb] = (((0.46, 0.54), (0.3, 0.96)), ((0.54, 0.54), (0.72, 0.74), (0.74, 0.97)))
_BACK_ARM: Limb = ((0.39, 0.23), (0.31, 0.5))
_FRONT_ARM: Limb = ((0.61, 0.23), (0.69, 0.5))


@dataclass(frozen=True)
class Pose:
    """Where a person's limbs are.

    Attributes:
        legs, arms: their joints.
        drop: by how much the upper body is lower than of somebody standing.
        face: "front", "side" (seen in profile, looking right), "talk" (in profile, mouth open) or "back".
        hand: where things in the hand are held.
    """

    legs: tuple[Limb, Limb] = _LEGS
    arms: tuple[Limb, Limb] = (_BACK_ARM, _FRONT_ARM)
    drop: float = 0.0
    face: str = "front"
    hand: Point = (0.69, 0.52)


POSES: dict[str, Pose] = {
    "": Pose(),
    "walking": Pose(_STEP, (((0.39, 0.23), (0.3, 0.38), (0.33, 0.5)), ((0.61, 0.23), (0.7, 0.38), (0.76, 0.46)))),
    "running": Pose(
        (((0.46, 0.54), (0.3, 0.68), (0.08, 0.66)), ((0.54, 0.54), (0.74, 0.68), (0.66, 0.97))),
        (((0.39, 0.23), (0.22, 0.36), (0.16, 0.24)), ((0.61, 0.23), (0.78, 0.38), (0.88, 0.26))),
        face="side",
    ),
    "looking": Pose(face="side"),
    "talking": Pose(arms=(_BACK_ARM, ((0.61, 0.23), (0.7, 0.38), (0.86, 0.32))), face="talk"),
    "holding": Pose(arms=(_BACK_ARM, ((0.61, 0.23), (0.76, 0.31), (0.8, 0.16))), hand=(0.8, 0.2)),
    "carrying": Pose(_STEP, (_BACK_ARM, ((0.61, 0.23), (0.7, 0.5))), hand=(0.7, 0.52)),
    "eating": Pose(arms=(_BACK_ARM, ((0.61, 0.23), (0.76, 0.34), (0.6, 0.16))), hand=(0.6, 0.19)),
    "drinking": Pose(arms=(_BACK_ARM, ((0.61, 0.23), (0.8, 0.28), (0.66, 0.1))), face="side", hand=(0.68, 0.18)),
    "touching": Pose(arms=(_BACK_ARM, ((0.61, 0.23), (0.97, 0.3))), hand=(0.98, 0.3)),
    "pushing": Pose(
        _LUNGE, (((0.42, 0.24), (0.94, 0.38)), ((0.61, 0.23), (0.96, 0.33))), face="side", hand=(0.97, 0.36)
    ),
    "pulling": Pose(
        _LUNGE, (((0.39, 0.23), (0.04, 0.4)), ((0.58, 0.24), (0.06, 0.44))), face="side", hand=(0.04, 0.42)
    ),
    "throwing": Pose(_LUNGE, (((0.39, 0.23), (0.2, 0.4)), ((0.61, 0.22), (0.9, 0.02))), face="side", hand=(0.92, 0.0)),
    "catching": Pose(arms=(((0.42, 0.22), (0.86, 0.12)), ((0.61, 0.23), (0.88, 0.18))), face="side", hand=(0.92, 0.14)),
    "kicking": Pose(
        (((0.46, 0.54), (0.42, 0.97)), ((0.54, 0.54), (0.74, 0.66), (0.93, 0.78))),
        (((0.39, 0.23), (0.16, 0.32)), ((0.61, 0.23), (0.84, 0.32))),
        hand=(0.96, 0.82),
    ),
    "swinging": Pose(_LUNGE, (((0.42, 0.24), (0.84, 0.36)), ((0.61, 0.23), (0.86, 0.32))), hand=(0.88, 0.34)),
    "hitting": Pose(
        _LUNGE, (((0.42, 0.22), (0.78, 0.06)), ((0.61, 0.22), (0.82, 0.03))), face="side", hand=(0.82, 0.06)
    ),
    "playing": Pose(_LUNGE, (((0.39, 0.23), (0.1, 0.12)), ((0.61, 0.23), (0.9, 0.12))), hand=(0.9, 0.12)),
    "jumping": Pose(
        (((0.46, 0.54), (0.32, 0.66), (0.4, 0.84)), ((0.54, 0.54), (0.7, 0.64), (0.72, 0.82))),
        (((0.39, 0.22), (0.2, 0.04)), ((0.61, 0.22), (0.8, 0.04))),
    ),
    "climbing": Pose(
        (((0.46, 0.54), (0.28, 0.66), (0.34, 0.84)), ((0.54, 0.54), (0.64, 0.97))),
        (((0.39, 0.22), (0.28, 0.0)), ((0.61, 0.22), (0.74, 0.04))),
        face="back",
    ),
    "entering": Pose(_STEP, face="back"),
    "guiding": Pose(_STEP, (((0.39, 0.23), (0.04, 0.26)), _FRONT_ARM), face="side"),
    "crossing": Pose(_STEP, (((0.39, 0.23), (0.2, 0.36)), ((0.61, 0.23), (0.8, 0.36))), face="side"),
    "sitting": Pose(
        (((0.46, 0.76), (0.72, 0.77), (0.72, 0.98)), ((0.52, 0.76), (0.8, 0.77), (0.8, 0.98))),
        (((0.4, 0.45), (0.44, 0.68)), ((0.6, 0.45), (0.7, 0.68))),
        drop=0.22,
        hand=(0.72, 0.68),
    ),
    "riding": Pose(
        (((0.48, 0.76), (0.56, 0.98)), ((0.54, 0.76), (0.64, 0.98))),
        (((0.4, 0.45), (0.7, 0.62)), ((0.6, 0.45), (0.78, 0.6))),
        drop=0.22,
        hand=(0.78, 0.6),
    ),
    "balancing": Pose(
        (((0.46, 0.6), (0.34, 0.78), (0.36, 0.97)), ((0.54, 0.6), (0.68, 0.78), (0.66, 0.97))),
        (((0.39, 0.29), (0.12, 0.26)), ((0.61, 0.29), (0.88, 0.26))),
        drop=0.06,
    ),
    "falling": Pose(_STEP, (((0.39, 0.22), (0.16, 0.06)), ((0.61, 0.22), (0.84, 0.1)))),
    "aboard": Pose((((0.45, 0.54), (0.45, 0.7)), ((0.55, 0.54), (0.55, 0.7)))),
}

# Poses in which the gaze goes to the right.
GAZES = frozenset(name for name, pose in POSES.items() if pose.face in ("side", "talk"))


def draw_person(brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    """Paint a person."""
    where = POSES[pose]
    skin = SKINS[rng.integers(len(SKINS))]
    trousers = (
        tone((70, 84, 130), rng.uniform(0.6, 1.2)) if rng.random() < 0.7 else tone((110, 96, 80), rng.uniform(0.5, 1.1))
    )
    hair = tone((120, 80, 44), rng.uniform(0.25, 1.5))
    down = where.drop
    for limb in where.legs:
        brush.line(list(limb), 0.1, trousers)
    brush.line(list(where.arms[0]), 0.065, tone(skin, 0.88))
    brush.polygon([(0.36, 0.19 + down), (0.64, 0.19 + down), (0.61, 0.57 + down), (0.39, 0.57 + down)], color)
    x, y = 0.5, 0.1 + down
    brush.ellipse((x, y), (0.115, 0.095), skin)
    if where.face == "back":
        brush.ellipse((x, y - 0.005), (0.12, 0.095), hair)
    elif where.face == "front":
        brush.ellipse((x, y - 0.02), (0.12, 0.08), hair, arc=(180, 360), outline=False)
        for side in (-0.045, 0.045):
            brush.ellipse((x + side, y + 0.015), (0.017, 0.014), DARK, outline=False)
    else:
        brush.polygon([(x + 0.09, y - 0.02), (x + 0.17, y + 0.03), (x + 0.09, y + 0.05)], skin)
        brush.ellipse((x - 0.035, y - 0.02), (0.095, 0.085), hair, arc=(90, 330), outline=False)
        brush.ellipse((x + 0.05, y), (0.018, 0.016), DARK, outline=False)
        if where.face == "talk":
            brush.ellipse((x + 0.075, y + 0.05), (0.035, 0.022), (120, 30, 40), outline=False)
    brush.line(list(where.arms[1]), 0.065, skin)


@dataclass(frozen=True)
class Animal:
    """Proportions of a four-footed animal, in its unit square.

    Attributes:
        neck: length of the neck.
        head: radius of the head.
        body: half height of the body.
        ears: "pointed", "hanging", "round" or "big".
        pattern: "", "stripes" or "spots".
        trunk, horns, mane: whether it has them.
    """

    neck: float
    head: float
    body: float = 0.17
    ears: str = "pointed"
    pattern: str = ""
    trunk: bool = False
    horns: bool = False
    mane: bool = False


_ANIMALS: dict[str, Animal] = {
    "cat": Animal(0.12, 0.13, 0.13, pattern="stripes"),
    "dog": Animal(0.14, 0.13, 0.14, "hanging"),
    "horse": Animal(0.38, 0.1, 0.17, mane=True),
    "sheep": Animal(0.14, 0.1, 0.23, "hanging"),
    "cow": Animal(0.16, 0.12, 0.19, "hanging", "spots", horns=True),
    "elephant": Animal(0.08, 0.16, 0.25, "big", trunk=True),
    "bear": Animal(0.1, 0.14, 0.23, "round"),
    "zebra": Animal(0.34, 0.1, 0.17, pattern="stripes", mane=True),
    "giraffe": Animal(0.62, 0.08, 0.13, pattern="spots", horns=True),
}


def _shoulder(animal: Animal, pose: str) -> Point:
    return (0.68, (0.8 if pose == "lying" else 0.56) - 0.5 * animal.body)


def _head(animal: Animal, pose: str) -> Point:
    x, y = _shoulder(animal, pose)
    if pose == "grazing":
        return 0.86, min(0.92, y + 0.24 + 0.4 * animal.neck)
    if pose == "running":
        return min(0.92, x + 0.9 * animal.neck), y - 0.4 * animal.neck
    return x + 0.3 * animal.neck + 0.05, max(animal.head, y - animal.neck)


def _legs(pose: str) -> tuple[Limb, ...]:
    if pose == "lying":
        return ((0.2, 0.94), (0.4, 0.96)), ((0.62, 0.94), (0.86, 0.96))
    if pose == "running":
        return (
            ((0.26, 0.6), (0.02, 0.84)),
            ((0.3, 0.6), (0.12, 0.95)),
            ((0.66, 0.6), (0.84, 0.92)),
            ((0.7, 0.6), (0.98, 0.8)),
        )
    return (
        ((0.3, 0.6), (0.3, 0.97)),
        ((0.62, 0.6), (0.62, 0.97)),
        ((0.2, 0.6), (0.19, 0.97)),
        ((0.72, 0.6), (0.73, 0.97)),
    )


def _draw_animal(name: str, brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    animal = _ANIMALS[name]
    middle = 0.8 if pose == "lying" else 0.56
    mark = tone(color, 0.4) if name != "zebra" else DARK
    for number, limb in enumerate(_legs(pose)):
        brush.line(list(limb), 0.09, tone(color, 0.8 if number < 2 else 1.0))
    brush.line(
        [(0.14, middle - 0.06), (0.03, middle + (0.14 if animal.mane else -0.16))], 0.05, mark if animal.mane else color
    )
    brush.ellipse((0.44, middle), (0.33, animal.body), color)
    if animal.pattern == "spots":
        for x, y in ((0.24, -0.04), (0.38, 0.06), (0.5, -0.06), (0.64, 0.04)):
            brush.ellipse((x, middle + y), (0.05, 0.05), mark, outline=False)
    elif animal.pattern == "stripes":
        for x in (0.22, 0.32, 0.42, 0.52, 0.62):
            brush.line(
                [(x, middle - 0.85 * animal.body), (x + 0.02, middle + 0.5 * animal.body)], 0.035, mark, outline=False
            )
    _draw_head(animal, brush, color, mark, pose)


def _draw_head(animal: Animal, brush: Brush, color: Color, mark: Color, pose: str) -> None:
    shoulder, (x, y), r = _shoulder(animal, pose), _head(animal, pose), animal.head
    brush.line([shoulder, (x, y)], 0.12, color)
    if animal.mane or animal.pattern == "spots":
        brush.line([(shoulder[0] - 0.05, shoulder[1]), (x - 0.06, y)], 0.05, mark, outline=False)
    if animal.horns:
        brush.line([(x - 0.2 * r, y), (x - 0.1 * r, y - 1.5 * r)], 0.04, (90, 74, 60), outline=False)
    if animal.ears == "pointed":
        brush.polygon([(x - 0.8 * r, y - 0.4 * r), (x - 0.5 * r, y - 1.8 * r), (x + 0.1 * r, y - 0.8 * r)], color)
    elif animal.ears == "round":
        brush.ellipse((x - 0.5 * r, y - 0.9 * r), (0.4 * r, 0.4 * r), color)
    brush.ellipse((x, y), (r, r), color)
    brush.ellipse((x + 0.8 * r, y + 0.3 * r), (0.55 * r, 0.42 * r), tone(color, 1.15))
    if animal.trunk:
        brush.line([(x + 0.8 * r, y), (x + 1.2 * r, y + 1.4 * r), (x + 1.0 * r, y + 2.4 * r)], 0.08, tone(color, 0.9))
    if animal.ears in ("hanging", "big"):
        size = 1.0 if animal.ears == "big" else 0.6
        brush.ellipse((x - 0.6 * r, y + 0.2 * r), (0.7 * size * r, 1.2 * size * r), tone(color, 0.7))
    brush.ellipse((x + 0.3 * r, y - 0.25 * r), (0.16 * r, 0.18 * r), DARK, outline=False)


FIGURE_LOOKS: dict[str, Look] = {
    "person": Look(draw_person, 1.0, PERSON_WIDTH, (0.0, 1.0), 0.6, 0.85),
    "cat": Look(partial(_draw_animal, "cat"), 0.36, 0.56, (0.08, 0.12), 0.35, 0.75),
    "dog": Look(partial(_draw_animal, "dog"), 0.5, 0.72, (0.06, 0.1), 0.62, 0.72),
    "horse": Look(partial(_draw_animal, "horse"), 1.1, 1.2, (0.03, 0.06), 0.62, 0.5),
    "sheep": Look(partial(_draw_animal, "sheep"), 0.6, 0.8, (0.1, 0.14), 0.12, 0.92),
    "cow": Look(partial(_draw_animal, "cow"), 0.85, 1.2, (0.05, 0.08), 0.25, 0.85),
    "elephant": Look(partial(_draw_animal, "elephant"), 1.3, 1.7, (0.6, 0.66), 0.15, 0.6),
    "bear": Look(partial(_draw_animal, "bear"), 0.8, 1.1, (0.05, 0.07), 0.6, 0.35),
    "zebra": Look(partial(_draw_animal, "zebra"), 1.0, 1.15, (0.1, 0.12), 0.06, 0.95),
    "giraffe": Look(partial(_draw_animal, "giraffe"), 1.8, 1.15, (0.1, 0.12), 0.55, 0.9),
}

ANIMALS = frozenset((*_ANIMALS, "bird"))

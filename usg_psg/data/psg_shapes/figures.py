"""Persons and animals in poses; the preset "psg" tells actions by them.

Everything faces right in the unit square of a brush. A person's square is `PERSON_WIDTH` times as wide as high, so that
stretched limbs fit; the feet stand at its lower edge.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from .looks import DARK, SKINS, Look, read_points
from .sprite import Brush, Color, Point, tone

PERSON_WIDTH = 0.8


_LEGS = ".45,.54 .42,.97 | .55,.54 .58,.97"
_STEP = ".46,.54 .4,.76 .28,.96 | .54,.54 .62,.75 .7,.97"
_LUNGE = ".46,.54 .3,.96 | .54,.54 .72,.74 .74,.97"


@dataclass(frozen=True)
class Pose:
    """Where a person's limbs are.

    Attributes:
        legs, arms: their joints, "x,y x,y", the back one | the front one.
        drop: by how much the upper body is lower than of somebody standing.
        face: "front", "side" (seen in profile, looking right), "talk" (in profile, mouth open) or "back".
        hand: where things in the hand are held.
    """

    legs: str = _LEGS
    arms: str = ".39,.23 .31,.5 | .61,.23 .69,.5"
    drop: float = 0.0
    face: str = "front"
    hand: Point = (0.69, 0.52)


POSES: dict[str, Pose] = {
    "": Pose(),
    "walking": Pose(_STEP, ".39,.23 .3,.38 .33,.5 | .61,.23 .7,.38 .76,.46"),
    "running": Pose(
        ".46,.54 .3,.68 .08,.66 | .54,.54 .74,.68 .66,.97",
        ".39,.23 .22,.36 .16,.24 | .61,.23 .78,.38 .88,.26",
        face="side",
    ),
    "looking": Pose(face="side"),
    "talking": Pose(arms=".39,.23 .31,.5 | .61,.23 .7,.38 .86,.32", face="talk"),
    "holding": Pose(arms=".39,.23 .31,.5 | .61,.23 .76,.31 .8,.16", hand=(0.8, 0.2)),
    "carrying": Pose(_STEP, ".39,.23 .31,.5 | .61,.23 .7,.5", hand=(0.7, 0.52)),
    "eating": Pose(arms=".39,.23 .31,.5 | .61,.23 .76,.34 .6,.16", hand=(0.6, 0.19)),
    "drinking": Pose(arms=".39,.23 .31,.5 | .61,.23 .8,.28 .66,.1", face="side", hand=(0.68, 0.18)),
    "touching": Pose(arms=".39,.23 .31,.5 | .61,.23 .97,.3", hand=(0.98, 0.3)),
    "pushing": Pose(_LUNGE, ".42,.24 .94,.38 | .61,.23 .96,.33", face="side", hand=(0.97, 0.36)),
    "pulling": Pose(_LUNGE, ".39,.23 .04,.4 | .58,.24 .06,.44", face="side", hand=(0.04, 0.42)),
    "throwing": Pose(_LUNGE, ".39,.23 .2,.4 | .61,.22 .9,.02", face="side", hand=(0.92, 0.0)),
    "catching": Pose(arms=".42,.22 .86,.12 | .61,.23 .88,.18", face="side", hand=(0.92, 0.14)),
    "kicking": Pose(
        ".46,.54 .42,.97 | .54,.54 .74,.66 .93,.78", ".39,.23 .16,.32 | .61,.23 .84,.32", hand=(0.96, 0.82)
    ),
    "swinging": Pose(_LUNGE, ".42,.24 .84,.36 | .61,.23 .86,.32", hand=(0.88, 0.34)),
    "hitting": Pose(_LUNGE, ".42,.22 .78,.06 | .61,.22 .82,.03", face="side", hand=(0.82, 0.06)),
    "playing": Pose(_LUNGE, ".39,.23 .1,.12 | .61,.23 .9,.12", hand=(0.9, 0.12)),
    "jumping": Pose(".46,.54 .32,.66 .4,.84 | .54,.54 .7,.64 .72,.82", ".39,.22 .2,.04 | .61,.22 .8,.04"),
    "climbing": Pose(".46,.54 .28,.66 .34,.84 | .54,.54 .64,.97", ".39,.22 .28,0 | .61,.22 .74,.04", face="back"),
    "entering": Pose(_STEP, face="back"),
    "guiding": Pose(_STEP, ".39,.23 .04,.26 | .61,.23 .69,.5", face="side"),
    "crossing": Pose(_STEP, ".39,.23 .2,.36 | .61,.23 .8,.36", face="side"),
    "sitting": Pose(
        ".46,.76 .72,.77 .72,.98 | .52,.76 .8,.77 .8,.98",
        ".4,.45 .44,.68 | .6,.45 .7,.68",
        drop=0.22,
        hand=(0.72, 0.68),
    ),
    "riding": Pose(".48,.76 .56,.98 | .54,.76 .64,.98", ".4,.45 .7,.62 | .6,.45 .78,.6", drop=0.22, hand=(0.78, 0.6)),
    "balancing": Pose(
        ".46,.6 .34,.78 .36,.97 | .54,.6 .68,.78 .66,.97", ".39,.29 .12,.26 | .61,.29 .88,.26", drop=0.06
    ),
    "falling": Pose(_STEP, ".39,.22 .16,.06 | .61,.22 .84,.1"),
    "aboard": Pose(".45,.54 .45,.7 | .55,.54 .55,.7"),
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
    back_arm, front_arm = map(read_points, where.arms.split("|"))
    for limb in where.legs.split("|"):
        brush.line(read_points(limb), 0.1, trousers)
    brush.line(back_arm, 0.065, tone(skin, 0.88))
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
    brush.line(front_arm, 0.065, skin)


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


_ANIMAL_LEGS = {
    "": ".3,.6 .3,.97 | .62,.6 .62,.97 | .2,.6 .19,.97 | .72,.6 .73,.97",
    "lying": ".2,.94 .4,.96 | .62,.94 .86,.96",
    "running": ".26,.6 .02,.84 | .3,.6 .12,.95 | .66,.6 .84,.92 | .7,.6 .98,.8",
}


def _draw_animal(name: str, brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    animal = _ANIMALS[name]
    middle = 0.8 if pose == "lying" else 0.56
    mark = tone(color, 0.4) if name != "zebra" else DARK
    for number, limb in enumerate(_ANIMAL_LEGS.get(pose, _ANIMAL_LEGS[""]).split("|")):
        brush.line(read_points(limb), 0.09, tone(color, 0.8 if number < 2 else 1.0))
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

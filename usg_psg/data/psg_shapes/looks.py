"""How things look: each class has its own outline, colours and size."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from .sprite import Brush, Color, Point, Sprite, tone

Draw = Callable[[Brush, Color, np.random.Generator, str], None]
Stroke = tuple[str, float | str | Color, list[Point]]  # kind, shade, points


@dataclass(frozen=True)
class Look:
    """Appearance of a class.

    Attributes:
        draw: paints it; arguments are brush, main colour, random generator and pose.
        height, width: of its box, in heights of a standing person.
        hues: range of the main colour's hue, in turns.
        saturation, value: of the main colour.
    """

    draw: Draw
    height: float
    width: float
    hues: tuple[float, float]
    saturation: float = 0.65
    value: float = 0.8


DARK: Color = (48, 48, 54)
WHITE: Color = (244, 244, 240)
SKINS: tuple[Color, ...] = ((241, 204, 170), (214, 160, 118), (160, 106, 72), (104, 68, 48))
# fmt: off
PALETTE: dict[str, Color] = {
    "dark": DARK, "white": WHITE, "glass": (176, 214, 232), "wood": (158, 104, 58), "metal": (188, 192, 200),
    "cream": (246, 232, 196), "green": (84, 150, 70), "red": (214, 58, 50),
}
# fmt: on


def read_points(text: str) -> list[Point]:
    """Points written as "x,y x,y"."""
    return [(float(x), float(y)) for x, y in (point.split(",") for point in text.split())]


def _stroke(text: str) -> Stroke:
    kind, shade, points = text.split(maxsplit=2)
    if "/" in shade:
        red, green, blue = map(float, shade.split("/"))
        paint: float | str | Color = (red, green, blue)
    else:
        paint = shade if shade.isalpha() else float(shade)
    return kind, paint, read_points(points)


def _draw_strokes(brush: Brush, strokes: list[Stroke], color: Color, palette: Mapping[str, Color] = PALETTE) -> None:
    for kind, shade, points in strokes:
        paint = palette[shade] if isinstance(shade, str) else shade if isinstance(shade, tuple) else tone(color, shade)
        outline = not kind.endswith("!")
        if kind[0] == "p":
            brush.polygon(points, paint, outline=outline)
        elif kind[0] == "r":
            brush.rectangle(*points[0], *points[1], paint, outline=outline)
        elif kind[0] == "e":
            brush.ellipse(points[0], points[1], paint, outline=outline, arc=points[2] if len(points) > 2 else (0, 360))
        else:
            brush.line(points, float(kind[1:].rstrip("!")), paint, outline=outline)


def _draw(drawings: dict[str, list[Stroke]], brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    """Paint a drawing in its pose; one that it does not know is the usual one."""
    _draw_strokes(brush, drawings.get(pose, drawings[""]), color)


def _draw_person(
    drawings: dict[str, list[Stroke]], brush: Brush, color: Color, rng: np.random.Generator, pose: str
) -> None:
    skin = SKINS[rng.integers(len(SKINS))]
    trousers = _hsv(rng.uniform(0.55, 0.68), 0.45, rng.uniform(0.3, 0.55))
    hair = _hsv(rng.uniform(0.03, 0.11), 0.6, rng.uniform(0.12, 0.5))
    strokes = drawings.get(pose, drawings[""])
    _draw_strokes(brush, strokes, color, {"skin": skin, "trousers": trousers, "hair": hair})


def _draw_bicycle(brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    for x in (0.22, 0.78):
        rim = [(x + 0.19 * np.cos(t), 0.68 + 0.29 * np.sin(t)) for t in np.linspace(0, 2 * np.pi, 29)]
        brush.line(rim, 0.055, DARK, outline=False)
        for point in rim[::7]:
            brush.line([(x, 0.68), point], 0.012, (150, 150, 155), outline=False)
    brush.line([(0.22, 0.68), (0.4, 0.3), (0.68, 0.3), (0.5, 0.68), (0.22, 0.68)], 0.06, color)
    brush.line([(0.5, 0.68), (0.37, 0.18)], 0.06, color)
    brush.line([(0.78, 0.68), (0.66, 0.1), (0.76, 0.06)], 0.06, color)
    brush.rectangle(0.28, 0.12, 0.46, 0.19, DARK)


def _draw_ball(brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    brush.ellipse((0.5, 0.5), (0.49, 0.49), WHITE)
    for t in np.linspace(0, 2 * np.pi, 6)[:-1] + 0.3:
        brush.ellipse((0.5 + 0.3 * np.cos(t), 0.5 + 0.3 * np.sin(t)), (0.12, 0.12), color, outline=False)
    brush.ellipse((0.5, 0.5), (0.1, 0.1), color, outline=False)


def _draw_clock(brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    brush.ellipse((0.5, 0.5), (0.49, 0.49), color)
    brush.ellipse((0.5, 0.5), (0.38, 0.38), WHITE, outline=False)
    for length, turn in ((0.2, rng.uniform(0, 2 * np.pi)), (0.31, rng.uniform(0, 2 * np.pi))):
        hand = (0.5 + length * np.cos(turn), 0.5 + length * np.sin(turn))
        brush.line([(0.5, 0.5), hand], 0.05, DARK, outline=False)


_DRAWN_BY_CODE: dict[str, Draw] = {"bicycle": _draw_bicycle, "sports ball": _draw_ball, "clock": _draw_clock}


def _read_looks(text: str) -> dict[str, Look]:
    """Looks of the classes in drawings.txt, which has the grammar."""
    looks: dict[str, Look] = {}
    drawings: dict[str, dict[str, list[Stroke]]] = {}
    lines = text.replace("\n  ", " ").splitlines()
    for entry in (line for line in lines if line and not line.startswith("#")):
        head, _, body = entry.partition(":")
        strokes = [_stroke(stroke) for stroke in body.split("|") if stroke]
        if " / " in head:
            name, pose = head.split(" / ")
            drawings[name][pose] = strokes
        elif " + " in head:
            name, pose = head.split(" + ")
            drawings[name][pose] = drawings[name][""] + strokes
        else:
            words = head.split()
            name, (height, width, low, high, saturation, value) = " ".join(words[:-6]), map(float, words[-6:])
            drawings[name] = {"": strokes}
            draw = _DRAWN_BY_CODE.get(name) or partial(_draw_person if name == "person" else _draw, drawings[name])
            looks[name] = Look(draw, height, width, (low, high), saturation, value)
    return looks


LOOKS = _read_looks(Path(__file__).with_name("drawings.txt").read_text(encoding="utf-8"))


def _hsv(hue: float, saturation: float, value: float) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return 255 * red, 255 * green, 255 * blue


def draw_look(
    look: Look,
    foot: tuple[float, float],
    person_height: float,
    rng: np.random.Generator,
    *,
    pose: str = "",
    flip: bool = False,
    angle: float = 0.0,
) -> Sprite:
    """Paint a thing standing at a point.

    Args:
        look: of its class.
        foot: x, y of the middle of its lower edge, pixels.
        person_height: pixels of a standing person at this place.
        rng: chooses colours and details.
        pose: "", or a pose that the class knows ("sitting", "lying", "flying", ...).
        flip: face left.
        angle: turn clockwise about the foot, degrees.
    """
    height, width = look.height * person_height, look.width * person_height
    low, high = look.hues
    color = _hsv(
        rng.uniform(low, high),
        np.clip(look.saturation + rng.uniform(-0.1, 0.1), 0, 1),
        np.clip(look.value + rng.uniform(-0.1, 0.1), 0, 1),
    )
    box = (foot[0] - width / 2, foot[1] - height, foot[0] + width / 2, foot[1])
    brush = Brush(box, flip=flip, angle=angle, outline=max(1.0, person_height / 110))
    look.draw(brush, color, rng, pose)
    return brush.finish()

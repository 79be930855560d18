"""How the things of generated scenes look: each class has its own outline, colours and size.

A drawing function paints into the unit square of a `Brush`, facing right, standing on its lower edge.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .sprite import Brush, Color, Sprite, tone

Draw = Callable[[Brush, Color, np.random.Generator, str], None]


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
GLASS: Color = (176, 214, 232)
SKINS: tuple[Color, ...] = ((241, 204, 170), (214, 160, 118), (160, 106, 72), (104, 68, 48))
WOOD: Color = (158, 104, 58)


def _person(brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    skin = SKINS[rng.integers(len(SKINS))]
    trousers = _hsv(rng.uniform(0.55, 0.68), 0.45, rng.uniform(0.3, 0.55))
    hair = _hsv(rng.uniform(0.03, 0.11), 0.6, rng.uniform(0.12, 0.5))
    if pose in ("sitting", "riding"):
        knee = 0.86 if pose == "sitting" else 0.7
        brush.line([(0.3, 0.72), (knee, 0.74), (knee, 0.98)], 0.2, trousers)
    elif pose == "aboard":
        brush.rectangle(0.2, 0.62, 0.8, 1.0, trousers)
    else:
        brush.line([(0.38, 0.58), (0.3, 0.98)], 0.22, trousers)
        brush.line([(0.62, 0.58), (0.7, 0.98)], 0.22, trousers)
    brush.polygon([(0.18, 0.24), (0.82, 0.24), (0.74, 0.66), (0.26, 0.66)], color)
    if pose == "holding":
        brush.line([(0.24, 0.29), (0.12, 0.54)], 0.14, skin)
        brush.line([(0.76, 0.29), (0.96, 0.38), (0.98, 0.2)], 0.14, skin)
    elif pose in ("sitting", "riding", "aboard"):
        brush.line([(0.5, 0.3), (0.62, 0.5), (0.9, 0.52)], 0.14, skin)
    else:
        brush.line([(0.2, 0.29), (0.08, 0.58)], 0.14, skin)
        brush.line([(0.8, 0.29), (0.92, 0.58)], 0.14, skin)
    brush.ellipse((0.5, 0.115), (0.26, 0.105), skin)
    brush.ellipse((0.5, 0.085), (0.27, 0.085), hair, start=180, stop=360, outline=False)


def _wheels(brush: Brush, centers: tuple[float, ...], radius: tuple[float, float]) -> None:
    for x in centers:
        brush.ellipse((x, 1 - radius[1]), (radius[0], radius[1]), DARK)
        brush.ellipse((x, 1 - radius[1]), (0.45 * radius[0], 0.45 * radius[1]), (190, 190, 196), outline=False)


def _car(brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    brush.polygon([(0.18, 0.46), (0.3, 0.06), (0.68, 0.06), (0.86, 0.46)], color)
    brush.polygon([(0.26, 0.44), (0.34, 0.14), (0.48, 0.14), (0.48, 0.44)], GLASS, outline=False)
    brush.polygon([(0.52, 0.44), (0.52, 0.14), (0.65, 0.14), (0.78, 0.44)], GLASS, outline=False)
    brush.polygon([(0.0, 0.8), (0.02, 0.5), (0.12, 0.42), (0.88, 0.42), (0.99, 0.54), (1.0, 0.8)], color)
    brush.rectangle(0.02, 0.7, 0.99, 0.77, tone(color, 0.7), outline=False)
    brush.ellipse((0.95, 0.57), (0.035, 0.06), (255, 240, 170), outline=False)
    _wheels(brush, (0.22, 0.79), (0.11, 0.23))


def _bus(brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    brush.polygon([(0.0, 0.88), (0.0, 0.08), (0.03, 0.02), (0.95, 0.02), (1.0, 0.14), (1.0, 0.88)], color)
    brush.rectangle(0.01, 0.56, 0.99, 0.66, WHITE, outline=False)
    for x in np.linspace(0.05, 0.69, 5):
        brush.rectangle(x, 0.16, x + 0.12, 0.48, GLASS, outline=False)
    brush.rectangle(0.85, 0.16, 0.98, 0.78, GLASS, outline=False)
    _wheels(brush, (0.2, 0.76), (0.075, 0.14))


def _bicycle(brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    for x in (0.22, 0.78):
        angles = np.linspace(0, 2 * np.pi, 29)
        ring = [(x + 0.19 * np.cos(t), 0.68 + 0.29 * np.sin(t)) for t in angles]
        brush.line(ring, 0.055, DARK, outline=False)
        for t in angles[::7]:
            brush.line(
                [(x, 0.68), (x + 0.19 * np.cos(t), 0.68 + 0.29 * np.sin(t))],
                0.012,
                (150, 150, 155),
                outline=False,
            )
    brush.line([(0.22, 0.68), (0.4, 0.3), (0.68, 0.3), (0.5, 0.68), (0.22, 0.68)], 0.06, color)
    brush.line([(0.5, 0.68), (0.37, 0.18)], 0.06, color)
    brush.line([(0.78, 0.68), (0.66, 0.1), (0.76, 0.06)], 0.06, color)
    brush.rectangle(0.28, 0.12, 0.46, 0.19, DARK)


def _quadruped(brush: Brush, color: Color, *, neck: bool, ears: str, tail: float) -> None:
    back = tone(color, 0.8)
    for x in (0.24, 0.66):
        brush.line([(x, 0.58), (x, 0.97)], 0.1, back)
    for x in (0.16, 0.74):
        brush.line([(x, 0.58), (x - 0.01, 0.97)], 0.11, color)
    brush.line([(0.12, 0.45), (0.02, 0.45 - tail)], 0.09, color)
    brush.ellipse((0.44, 0.52), (0.36, 0.19), color)
    if neck:
        brush.polygon([(0.6, 0.5), (0.74, 0.1), (0.86, 0.16), (0.82, 0.56)], color)
        brush.polygon([(0.6, 0.44), (0.7, 0.08), (0.76, 0.1), (0.68, 0.5)], tone(color, 0.4), outline=False)
        brush.ellipse((0.86, 0.19), (0.13, 0.1), color)
        brush.polygon([(0.74, 0.12), (0.76, 0.0), (0.82, 0.1)], color)
        brush.ellipse((0.87, 0.16), (0.014, 0.018), DARK, outline=False)
        return
    brush.ellipse((0.82, 0.3), (0.16, 0.2), color)
    if ears == "hanging":
        brush.ellipse((0.72, 0.32), (0.055, 0.16), tone(color, 0.55))
    else:
        brush.polygon([(0.7, 0.2), (0.71, 0.0), (0.8, 0.13)], color)
        brush.polygon([(0.84, 0.13), (0.93, 0.0), (0.94, 0.2)], color)
    brush.ellipse((0.87, 0.26), (0.022, 0.03), DARK, outline=False)
    brush.ellipse((0.97, 0.34), (0.03, 0.04), DARK, outline=False)


def _lying(brush: Brush, color: Color, ears: str) -> None:
    brush.line([(0.1, 0.86), (0.0, 0.6)], 0.09, color)
    brush.ellipse((0.42, 0.66), (0.38, 0.3), color)
    brush.line([(0.5, 0.92), (0.86, 0.94)], 0.12, color)
    brush.ellipse((0.8, 0.52), (0.16, 0.32), color)
    if ears == "hanging":
        brush.ellipse((0.7, 0.56), (0.05, 0.26), tone(color, 0.55))
    else:
        brush.polygon([(0.67, 0.34), (0.68, 0.02), (0.78, 0.24)], color)
        brush.polygon([(0.82, 0.24), (0.92, 0.02), (0.93, 0.34)], color)
    brush.ellipse((0.85, 0.46), (0.02, 0.045), DARK, outline=False)


def _dog(brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    if pose == "lying":
        _lying(brush, color, "hanging")
    else:
        _quadruped(brush, color, neck=False, ears="hanging", tail=0.22)


def _cat(brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    if pose == "lying":
        _lying(brush, color, "pointed")
    else:
        _quadruped(brush, color, neck=False, ears="pointed", tail=0.4)
    for x in (0.28, 0.4, 0.52):
        middle = 0.66 if pose == "lying" else 0.52
        brush.line([(x, middle - 0.12), (x + 0.02, middle + 0.06)], 0.04, tone(color, 0.5), outline=False)


def _horse(brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    _quadruped(brush, color, neck=True, ears="pointed", tail=-0.3)


def _bird(brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    if pose == "flying":
        brush.polygon([(0.3, 0.56), (0.2, 0.0), (0.6, 0.5)], tone(color, 0.8))
        brush.ellipse((0.5, 0.62), (0.34, 0.2), color)
        brush.polygon([(0.44, 0.6), (0.5, 1.0), (0.66, 0.6)], tone(color, 0.9))
    else:
        brush.line([(0.46, 0.7), (0.46, 0.98)], 0.06, (222, 150, 50), outline=False)
        brush.line([(0.56, 0.7), (0.56, 0.98)], 0.06, (222, 150, 50), outline=False)
        brush.ellipse((0.48, 0.58), (0.36, 0.26), color)
        brush.ellipse((0.4, 0.56), (0.22, 0.15), tone(color, 0.7), outline=False)
    head = (0.78, 0.5) if pose == "flying" else (0.74, 0.3)
    brush.polygon(
        [(head[0] + 0.1, head[1] - 0.06), (1.0, head[1] + 0.02), (head[0] + 0.1, head[1] + 0.1)],
        (240, 170, 50),
    )
    brush.ellipse(head, (0.16, 0.17), color)
    brush.ellipse((head[0] + 0.04, head[1] - 0.04), (0.03, 0.035), DARK, outline=False)
    brush.polygon([(0.18, 0.6), (0.0, 0.5), (0.02, 0.72)], tone(color, 0.7))


def _airplane(brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    brush.polygon([(0.04, 0.1), (0.14, 0.06), (0.28, 0.46), (0.08, 0.46)], color)
    brush.polygon([(0.44, 0.5), (0.34, 0.14), (0.42, 0.12), (0.62, 0.5)], tone(color, 0.75))
    brush.ellipse((0.52, 0.52), (0.47, 0.18), (232, 236, 240))
    for x in np.linspace(0.28, 0.72, 7):
        brush.ellipse((x, 0.47), (0.018, 0.04), (70, 110, 150), outline=False)
    brush.polygon([(0.9, 0.44), (0.84, 0.36), (0.78, 0.42)], GLASS, outline=False)
    brush.polygon([(0.36, 0.58), (0.62, 0.58), (0.34, 1.0), (0.24, 0.98)], color)


def _kite(brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    brush.line([(0.5, 0.66), (0.4, 0.76), (0.56, 0.86), (0.44, 0.98)], 0.05, tone(color, 0.7), outline=False)
    brush.polygon([(0.5, 0.0), (0.95, 0.28), (0.5, 0.7), (0.05, 0.28)], color)
    brush.polygon([(0.5, 0.0), (0.95, 0.28), (0.5, 0.28)], WHITE, outline=False)
    brush.polygon([(0.5, 0.28), (0.5, 0.7), (0.05, 0.28)], tone(color, 0.6), outline=False)


def _umbrella(brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    brush.line([(0.5, 0.1), (0.5, 0.98)], 0.045, (110, 80, 60), outline=False)
    brush.ellipse((0.5, 0.42), (0.5, 0.4), color, start=180, stop=360)
    brush.ellipse((0.5, 0.42), (0.24, 0.4), WHITE, start=180, stop=360, outline=False)
    brush.ellipse((0.5, 0.42), (0.09, 0.4), color, start=180, stop=360, outline=False)


def _ball(brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    brush.ellipse((0.5, 0.5), (0.49, 0.49), WHITE)
    for t in np.linspace(0, 2 * np.pi, 6)[:-1] + 0.3:
        brush.ellipse((0.5 + 0.3 * np.cos(t), 0.5 + 0.3 * np.sin(t)), (0.12, 0.12), color, outline=False)
    brush.ellipse((0.5, 0.5), (0.1, 0.1), color, outline=False)


def _surfboard(brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    brush.ellipse((0.5, 0.5), (0.46, 0.5), color)
    brush.line([(0.5, 0.05), (0.5, 0.95)], 0.06, WHITE, outline=False)


def _bench(brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    for x in (0.12, 0.88):
        brush.line([(x, 0.05), (x, 0.97)], 0.075, (74, 76, 84))
    for y in (0.04, 0.2):
        brush.rectangle(0.0, y, 1.0, y + 0.12, color)
    brush.rectangle(0.0, 0.5, 1.0, 0.64, color)


def _chair(brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    for x in (0.14, 0.86):
        brush.line([(x, 0.55), (x, 0.97)], 0.1, tone(color, 0.8))
    brush.rectangle(0.08, 0.02, 0.24, 0.6, color)
    brush.rectangle(0.05, 0.5, 0.95, 0.63, color)


def _table(brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    for x in (0.12, 0.88):
        brush.rectangle(x - 0.04, 0.15, x + 0.04, 0.99, tone(color, 0.75))
    brush.rectangle(0.0, 0.02, 1.0, 0.2, color)


def _cup(brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    brush.line([(0.7, 0.3), (0.95, 0.36), (0.93, 0.62), (0.68, 0.72)], 0.12, color)
    brush.polygon([(0.08, 0.06), (0.76, 0.06), (0.68, 0.98), (0.16, 0.98)], color)
    brush.ellipse((0.42, 0.08), (0.34, 0.07), tone(color, 0.45), outline=False)


def _bottle(brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    brush.polygon(
        [
            (0.36, 0.08),
            (0.64, 0.08),
            (0.64, 0.3),
            (0.9, 0.44),
            (0.9, 0.99),
            (0.1, 0.99),
            (0.1, 0.44),
            (0.36, 0.3),
        ],
        color,
    )
    brush.rectangle(0.12, 0.58, 0.88, 0.8, WHITE, outline=False)
    brush.rectangle(0.32, 0.0, 0.68, 0.1, tone(color, 0.5))


def _laptop(brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    brush.rectangle(0.14, 0.04, 0.86, 0.8, DARK)
    brush.rectangle(0.2, 0.1, 0.8, 0.72, (120, 190, 240), outline=False)
    brush.polygon([(0.12, 0.8), (0.88, 0.8), (1.0, 0.98), (0.0, 0.98)], (190, 194, 202))


def _tv(brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    brush.rectangle(0.02, 0.02, 0.98, 0.98, DARK)
    brush.rectangle(0.07, 0.09, 0.93, 0.9, color, outline=False)
    brush.polygon([(0.07, 0.9), (0.4, 0.4), (0.62, 0.66), (0.74, 0.52), (0.93, 0.9)], tone(color, 0.6), outline=False)


def _clock(brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    brush.ellipse((0.5, 0.5), (0.49, 0.49), color)
    brush.ellipse((0.5, 0.5), (0.38, 0.38), WHITE, outline=False)
    for length, turn in ((0.2, rng.uniform(0, 2 * np.pi)), (0.31, rng.uniform(0, 2 * np.pi))):
        brush.line(
            [(0.5, 0.5), (0.5 + length * np.cos(turn), 0.5 + length * np.sin(turn))],
            0.05,
            DARK,
            outline=False,
        )


def _plant(brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    top = 0.0
    if pose == "hanging":
        brush.line([(0.5, 0.0), (0.5, 0.45)], 0.03, (90, 80, 70), outline=False)
        top = 0.3
    for x, y, tip in ((0.24, 0.3, 0.02), (0.76, 0.3, 0.98), (0.5, 0.2, 0.5)):
        base_y = 0.7
        mid_y = top + y * (1 - top) * 0.7
        brush.polygon(
            [(0.44, base_y), (x - 0.12, mid_y), (tip, top + 0.02), (x + 0.12, mid_y + 0.12), (0.56, base_y)],
            color,
        )
    brush.polygon([(0.2, 0.66), (0.8, 0.66), (0.7, 0.99), (0.3, 0.99)], (196, 104, 66))


def _boat(brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    brush.line([(0.46, 0.72), (0.46, 0.0)], 0.04, WOOD)
    brush.polygon([(0.5, 0.04), (0.84, 0.58), (0.5, 0.58)], WHITE)
    brush.polygon([(0.42, 0.12), (0.42, 0.58), (0.18, 0.58)], tone(color, 1.25))
    brush.polygon([(0.0, 0.66), (1.0, 0.66), (0.84, 0.99), (0.14, 0.99)], color)
    brush.rectangle(0.04, 0.72, 0.96, 0.78, WHITE, outline=False)


def _teddy(brush: Brush, color: Color, rng: np.random.Generator, pose: str) -> None:
    belly = tone(color, 1.3)
    for x in (0.2, 0.8):
        brush.ellipse((x, 0.9), (0.18, 0.1), color)
        brush.ellipse((x - 0.02, 0.56), (0.12, 0.16), color)
        brush.ellipse((0.5 + (x - 0.5) * 0.75, 0.08), (0.13, 0.08), color)
    brush.ellipse((0.5, 0.7), (0.32, 0.27), color)
    brush.ellipse((0.5, 0.72), (0.19, 0.17), belly, outline=False)
    brush.ellipse((0.5, 0.26), (0.32, 0.23), color)
    brush.ellipse((0.5, 0.34), (0.14, 0.09), belly, outline=False)
    for x in (0.39, 0.61):
        brush.ellipse((x, 0.22), (0.035, 0.03), DARK, outline=False)


LOOKS: dict[str, Look] = {
    "person": Look(_person, 1.0, 0.36, (0.0, 1.0), 0.6, 0.85),
    "bicycle": Look(_bicycle, 0.62, 1.02, (0.45, 0.6), 0.75, 0.75),
    "car": Look(_car, 0.6, 1.4, (0.97, 1.03), 0.8, 0.85),
    "airplane": Look(_airplane, 0.5, 1.35, (0.58, 0.64), 0.7, 0.8),
    "bus": Look(_bus, 1.1, 2.0, (0.11, 0.14), 0.85, 0.95),
    "boat": Look(_boat, 0.85, 1.3, (0.0, 0.04), 0.75, 0.7),
    "bench": Look(_bench, 0.55, 1.25, (0.06, 0.09), 0.6, 0.65),
    "bird": Look(_bird, 0.28, 0.4, (0.5, 0.62), 0.6, 0.8),
    "cat": Look(_cat, 0.38, 0.56, (0.08, 0.12), 0.25, 0.7),
    "dog": Look(_dog, 0.5, 0.72, (0.06, 0.1), 0.62, 0.72),
    "horse": Look(_horse, 1.05, 1.3, (0.03, 0.06), 0.62, 0.5),
    "umbrella": Look(_umbrella, 0.62, 0.85, (0.85, 1.0), 0.7, 0.9),
    "sports ball": Look(_ball, 0.22, 0.22, (0.6, 0.75), 0.6, 0.5),
    "kite": Look(_kite, 0.62, 0.42, (0.78, 0.95), 0.7, 0.9),
    "surfboard": Look(_surfboard, 1.0, 0.26, (0.12, 0.18), 0.65, 0.95),
    "bottle": Look(_bottle, 0.34, 0.12, (0.3, 0.42), 0.6, 0.6),
    "cup": Look(_cup, 0.2, 0.2, (0.9, 1.1), 0.55, 0.85),
    "chair": Look(_chair, 0.72, 0.48, (0.04, 0.08), 0.7, 0.6),
    "potted plant": Look(_plant, 0.6, 0.38, (0.27, 0.36), 0.65, 0.6),
    "dining table": Look(_table, 0.52, 1.3, (0.07, 0.1), 0.55, 0.72),
    "tv": Look(_tv, 0.5, 0.82, (0.5, 0.75), 0.5, 0.85),
    "laptop": Look(_laptop, 0.3, 0.42, (0.55, 0.6), 0.3, 0.8),
    "clock": Look(_clock, 0.3, 0.3, (0.0, 1.0), 0.6, 0.6),
    "teddy bear": Look(_teddy, 0.46, 0.36, (0.06, 0.09), 0.55, 0.65),
}


def _hsv(hue: float, saturation: float, value: float) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return 255 * red, 255 * green, 255 * blue


# Height and width of a pose relative to the standing one.
_STRETCH = {"sitting": (0.8, 1.5), "riding": (0.78, 1.2), "aboard": (0.7, 1.0), "lying": (0.62, 1.1)}


def draw_thing(
    name: str,
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
        name: a key of `LOOKS`.
        foot: x, y of the middle of its lower edge, pixels.
        person_height: pixels of a standing person at this place.
        rng: chooses colours and details.
        pose: "", or a pose that the class knows ("sitting", "lying", "flying", "hanging", ...).
        flip: face left.
        angle: turn clockwise about the foot, degrees.
    """
    stretch = _STRETCH.get(pose, (1.0, 1.0))
    return draw_look(LOOKS[name], foot, person_height, rng, pose=pose, flip=flip, angle=angle, stretch=stretch)


def draw_look(
    look: Look,
    foot: tuple[float, float],
    person_height: float,
    rng: np.random.Generator,
    *,
    pose: str = "",
    flip: bool = False,
    angle: float = 0.0,
    stretch: tuple[float, float] = (1.0, 1.0),
) -> Sprite:
    """Paint a look, its height and width stretched; other arguments as of `draw_thing`."""
    height, width = stretch[0] * (look.height * person_height), stretch[1] * (look.width * person_height)
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

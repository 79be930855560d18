"""Colours and textures of all 53 stuff classes, for the preset "psg".

A texture paints into the box of its region, (h, w, 3) float32, so that it scales with the region.
"""

from __future__ import annotations

import cv2
import numpy as np

from .sprite import Color, Sprite
from .stuff import SURFACES, Texture, smooth_noise


def _grain(strength: float, cells: float) -> Texture:
    """Noise with `cells` independent values along the longer side."""

    def texture(color: np.ndarray, rng: np.random.Generator) -> None:
        height, width = color.shape[:2]
        scale = cells / max(height, width)
        rows, columns = max(2, round(height * scale)), max(2, round(width * scale))
        color += strength * smooth_noise(height, width, (rows, columns), rng)[..., None]

    return texture


def _stripes(period: float, strength: float, *, upright: bool) -> Texture:
    """Soft stripes, `period` of them over the region."""

    def texture(color: np.ndarray, rng: np.random.Generator) -> None:
        height, width = color.shape[:2]
        length = width if upright else height
        wave = strength * np.sin(np.arange(length, dtype=np.float32) * (2 * np.pi * period / length))
        color += wave[None, :, None] if upright else wave[:, None, None]
        color += 3 * smooth_noise(height, width, (4, 4), rng)[..., None]

    return texture


def _blocks(rows: int, columns: int, joint: Color, *, shift: bool, strength: float = 6.0) -> Texture:
    """Bricks or tiles with joints between them."""

    def texture(color: np.ndarray, rng: np.random.Generator) -> None:
        height, width = color.shape[:2]
        row_height, column_width = max(4, height // rows), max(5, width // columns)
        y, x = np.arange(height), np.arange(width)
        offset = (y // row_height % 2) * (column_width // 2) if shift else np.zeros(height, dtype=int)
        across = x[None] + offset[:, None]
        shade = rng.normal(0, strength, (height // row_height + 1, (width + column_width) // column_width + 1))
        color += shade.astype(np.float32)[(y // row_height)[:, None], across // column_width][..., None]
        seam = (y % row_height == 0)[:, None] | (across % column_width == 0)
        color[seam] = joint

    return texture


def _panes(rows: int, columns: int, frame: Color, width_of_frame: float) -> Texture:
    """Panes, doors or boards in a frame."""

    def texture(color: np.ndarray, rng: np.random.Generator) -> None:
        height, width = color.shape[:2]
        thick = max(1, round(width_of_frame * min(height, width)))
        for k in range(rows + 1):
            y = round(k * (height - thick) / rows)
            color[y : y + thick] = frame
        for k in range(columns + 1):
            x = round(k * (width - thick) / columns)
            color[:, x : x + thick] = frame

    return texture


def _dots(colors: tuple[Color, ...], count: int, size: float) -> Texture:
    """Round things of several colours."""

    def texture(color: np.ndarray, rng: np.random.Generator) -> None:
        height, width = color.shape[:2]
        radius = max(1, round(size * np.sqrt(height * width)))
        for _ in range(count):
            center = int(rng.integers(width)), int(rng.integers(height))
            cv2.circle(color, center, radius, colors[rng.integers(len(colors))], -1)

    return texture


def _cracks(color: np.ndarray, rng: np.random.Generator) -> None:
    height, width = color.shape[:2]
    field = smooth_noise(height, width, (7, 9), rng)
    color += 22 * np.sign(np.sin(5 * field))[..., None] + 6 * field[..., None]


def _rails(color: np.ndarray, rng: np.random.Generator) -> None:
    height, width = color.shape[:2]
    _grain(12, 90)(color, rng)
    step = max(6, width // 26)
    color[height // 6 : max(height // 6 + 1, 5 * height // 6), np.arange(width) % step < step // 3] = (96, 74, 58)
    for y in (0.28, 0.72):
        top = int(y * height)
        color[top : top + max(1, height // 12)] = (206, 210, 218)


def _steps(color: np.ndarray, rng: np.random.Generator) -> None:
    height = color.shape[0]
    step = max(3, height // 7)
    color -= 40 * (np.arange(height) % step / step).astype(np.float32)[:, None, None]


def _crossing_lines(color: np.ndarray, rng: np.random.Generator) -> None:
    height, width = color.shape[:2]
    step = max(4, min(height, width) // 9)
    color[np.arange(height) % step == 0] = (236, 236, 236)
    color[:, np.arange(width) % step == 0] = (236, 236, 236)


def _field_lines(color: np.ndarray, rng: np.random.Generator) -> None:
    height, width = color.shape[:2]
    _stripes(4, 7, upright=True)(color, rng)
    thick = max(1, height // 40)
    for y in (height // 8, 5 * height // 8):
        color[y : y + thick] = (240, 240, 236)
    x = int(rng.integers(width // 5, 4 * width // 5 + 1))
    color[height // 8 : 5 * height // 8, x : x + thick] = (240, 240, 236)


_FLOWERS: tuple[Color, ...] = ((232, 70, 120), (250, 210, 70), (240, 240, 250), (170, 80, 200))
_FRUITS: tuple[Color, ...] = ((220, 50, 40), (250, 160, 40), (240, 220, 70), (120, 40, 110))
_FOODS: tuple[Color, ...] = ((200, 130, 60), (120, 160, 60), (230, 200, 120), (170, 70, 50))
_WHITE: Color = (246, 246, 244)

PSG_SURFACES: dict[str, tuple[Color, Color, Texture]] = {
    **SURFACES,
    "banner": ((210, 50, 60), (190, 40, 56), _panes(3, 1, (250, 240, 220), 0.1)),
    "blanket": ((120, 90, 170), (100, 72, 150), _blocks(4, 5, (220, 210, 240), shift=False)),
    "bridge": ((168, 160, 150), (130, 124, 118), _blocks(4, 12, (100, 96, 92), shift=True)),
    "cardboard": ((196, 156, 106), (176, 136, 88), _panes(1, 2, (150, 112, 70), 0.05)),
    "counter": ((222, 220, 214), (160, 120, 84), _panes(1, 4, (120, 90, 62), 0.05)),
    "curtain": ((176, 80, 96), (150, 62, 80), _stripes(7, 16, upright=True)),
    "door-stuff": ((150, 104, 66), (134, 92, 58), _panes(2, 1, (96, 64, 38), 0.12)),
    "flower": ((90, 150, 74), (70, 130, 60), _dots(_FLOWERS, 26, 0.08)),
    "fruit": ((226, 150, 50), (206, 120, 40), _dots(_FRUITS, 20, 0.12)),
    "gravel": ((176, 170, 160), (150, 144, 136), _grain(22, 130)),
    "house": ((224, 206, 170), (204, 184, 148), _blocks(6, 1, (180, 160, 126), shift=False)),
    "light": ((255, 246, 190), (255, 236, 150), _grain(2, 4)),
    "mirror-stuff": ((206, 226, 236), (170, 200, 216), _panes(1, 1, (150, 120, 70), 0.12)),
    "net": ((90, 110, 100), (80, 100, 90), _crossing_lines),
    "pillow": ((240, 226, 206), (214, 196, 176), _blocks(2, 2, (196, 176, 156), shift=False)),
    "platform": ((200, 196, 186), (150, 146, 140), _panes(1, 5, (236, 200, 70), 0.1)),
    "playingfield": ((96, 168, 90), (70, 140, 70), _field_lines),
    "railroad": ((140, 132, 124), (120, 112, 106), _rails),
    "river": ((110, 160, 170), (70, 126, 146), SURFACES["sea"][2]),
    "roof": ((150, 74, 60), (124, 58, 50), _blocks(6, 16, (96, 44, 38), shift=True)),
    "shelf": ((170, 122, 76), (150, 104, 62), _panes(3, 1, (92, 62, 36), 0.1)),
    "snow": ((250, 252, 255), (220, 230, 244), _grain(5, 7)),
    "stairs": ((190, 186, 180), (170, 166, 160), _steps),
    "tent": ((236, 140, 50), (206, 110, 36), _stripes(5, 18, upright=True)),
    "towel": ((120, 196, 206), (96, 172, 186), _stripes(5, 22, upright=False)),
    "wall-brick": ((176, 92, 74), (156, 78, 62), _blocks(18, 14, (206, 190, 176), shift=True)),
    "wall-stone": ((160, 156, 148), (140, 136, 130), _cracks),
    "wall-tile": ((206, 226, 230), (190, 212, 218), _blocks(12, 16, (240, 246, 246), shift=False, strength=3)),
    "wall-wood": ((176, 128, 80), (156, 110, 66), _blocks(1, 16, (110, 74, 42), shift=False)),
    "water-other": ((96, 170, 196), (76, 150, 180), _grain(9, 14)),
    "window-blind": ((236, 234, 222), (216, 214, 200), _stripes(11, 24, upright=False)),
    "window-other": ((150, 196, 226), (190, 220, 236), _panes(2, 2, _WHITE, 0.09)),
    "cabinet-merged": ((190, 144, 94), (166, 122, 76), _panes(2, 3, (116, 80, 48), 0.06)),
    "table-merged": ((172, 120, 76), (146, 98, 58), _grain(7, 9)),
    "floor-other-merged": ((186, 182, 174), (160, 156, 148), _blocks(6, 12, (140, 136, 130), shift=False, strength=4)),
    "pavement-merged": ((190, 184, 176), (164, 158, 150), _blocks(7, 18, (140, 134, 128), shift=True)),
    "mountain-merged": ((150, 160, 180), (104, 116, 124), _cracks),
    "dirt-merged": ((176, 136, 96), (146, 108, 72), _grain(12, 60)),
    "paper-merged": ((248, 246, 238), (236, 234, 226), _stripes(7, 20, upright=False)),
    "food-other-merged": ((206, 156, 90), (176, 120, 66), _dots(_FOODS, 22, 0.12)),
    "rock-merged": ((146, 138, 130), (110, 104, 98), _cracks),
}


def paint_surface(name: str, alpha: np.ndarray, rng: np.random.Generator) -> Sprite:
    """Give a region the surface of a class.

    Args:
        name: a key of `PSG_SURFACES`.
        alpha: (H, W) float32 opacity, at least one pixel of it 0.5.
        rng: chooses shade and texture.
    """
    x, y, width, height = cv2.boundingRect((alpha > 0).astype(np.uint8))
    high, low, texture = PSG_SURFACES[name]
    shade = rng.uniform(-14, 14, 3) + rng.uniform(-12, 12)
    mix = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    color = (np.asarray(high, np.float32) * (1 - mix) + np.asarray(low, np.float32) * mix) + shade.astype(np.float32)
    color = np.ascontiguousarray(np.repeat(color, width, axis=1))
    texture(color, rng)
    return Sprite(x, y, np.clip(color, 0, 255), np.ascontiguousarray(alpha[y : y + height, x : x + width]))

"""How the stuff of generated scenes looks: colour gradients with a texture of their own for each class.

A region is an opacity map (H, W) float32 over the whole picture. A texture paints into the box of a region, (h, w, 3)
float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from .sprite import Brush, Color, Point, Sprite

Texture = Callable[[np.ndarray, np.random.Generator], None]


def region(height: int, width: int, polygons: Sequence[Sequence[Point]]) -> np.ndarray:
    """Opacity of a union of polygons, (x, y) in pixels, with soft edges."""
    cover = np.zeros((height, width), dtype=np.uint8)
    for polygon in polygons:
        cv2.fillPoly(cover, [np.round(np.asarray(polygon) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return cover.astype(np.float32) / 255


def below(height: int, width: int, edge: np.ndarray) -> np.ndarray:
    """Opacity of everything below a line, given as one y in pixels per column."""
    rows = np.arange(height, dtype=np.float32)[:, None]
    return np.clip(rows - edge[None].astype(np.float32) + 0.5, 0, 1)


def wavy(width: int, level: float, swing: float, rng: np.random.Generator) -> np.ndarray:
    """A gently bent line: one y per column about `level`."""
    x = np.linspace(0, 1, width)
    phase, bend = rng.uniform(0, 2 * np.pi, 2), rng.uniform(0.6, 1.8, 2)
    return level + swing * (
        0.6 * np.sin(2 * np.pi * bend[0] * x + phase[0]) + 0.4 * np.sin(2 * np.pi * bend[1] * x + phase[1])
    )


def smooth_noise(height: int, width: int, cells: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(height, width) float32, about standard normal, with `cells` (rows, columns) of independent values."""
    coarse = rng.standard_normal(cells).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _noise(*layers: tuple[float, float, float]) -> Texture:
    """Smooth noise of several sizes: strength, and rows and columns of cells, or below 1 cells per pixel."""

    def texture(color: np.ndarray, rng: np.random.Generator) -> None:
        height, width = color.shape[:2]
        for strength, rows, columns in layers:
            cells = (_count(rows, height), _count(columns, width))
            color += strength * smooth_noise(height, width, cells, rng)[..., None]

    return texture


def _count(cells: float, size: int) -> int:
    return int(cells) if cells >= 1 else max(2, size // round(1 / cells))


def _clouds(color: np.ndarray, rng: np.random.Generator) -> None:
    height, width = color.shape[:2]
    field = smooth_noise(height, width, (9, 5), rng) + 0.5 * smooth_noise(height, width, (18, 11), rng)
    amount = np.clip((field - 0.5) * 0.9, 0, 0.85)[..., None]
    color += amount * (np.float32(252) - color)


def _waves(color: np.ndarray, rng: np.random.Generator) -> None:
    height, width = color.shape[:2]
    field = smooth_noise(height, width, (max(2, height // 7), 7), rng)
    color += 9 * field[..., None] + 30 * np.clip(field - 1.1, 0, 1)[..., None]


def _windows(color: np.ndarray, rng: np.random.Generator) -> None:
    height, width = color.shape[:2]
    step_x, step_y = max(8, width // 16), max(8, height // 14)
    offset = rng.integers(step_x)
    glass = np.array((150, 190, 214), dtype=np.float32)
    for y in range(step_y // 3, height, step_y):
        for x in range(int(offset) - step_x, width, step_x):
            lit = rng.random() < 0.3
            pane = (slice(y, y + step_y // 2), slice(max(0, x), max(0, x + step_x // 2)))
            color[pane] = (250, 226, 150) if lit else glass
    color += 3 * smooth_noise(height, width, (5, 5), rng)[..., None]


def _wallpaper(color: np.ndarray, rng: np.random.Generator) -> None:
    width = color.shape[1]
    period = max(6, width // int(rng.integers(12, 22)))
    stripe = (np.arange(width) // period % 2).astype(np.float32) * 7 - 3
    color += stripe[None, :, None]


def _planks(color: np.ndarray, rng: np.random.Generator) -> None:
    height, width = color.shape[:2]
    rows = np.cumsum(np.geomspace(max(2, height / 40), max(4, height / 9), 14)).astype(int)
    start = max(0, height - int(rows[-1]))
    color += 5 * smooth_noise(height, width, (max(2, height // 3), 4), rng)[..., None]
    previous = start
    for row in start + rows:
        color[previous:row] += rng.uniform(-9, 9)
        color[max(0, row - 1) : row + 1] *= 0.72
        previous = row


def _rings(color: np.ndarray, rng: np.random.Generator) -> None:
    height, width = color.shape[:2]
    color += 10 * np.sign(np.sin(np.arange(width) * 2 * np.pi / max(6, width // 28)))[None, :, None].astype(np.float32)
    color += 4 * smooth_noise(height, width, (max(2, height // 3), max(2, width // 3)), rng)[..., None]


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

# Of all 53 stuff classes the colours at the top and the bottom of the region, and the texture laid over them.
SURFACES: dict[str, tuple[Color, Color, Texture]] = {
    "road": ((128, 130, 138), (96, 98, 106), _noise((4, 1 / 2, 1 / 2))),
    "sand": ((236, 214, 164), (214, 182, 124), _noise((5, 1 / 2, 1 / 2), (5, 7, 5))),
    "sea": ((58, 138, 176), (30, 96, 148), _waves),
    "tree-merged": ((92, 146, 72), (48, 98, 50), _noise((13, 1 / 9, 1 / 9))),
    "sky-other-merged": ((92, 156, 226), (206, 230, 246), _clouds),
    "ceiling-merged": ((238, 236, 230), (220, 216, 208), _noise((2, 5, 5))),
    "floor-wood": ((190, 142, 92), (160, 108, 64), _planks),
    "grass-merged": ((138, 186, 88), (78, 138, 52), _noise((7, 1 / 10, 1 / 3), (6, 6, 4))),
    "building-other-merged": ((206, 160, 130), (180, 132, 106), _windows),
    "wall-other-merged": ((226, 214, 190), (206, 190, 164), _wallpaper),
    "rug-merged": ((166, 70, 82), (130, 46, 70), _rings),
    "fence-merged": ((232, 226, 214), (232, 226, 214), _noise((2, 5, 5))),
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
    "river": ((110, 160, 170), (70, 126, 146), _waves),
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


def paint_stuff(name: str, alpha: np.ndarray, rng: np.random.Generator) -> Sprite:
    """Give a region the surface of a class, a texture as wide as the picture.

    Args:
        name: a key of `SURFACES`.
        alpha: (H, W) float32 opacity, at least one pixel of it 0.5.
        rng: chooses shade and texture.
    """
    rows = np.flatnonzero((alpha >= 0.5).any(axis=1))
    # One row more on both sides, for the soft edge.
    first, last = max(0, int(rows[0]) - 1), min(alpha.shape[0], int(rows[-1]) + 2)
    return _surface(SURFACES[name], alpha, (0, first, alpha.shape[1], last - first), (10, 8), rng)


def paint_surface(name: str, alpha: np.ndarray, rng: np.random.Generator) -> Sprite:
    """Give a region the surface of a class, a texture that scales with the region; arguments as of `paint_stuff`."""
    return _surface(SURFACES[name], alpha, cv2.boundingRect((alpha > 0).astype(np.uint8)), (14, 12), rng)


def _surface(
    surface: tuple[Color, Color, Texture],
    alpha: np.ndarray,
    box: Sequence[int],
    spread: tuple[float, float],
    rng: np.random.Generator,
) -> Sprite:
    """A surface in a box (x, y, width, height); spread is that of its hue and of its lightness."""
    x, y, width, height = box
    high, low, texture = surface
    shade = rng.uniform(-spread[0], spread[0], 3) + rng.uniform(-spread[1], spread[1])
    mix = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    color = (np.asarray(high, np.float32) * (1 - mix) + np.asarray(low, np.float32) * mix) + shade.astype(np.float32)
    color = np.repeat(color, width, axis=1)
    texture(color, rng)
    return Sprite(x, y, np.clip(color, 0, 255), np.ascontiguousarray(alpha[y : y + height, x : x + width]))


def mark_lane(sprite: Sprite, upper: np.ndarray, lower: np.ndarray) -> None:
    """Paint a dashed line along a road, in place; upper and lower are its edges, one y per column."""
    height, width = sprite.alpha.shape
    middle = (upper + lower) / 2 - sprite.y
    half = np.maximum(1.0, (lower - upper) * 0.025)
    rows = np.arange(height, dtype=np.float32)[:, None]
    cover = np.clip(half[None] + 0.5 - np.abs(rows - middle[None]), 0, 1)
    cover *= (np.arange(width) // max(4, width // 16) % 2 == 0)[None]
    sprite.color += (0.9 * cover[..., None]).astype(np.float32) * (np.float32(240) - sprite.color)


def draw_fence(box: tuple[float, float, float, float], rng: np.random.Generator) -> Sprite:
    """A picket fence that fills a box (x0, y0, x1, y1), pixels."""
    brush = Brush(box, outline=max(1.0, (box[3] - box[1]) / 90))
    red, green, blue = (c + rng.uniform(-10, 10) for c in SURFACES["fence-merged"][0])
    color = (red, green, blue)
    for y in (0.3, 0.7):
        brush.rectangle(0.0, y, 1.0, y + 0.1, color)
    for x in np.linspace(0.0, 0.94, 6):
        brush.polygon([(x, 1.0), (x, 0.1), (x + 0.03, 0.0), (x + 0.06, 0.1), (x + 0.06, 1.0)], color)
    return brush.finish()

"""Colours that stay the same from image to image."""

from __future__ import annotations

import colorsys
import hashlib

GOLDEN_ANGLE = 0.381966  # of a full turn; successive hues are as far apart as can be


def class_color(name: str) -> tuple[int, int, int]:
    """RGB of a class, 0 to 255, from its name alone: it does not change with the vocabulary."""
    code = int.from_bytes(hashlib.sha1(name.encode()).digest()[:4], "big")
    hue = (code % 997) * GOLDEN_ANGLE % 1.0
    saturation, value = 0.55 + 0.35 * (code // 997 % 5) / 4, 0.75 + 0.2 * (code // 4985 % 4) / 3
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def text_color(background: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever reads better on the background (relative luminance of WCAG 2)."""
    linear = [((c / 255 + 0.055) / 1.055) ** 2.4 if c > 10 else c / 255 / 12.92 for c in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)

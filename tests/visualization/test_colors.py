"""Colours."""

import numpy as np

from usg_psg.visualization.colors import class_color, text_color


def test_colours_depend_on_the_name_alone():
    assert class_color("person") == class_color("person") != class_color("car")
    assert all(0 <= c <= 255 for c in class_color("x"))


def test_text_is_readable_on_every_class_colour():
    """Contrast of WCAG 2, (lighter + 0.05) / (darker + 0.05); 4.5 is its bound for body text."""

    def luminance(color) -> float:
        c = np.array(color) / 255
        return float(np.where(c > 0.04045, ((c + 0.055) / 1.055) ** 2.4, c / 12.92) @ (0.2126, 0.7152, 0.0722))

    for n in range(200):
        color = class_color(f"class {n}")
        low, high = sorted((luminance(color), luminance(text_color(color))))
        assert (high + 0.05) / (low + 0.05) > 4.5

"""Overlays and graph drawings: masks in their place, labels inside the picture and apart, stable colours."""

import numpy as np
import pytest

from usg_psg.predictor import SceneGraph, encode_mask
from usg_psg.visualization import class_color, display_names, draw_overlay
from usg_psg.visualization.overlay import _free_place, _overlap

from .scenes import stripes


@pytest.mark.parametrize("size", [(60, 80), (1200, 1600)])
def test_masks_are_painted_where_they_are(size):
    graph = stripes(*size)
    for keep in range(4):
        alone = SceneGraph(*size, [graph.objects[keep]], [])
        plain = np.full((*size, 3), 128, np.uint8)
        picture = draw_overlay(plain, alone).astype(int)
        changed = (np.abs(picture - 128).max(axis=2) > 8).mean(axis=0) > 0.5
        columns = np.flatnonzero(changed) / changed.size
        assert columns.min() == pytest.approx(keep / 4, abs=0.01)
        assert columns.max() == pytest.approx((keep + 1) / 4, abs=0.01)


def test_small_images_are_enlarged_and_the_input_is_left_alone():
    image = np.zeros((60, 80, 3), np.uint8)
    picture = draw_overlay(image, stripes())
    assert max(picture.shape) >= 900 and picture.shape[1] * 60 == pytest.approx(picture.shape[0] * 80, rel=0.01)
    assert not image.any()
    with pytest.raises(ValueError, match="60x80"):
        draw_overlay(np.zeros((10, 10, 3), np.uint8), stripes())


def test_labels_stay_inside_and_apart():
    mask = np.zeros((400, 400), bool)
    mask[:20, :20] = True
    placed = []
    for _ in range(30):
        box = _free_place(mask, (90, 24), (400, 400), placed)
        assert box[0] >= 0 and box[1] >= 0 and box[2] <= 400 and box[3] <= 400
        assert all(_overlap(box, other) == 0 for other in placed)
        placed.append(box)


def test_an_object_without_pixels_is_left_out():
    graph = stripes()
    graph.objects[1].mask = encode_mask(np.zeros((60, 80), bool))
    draw_overlay(np.zeros((60, 80, 3), np.uint8), graph)


def test_colours_depend_on_the_name_alone():
    assert class_color("person") == class_color("person") != class_color("car")
    assert all(0 <= c <= 255 for c in class_color("x"))


def test_names_are_numbered_where_they_repeat():
    assert display_names(["person", "wall-other-merged", "person"]) == ["person 1", "wall", "person 2"]

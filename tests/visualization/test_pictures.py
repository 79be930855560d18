"""Overlays and graph drawings: masks in their place, labels inside the picture and apart, stable colours."""

import numpy as np
import pytest

from usg_psg.predictor import SceneGraph, SceneObject, SceneRelation, encode_mask
from usg_psg.visualization import class_color, display_names, draw_graph, draw_overlay
from usg_psg.visualization.overlay import _free_place, _overlap


def scene(height=60, width=80, count=4):
    """Vertical stripes, the first of them stuff, related in a ring."""
    objects = []
    for index in range(count):
        mask = np.zeros((height, width), bool)
        mask[:, index * width // count : (index + 1) * width // count] = True
        name = "grass-merged" if index == 0 else "person"
        objects.append(SceneObject(name, index, 0.9, index > 0, encode_mask(mask)))
    relations = [SceneRelation(i, (i + 1) % count, "standing on", 14, 0.9 - 0.1 * i) for i in range(count)]
    return SceneGraph(height, width, objects, relations)


@pytest.mark.parametrize("size", [(60, 80), (1200, 1600)])
def test_masks_are_painted_where_they_are(size):
    graph = scene(*size)
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
    picture = draw_overlay(image, scene())
    assert max(picture.shape) >= 900 and picture.shape[1] * 60 == pytest.approx(picture.shape[0] * 80, rel=0.01)
    assert not image.any()
    with pytest.raises(ValueError, match="60x80"):
        draw_overlay(np.zeros((10, 10, 3), np.uint8), scene())


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
    graph = scene()
    graph.objects[1].mask = encode_mask(np.zeros((60, 80), bool))
    draw_overlay(np.zeros((60, 80, 3), np.uint8), graph)


def test_graph_drawing_shows_every_node_and_relation(tmp_path):
    graph = scene()
    figure = draw_graph(graph)
    texts = [t.get_text() for t in figure.axes[0].texts]
    assert {"grass", "person 1", "person 2", "person 3"} <= set(texts)
    assert sum(t.startswith("standing on 0.") for t in texts) == 4
    for suffix in ("png", "svg"):
        path = tmp_path / f"graph.{suffix}"
        figure.savefig(path)
        assert path.stat().st_size > 1000
    assert "standing on" in (tmp_path / "graph.svg").read_text()


@pytest.mark.parametrize("count", [2, 3, 6, 9])
def test_nodes_and_labels_of_the_drawing_do_not_overlap(count):
    figure = draw_graph(scene(width=90, count=count))
    renderer = figure.canvas.get_renderer()
    boxes = [t.get_bbox_patch().get_window_extent(renderer) for t in figure.axes[0].texts]
    for i, a in enumerate(boxes):
        assert a.x0 >= 0 and a.y0 >= 0 and a.x1 <= figure.bbox.x1 and a.y1 <= figure.bbox.y1
        assert not any(a.overlaps(b) for b in boxes[:i])


def test_a_graph_without_relations_can_be_drawn():
    assert draw_graph(SceneGraph(4, 4, [], [])).axes[0].texts[0].get_text() == "no relations"


def test_colours_depend_on_the_name_alone():
    assert class_color("person") == class_color("person") != class_color("car")
    assert all(0 <= c <= 255 for c in class_color("x"))


def test_names_are_numbered_where_they_repeat():
    assert display_names(["person", "wall-other-merged", "person"]) == ["person 1", "wall", "person 2"]
